// The rooms that the application wants to be in, those it is in, and its positions in their histories. The wishes outlast a
// connection; the next one makes the server match them.

import { delayMs } from "./backoff.js";
import { type Position, Message, formatPosition } from "./message.js";
import {
    type Frame,
    type JoinReply,
    type Point,
    type Refusal,
    WireError,
    decodeGap,
    decodeJoinReply,
    decodeLeaveReply,
    decodeRoomPush,
    encodeJoin,
    encodeLeave,
    op,
    text,
    utf8,
} from "./wire.js";

/** The client has entered or left a room, or was refused. */
export interface RoomEvent {
    room: string;
    status: "joined" | "left" | "refused";
    /** The reason of a refusal. `one_room`: the server speaks protocol 1, where the room joined last replaces the others. */
    reason?: Refusal | "one_room";
    /** Whether all messages after the position follow; `false`: some may be missing. `undefined`: there was no position. */
    recovered?: boolean;
    /** How many messages follow, if recovered. */
    missed?: number;
    /** `undefined`: the room keeps no history. */
    position?: Position;
    /** Whether the server acted without a request. */
    byServer: boolean;
}

/**
 * Messages of a room that the server has dropped for this client, because it read too slowly or the server lacked time. The
 * client requests them by itself.
 */
export interface GapEvent {
    room: string;
    /** The offset of the first missing message. */
    from: bigint;
    /** The offset of the last missing message. Some between may not be missing. */
    to: bigint;
    /**
     * `asked`: the server was asked for them. `repaired` or `lost` follows, and no message of the room comes before that.
     * Neither comes if the connection ends first, or if the server removes the client from the room.
     * `repaired`: all messages after the last one of the room follow, in order and none twice.
     * `lost`: the server no longer has them, so the page has to load the state of the room.
     * `outdated`: newer messages about the same states have replaced all of them, and none is requested.
     */
    state: "asked" | "repaired" | "lost" | "outdated";
    /** How many messages follow, if repaired. */
    missed?: number;
}

export interface RoomHandlers {
    send(operation: number, body: Uint8Array): void;
    room(event: RoomEvent): void;
    message(message: Message): void;
    gap(event: GapEvent): void;
}

/** Most unanswered joins and leaves: servers bound the replies and the input that wait for one client. */
const UNANSWERED_MAX = 16;

interface Room {
    name: string;
    /** `undefined`: the server's token or a call put the client there, and they decide whether it stays. */
    isWanted: boolean | undefined;
    /** `joining` and `leaving`: the reply is awaited. */
    state: "out" | "joining" | "in" | "leaving" | "refused";
    handle?: number;
    /** Why it is refused. */
    refusal?: Refusal;
    /** Where the client is in the history. */
    point?: Point;
    /**
     * A join with a position is under way: for a wish, for a gap, or because the server put the client back. Messages of the
     * room before its answer are ignored, because they come again after it. In state `in` the join waits for a place among the
     * unanswered ones.
     */
    recovery?: { gap?: GapEvent; byServer: boolean };
    /**
     * The server has removed the client from the room, but a join that the client sent for a repair puts it back. The
     * application was told of the removal, so it is told nothing more until the client has left again.
     */
    isTakenOut?: boolean;
}

/** The delays before rooms are requested again that the server had no memory for. */
const LATER = { baseMs: 5000, maxMs: 300_000 };
/** Most positions kept for rooms into which the server may put the client again. */
const KNOWN_MAX = 1024;

export class Rooms {
    readonly #handlers: RoomHandlers;
    /** In the order in which they were joined. */
    readonly #rooms = new Map<string, Room>();
    /** The client's positions, at the end of the last connection, in rooms that the server had put it into. */
    readonly #known = new Map<string, Point>();
    readonly #byHandle = new Map<number, Room>();
    /** The protocol of the server; `undefined`: there is no connection. */
    #protocol: 1 | 2 | undefined;
    #unanswered = 0;
    /**
     * The timer after which rooms are requested again that the server had no memory for; `#delays` counts such delays on this
     * connection.
     */
    #later: ReturnType<typeof setTimeout> | undefined;
    #delays = 0;
    /** The only room of protocol 1, as requested and as confirmed by the server; "": none. */
    #only = { asked: "", confirmed: "" };

