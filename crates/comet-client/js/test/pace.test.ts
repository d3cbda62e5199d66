// A server that lets a client change its rooms only so often: on a fake socket and a fake clock, and a real one.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { Comet } from "../src/comet.js";
import * as wire from "../src/wire.js";
import { accept, joinReply, leaveReply, rig, socket } from "./fake.js";
import { UNASKED } from "./member.js";
import { Heard, Server, TEST_TIMEOUT_MS, noServer } from "./server.js";

const { op } = wire;
const WINDOW_MS = 10_000;

/**
 * A client, and a server that counts the changes of each connection over ten seconds, as `clients.room_changes` says, and closes those
 * that are beyond the limit.
 */
function limited(t: TestContext, roomChanges: number) {
    const client = rig(t, { heartbeatMs: 1e9 });
    const clock = Date.now;
    const inside = new Set<string>();
    let closed = 0;
    let counted = { window: -1, changes: 0 };
    const names: string[] = [];
    const serve = () => {
        for (const { operation, body } of socket().sent.splice(0)) {
            const window = Math.floor(clock() / WINDOW_MS);
            if (operation === op.HEARTBEAT) {
                socket().say([op.HEARTBEAT_REPLY]);
            }
            if (operation !== op.JOIN && operation !== op.LEAVE) {
                continue;
            }
            counted = { window, changes: counted.window === window ? counted.changes + 1 : 1 };
            if (counted.changes > roomChanges * (WINDOW_MS / 1000)) {
                closed += 1;
                socket().end(1008, "room_rate; retry_after_ms=5000");
                return;
            }
            if (operation === op.JOIN) {
                const name = wire.text(body.subarray(4));
                inside.add(name);
                socket().say([op.JOIN_REPLY, joinReply(name, { handle: names.push(name) })]);
            } else {
                const handle = new DataView(body.buffer, body.byteOffset).getUint32(0);
                inside.delete(names[handle - 1]!);
                socket().say([op.LEAVE_REPLY, leaveReply(handle)]);
            }
        }
    };
    const connect = () => {
        inside.clear();
        counted.window = -1;
        accept();
    };
    /** Lets time pass, as timers that come only so often see it. */
    const pass = (ms: number, everyMs: number) => {
        for (let passed = 0; passed < ms; passed += everyMs) {
            t.mock.timers.setTime(clock() + everyMs - 1);
            client.tick(1);
            if (client.comet.state === "connecting") {
                connect();
            }
            while (socket().sent.length > 0 && client.comet.state === "open") {
                serve();
            }
        }
    };
    connect();
    return { ...client, pass, inside, closed: () => closed };
}

for (const [roomChanges, closesMax] of [[1, 3], [2, 2], [4, 1], [6, 0]] as const) {
    test(`a client enters its rooms where it may change ${roomChanges} in a second, after at most ${closesMax} closes`, (t) => {
        const { comet, pass, inside, closed } = limited(t, roomChanges);
        const rooms = Array.from({ length: 60 }, (_, n) => `room ${n}`);
        rooms.forEach((room) => comet.join(room));
        pass(180_000, 50);
        assert.deepEqual([inside.size, comet.state, closed() > 0], [60, "open", closesMax > 0]);
        // From then on, also with the next connection and for those that it leaves.
        socket().end();
        pass(60_000, 50);
        rooms.slice(0, 40).forEach((room) => comet.leave(room));
        pass(180_000, 50);
        assert.deepEqual([inside.size, comet.state, closed() <= closesMax], [20, "open", true]);
    });
}

test("an order to join counts also of a room whose join waited when the application left it", (t) => {
    const { comet, pass, inside, closed } = limited(t, 4);
    Array.from({ length: 60 }, (_, n) => comet.join(`room ${n}`));
    pass(16_000, 50);
    assert.deepEqual([closed(), inside.has("room 59")], [1, false]);
    comet.leave("room 59");
    socket().say([op.JOIN_REPLY, joinReply("room 59", { flags: UNASKED, handle: 200 })]);
    const left = t.mock.fn();
    comet.on("room", ({ room, status }) => room === "room 59" && status === "left" && left());
    pass(60_000, 50);
    assert.deepEqual([inside.size, closed(), left.mock.callCount()], [59, 1, 0]);
});

test("where timers come once a minute, as in a hidden page, several rooms are entered in each", (t) => {
    const { comet, pass, inside, closed } = limited(t, 4);
    Array.from({ length: 60 }, (_, n) => comet.join(`room ${n}`));
    pass(1000, 50);
    assert.equal(closed(), 1);
    pass(300_000, 60_000);
    assert.deepEqual([inside.size, closed()], [60, 1]);
});

test("a client that no server has slowed down enters all rooms at once", (t) => {
    const { comet, pass, inside } = limited(t, 1000);
    for (const room of Array.from({ length: 200 }, (_, n) => `room ${n}`)) {
        comet.join(room);
    }
    for (const reason of ["frame_rate; retry_after_ms=5000", "draining; retry_after_ms=5000", "kicked: room_rate; retry_after_ms=5000"]) {
        pass(1, 1);
        assert.equal(inside.size, 200);
        socket().end(1008, reason);
        pass(5000, 1000);
    }
});

test("a clock that is set back keeps no room waiting", (t) => {
    const { comet, pass, inside, closed } = limited(t, 4);
    Array.from({ length: 41 }, (_, n) => comet.join(`room ${n}`));
    pass(6000, 50);
    assert.equal(closed(), 1);
    const clock = Date.now;
    t.mock.method(Date, "now", () => clock() - 7_200_000);
    pass(30_000, 50);
    assert.deepEqual([inside.size, closed()], [41, 1]);
});

test("the real server closes once", { skip: noServer, timeout: TEST_TIMEOUT_MS }, async (t) => {
    const server = await Server.start(t, ["clients.room_changes=4"]);
    const comet = new Comet(server.url, { token: "42" });
    t.after(() => comet.close());
    const heard = new Heard(comet);
    const reasons: string[] = [];
    comet.on("goodbye", ({ reason }) => reasons.push(reason));
    const rooms = Array.from({ length: 41 }, (_, n) => `room ${n}`);
    rooms.forEach((room) => comet.join(room));
    await heard.next("goodbye");
    for (const room of rooms) {
        await heard.joined(room);
    }
    assert.deepEqual(reasons, ["room_rate"]);
});
