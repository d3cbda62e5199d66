// The client: successive connections, and the state that outlasts them: the token, the rooms, the accepted operations.

import { type Backoff, TIMER_MAX_MS, delayMs } from "./backoff.js";
import { type End, Connection, type Settings, type WebSocketConstructor } from "./connection.js";
import { Emitter } from "./emitter.js";
import { Message, type Position, parsePosition } from "./message.js";
import { type Notice, isFinal, isReplaced, isTokenOver, isTooFast } from "./notice.js";
import { watchPage } from "./page.js";
import { Renewal } from "./renewal.js";
import type { GapEvent, RoomEvent } from "./room.js";
import { Rooms } from "./rooms.js";
import { type AuthReply, type Resumed, SEND_BODY_MAX, op, text, utf8 } from "./wire.js";

/** Objects are sent as JSON. */
export type Token = string | number | object;

export interface Options {
    token?: Token;
    /**
     * Called for a token when there is none yet, before the last one expires, once when it was refused, and when two
     * connections in a row have ended without an answer to it.
     */
    getToken?: () => Token | Promise<Token>;
    /** Time between heartbeats; 30 s unless set, and at most half of the server's heartbeat timeout. */
    heartbeatMs?: number;
    /** Limit of each of these: connecting up to the acceptance, a reply; 10 s unless set. */
    timeoutMs?: number;
    /** Unless set, the first delay is up to 2 s, and none is longer than a minute. */
    backoff?: Partial<Backoff>;
    /**
     * Asks the server to keep the session when the connection is lost: messages to this client's key or user then wait for
     * the next connection. {@link StateEvent.resumed} tells how many. {@link Comet.close} ends the session if the state is
     * `open`. Without a connection the server keeps it until its `resume.window` has passed.
     */
    keepSession?: boolean;
    /** For Node before 22: the WebSocket of the package `ws`. */
    WebSocket?: WebSocketConstructor;
}

/**
 * `waiting`: for the next attempt to connect. `paused`: the page is in the browser's page cache. `closed`: finally, by
 * {@link Comet.close} or because no attempt can succeed.
 */
export type State = "connecting" | "open" | "waiting" | "paused" | "closed";

export interface StateEvent {
    state: State;
    /** Why there is no connection. */
    reason?: string;
    /** When `waiting`: the time until the next attempt. */
    retryInMs?: number;
    /** When `open`: set if this is the session of an earlier connection. If not, load the state that messages are about. */
    resumed?: Resumed;
}

/** The server has closed the connection with a reason. */
export interface GoodbyeEvent extends Notice {
    /** No attempt with this token can succeed. */
    isFinal: boolean;
}

export interface Events {
    message: Message;
    room: RoomEvent;
    gap: GapEvent;
    state: StateEvent;
    goodbye: GoodbyeEvent;
}

/** Most operations that a connection accepts by number. */
const OPERATIONS_MAX = 64;
const ROOM_BYTES_MAX = 256;
/** How often a token is sent without an answer before a new one is requested. One answer may be lost on any network. */
const UNANSWERED_MAX = 2;
/** How long a stalled network may hold sent data. */
const LATE_MAX_MS = 120_000;

export class Comet {
    readonly #options: Options;
    readonly #settings: Settings;
    readonly #backoff: Backoff;
    readonly #events = new Emitter<Events>();
    readonly #rooms: Rooms;
    /** Whether an operation is accepted, for each operation set by a call. */
    readonly #operations = new Map<number, boolean>();
    readonly #unwatchPage: () => void;
    #state: State = "connecting";
    #token: Token | undefined;
    /** Whether the present token was requested because the server has just refused the previous one. */
    #isSecondToken = false;
    /** Connections in a row that ended without an answer to the token. Servers like goim's refuse a token in this way. */
    #unanswered = 0;
    /** Until this time of the clock, a token that was sent and not answered may still reach the server. */
    #lateUntil = 0;
    #connection: Connection | undefined;
    /** When the connection was accepted. */
    #openedAt = 0;
    #failed = 0;
    /** The network or the page has come back since the present attempt began, which may have been made over the dead network. */
    #isWoken = false;
    /** The time that the server has asked to wait, since when by the clock. */
    #demand = { waitMs: 0, since: 0 };
    /** The timer of the next attempt, or of the token that is awaited for this one. */
    #timer: ReturnType<typeof setTimeout> | undefined;
    readonly #renewal = new Renewal((timeLeftMs) => this.#renew(timeLeftMs));