    constructor(handlers: RoomHandlers) {
        this.#handlers = handlers;
    }

    join(name: string, since?: Point): void {
        const room = this.#rooms.get(name) ?? this.#add(name, true);
        // From here on the room's own position is used.
        this.#known.delete(name);
        if (room.state === "joining") {
            delete room.isTakenOut;
        }
        if (room.state === "out" || room.state === "refused") {
            room.state = "out";
            if (since) {
                room.point = since;
            }
        } else if (since && room.state === "in" && room.isWanted === undefined && isBehind(since, room)) {
            // The server put the client in first, and announced the room with its present position.
            room.point = since;
            room.recovery = { byServer: false };
        }
        room.isWanted = true;
        // Moved to the end of the order.
        this.#rooms.delete(name);
        this.#rooms.set(name, room);
        this.#reconcile();
    }

    leave(name: string): void {
        const room = this.#rooms.get(name);
        if (room) {
            room.isWanted = false;
            this.#reconcile();
        }
    }

    position(name: string): Position | undefined {
        const point = this.#rooms.get(name)?.point;
        return point && formatPosition(point);
    }

    /** There is a connection again. */
    connected(protocol: 1 | 2): void {
        this.#protocol = protocol;
        this.#reconcile();
    }

    lost(): void {
        this.#protocol = undefined;
        this.#unanswered = 0;
        clearTimeout(this.#later);
        this.#later = undefined;
        this.#delays = 0;
        this.#only = { asked: "", confirmed: "" };
        this.#byHandle.clear();
        for (const room of this.#rooms.values()) {
            room.state = "out";
            delete room.handle;
            delete room.recovery;
            delete room.isTakenOut;
            if (!room.isWanted) {
                if (room.point && room.isWanted === undefined) {
                    this.#know(room.name, room.point);
                }
                this.#rooms.delete(room.name);
            }
        }
    }

    /** Handles a frame about rooms. `false`: it is about something else. */
    handle(frame: Frame): boolean {
        if (this.#protocol === 1) {
            return frame.operation === op.CHANGE_ROOM_REPLY && this.#handleChanged(text(frame.body));
        }
        switch (frame.operation) {
            case op.JOIN_REPLY:
                return this.#handleJoined(frame.body);
            case op.LEAVE_REPLY:
                return this.#handleLeft(frame.body);
            case op.ROOM_PUSH:
                return this.#handlePush(frame);
            case op.GAP:
                return this.#handleGap(frame.body);
            default:
                return false;
        }
    }

    /** Requests the changes from the present rooms to the wanted ones. */
    #reconcile(): void {
        if (this.#protocol === 1) {
            this.#reconcileOnly();
        }
        for (const room of this.#protocol === 2 ? this.#rooms.values() : []) {
            if (this.#unanswered >= UNANSWERED_MAX) {
                return;
            }
            const { isWanted, state } = room;
            if (isWanted === false) {
                if (state === "in") {
                    this.#ask(room, "leaving", op.LEAVE, encodeLeave(room.handle ?? 0));
                } else if (state === "out" || state === "refused") {
                    this.#rooms.delete(room.name);
                }
            } else if ((isWanted && state === "out") || (state === "in" && room.recovery)) {
                if (room.point) {
                    room.recovery ??= { byServer: false };
                }
                this.#ask(room, "joining", op.JOIN, encodeJoin(room.name, room.point));
            }
        }
    }

