// The wire against the vectors that every client of comet is tested with.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import * as wire from "../src/wire.js";

interface Vector {
    name: string;
    from: "client" | "server";
    hex: string;
    version: number;
    operation: number;
    sequence: number;
    body: Record<string, unknown>;
}

const file = new URL("../../../comet-proto/vectors/protocol2.json", import.meta.url);
const vectors: Vector[] = JSON.parse(readFileSync(file, "utf8")).frames;
const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, "hex"));

/** The body of a frame as the vectors have it. */
function fields(frame: wire.Frame): unknown {
    const refused = ["too_many_rooms", "bad_name", "no_such_handle", "out_of_memory"];
    const status = (refusal?: string) => (refusal === undefined ? 0 : refused.indexOf(refusal) + 1);
    switch (frame.operation) {
        case wire.op.AUTH_REPLY: {
            const reply = wire.decodeAuthReply(frame.body);
            assert(reply);
            const { resumed } = reply;
            const flags = (reply.isRefused ? 1 : 0) + (reply.isUnavailable ? 2 : 0) + (resumed ? 12 : 0);
            return { version: 2, flags, heartbeat_ms: reply.heartbeatMs, expires_in_ms: reply.expiresInMs, ...resumed };
        }
        case wire.op.JOIN_REPLY: {
            const reply = wire.decodeJoinReply(frame.body);
            const { handle, point, recovered, room } = reply;
            const flags = [point !== undefined, reply.isRecovered, reply.isUnasked, reply.isPrimary];
            return {
                status: status(reply.refusal),
                flags: flags.reduce((sum, flag, bit) => sum + (flag ? 1 << bit : 0), 0),
                handle,
                epoch: String(point?.epoch ?? 0),
                offset: String(point?.offset ?? 0),
                recovered,
                room,
            };
        }
        case wire.op.ROOM_PUSH: {
            const { handle, messages } = wire.decodeRoomPush(frame);
            const read = messages.map((message) => ({ ...message, body: wire.text(message.body), offset: String(message.offset) }));
            return { handle, messages: read };
        }
        case wire.op.LEAVE_REPLY: {
            const { refusal, isUnasked, handle } = wire.decodeLeaveReply(frame.body);
            return { status: status(refusal), flags: isUnasked ? 4 : 0, handle };
        }
        case wire.op.GAP: {
            const { handle, from, to, isOutdated } = wire.decodeGap(frame.body);
            return { handle, flags: isOutdated ? 1 : 0, first: String(from), last: String(to) };
        }
        default:
            throw new Error(`no decoder for operation ${frame.operation}`);
    }
}

/** The body of a room push in the vectors, as a list of messages. */
function expected(vector: Vector): unknown {
    if (vector.operation === wire.op.AUTH_REPLY && "parked" in vector.body) {
        const { lost_full, lost_memory, ...rest } = vector.body;
        return { ...rest, lost: Number(lost_full) + Number(lost_memory) };
    }
    if (vector.operation !== wire.op.ROOM_PUSH) {
        return vector.body;
    }
    const { handle, frames, ...single } = vector.body;
    if (!Array.isArray(frames)) {
        return { handle, messages: [{ ...single, sequence: vector.sequence }] };
    }
    const first = Number(single.offset) - frames.length + 1;
    return { handle, messages: frames.map((frame, n) => ({ ...frame, offset: String(first + n) })) };
}

for (const vector of vectors) {
    test(`vector: ${vector.name}`, () => {
        const [frame, ...more] = wire.decode(bytes(vector.hex));
        assert(frame);
        assert.deepEqual(more, []);
        const { version, operation, sequence } = frame;
        assert.deepEqual([version, operation, sequence], [vector.version, vector.operation, vector.sequence]);
        assert.deepEqual(new Uint8Array(wire.encode(frame)), bytes(vector.hex));
        if (vector.from === "server") {
            assert.deepEqual(fields(frame), expected(vector));
            return;
        }
        const { keep, token, since, room, handle } = vector.body as {
            keep?: number;
            token?: string;
            since?: { epoch: string; offset: string } | null;
            room: string;
            handle?: number;
        };
        const point = since ? { epoch: BigInt(since.epoch), offset: BigInt(since.offset) } : undefined;
        const body =
            keep !== undefined ? Uint8Array.of(keep)
            : token !== undefined ? wire.utf8(token)
            : handle !== undefined ? wire.encodeLeave(handle)
            : wire.encodeJoin(room, point);
        assert.deepEqual(new Uint8Array(wire.encode({ version, operation, sequence, body })), bytes(vector.hex));
    });
}

test("a gap tells the first and the last offset that are missing", () => {
    const gap = wire.decodeGap(bytes("00000001000000000000000000000006ffffffffffffffff"));
    assert.deepEqual(gap, { handle: 1, from: 6n, to: 18446744073709551615n, isOutdated: false });
});

test("a batch becomes the frames inside, and goim's operation 8 no reply of protocol 2", () => {
    const inner = [5, 1000].map((operation) => Buffer.from(wire.encode({ version: 1, operation, sequence: 0, body: wire.utf8("x") })));
    const message = wire.encode({ version: 1, operation: wire.op.RAW, sequence: 0, body: Buffer.concat(inner) });
    assert.deepEqual(wire.decodeMessage(new Uint8Array(message)).map((frame) => frame.operation), [5, 1000]);
    assert.equal(wire.decodeAuthReply(new Uint8Array()), undefined);
});

test("what a later server appends to a body is ignored", () => {
    const body = bytes("02000000000493e00036ee80" + "ffff");
    assert.equal(wire.decodeAuthReply(body)?.heartbeatMs, 300_000);
});

test("every cut of a frame is refused", () => {
    for (const { hex, from, operation } of vectors) {
        const whole = bytes(hex);
        for (let length = 1; length < whole.length; length += 1) {
            assert.throws(() => wire.decode(whole.subarray(0, length)), wire.WireError);
        }
        // With a right length, but half a body.
        if (from === "server") {
            const body = whole.subarray(16, 19);
            assert.throws(() => fields({ version: 2, operation, sequence: 0, body }), wire.WireError);
        }
    }
    assert.throws(() => wire.decode(bytes("00000010001100010000000500000000")), wire.WireError, "headerLen is not 16");
});