    /**
     * Begins to connect to a URL like `wss://example.com/sub`.
     *
     * @throws TypeError if the URL is not that of a WebSocket, or there is no `WebSocket`.
     * @throws RangeError if a time is not above zero, or longer than timers accept, which is 24 days.
     */
    constructor(url: string | URL, options: Options = {}) {
        const { WebSocket = globalThis.WebSocket, heartbeatMs = 30_000, timeoutMs = 10_000, keepSession = false } = options;
        if (!WebSocket) {
            throw new TypeError("no WebSocket here: pass one as an option");
        }
        const { href, protocol } = new URL(url);
        if (!/^wss?:$/.test(protocol)) {
            throw new TypeError(`${protocol} is neither ws: nor wss:`);
        }
        this.#options = options;
        this.#settings = { url: href, WebSocket, heartbeatMs, timeoutMs, keepSession };
        this.#token = options.token;
        this.#backoff = { baseMs: 1000, maxMs: 60_000, ...options.backoff };
        for (const [name, ms] of Object.entries({ heartbeatMs, timeoutMs, ...this.#backoff })) {
            // This also holds if it is not a number.
            if (!(ms > 0 && ms <= TIMER_MAX_MS)) {
                throw new RangeError(`${name} is above 0 and at most ${TIMER_MAX_MS}`);
            }
        }
        this.#rooms = new Rooms({
            send: (operation, body) => this.#connection?.post(operation, body),
            room: (event) => this.#events.emit("room", event),
            message: (message) => this.#events.emit("message", message),
            gap: (event) => this.#events.emit("gap", event),
        });
        this.#unwatchPage = watchPage({
            doubted: () => this.#connection?.probe(),
            woke: () => this.#wake(),
            hidden: () => this.#pause(),
            shown: () => this.#resume(),
        });
        this.#connect();
    }

    get state(): State {
        return this.#state;
    }

    /** Returns a function that removes the listener. */
    on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
        return this.#events.on(name, listener);
    }

    /**
     * Enters a room, now and after each reconnect. The event `room` tells the result. `since` is the position from which to
     * continue in the room's history: a {@link Message.position} or {@link Comet.position} kept from an earlier page. If
     * the server has put the client into the room already, the messages since then come once more, in order. In a room that
     * was joined before, the client's own position is used.
     *
     * @throws RangeError if the name is not one of a room, which has 1 to 256 bytes of UTF-8, or `since` is not a position.
     */
    join(room: string, { since }: { since?: Position | undefined } = {}): void {
        const name = utf8(room);
        if (name.length === 0 || name.length > ROOM_BYTES_MAX || text(name) !== room) {
            throw new RangeError("a room's name is 1 to 256 bytes of UTF-8");
        }
        this.#rooms.join(room, since === undefined ? undefined : parsePosition(since));
    }

    /**
     * Wants to be out of a room until it is joined again. A room of the token, into which each connection gets, is left again
     * without an event: the 1,024 rooms that were left last are remembered. An order of a caller that comes on the same connection, or
     * after the first 10 s of a later one, puts the client into the room for good.
     */
    leave(room: string): void {
        this.#rooms.leave(room);
    }

    /**
     * Where the client is in a room's history, or was when it lost the connection. `undefined`: it is not in the room, or that keeps
     * none.
     */
    position(room: string): Position | undefined {
        return this.#rooms.position(room);
    }

    /**
     * Accepts pushes of these operations, beside those that the token names, now and after each reconnect. A server that
     * would accept more than 64 with those of the token closes the connection, each time.
     *
     * @throws RangeError if one is not a 32-bit integer, or there are more than 64 in all.
     */
    subscribe(...operations: number[]): void {
        this.#setOperations(operations, true);
    }

    /**
     * Stops accepting pushes of these operations, even if the token names them. After a reconnect the latest 64 are applied
     * again.
     *
     * @throws RangeError if one is not a 32-bit integer, or there are more than 64.
     */
    unsubscribe(...operations: number[]): void {
        this.#setOperations(operations, false);
    }

    /**
     * Sends a message to the application behind the server, and returns its reply, which is empty on success. 4 is the
     * usual operation; others are 25 and up. Messages are not kept for a later connection, and without a reply it is
     * unknown whether the message has arrived.
     *
     * @throws Error if there is no connection, it is lost, or no reply comes in time.
     */
    async send(operation: number, body: string | Uint8Array = ""): Promise<Uint8Array> {
        const bytes = typeof body === "string" ? utf8(body) : body;
        if (operation !== 4 && !(Number.isInteger(operation) && operation > op.KEEP && operation < 2 ** 31)) {
            throw new RangeError(`operation ${operation} is no message's`);
        }
        if (bytes.length > SEND_BODY_MAX) {
            throw new RangeError(`${bytes.length} bytes are more than servers take`);
        }
        if (this.#state !== "open" || !this.#connection) {
            throw new Error("not connected");
        }
        return this.#connection.request(operation, bytes);
    }

    /** Closes the client permanently. */
    close(): void {
        this.#finish("closed by this side");
    }

    #setOperations(operations: number[], accepted: boolean): void {
        const alike = this.#operationsWith(accepted);
        const all = new Set([...alike, ...operations]);
        const count = accepted ? all.size : operations.length;
        if (count > OPERATIONS_MAX || operations.some((operation) => operation !== (operation | 0))) {
            throw new RangeError(`operations are 32-bit integers, ${OPERATIONS_MAX} at most`);
        }
        const changed = operations.filter((operation) => this.#operations.get(operation) !== accepted);
        for (const operation of changed) {
            // Deleted first, so that an operation that is set again becomes the latest.
            this.#operations.delete(operation);
            this.#operations.set(operation, accepted);
        }
        for (const oldest of this.#operationsWith(accepted).slice(0, -OPERATIONS_MAX)) {
            this.#operations.delete(oldest);
        }
        this.#postOperations(changed, accepted);
    }

    #operationsWith(accepted: boolean): number[] {
        return [...this.#operations].filter(([, is]) => is === accepted).map(([operation]) => operation);
    }

    #postOperations(operations: number[], accepted: boolean): void {
        if (this.#state === "open" && operations.length > 0) {
            this.#connection?.post(accepted ? op.SUBSCRIBE : op.UNSUBSCRIBE, utf8(operations.join()));
        }
    }

    #connect(): void {
        clearTimeout(this.#timer);
        this.#isWoken = false;
        if (this.#token !== undefined || !this.#options.getToken) {
            this.#open(this.#token ?? "");
            return;
        }
        // If the timer has changed, there is another attempt, and this token came too late.
        const timer = setTimeout(() => this.#lost("no token in time"), this.#settings.timeoutMs);
        this.#timer = timer;
        this.#askForToken().then(
            (token) => {
                if (this.#timer === timer) {
                    clearTimeout(timer);
                    this.#token = token;
                    this.#open(token);
                }
            },
            (error) => {
                if (this.#timer === timer) {
                    this.#lost(`no token: ${error}`);
                }
            },
        );
    }

    async #askForToken(): Promise<Token> {
        return this.#options.getToken!();
    }

    #open(token: Token): void {
        try {
            this.#connection = new Connection(this.#settings, bytesOf(token), {
                authenticated: (reply) => this.#authenticated(reply),
                frame: (frame) => {
                    if (!this.#rooms.handle(frame) && !isReply(frame.operation)) {
                        this.#events.emit("message", new Message(frame));
                    }
                },
                received: () => this.#renewal.check(),
                ended: (end) => this.#ended(end),
            });
        } catch (error) {
            // The page's policy forbids it, or the token cannot be written as JSON: the next attempt requests another
            // token.
            if (this.#options.getToken) {
                this.#token = undefined;
            }
            this.#lost(`${error}`);
        }
    }

    #authenticated(reply: AuthReply | undefined): void {
        if (this.#state !== "open") {
            this.#isSecondToken = false;
            this.#isWoken = false;
            this.#openedAt = Date.now();
            this.#demand.waitMs = 0;
            this.#unanswered = 0;
            this.#setState({ state: "open", ...(reply?.resumed && { resumed: reply.resumed }) });
            if (!this.#connection) {
                // A listener has closed the client.
                return;
            }
            // In this order, servers count at no time more operations than in the end: those of the token are there already.
            for (const accepted of [false, true]) {
                this.#postOperations(this.#operationsWith(accepted), accepted);
            }
            this.#rooms.connected(reply ? 2 : 1);
        }
        // A token that is refused is not sent again. Another one is asked for when the server closes.
        if (reply && !reply.isRefused && this.#options.getToken) {
            this.#renewal.schedule(reply.expiresInMs);
        }
    }

    /** Asks for another token for this connection. `timeLeftMs`: that of the present one. */
    #renew(timeLeftMs: () => number): void {
        const connection = this.#connection;
        this.#askForToken()
            .then((token) => {
                if (this.#connection === connection && connection) {
                    // Throws where the token cannot be written as JSON. The former one stays then.
                    const bytes = bytesOf(token);
                    this.#token = token;
                    connection.post(op.AUTH, bytes);
                }
            })
            .catch(() => {
                if (this.#connection === connection) {
                    this.#renewal.schedule(timeLeftMs());
                }
            });
    }

    #ended({ notice, wasAccepted, isTokenOpen, why }: End): void {
        // A stalled network may deliver the token of a former attempt after that of this connection.
        const isOwn = notice !== undefined && isReplaced(notice) && Date.now() < this.#lateUntil;
        if (isOwn || isTokenOpen) {
            this.#lateUntil = isOwn ? 0 : Date.now() + LATE_MAX_MS;
        }
        const final = notice !== undefined && !isOwn && isFinal(notice, wasAccepted);
        this.#disconnected();
        if (notice) {
            this.#isWoken = false;
            if (isTooFast(notice)) {
                this.#rooms.slowDown();
            }
            this.#events.emit("goodbye", { ...notice, isFinal: final });
            this.#demand = { waitMs: notice.retryAfterMs ?? 0, since: Date.now() };
        }
        const needsToken = this.#options.getToken && notice && isTokenOver(notice, wasAccepted);
        if (isTokenOpen) {
            this.#unanswered += 1;
        } else if (notice) {
            this.#unanswered = 0;
        }
        if (needsToken || (this.#options.getToken && this.#unanswered >= UNANSWERED_MAX)) {
            this.#token = undefined;
            this.#unanswered = 0;
        }
        if (this.#state === "closed") {
            // A listener has closed the client.
        } else if (!final) {
            this.#lost(why, wasAccepted);
        } else if (needsToken && !this.#isSecondToken) {
            this.#isSecondToken = true;
            this.#reconnect(why);
        } else {
            this.#finish(why);
        }
    }

    /** Waits for the next attempt. */
    #lost(reason: string, wasAccepted = false): void {
        if (this.#isWoken || (wasAccepted && Date.now() - this.#openedAt >= this.#backoff.maxMs)) {
            this.#failed = 0;
        }
        const retryInMs = this.#demandedMs() || delayMs(this.#backoff, this.#failed);
        this.#failed += 1;
        this.#retryIn(retryInMs, reason);
    }

    /** The rest of the time that the server has asked to wait. Setting the clock back does not extend it. */
    #demandedMs(): number {
        const { waitMs, since } = this.#demand;
        return Math.max(0, Math.min(waitMs, since + waitMs - Date.now()));
    }

    #retryIn(retryInMs: number, reason: string): void {
        clearTimeout(this.#timer);
        // Only a refusal refers to the token. After any other end the token is still valid, though it may expire before the
        // next attempt.
        this.#isSecondToken = false;
        this.#timer = setTimeout(() => this.#reconnect(), retryInMs);
        this.#setState({ state: "waiting", reason, retryInMs });
    }

    #reconnect(reason?: string): void {
        this.#setState({ state: "connecting", ...(reason && { reason }) });
        if (this.#state === "connecting") {
            this.#connect();
        }
    }

    /** The network or the page is back. This ends a delay of the client's own, but not one that the server asked for. */
    #wake(): void {
        if (this.#state === "waiting" && this.#demandedMs() === 0) {
            this.#reconnect();
        } else {
            this.#isWoken = this.#state === "connecting";
        }
        this.#connection?.probe();
    }

    #pause(): void {
        if (this.#state !== "closed") {
            if (this.#connection?.isTokenOpen) {
                this.#lateUntil = Date.now() + LATE_MAX_MS;
            }
            this.#connection?.close(!this.#settings.keepSession);
            this.#disconnected();
            this.#setState({ state: "paused" });
        }
    }

    #resume(): void {
        if (this.#state === "paused") {
            this.#retryIn(this.#demandedMs(), "the page was away");
        }
    }

    #finish(reason: string): void {
        if (this.#state !== "closed") {
            this.#connection?.close();
            this.#disconnected();
            this.#unwatchPage();
            this.#setState({ state: "closed", reason });
        }
    }

    #disconnected(): void {
        clearTimeout(this.#timer);
        this.#renewal.cancel();
        this.#timer = undefined;
        this.#connection = undefined;
        this.#rooms.lost();
    }

    #setState(event: StateEvent): void {
        this.#state = event.state;
        this.#events.emit("state", event);
    }
}

const bytesOf = (token: Token): Uint8Array => utf8(typeof token === "object" ? JSON.stringify(token) : String(token));

/** Whether a frame is the reply to a request whose reply is not awaited. */
const isReply = (operation: number): boolean =>
    operation === op.CHANGE_ROOM_REPLY || operation === op.SUBSCRIBE_REPLY || operation === op.UNSUBSCRIBE_REPLY;
