// The wire format: frames and the bodies of protocol 2, as described in docs/PROTOCOL.md. Numbers are big-endian.

export const HEADER_LEN = 16;
/** The longest body that servers accept from a client unless configured otherwise, in bytes. */
export const SEND_BODY_MAX = 4096;

/** An enum, so that the bundle contains its numbers and not its names. */
export enum op {
    HEARTBEAT = 2,
    HEARTBEAT_REPLY = 3,
    GOODBYE = 6,
    AUTH = 7,
    AUTH_REPLY = 8,
    RAW = 9,
    CHANGE_ROOM = 12,
    CHANGE_ROOM_REPLY = 13,
    SUBSCRIBE = 14,
    SUBSCRIBE_REPLY = 15,
    UNSUBSCRIBE = 16,
    UNSUBSCRIBE_REPLY = 17,
    JOIN = 18,
    JOIN_REPLY = 19,
    ROOM_PUSH = 20,
    LEAVE = 21,
    LEAVE_REPLY = 22,
    GAP = 23,
    KEEP = 24,
}

/** A frame. Its body is a view of the message in which it came. */
export interface Frame {
    version: number;
    operation: number;
    sequence: number;
    body: Uint8Array;
}

/** A protocol violation by the server. It ends the connection. */
export class WireError extends Error {}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export const utf8 = (text: string): Uint8Array => encoder.encode(text);
export const text = (bytes: Uint8Array): string => decoder.decode(bytes);

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

export function encode(frame: Frame): ArrayBuffer {
    const bytes = new Uint8Array(HEADER_LEN + frame.body.length);
    const fields = view(bytes);
    fields.setUint32(0, bytes.length);
    fields.setUint16(4, HEADER_LEN);
    fields.setUint16(6, frame.version);
    fields.setInt32(8, frame.operation);
    fields.setInt32(12, frame.sequence);
    bytes.set(frame.body, HEADER_LEN);
    return bytes.buffer;
}

/** The frames of a run (frames back to back), in order. A batch among them counts as one frame. */
export function decode(run: Uint8Array): Frame[] {
    const frames: Frame[] = [];
    while (run.length > 0) {
        const fields = view(run);
        const length = run.length < HEADER_LEN ? 0 : fields.getUint32(0);
        if (length < HEADER_LEN || length > run.length || fields.getUint16(4) !== HEADER_LEN) {
            throw new WireError("bad frame");
        }
        frames.push({
            version: fields.getUint16(6),
            operation: fields.getInt32(8),
            sequence: fields.getInt32(12),
            body: run.subarray(HEADER_LEN, length),
        });
        run = run.subarray(length);
    }
    return frames;
}

/** The frames of a WebSocket message. A batch is split into the frames inside. */
export function decodeMessage(message: Uint8Array): Frame[] {
    return decode(message).flatMap((frame) => (frame.operation === op.RAW ? decode(frame.body) : frame));
}

/** The view of a body that has at least `length` bytes; a later server may append more. */
function fieldsOf(body: Uint8Array, length: number): DataView {
    if (body.length < length) {
        throw new WireError("short body");
    }
    return view(body);
}

export interface AuthReply {
    isRefused: boolean;
    isUnavailable: boolean;
    /** The server closes the connection after this long without an operation 2. */
    heartbeatMs: number;
    /** The time until the server closes the connection as `token_expired`; 0: never. */
    expiresInMs: number;
    /** `undefined`: the session is a new one. */
    resumed: Resumed | undefined;
}

/** The pushes to the session between two connections. */
export interface Resumed {
    /** Number of messages that follow, before all others. */
    parked: number;
    /** Number of messages lost, because there were too many, or the server had no memory left. */
    lost: number;
}

/** `undefined`: the server speaks protocol 1. */
export function decodeAuthReply(body: Uint8Array): AuthReply | undefined {
    if (body.length === 0) {
        return undefined;
    }
    const fields = fieldsOf(body, 12);
    const flags = fields.getUint8(1);
    return {
        isRefused: (flags & 1) !== 0,
        isUnavailable: (flags & 2) !== 0,
        heartbeatMs: fields.getUint32(4),
        expiresInMs: fields.getUint32(8),
        resumed: flags & 8 ? resumedOf(fieldsOf(body, 24)) : undefined,
    };
}

