// The rooms that the application wants to be in, those it is in, and its positions in their histories. The wishes outlast a
// connection; the next one makes the server match them.

import { delayMs } from "./backoff.js";
import { type Position, Message, formatPosition } from "./message.js";
import { Pace } from "./pace.js";
import { type GapEvent, type Room, type RoomEvent, isBehind } from "./room.js";
import {
    type Frame,
    type JoinReply,
    type Point,
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

export interface RoomHandlers {
    send(operation: number, body: Uint8Array): void;
    room(event: RoomEvent): void;
    message(message: Message): void;
    gap(event: GapEvent): void;
}

/** Most unanswered joins and leaves: servers bound the replies and the input that wait for one client. */
const UNANSWERED_MAX = 16;

/** The delays before rooms are asked for again for which the server had no memory. */
const LATER = { baseMs: 5000, maxMs: 300_000 };
/** Rooms, into which the server may put the client again, whose positions are kept; and those that were left. */
const KNOWN_MAX = 1024;
/** For so long the server puts a new connection into rooms of its token. Later it does so by order of a caller. */
const START_MS = 10_000;

export class Rooms {
    readonly #handlers: RoomHandlers;
    /** In the order in which they were joined. */
    readonly #rooms = new Map<string, Room>();
    /** The client's positions, at the end of the last connection, in rooms that the server had put it into. */
    readonly #known = new Map<string, Point>();
    /** Rooms that the application has left, and on which connection the client did so; 0: on none. */
    readonly #left = new Map<string, number>();
    readonly #byHandle = new Map<number, Room>();
    /** The protocol of the server; `undefined`: there is no connection. */
    #protocol: 1 | 2 | undefined;
    /** So many connections there have been, the last one since when by the clock. */
    #connections = 0;
    #connectedAt = 0;
    #unanswered = 0;
    readonly #pace = new Pace();
    /** Until the next change of rooms. */
    #paused: ReturnType<typeof setTimeout> | undefined;
    /** Until rooms are asked for again for which there was no memory, and how often that has been so on this connection. */
    #later: ReturnType<typeof setTimeout> | undefined;
    #delays = 0;
    /** So many rooms the client has left that none was refused for since then: as many of those that were too many may get in. */
    #places = 0;
    /** The only room of protocol 1, as it was asked for, and as the server has confirmed it; "": none. */
    #only = { asked: "", confirmed: "" };

    constructor(handlers: RoomHandlers) {
        this.#handlers = handlers;
    }

    join(name: string, since?: Point): void {
        this.#left.delete(name);
        const room = this.#rooms.get(name) ?? this.#add(name, true);
        if (room.state === "joining") {
            delete room.isHidden;
        }
        const isOut = room.state === "out" || room.state === "refused";
        if (isOut) {
            room.state = "out";
            delete room.refusal;
        }
        if (since && (isOut || room.state === "leaving" || room.isHidden) && (!room.point || room.isPointOpen)) {
            room.point = since;
            room.isPointOpen = true;
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
        setLatest(this.#left, name, 0);
        // Joined again before there is a connection, it goes on where the client was.
        const room = this.#rooms.get(name) ?? (this.#known.has(name) && this.#add(name, false));
        if (room) {
            room.isWanted = false;
            this.#reconcile();
        }
    }

    position(name: string): Position | undefined {
        const point = this.#rooms.get(name)?.point ?? this.#known.get(name);
        return point && formatPosition(point);
    }

    /** There is a connection again. */
    connected(protocol: 1 | 2): void {
        this.#protocol = protocol;
        this.#connections += 1;
        this.#connectedAt = Date.now();
        this.#reconcile();
    }

    /** The server has closed the connection because rooms were entered and left too fast. */
    slowDown(): void {
        this.#pace.slowDown();
    }

    lost(): void {
        this.#protocol = undefined;
        this.#unanswered = 0;
        clearTimeout(this.#paused);
        this.#paused = undefined;
        clearTimeout(this.#later);
        this.#later = undefined;
        this.#delays = 0;
        this.#places = 0;
        this.#only = { asked: "", confirmed: "" };
        this.#byHandle.clear();
        for (const room of this.#rooms.values()) {
            room.state = "out";
            delete room.handle;
            delete room.recovery;
            delete room.refusal;
            delete room.isHidden;
            if (!room.isWanted) {
                if (room.point && room.isWanted === undefined) {
                    setLatest(this.#known, room.name, room.point);
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
            if (this.#unanswered >= UNANSWERED_MAX || this.#pauses()) {
                return;
            }
            const { isWanted, state } = room;
            if (isWanted === false || (room.isHidden && state === "in")) {
                if (state === "in") {
                    this.#ask(room, "leaving", op.LEAVE, encodeLeave(room.handle ?? 0));
                } else if (state === "out" || state === "refused") {
                    this.#rooms.delete(room.name);
                }
            } else if ((isWanted && (state === "out" || this.#hasPlaceFor(room))) || (state === "in" && room.recovery)) {
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
            for (const room of this.#rooms.values()) {
                if (room.state === "refused" && room.refusal === "out_of_memory") {
                    room.state = "out";
                }
            }
            this.#reconcile();
        }, delayMs(LATER, this.#delays++));
    }

    /** Whether it is too early for a change of rooms. If so, it is made later. */
    #pauses(): boolean {
        const waitMs = this.#pace.waitMs();
        if (waitMs > 0) {
            this.#paused ??= setTimeout(() => {
                this.#paused = undefined;
                this.#reconcile();
            }, waitMs);
        }
        return waitMs > 0;
    }

    /** Whether the room was refused as one too many, and may get in now. */
    #hasPlaceFor({ state, refusal }: Room): boolean {
        return this.#places > 0 && state === "refused" && refusal === "too_many_rooms";
    }

    #ask(room: Room, state: Room["state"], operation: number, body: Uint8Array): void {
        if (room.state === "refused") {
            this.#places -= 1;
        }
        room.state = state;
        this.#unanswered += 1;
        this.#pace.count();
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
        if (isUnasked && (room.isHidden || (room.state === "out" && !room.isWanted))) {
            // Whatever the application wanted before.
            delete room.isHidden;
            room.isWanted = undefined;
        }
        if (isUnasked && room.state !== "joining" && this.#isLeftAgain(room.name)) {
            room.isWanted = false;
            room.isHidden = true;
            delete room.point;
        }
        // The reply to a request that is under way is still to come.
        const isAnswer = !isUnasked || room.state !== "joining";
        if (isAnswer) {
            room.state = refusal ? "refused" : "in";
        }
        const event: RoomEvent = { room: room.name, status: "joined", byServer: isUnasked || (recovery?.byServer ?? false) };
        if (refusal) {
            if (refusal === "too_many_rooms") {
                this.#places = 0;
            } else if (room.refusal === "too_many_rooms") {
                // It leaves its place to the next one.
                this.#places += 1;
            }
            room.refusal = event.reason = refusal;
            event.status = "refused";
            if (refusal === "out_of_memory") {
                this.#askLater();
            }
        } else {
            delete room.refusal;
            if (isUnasked && isAnswer && this.#goesOn(room, reply.point)) {
                return;
            }
            this.#moveTo(room, reply, wasIn, recovery, event);
        }
        if (room.isHidden) {
            if (!event.recovered) {
                // Nothing of the room is told behind it.
                delete room.point;
            }
            return;
        }
        if (!isUnasked && recovery?.gap) {
            const { isRecovered } = reply;
            this.#handlers.gap({ ...recovery.gap, ...(isRecovered ? { state: "repaired", missed: reply.recovered } : { state: "lost" }) });
        } else {
            this.#handlers.room(event);
        }
    }

    /** Whether it is the token that puts the client into a room that it has left. A later order of a caller is another matter. */
    #isLeftAgain(name: string): boolean {
        const leftOn = this.#left.get(name);
        const isStart = leftOn !== this.#connections && Math.abs(Date.now() - this.#connectedAt) < START_MS;
        if (!isStart) {
            this.#left.delete(name);
        }
        return isStart && leftOn !== undefined;
    }

    /** The server has put the client into a room. Asks for what came since the client was there, if that is possible and something did. */
    #goesOn(room: Room, now: Point | undefined): boolean {
        const { point } = room;
        if (now && point && point.epoch === now.epoch && point.offset !== now.offset) {
            room.recovery = { byServer: true };
            return true;
        }
        return false;
    }

    #moveTo(room: Room, reply: JoinReply, wasIn: boolean, recovery: Room["recovery"], event: RoomEvent): void {
        const { point, isUnasked } = reply;
        if (isUnasked && recovery) {
            // The answer to the request informs the application.
            return;
        }
        delete room.isPointOpen;
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
            const { name, recovery, isHidden } = room;
            if (this.#left.has(name)) {
                this.#left.set(name, this.#connections);
            }
            // A refusal says that the client is not in it.
            this.#forgetHandle(room);
            const isJoining = room.state === "joining";
            const isLeaving = room.state === "leaving";
            if (!isJoining) {
                room.state = "out";
                delete room.recovery;
                delete room.isHidden;
            }
            // The application's own join continues, and its answer informs the application. So does a join that waits for
            // the answer to a request to leave.
            const isRepair = recovery?.gap !== undefined || recovery?.byServer === true;
            if (reply.isUnasked && (isJoining ? isRepair : !((isLeaving || isHidden) && room.isWanted))) {
                room.isWanted = false;
                if (isJoining) {
                    room.isHidden = true;
                    room.recovery = { byServer: false };
                }
            }
            if (!isHidden) {
                this.#handlers.room({ room: name, status: "left", byServer: reply.isUnasked });
            }
            this.#places += 1;
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
            if (room.isHidden || (room.recovery && message.offset > 0n)) {
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
        // An answer that is under way has them.
        if (!room || room.isHidden || room.recovery || (room.point && to <= room.point.offset)) {
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
        const point = this.#known.get(name);
        const room: Room = { name, isWanted, state: "out", ...(point && { point, isPointOpen: true }) };
        // From here on the room's own position counts.
        this.#known.delete(name);
        this.#rooms.set(name, room);
        return room;
    }

    #forgetHandle(room: Room): void {
        if (room.handle !== undefined) {
            this.#byHandle.delete(room.handle);
            delete room.handle;
        }
    }
}

/** Sets a value as the latest one, and forgets the oldest beyond the bound. */
function setLatest<Value>(values: Map<string, Value>, name: string, value: Value): void {
    values.delete(name);
    values.set(name, value);
    const [oldest] = values.keys();
    if (oldest !== undefined && values.size > KNOWN_MAX) {
        values.delete(oldest);
    }
}
