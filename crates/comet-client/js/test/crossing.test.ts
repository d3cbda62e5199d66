// What the server does to rooms by itself while the client asks for something: new handles, orders, many at once.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as wire from "../src/wire.js";
import type { Message } from "../src/message.js";
import { type Rig, accept, gap, joinReply, leaveReply, rig, roomPush, socket } from "./fake.js";
import { HISTORY, PRIMARY, RECOVERED, UNASKED, joins, member, told } from "./member.js";

const { op } = wire;

const positions = (log: Rig["log"]) => told(log).map(([, event]) => (event as Message).position);
const since = (offset: bigint, room = "r") => wire.encodeJoin(room, { epoch: 9n, offset });
const at = (offset: bigint, flags: number, handle: number, recovered = 0) => joinReply("r", { flags: flags | HISTORY, epoch: 9n, offset, handle, recovered });

for (const primary of [0, PRIMARY]) {
    test(`a room that gets another handle stays as it is, flags ${primary}`, (t) => {
        const { comet, log, connection, back } = member(t);
        connection.say([op.JOIN_REPLY, joinReply("r", { flags: UNASKED | primary, handle: 5 })]);
        assert.deepEqual(told(log), []);
        assert.equal(comet.position("r"), "9-3");
        // A gap is told behind it, of pushes that came before.
        connection.say([op.GAP, gap(5, 4, 9)]);
        assert.deepEqual(told(log), [["gap", { room: "r", from: 4n, to: 9n, state: "asked" }]]);
        assert.deepEqual(joins(connection).map(({ body }) => body), [since(3n)]);
        connection.say([op.JOIN_REPLY, at(9n, RECOVERED, 5, 1)]);
        told(log);
        connection.say([op.ROOM_PUSH, roomPush(5, 1000, 9n, "nine")]);
        assert.deepEqual(positions(log), ["9-9"]);
        assert.deepEqual(joins(back()).map(({ body }) => body), [since(9n)]);
    });
}

test("a repair that crosses another handle is answered by that", (t) => {
    const { log, connection } = member(t);
    connection.say([op.GAP, gap(1, 4, 4)]);
    connection.say([op.JOIN_REPLY, joinReply("r", { flags: UNASKED, handle: 5 })], [op.ROOM_PUSH, roomPush(5, 1000, 5n, "again")]);
    assert.deepEqual(told(log).map(([, event]) => (event as { state: string }).state), ["asked"]);
    connection.say([op.JOIN_REPLY, at(5n, RECOVERED, 5, 2)], [op.ROOM_PUSH, roomPush(5, 1000, 4n, "four")]);
    assert.deepEqual(told(log).map(([name]) => name), ["gap", "message"]);
});

test("a request to leave that crosses another handle is made again", (t) => {
    const { comet, log, connection, back } = member(t);
    comet.leave("r");
    assert.deepEqual(connection.taken(), [[op.LEAVE, "\0\0\0\u0001"]]);
    // The same handle again, as behind a renewal of the token, takes nothing back.
    connection.say([op.JOIN_REPLY, joinReply("r", { flags: UNASKED | PRIMARY, handle: 1 })]);
    assert.deepEqual(connection.taken(), []);
    connection.say([op.JOIN_REPLY, joinReply("r", { flags: UNASKED, handle: 5 })]);
    assert.deepEqual(connection.taken(), [[op.LEAVE, "\0\0\0\u0005"]]);
    const refused = leaveReply(1);
    refused[0] = 3;
    connection.say([op.LEAVE_REPLY, refused]);
    assert.deepEqual(told(log), []);
    connection.say([op.LEAVE_REPLY, leaveReply(5)]);
    assert.deepEqual(told(log), [["room", { room: "r", status: "left", byServer: false }]]);
    assert.deepEqual(joins(back()), []);
});

for (const byServer of [false, true]) {
    test(`an order to leave goes before a repair, of a room by ${byServer ? "the server" : "itself"}`, (t) => {
        const { log, connection, back } = member(t, { byServer });
        connection.say([op.GAP, gap(1, 4, 4)]);
        assert.equal(joins(connection).length, 1);
        told(log);
        connection.say([op.LEAVE_REPLY, leaveReply(1, UNASKED)]);
        assert.deepEqual(told(log), [["room", { room: "r", status: "left", byServer: true }]]);
        // The repair comes behind it, and puts the client back.
        connection.say(
            [op.JOIN_REPLY, at(5n, RECOVERED, 2, 1)],
            [op.ROOM_PUSH, roomPush(2, 1000, 5n, "five")],
            [op.GAP, gap(2, 6, 7)],
        );
        assert.deepEqual(connection.taken(), [[op.LEAVE, "\0\0\0\u0002"]]);
        connection.say([op.LEAVE_REPLY, leaveReply(2)]);
        assert.deepEqual(told(log), []);
        assert.deepEqual(joins(back()), []);
    });
}

