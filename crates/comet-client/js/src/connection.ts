// One connection: a WebSocket from its beginning to its end, with the token, heartbeats and replies.

import { type Notice, readNotice } from "./notice.js";
import { type AuthReply, type Frame, WireError, decodeAuthReply, decodeMessage, encode, op, text } from "./wire.js";

/** The part of WebSocket that this client uses: browsers, Node 22 and the package `ws` have one. */
export interface WebSocketLike {
    binaryType: string;
    send(data: ArrayBuffer): void;
    close(code?: number): void;
    // Implementations disagree about the types of their events.
    addEventListener(type: string, listener: (event: any) => void): void;
}

export type WebSocketConstructor = new (url: string) => WebSocketLike;

export interface Settings {
    url: string;
    WebSocket: WebSocketConstructor;
    heartbeatMs: number;
    timeoutMs: number;
    /** Whether to ask the server to keep the session when the connection is lost. */
    keepSession: boolean;
}

/** Why a connection has ended. */
export interface End {
    wasAccepted: boolean;
    /** Whether the token was sent, and the server has not answered it. */
    isTokenOpen: boolean;
    /** `undefined`: the server gave no reason. */
    notice: Notice | undefined;
    why: string;
}

export interface Handlers {
    /** The server has accepted the token, or answered its renewal. `undefined`: it speaks protocol 1. */
    authenticated(reply: AuthReply | undefined): void;
    frame(frame: Frame): void;
    /** A message of the server has been handled. */
    received(): void;
    /** The last call. */
    ended(end: End): void;
}

interface Request {
    operation: number;
    resolve(body: Uint8Array): void;
    reject(error: Error): void;
    timer: ReturnType<typeof setTimeout>;
}

export class Connection {
    readonly #settings: Settings;
    readonly #handlers: Handlers;
    readonly #socket: WebSocketLike;
    readonly #requests = new Map<number, Request>();
    #phase: "connecting" | "asking" | "accepted" | "over" = "connecting";
    #sequence = 0;
    #timer: ReturnType<typeof setTimeout>;
    #heartbeatMs: number;
    /** The time of the clock at which the last heartbeat was sent. */
    #heartbeatAt = 0;
    /** Whether anything has arrived since the last heartbeat was sent. */
    #isAnswered = true;
    /** The text of the server's operation 6. */
    #goodbye: string | undefined;

