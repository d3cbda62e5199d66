// The reason that a server gives when it closes: `kicked: banned; retry_after_ms=60000`.

/** Why a server closed a connection. */
export interface Notice {
    /** The code of the WebSocket's close frame. `undefined`: none came. */
    code: number | undefined;
    /** The label of the reason, as listed in docs/PROTOCOL.md, and a sentence if there is one. */
    reason: string;
    /** The time that the server asks to wait before the next connection. */
    retryAfterMs: number | undefined;
}

/** Longer times are cut to this, so no server can keep its clients away for ever. */
const RETRY_AFTER_MAX_MS = 60 * 60 * 1000;

/** Labels of closes aimed at this client, whatever its token. Two clients with one key would replace each other for ever. */
const FOR_GOOD = ["replaced", "kicked"];
/** Reasons before the acceptance that do not refer to the token. */
const TEMPORARY = ["draining", "handshake_timeout", "too_many_sessions"];
/** Codes of servers and proxies that are going away, restart or are overloaded (RFC 6455 section 7.4, IANA's registry). */
const TEMPORARY_CODES = [1000, 1001, 1011, 1012, 1013, 1014];

export function readNotice(code: number | undefined, text: string): Notice {
    const [, reason, delay] = /^(.*); retry_after_ms=([0-9]{1,19})$/s.exec(text) ?? [];
    if (reason === undefined) {
        return { code, reason: text, retryAfterMs: undefined };
    }
    return { code, reason, retryAfterMs: Math.min(Number(delay), RETRY_AFTER_MAX_MS) };
}

const label = (notice: Notice): string => notice.reason.split(":", 1)[0] ?? "";

/** Whether another connection has replaced this one. */
export const isReplaced = (notice: Notice): boolean => label(notice) === "replaced";

/** Whether the client has entered and left rooms too fast. */
export const isTooFast = (notice: Notice): boolean => label(notice) === "room_rate";

/** Whether no further attempt with the same token can succeed. */
export function isFinal(notice: Notice, wasAccepted: boolean): boolean {
    if (notice.retryAfterMs !== undefined) {
        return false;
    }
    return FOR_GOOD.includes(label(notice)) || isRefusal(notice, wasAccepted);
}

/** Whether another token might be accepted where this one no longer is. */
export function isTokenOver(notice: Notice, wasAccepted: boolean): boolean {
    return label(notice) === "token_expired" || (isFinal(notice, wasAccepted) && !FOR_GOOD.includes(label(notice)));
}

function isRefusal(notice: Notice, wasAccepted: boolean): boolean {
    return !wasAccepted && !TEMPORARY.includes(label(notice)) && !TEMPORARY_CODES.includes(notice.code ?? 0);
}