    #askLater(): void {
        this.#later ??= setTimeout(() => {
            this.#later = undefined;
            this.#askAgain("out_of_memory");
            this.#reconcile();
        }, delayMs(LATER, this.#delays++));
    }

    /** Requests again what the server has refused for this reason, because it may grant it now. */
    #askAgain(refusal: Refusal): void {
        for (const room of this.#rooms.values()) {
            if (room.state === "refused" && room.refusal === refusal) {
                room.state = "out";
            }
        }
    }

    #ask(room: Room, state: Room["state"], operation: number, body: Uint8Array): void {
        room.state = state;
        this.#unanswered += 1;
        this.#handlers.send(operation, body);
    }

    #handleJoined(body: Uint8Array): true {
        const reply = decodeJoinReply(body);
        const { isUnasked, refusal } = reply;
        const room = this.#rooms.get(reply.room) ?? this.#add(reply.room, undefined);
        const { recovery, handle: former } = room;
        if (!isUnasked) {
            this.#unanswered -= 1;
            delete room.recovery;
        }
        if (!refusal) {
            this.#forgetHandle(room);
            room.handle = reply.handle;
            this.#byHandle.set(reply.handle, room);
        }
        if (isUnasked && former !== undefined && !reply.point) {
            // Only the handle of the room has changed. A request to leave that names the former handle is refused: if the
            // client still wants to leave, it requests that again.
            if (room.state === "leaving" && former !== reply.handle) {
                room.state = "in";
            }
        } else {
            this.#handleEntered(room, reply, recovery, former !== undefined);
        }
        this.#reconcile();
        return true;
    }

    /** The server has answered a join, or put the client into a room. */
    #handleEntered(room: Room, reply: JoinReply, recovery: Room["recovery"], wasIn: boolean): void {
        const { isUnasked, refusal } = reply;
        if (isUnasked && room.isTakenOut) {
            delete room.isTakenOut;
            room.isWanted = undefined;
        }
        // The reply to a request under way is still to come.
        const isAnswer = !isUnasked || room.state !== "joining";
        if (isAnswer) {
            room.state = refusal ? "refused" : "in";
        }
        const event: RoomEvent = { room: room.name, status: "joined", byServer: isUnasked || (recovery?.byServer ?? false) };
        if (refusal) {
            room.refusal = event.reason = refusal;
            event.status = "refused";
            if (refusal === "out_of_memory") {
                this.#askLater();
            }
        } else {
            if (isUnasked && isAnswer && this.#goesOn(room, reply.point)) {
                return;
            }
            this.#moveTo(room, reply, wasIn, recovery, event);
        }
        if (room.isTakenOut) {
            return;
        }
        if (!isUnasked && recovery?.gap) {
            const { isRecovered } = reply;
            this.#handlers.gap({ ...recovery.gap, ...(isRecovered ? { state: "repaired", missed: reply.recovered } : { state: "lost" }) });
        } else {
            this.#handlers.room(event);
        }
    }

    /**
     * The server has put the client into a room. Requests the messages since the client was there, if that is possible and
     * there are any.
     */
    #goesOn(room: Room, now: Point | undefined): boolean {
        const before = room.point ?? this.#known.get(room.name);
        this.#known.delete(room.name);
        if (now && before) {
            room.point = before;
            if (before.epoch === now.epoch && before.offset !== now.offset) {
                room.recovery = { byServer: true };
                return true;
            }
        }
        return false;
    }

    #moveTo(room: Room, reply: JoinReply, wasIn: boolean, recovery: Room["recovery"], event: RoomEvent): void {
        const { point, isUnasked } = reply;
        if (isUnasked && recovery) {
            // The answer to the request informs the application.
            return;
        }
        if (isUnasked && point && room.point) {
            event.recovered = room.point.epoch === point.epoch;
            event.missed = 0;
        } else if (!isUnasked && recovery) {
            event.recovered = reply.isRecovered;
            event.missed = reply.recovered;
        }
        // Recovered messages advance the position when they arrive, because the connection may end before that.
        if (!event.recovered) {
            if (point) {
                room.point = point;
            } else if (!wasIn) {
                delete room.point;
            }
        }
        if (room.point) {
            event.position = formatPosition(room.point);
        }
    }

    #handleLeft(body: Uint8Array): true {
        const reply = decodeLeaveReply(body);
        const room = this.#byHandle.get(reply.handle);
        if (!reply.isUnasked) {
            this.#unanswered -= 1;
        }
        if (room) {
            const { recovery, isTakenOut } = room;
            // A refusal means that the client is not in the room.
            this.#forgetHandle(room);
            const isJoining = room.state === "joining";
            const isLeaving = room.state === "leaving";
            if (!isJoining) {
                room.state = "out";
                delete room.recovery;
                delete room.isTakenOut;
            }
            // The application's own join continues, and its answer informs the application. So does a join that waits for
            // the answer to a request to leave.
            const isRepair = recovery?.gap !== undefined || recovery?.byServer === true;
            if (reply.isUnasked && (isJoining ? isRepair : !(isLeaving && room.isWanted))) {
                room.isWanted = false;
                if (isJoining) {
                    room.isTakenOut = true;
                    room.recovery = { byServer: false };
                }
            }
            if (!isTakenOut) {
                this.#handlers.room({ room: room.name, status: "left", byServer: reply.isUnasked });
            }
            this.#askAgain("too_many_rooms");
        }
        this.#reconcile();
        return true;
    }

    #handlePush(frame: Frame): true {
        const { handle, messages } = decodeRoomPush(frame);
        const room = this.#byHandle.get(handle);
        if (!room) {
            throw new WireError("a push to no room");
        }
        for (const message of messages) {
            // A listener may have closed the connection. The rest comes again over the next one.
            if (this.#protocol === undefined) {
                break;
            }
            if (room.isTakenOut || (room.recovery && message.offset > 0n)) {
                continue;
            }
            if (room.point && message.offset > 0n) {
                room.point = { epoch: room.point.epoch, offset: message.offset };
            }
            this.#handlers.message(new Message(message, room.name, message.offset > 0n ? room.point : undefined));
        }
        return true;
    }

    #handleGap(body: Uint8Array): true {
        const { handle, from, to, isOutdated } = decodeGap(body);
        const room = this.#byHandle.get(handle);
        // The answer to a pending request contains them.
        if (!room || room.isTakenOut || room.recovery || (room.point && to <= room.point.offset)) {
            return true;
        }
        const gap = { room: room.name, from, to };
        if (isOutdated || !room.point || room.state !== "in") {
            this.#handlers.gap({ ...gap, state: isOutdated ? "outdated" : "lost" });
            return true;
        }
        const asked: GapEvent = { ...gap, state: "asked" };
        room.recovery = { gap: asked, byServer: false };
        this.#handlers.gap(asked);
        this.#reconcile();
        return true;
    }

    /** Requests the room that was joined last, the only one in protocol 1. */
    #reconcileOnly(): void {
        const wanted = [...this.#rooms.values()].filter((room) => room.isWanted);
        const name = wanted.pop()?.name ?? "";
        const refused = wanted.filter((room) => room.state !== "refused");
        // A listener may join another room, which is requested after this one.
        if (name !== this.#only.asked) {
            this.#only.asked = name;
            this.#handlers.send(op.CHANGE_ROOM, utf8(name));
        }
        for (const room of refused) {
            room.state = "refused";
        }
        for (const room of refused) {
            this.#handlers.room({ room: room.name, status: "refused", reason: "one_room", byServer: false });
        }
    }

    #handleChanged(name: string): true {
        const former = this.#only.confirmed;
        this.#only.confirmed = name;
        if (former) {
            this.#handlers.room({ room: former, status: "left", byServer: false });
        }
        const room = this.#rooms.get(name);
        if (room) {
            room.state = "in";
            this.#handlers.room({ room: name, status: "joined", byServer: false });
        }
        return true;
    }

    #add(name: string, isWanted: boolean | undefined): Room {
        const room: Room = { name, isWanted, state: "out" };
        this.#rooms.set(name, room);
        return room;
    }

    #know(name: string, point: Point): void {
        this.#known.delete(name);
        this.#known.set(name, point);
        const [oldest] = this.#known.keys();
        if (oldest !== undefined && this.#known.size > KNOWN_MAX) {
            this.#known.delete(oldest);
        }
    }

    #forgetHandle(room: Room): void {
        if (room.handle !== undefined) {
            this.#byHandle.delete(room.handle);
            delete room.handle;
        }
    }
}

/** Whether there may be messages between `since` and the client's position in the room. */
const isBehind = (since: Point, { point, recovery }: Room): boolean =>
    !recovery && point !== undefined && (since.epoch !== point.epoch || since.offset < point.offset);