test("after an order to leave that a repair has crossed, the latest wish counts", (t) => {
    for (const wish of ["application", "server"]) {
        const { comet, log, connection } = member(t);
        connection.say([op.GAP, gap(1, 4, 4)], [op.LEAVE_REPLY, leaveReply(1, UNASKED)]);
        told(log);
        connection.taken();
        if (wish === "application") {
            comet.join("r");
        } else {
            connection.say([op.JOIN_REPLY, at(5n, UNASKED, 2)]);
        }
        connection.say([op.JOIN_REPLY, at(5n, RECOVERED, 2, 2)], [op.ROOM_PUSH, roomPush(2, 1000, 4n, "four")]);
        const [message, room] = told(log).reverse();
        assert.deepEqual([(room![1] as { status: string }).status, (message![1] as Message).position], ["joined", "9-4"], wish);
        assert.deepEqual(connection.taken(), [], wish);
        comet.close();
        t.mock.reset();
        t.mock.timers.reset();
    }
});

test("an order to leave does not undo a join that waits for the answer to a request to leave", (t) => {
    const { comet, log, connection, back } = member(t);
    comet.leave("r");
    comet.join("r");
    const refused = leaveReply(1);
    refused[0] = 3;
    connection.say([op.LEAVE_REPLY, leaveReply(1, UNASKED)], [op.LEAVE_REPLY, refused]);
    assert.deepEqual(told(log), [["room", { room: "r", status: "left", byServer: true }]]);
    assert.deepEqual(connection.sent.map(({ operation }) => operation), [op.LEAVE, op.JOIN]);
    assert.deepEqual(joins(back()).map(({ body }) => body), [since(3n)]);
});

test("a room that the server has taken is not asked for again until the application joins it", (t) => {
    const { comet, log, connection, back } = member(t);
    connection.say([op.LEAVE_REPLY, leaveReply(1, UNASKED)]);
    assert.deepEqual(told(log), [["room", { room: "r", status: "left", byServer: true }]]);
    assert.deepEqual(joins(connection), []);
    assert.deepEqual(joins(back()), []);
    comet.join("r");
    assert.equal(joins(socket()).length, 1);
    assert.equal(joins(back()).length, 1);
});

test("an order to leave does not undo a join of the application that it crosses", (t) => {
    const { comet, log, connection, back } = member(t, { byServer: true });
    comet.join("q");
    connection.say([op.JOIN_REPLY, joinReply("q", { flags: UNASKED, handle: 4 })], [op.LEAVE_REPLY, leaveReply(4, UNASKED)]);
    connection.say([op.JOIN_REPLY, joinReply("q", { handle: 4 })]);
    assert.deepEqual(told(log).map(([, event]) => (event as { status: string }).status), ["joined", "left", "joined"]);
    assert.deepEqual(joins(back()).map(({ body }) => body), [wire.encodeJoin("q")]);
});

test("repairs wait for a place among the requests that are not answered", (t) => {
    const { comet, log } = rig(t);
    const rooms = Array.from({ length: 40 }, (_, n) => `room ${n}`);
    const connection = accept();
    // Half of them by the server, so that both ways to a repair are taken.
    rooms.forEach((room, n) => connection.say([op.JOIN_REPLY, joinReply(room, { flags: HISTORY | UNASKED, epoch: 9n, offset: 3n, handle: n + 1 })]));
    joins(connection);
    told(log);
    rooms.forEach((_, n) => connection.say([op.GAP, gap(n + 1, 4, 4)]));
    assert.equal(told(log).length, 40);
    comet.join("another");
    let waiting = joins(connection);
    assert.equal(waiting.length, 16);
    const asked: string[] = [];
    // What comes of a room whose repair waits comes again.
    connection.say([op.ROOM_PUSH, roomPush(40, 1000, 5n, "again")]);
    assert.deepEqual(told(log), []);
    for (; waiting.length > 0; waiting = joins(connection)) {
        assert(waiting.length <= 16);
        for (const { body } of waiting) {
            const room = wire.text(body.subarray(body[0] === 1 ? 20 : 4));
            asked.push(room);
            const handle = rooms.indexOf(room) + 1 || 99;
            connection.say([op.JOIN_REPLY, joinReply(room, { flags: HISTORY | RECOVERED, epoch: 9n, offset: 5n, recovered: 2, handle })]);
        }
    }
    assert.deepEqual(asked.sort(), [...rooms, "another"].sort());
    connection.say([op.ROOM_PUSH, roomPush(40, 1000, 4n, "four")]);
    assert.equal(told(log).filter(([name]) => name === "message").length, 1);
});

test("rooms into which the server puts the client again wait for a place as well", (t) => {
    const { log, tick } = rig(t);
    const rooms = Array.from({ length: 20 }, (_, n) => `room ${n}`);
    const enter = (offset: bigint) => rooms.forEach((room, n) =>
        socket().say([op.JOIN_REPLY, joinReply(room, { flags: HISTORY | UNASKED, epoch: 9n, offset, handle: n + 1 })]));
    accept();
    enter(3n);
    socket().end();
    tick(60_000);
    told(log);
    const connection = accept();
    enter(7n);
    assert.equal(joins(connection).length, 16);
    assert.deepEqual(told(log), []);
    connection.say([op.JOIN_REPLY, joinReply("room 0", { flags: HISTORY | RECOVERED, epoch: 9n, offset: 7n, recovered: 4, handle: 1 })]);
    assert.deepEqual(joins(connection).map(({ body }) => body), [since(3n, "room 16")]);
});