const resumedOf = (fields: DataView): Resumed => ({
    parked: fields.getUint32(12),
    lost: fields.getUint32(16) + fields.getUint32(20),
});

/** A point in the history of a room. */
export interface Point {
    epoch: bigint;
    offset: bigint;
}

export function encodeJoin(room: string, since?: Point): Uint8Array {
    const name = utf8(room);
    const body = new Uint8Array((since ? 20 : 4) + name.length);
    if (since) {
        const fields = view(body);
        fields.setUint8(0, 1);
        fields.setBigUint64(4, since.epoch);
        fields.setBigUint64(12, since.offset);
    }
    body.set(name, body.length - name.length);
    return body;
}

/** Why a server does not let a connection enter or leave a room. */
export type Refusal = "too_many_rooms" | "bad_name" | "no_such_handle" | "out_of_memory" | "refused";

const REFUSALS: readonly Refusal[] = ["too_many_rooms", "bad_name", "no_such_handle", "out_of_memory"];

export interface JoinReply {
    /** `undefined`: the connection is in the room. */
    refusal: Refusal | undefined;
    /** The present point of the room; `undefined`: it keeps no history. */
    point: Point | undefined;
    /** All messages after the position in the request follow. */
    isRecovered: boolean;
    isUnasked: boolean;
    /** It is the room that operation 12 changes. */
    isPrimary: boolean;
    handle: number;
    /** How many messages follow, if recovered. */
    recovered: number;
    room: string;
}

export function decodeJoinReply(body: Uint8Array): JoinReply {
    const fields = fieldsOf(body, 28);
    const flags = fields.getUint8(1);
    return {
        refusal: refusal(fields.getUint8(0)),
        point: flags & 1 ? { epoch: fields.getBigUint64(8), offset: fields.getBigUint64(16) } : undefined,
        isRecovered: (flags & 2) !== 0,
        isUnasked: (flags & 4) !== 0,
        isPrimary: (flags & 8) !== 0,
        handle: fields.getUint32(4),
        recovered: fields.getUint32(24),
        room: text(body.subarray(28)),
    };
}

function refusal(status: number): Refusal | undefined {
    return status === 0 ? undefined : (REFUSALS[status - 1] ?? "refused");
}

export interface RoomPush {
    handle: number;
    /** In order. A batch has several. */
    messages: { operation: number; sequence: number; body: Uint8Array; offset: bigint }[];
}

export function decodeRoomPush({ body, sequence }: Frame): RoomPush {
    const fields = fieldsOf(body, 16);
    const handle = fields.getUint32(0);
    const operation = fields.getInt32(4);
    const offset = fields.getBigUint64(8);
    const inner = body.subarray(16);
    if (operation !== op.RAW) {
        return { handle, messages: [{ operation, sequence, body: inner, offset }] };
    }
    const frames = decode(inner);
    // The offset of a batch is that of its last message.
    const first = offset - BigInt(frames.length) + 1n;
    return { handle, messages: frames.map((frame, n) => ({ ...frame, offset: offset && first + BigInt(n) })) };
}

export function encodeLeave(handle: number): Uint8Array {
    const body = new Uint8Array(4);
    view(body).setUint32(0, handle);
    return body;
}

export interface LeaveReply {
    refusal: Refusal | undefined;
    isUnasked: boolean;
    handle: number;
}

export function decodeLeaveReply(body: Uint8Array): LeaveReply {
    const fields = fieldsOf(body, 8);
    return {
        refusal: refusal(fields.getUint8(0)),
        isUnasked: (fields.getUint8(1) & 4) !== 0,
        handle: fields.getUint32(4),
    };
}

/** Messages of a room that the server has dropped for this connection. This comes before the messages after them. */
export interface Gap {
    handle: number;
    /** The offset of the first dropped message. */
    from: bigint;
    /** The offset of the last dropped message. Some between may have been sent. */
    to: bigint;
    /** Newer messages about the same states have replaced all missing ones. */
    isOutdated: boolean;
}

export function decodeGap(body: Uint8Array): Gap {
    const fields = fieldsOf(body, 24);
    return {
        handle: fields.getUint32(0),
        from: fields.getBigUint64(8),
        to: fields.getBigUint64(16),
        isOutdated: (fields.getUint8(4) & 1) !== 0,
    };
}
