// When a token is renewed: after most of its time, at a moment of this client's own.

import { TIMER_MAX_MS } from "./backoff.js";
import { isPage } from "./page.js";

/** Before its expiry a page asks for another token: timers of hidden pages are up to a minute late, and `getToken` takes its time. */
const MARGIN_MS = 75_000;
/** With less time the server closes the connection, which gets a token with the next one. */
const DELAY_MIN_MS = 1000;

export class Renewal {
    readonly #renew: (timeLeftMs: () => number) => void;
    #timer: ReturnType<typeof setTimeout> | undefined;
    /** By the clock. */
    #dueAt = Infinity;
    /** What is left of the token's time then. */
    #leftMs = 0;

    /** `renew` is told how to find what is left of the present token's time. */
    constructor(renew: (timeLeftMs: () => number) => void) {
        this.#renew = renew;
    }

    /** The token expires in so long; 0: never. */
    schedule(expiresInMs: number): void {
        this.cancel();
        const delayMs = Math.min(delayOf(expiresInMs), TIMER_MAX_MS);
        if (delayMs >= DELAY_MIN_MS) {
            this.#dueAt = Date.now() + delayMs;
            this.#leftMs = expiresInMs - delayMs;
            this.#timer = setTimeout(() => this.#begin(), delayMs);
        }
    }

    cancel(): void {
        clearTimeout(this.#timer);
        this.#dueAt = Infinity;
    }

    /** Something has arrived: browsers let the timers of hidden pages wait for a minute, and none of that. */
    check(): void {
        if (Date.now() >= this.#dueAt) {
            this.#begin();
        }
    }

    #begin(): void {
        const dueAt = this.#dueAt;
        const leftMs = this.#leftMs;
        this.cancel();
        this.#renew(() => leftMs - Math.max(0, Date.now() - dueAt));
    }
}

function delayOf(expiresInMs: number): number {
    const latest = isPage() ? Math.max(expiresInMs - MARGIN_MS, expiresInMs / 3) : expiresInMs;
    return (Math.min(latest, 0.9 * expiresInMs) * (7 + 2 * Math.random())) / 9;
}
