// A push, and the position after it.

import { type Point, text } from "./wire.js";

/** A point in the history of a room, opaque to the application: the `since` of `join`. */
export type Position = string;

export const formatPosition = ({ epoch, offset }: Point): Position => `${epoch}-${offset}`;

export function parsePosition(position: Position): Point {
    const [, epoch, offset] = /^([0-9]{1,20})-([0-9]{1,20})$/.exec(position) ?? [];
    if (epoch === undefined || offset === undefined) {
        throw new RangeError(`no position: ${position}`);
    }
    return { epoch: BigInt(epoch), offset: BigInt(offset) };
}

export class Message {
    readonly operation: number;
    readonly sequence: number;
    /** A view of all that came with it, perhaps of many messages: what is kept for long is better a `slice()` of it. */
    readonly body: Uint8Array;
    /**
     * `undefined`: a push to this client's key or user, or to all; or the server speaks protocol 1, which does not name the
     * room.
     */
    readonly room: string | undefined;
    readonly #point: Point | undefined;

    /** @internal */
    constructor(frame: { operation: number; sequence: number; body: Uint8Array }, room?: string, point?: Point) {
        this.operation = frame.operation;
        this.sequence = frame.sequence;
        this.body = frame.body;
        this.room = room;
        this.#point = point;
    }

    /** The position from which to continue after this message; `undefined`: its room keeps no history. */
    get position(): Position | undefined {
        return this.#point && formatPosition(this.#point);
    }

    text(): string {
        return text(this.body);
    }

    json<T = unknown>(): T {
        return JSON.parse(this.text());
    }
}
