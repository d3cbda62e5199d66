// A room as the client keeps it, and what is told of one.

import type { Position } from "./message.js";
import type { Point, Refusal } from "./wire.js";

/** The client has entered or left a room, or was refused. */
export interface RoomEvent {
    room: string;
    status: "joined" | "left" | "refused";
    /** Of a refusal. `one_room`: the server speaks protocol 1, where the room joined last takes the place of the others. */
    reason?: Refusal | "one_room";
    /** Whether all that came after the position follows; `false`: something may be missing. `undefined`: there was no position. */
    recovered?: boolean;
    /** How many messages follow, if recovered. */
    missed?: number;
    /** `undefined`: the room keeps no history. */
    position?: Position;
    /** The server did it without being asked. */
    byServer: boolean;
}

/**
 * Messages of a room that the server has dropped for this client, which read too slowly, or for want of time.
 * The client asks for them by itself.
 */
export interface GapEvent {
    room: string;
    /** The offset of the first one. */
    from: bigint;
    /** The offset of the last one. Some between may not be missing. */
    to: bigint;
    /**
     * `asked`: the server is asked for them. `repaired` or `lost` follows, and no message of the room before that. Neither comes
     * if the connection ends first, or if the server takes the client out of the room.
     * `repaired`: all that came after the last message of the room follows, in order and none twice.
     * `lost`: the server does not have them any more, so the page has to load the state of the room.
     * `outdated`: newer messages about the same states have taken the place of all of them, and nothing is asked for.
     */
    state: "asked" | "repaired" | "lost" | "outdated";
    /** How many messages follow, if repaired. */
    missed?: number;
}

export interface Room {
    name: string;
    /** `undefined`: the server's token or a call put the client there, so that is up to them. */
    isWanted: boolean | undefined;
    /** `joining` and `leaving`: the reply is awaited. */
    state: "out" | "joining" | "in" | "leaving" | "refused";
    handle?: number;
    /** Why it is refused. */
    refusal?: Refusal;
    /** Where the client is in the history. */
    point?: Point;
    /** No server has answered to the position since the application has joined the room: it may still name another one. */
    isPointOpen?: boolean;
    /** A join with the position is under way, for the sake of a wish, of a gap, or because the server put the client back. What comes
     * of the room until the answer comes again behind that. In state `in` the join waits for a place among the unanswered ones. */
    recovery?: { gap?: GapEvent; byServer: boolean };
    /** The client is out of the room, as far as the application knows, and told nothing until it has left again: the server has taken
     * it out, but a join that this client sent for a repair puts it back; or the application has left the room, which the token
     * names. */
    isHidden?: boolean;
}

/** Whether something may have come between `since` and what the client has of the room. */
export const isBehind = (since: Point, { point, recovery }: Room): boolean =>
    !recovery && point !== undefined && (since.epoch !== point.epoch || since.offset < point.offset);