    constructor(settings: Settings, token: Uint8Array, handlers: Handlers) {
        this.#settings = settings;
        this.#handlers = handlers;
        this.#heartbeatMs = settings.heartbeatMs;
        this.#socket = new settings.WebSocket(settings.url);
        this.#timer = setTimeout(() => this.#end("not accepted in time"), settings.timeoutMs);
        this.#socket.binaryType = "arraybuffer";
        this.#socket.addEventListener("open", () => {
            if (settings.keepSession) {
                this.post(op.KEEP, Uint8Array.of(1));
            }
            this.post(op.AUTH, token);
            this.#phase = this.#phase === "connecting" ? "asking" : this.#phase;
        });
        this.#socket.addEventListener("message", ({ data }) => this.#receive(data));
        this.#socket.addEventListener("close", ({ code, reason }) => this.#closed(code, reason));
        // Node 20 reports no close event for a connection that was never made.
        this.#socket.addEventListener("error", () => this.#closed(1006, ""));
    }

    /** Sends a frame, and returns its sequence number. */
    post(operation: number, body: Uint8Array): number {
        this.#sequence = (this.#sequence % 0x7fffffff) + 1;
        if (this.#phase !== "over") {
            const version = operation === op.AUTH || operation === op.KEEP ? 2 : 1;
            this.#socket.send(encode({ version, operation, sequence: this.#sequence, body }));
        }
        return this.#sequence;
    }

    /** Sends a message to the application behind the server. The reply has the same operation and sequence. */
    request(operation: number, body: Uint8Array): Promise<Uint8Array> {
        return new Promise((resolve, reject) => {
            const sequence = this.post(operation, body);
            const timer = setTimeout(() => {
                this.#requests.delete(sequence);
                reject(new Error("no answer in time"));
            }, this.#settings.timeoutMs);
            this.#requests.set(sequence, { operation, resolve, reject, timer });
        });
    }

    /** Sends a heartbeat now, unless one is unanswered. Called after an event that may have broken the connection. */
    probe(): void {
        if (this.#phase === "accepted" && this.#isAnswered && this.#goodbye === undefined) {
            this.#heartbeat();
        }
    }

    /** The token was sent, and the server has said nothing of it. */
    get isTokenOpen(): boolean {
        return this.#phase === "asking";
    }

    /** The server keeps the session of a connection that ends without a goodbye. */
    close(isGoodbye = true): void {
        this.#finish();
        this.#socket.close(...(isGoodbye ? [1000] : []));
    }

    #receive(data: unknown): void {
        this.#isAnswered = true;
        try {
            if (!(data instanceof ArrayBuffer)) {
                throw new WireError("a message of text");
            }
            for (const frame of decodeMessage(new Uint8Array(data))) {
                // A listener may have closed the connection.
                if (this.#phase === "over") {
                    return;
                }
                this.#handle(frame);
            }
            // Browsers delay the timers of hidden pages by up to a minute, but not received data.
            if (this.#heartbeatInMs() === 0) {
                this.probe();
            }
            this.#handlers.received();
        } catch (error) {
            if (!(error instanceof WireError)) {
                throw error;
            }
            this.#end(error.message);
        }
    }

    #handle(frame: Frame): void {
        const request = this.#requests.get(frame.sequence);
        if (frame.operation === op.AUTH_REPLY) {
            this.#authenticated(decodeAuthReply(frame.body));
        } else if (frame.operation === op.GOODBYE) {
            // The close frame that follows has the label of the reason, and the same retry time.
            this.#goodbye = text(frame.body);
            clearTimeout(this.#timer);
            this.#timer = setTimeout(() => this.#closed(1006, ""), this.#settings.timeoutMs);
        } else if (request?.operation === frame.operation) {
            this.#requests.delete(frame.sequence);
            clearTimeout(request.timer);
            request.resolve(frame.body);
        } else if (frame.operation !== op.HEARTBEAT_REPLY) {
            this.#handlers.frame(frame);
        }
    }

    #authenticated(reply: AuthReply | undefined): void {
        if (this.#phase !== "accepted") {
            this.#phase = "accepted";
            if (reply && reply.heartbeatMs > 0) {
                this.#heartbeatMs = Math.min(this.#heartbeatMs, reply.heartbeatMs / 2);
            }
            this.#heartbeatAt = Date.now();
            this.#scheduleHeartbeat();
        }
        this.#handlers.authenticated(reply);
    }

    /** Setting the clock back delays no heartbeat. */
    #heartbeatInMs(): number {
        const passedMs = Math.max(0, Date.now() - this.#heartbeatAt);
        return Math.max(0, this.#heartbeatMs - passedMs);
    }

    #scheduleHeartbeat(): void {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.#heartbeat(), this.#heartbeatInMs());
    }

    /** Sends a heartbeat. The server has to send something before the deadline, at least the reply. */
    #heartbeat(isSecond = false): void {
        this.post(op.HEARTBEAT, new Uint8Array());
        this.#heartbeatAt = Date.now();
        this.#isAnswered = false;
        const waitMs = Math.min(this.#settings.timeoutMs, this.#heartbeatMs);
        const deadline = Date.now() + waitMs;
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => {
            if (this.#isAnswered && this.#heartbeatInMs() === 0) {
                // Timers of hidden pages are late, and another timer would be late as well.
                this.#heartbeat();
            } else if (this.#isAnswered) {
                this.#scheduleHeartbeat();
            } else if (!isSecond && Date.now() >= deadline + waitMs) {
                // The device slept. The reply may have arrived and wait behind this timer. Timers of hidden pages are
                // always late, so there is no third attempt.
                this.#heartbeat(true);
            } else {
                this.#end("no heartbeat was answered");
            }
        }, waitMs);
    }

    #closed(code: number, reason: string): void {
        // RFC 6455 section 7.4.1: 1005 means no code, and 1006 no close frame.
        const said = code === 1005 || code === 1006 ? undefined : code;
        const words = reason || this.#goodbye;
        const notice = said || words ? readNotice(said, words ?? "") : undefined;
        this.#end(notice?.reason || "the connection was lost", notice);
    }

    #end(why: string, notice?: Notice): void {
        if (this.#phase === "over") {
            return;
        }
        const wasAccepted = this.#phase === "accepted";
        const isTokenOpen = this.isTokenOpen && !notice;
        this.#finish();
        this.#socket.close();
        this.#handlers.ended({ wasAccepted, isTokenOpen, notice, why });
    }

    #finish(): void {
        this.#phase = "over";
        clearTimeout(this.#timer);
        for (const { timer, reject } of this.#requests.values()) {
            clearTimeout(timer);
            reject(new Error("the connection was lost"));
        }
        this.#requests.clear();
    }
}
