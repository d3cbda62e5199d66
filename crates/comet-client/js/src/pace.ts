// How fast rooms are entered and left, once a server has closed a connection because that was too fast.

/** Between two changes, after the first such close. It doubles with each. */
const PAUSE_MS = 500;
/** Servers can be told to take one change in a second, on average over ten, and no less. */
const PAUSE_MAX_MS = 2000;
/** The changes that so long is the time for may be made at once, after a time without any. So a server sees at most twice as many. */
const CREDIT_MS = 10_000;

export class Pace {
    /** 0: as fast as replies come. */
    #pauseMs = 0;
    /** The next change, by the clock. */
    #dueAt = -Infinity;

    slowDown(): void {
        this.#pauseMs = Math.min(2 * this.#pauseMs || PAUSE_MS, PAUSE_MAX_MS);
    }

    /** The time until the next change. */
    waitMs(): number {
        const now = Date.now();
        // A clock that is set back makes no wait longer than a pause.
        this.#dueAt = Math.min(this.#dueAt, now + this.#pauseMs);
        return Math.max(0, this.#dueAt - now);
    }

    /** A change is made. */
    count(): void {
        this.#dueAt = Math.max(this.#dueAt, Date.now() - CREDIT_MS + this.#pauseMs) + this.#pauseMs;
    }
}