test("a position of the server's room is not used after the application was in it", (t) => {
    const { comet, log, back } = member(t, { byServer: true });
    const connection = back();
    comet.join("r");
    connection.say([op.JOIN_REPLY, at(20n, 0, 1)], [op.ROOM_PUSH, roomPush(1, 1000, 21n, "x")]);
    comet.leave("r");
    connection.say([op.LEAVE_REPLY, leaveReply(1)]);
    connection.taken();
    told(log);
    connection.say([op.JOIN_REPLY, at(22n, UNASKED, 1)]);
    assert.deepEqual(connection.taken(), []);
    assert.deepEqual(told(log), [["room", { room: "r", status: "joined", byServer: true, position: "9-22" }]]);
});

test("a room of the token that was left is left again after each reconnect, and nobody is told", (t) => {
    const { comet, log, back, connection: first } = member(t, { byServer: true });
    const byToken = (handle: number, room = "r") => joinReply(room, { flags: HISTORY | UNASKED | PRIMARY, epoch: 9n, offset: 8n, handle });
    comet.leave("r");
    comet.leave("of another token");
    first.say([op.LEAVE_REPLY, leaveReply(1)]);
    for (const room of ["r", "r", "of another token"]) {
        const connection = back();
        connection.taken();
        connection.say([op.JOIN_REPLY, byToken(2, room)], [op.ROOM_PUSH, roomPush(2, 1000, 9n, "x")], [op.GAP, gap(2, 10, 11)]);
        assert.deepEqual(connection.taken(), [[op.LEAVE, "\0\0\0\u0002"]]);
        connection.say([op.LEAVE_REPLY, leaveReply(2)]);
        assert.deepEqual(told(log), []);
        assert.equal(comet.position(room), undefined);
    }
    // Until the application joins it, also while the client leaves.
    const connection = back();
    connection.taken();
    connection.say([op.JOIN_REPLY, byToken(2)]);
    comet.join("r", { since: "9-4" });
    connection.say([op.LEAVE_REPLY, leaveReply(2)]);
    assert.deepEqual(joins(connection).map(({ body }) => body), [since(4n)]);
    connection.say([op.JOIN_REPLY, at(8n, RECOVERED, 3, 4)]);
    assert.deepEqual(told(log), [["room", { room: "r", status: "joined", byServer: false, recovered: true, missed: 4, position: "9-4" }]]);
    const last = back();
    last.say([op.JOIN_REPLY, byToken(2)]);
    assert.deepEqual(last.taken().filter(([operation]) => operation === op.LEAVE), []);
});

test("a caller's order to join a room that was left counts", (t) => {
    for (const isLater of [false, true]) {
        const { comet, log, tick, connection: first, back } = member(t);
        comet.leave("r");
        first.say([op.LEAVE_REPLY, leaveReply(1)]);
        let connection = first;
        if (isLater) {
            connection = back();
            tick(10_000);
        }
        connection.taken();
        told(log);
        connection.say([op.JOIN_REPLY, at(5n, UNASKED, 2)]);
        assert.deepEqual(connection.taken(), []);
        assert.deepEqual(told(log), [["room", { room: "r", status: "joined", byServer: true, position: "9-5" }]]);
        // What was left before does not count any more. What the server has taken back does not count at the next connection.
        connection.say([op.LEAVE_REPLY, leaveReply(2, UNASKED)]);
        connection = back();
        connection.say([op.JOIN_REPLY, at(6n, UNASKED, 1)]);
        assert.deepEqual(told(log), [["room", { room: "r", status: "joined", byServer: true, position: "9-6" }]]);
        comet.close();
        t.mock.reset();
        t.mock.timers.reset();
    }
});

test("of more rooms that were left than are kept, the latest are", (t) => {
    const { comet } = rig(t);
    for (let n = 0; n < 1030; n += 1) {
        comet.leave(`room ${n}`);
    }
    const connection = accept();
    connection.taken();
    for (const [handle, room] of ["room 5", "room 1029"].entries()) {
        connection.say([op.JOIN_REPLY, joinReply(room, { flags: UNASKED, handle })]);
    }
    assert.deepEqual(connection.taken(), [[op.LEAVE, "\0\0\0\u0001"]]);
});

test("of more rooms of the server than are kept, the latest are", (t) => {
    const { log, tick } = rig(t);
    const enter = (room: string, offset: bigint) =>
        socket().say([op.JOIN_REPLY, joinReply(room, { flags: HISTORY | UNASKED, epoch: 9n, offset, handle: 1 })]);
    for (let n = 0; n < 1030; n += 1) {
        accept();
        enter(`room ${n}`, 3n);
        socket().end();
        tick(60_000);
    }
    const connection = accept();
    told(log);
    connection.taken();
    enter("room 5", 5n);
    enter("room 1029", 5n);
    assert.deepEqual(joins(connection).map(({ body }) => body), [since(3n, "room 1029")]);
});
