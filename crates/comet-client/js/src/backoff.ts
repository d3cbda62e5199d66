// The delay before the next attempt to connect.

/** The longest that timers can wait, in milliseconds. */
export const TIMER_MAX_MS = 2 ** 31 - 1;

export interface Backoff {
    /** The first delay is at most twice as long. */
    baseMs: number;
    maxMs: number;
}

/**
 * The delay after `failed` failed attempts in a row: uniformly distributed from 0 to a ceiling that doubles with each
 * ("full jitter"), so that a million clients that lost the same server do not reconnect at the same moment.
 */
export function delayMs({ baseMs, maxMs }: Backoff, failed: number): number {
    return Math.round(Math.random() * Math.min(maxMs, baseMs * 2 ** (failed + 1)));
}
