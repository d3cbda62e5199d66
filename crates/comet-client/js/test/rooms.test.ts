// Rooms, positions and gaps, on a fake socket and a fake clock.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as wire from "../src/wire.js";
import type { Message } from "../src/message.js";
import { type FakeSocket, type Rig, accept, frame, gap, joinReply, leaveReply, rig, roomPush, socket } from "./fake.js";
import { HISTORY, PRIMARY, RECOVERED, UNASKED, joins, member, told } from "./member.js";

const { op } = wire;

const bodies = (log: Rig["log"]) => told(log).map(([, event]) => [(event as Message).room, (event as Message).text(), (event as Message).position]);
const names = (socket: FakeSocket) => joins(socket).map((sent) => wire.text(sent.body.subarray(4)));

test("rooms are entered, get their pushes, and are left", (t) => {
    const { comet, log } = rig(t);
    comet.join("live://7");
    const connection = accept();
    comet.join("live://8");
    comet.join("live://7");
    assert.deepEqual(connection.taken().slice(1), [[op.JOIN, "\0\0\0\0live://7"], [op.JOIN, "\0\0\0\0live://8"]]);
    connection.say([op.JOIN_REPLY, joinReply("live://7", { handle: 1 })], [op.JOIN_REPLY, joinReply("live://8", { status: 1, handle: 0 })]);
    assert.deepEqual(told(log), [
        ["room", { room: "live://7", status: "joined", byServer: false }],
        ["room", { room: "live://8", status: "refused", reason: "too_many_rooms", byServer: false }],
    ]);
    const batch = Buffer.concat([frame([1000, "b"]), frame([1001, "c"])]);
    connection.say([op.ROOM_PUSH, roomPush(1, 1000, 0n, "a"), 77], [op.ROOM_PUSH, roomPush(1, op.RAW, 0n, batch)]);
    assert.deepEqual(bodies(log), [["live://7", "a", undefined], ["live://7", "b", undefined], ["live://7", "c", undefined]]);
    comet.leave("live://8");
    comet.leave("live://7");
    comet.leave("live://9");
    assert.deepEqual(connection.taken(), [[op.LEAVE, "\0\0\0\u0001"]]);
    connection.say([op.LEAVE_REPLY, leaveReply(1)]);
    assert.deepEqual(told(log), [["room", { room: "live://7", status: "left", byServer: false }]]);
});

test("the last wish counts, whatever was on its way", (t) => {
    const { comet } = rig(t);
    const connection = accept();
    connection.taken();
    comet.join("a");
    comet.leave("a");
    connection.say([op.JOIN_REPLY, joinReply("a", { handle: 3 })]);
    comet.join("a");
    connection.say([op.LEAVE_REPLY, leaveReply(3)]);
    assert.deepEqual(connection.taken().map(([operation]) => operation), [op.JOIN, op.LEAVE, op.JOIN]);
});

test("few requests wait for their replies at once, also when a hundred rooms are entered again", (t) => {
    const { comet, tick } = rig(t);
    const rooms = Array.from({ length: 100 }, (_, n) => `room ${n}`);
    rooms.forEach((room) => comet.join(room));
    for (let round = 0; round < 2; round += 1) {
        const connection = accept();
        const asked: string[] = [];
        for (let waiting = names(connection); waiting.length > 0; waiting = names(connection)) {
            assert(waiting.length <= 16);
            waiting.forEach((room) => connection.say([op.JOIN_REPLY, joinReply(room, { handle: asked.push(room) })]));
        }
        assert.deepEqual(asked, rooms);
        connection.end();
        tick(60_000);
    }
});

test("a room without memory for it is asked for again, less and less often", (t) => {
    const { comet, log, tick } = rig(t);
    comet.join("r");
    comet.join("left");
    let connection = accept();
    const refuse = (room: string) => connection.say([op.JOIN_REPLY, joinReply(room, { status: 4, handle: 0 })]);
    assert.deepEqual(names(connection), ["r", "left"]);
    refuse("r");
    refuse("left");
    comet.leave("left");
    const beat = (ms: number) => {
        for (let passed = 0; passed < ms; passed += 1000) {
            tick(1000);
            connection.say([op.HEARTBEAT_REPLY]);
        }
    };
    for (const delayMs of [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]) {
        beat(delayMs - 1000);
        assert.deepEqual(names(connection), []);
        beat(1000);
        assert.deepEqual(names(connection), ["r"]);
        refuse("r");
    }
    // The timer ends with the connection, and the next one begins anew.
    comet.leave("r");
    connection.end();
    comet.join("r", { since: "9-5" });
    tick(60_000);
    connection = accept();
    assert.equal(joins(connection).length, 1);
    refuse("r");
    beat(9000);
    assert.deepEqual(names(connection), []);
    beat(1000);
    assert.deepEqual(joins(connection).map(({ body }) => body), [wire.encodeJoin("r", { epoch: 9n, offset: 5n })]);
    told(log);
    connection.say([op.JOIN_REPLY, joinReply("r", { flags: HISTORY | RECOVERED, epoch: 9n, offset: 6n, recovered: 1 })]);
    assert.deepEqual(told(log), [["room", { room: "r", status: "joined", byServer: false, recovered: true, missed: 1, position: "9-5" }]]);
    beat(600_000);
    assert.deepEqual(names(connection), []);
});

test("a room beyond the most that a client may be in is asked for again when it has left another, one for each", (t) => {
    const { comet, log, tick } = rig(t);
    let connection = accept();
    const enter = (room: string, handle: number) => connection.say([op.JOIN_REPLY, joinReply(room, { handle })]);
    const refuse = (room: string, status = 1) => connection.say([op.JOIN_REPLY, joinReply(room, { status, handle: 0 })]);
    const takeOut = (handle: number) => connection.say([op.LEAVE_REPLY, leaveReply(handle, UNASKED)]);
    ["a", "b", "c", "d", "e", "f", "g"].forEach((room) => comet.join(room));
    enter("a", 1);
    enter("b", 2);
    ["c", "d", "e", "f", "g"].forEach((room) => refuse(room));
    assert.deepEqual(names(connection), ["a", "b", "c", "d", "e", "f", "g"]);
    comet.leave("a");
    connection.say([op.LEAVE_REPLY, leaveReply(1)]);
    assert.deepEqual(names(connection), ["c"]);
    takeOut(2);
    assert.deepEqual(names(connection), ["d"]);
    enter("c", 3);
    told(log);
    // The server has given the place to another one. It is not to be had until another is free.
    refuse("d");
    assert.equal(told(log).length, 1);
    assert.deepEqual(names(connection), []);
    takeOut(3);
    assert.deepEqual(names(connection), ["d"]);
    // A place that one cannot have is for the next.
    refuse("d", 4);
    assert.deepEqual(names(connection), ["e"]);
    enter("e", 4);
    comet.leave("f");
    takeOut(4);
    assert.deepEqual(names(connection), ["g"]);
    enter("g", 5);
    // Nobody waits for this place, and the next connection knows nothing of it.
    takeOut(5);
    connection.end();
    tick(60_000);
    connection = accept();
    comet.join("h");
    assert.deepEqual(names(connection), ["d", "h"]);
    refuse("d");
    refuse("h");
    assert.deepEqual(names(connection), []);
});

test("a position is kept from message to message and sent after a reconnect", (t) => {
    const { comet, log, tick } = rig(t);
    comet.join("h");
    let connection = accept();
    connection.say([op.JOIN_REPLY, joinReply("h", { flags: HISTORY, epoch: 9n, offset: 5n })]);
    assert.deepEqual(told(log), [["room", { room: "h", status: "joined", byServer: false, position: "9-5" }]]);
    const batch = Buffer.concat([frame([1000, "seven"]), frame([1000, "eight"])]);
    connection.say([op.ROOM_PUSH, roomPush(1, 1000, 6n, "six")], [op.ROOM_PUSH, roomPush(1, op.RAW, 8n, batch)]);
    assert.deepEqual(bodies(log), [["h", "six", "9-6"], ["h", "seven", "9-7"], ["h", "eight", "9-8"]]);
    assert.equal(comet.position("h"), "9-8");

    connection.end();
    tick(60_000);
    connection = accept();
    assert.deepEqual(joins(connection).map(({ body }) => body), [wire.encodeJoin("h", { epoch: 9n, offset: 8n })]);
    connection.say(
        [op.JOIN_REPLY, joinReply("h", { flags: HISTORY | RECOVERED, epoch: 9n, offset: 10n, recovered: 2, handle: 4 })],
        [op.ROOM_PUSH, roomPush(4, 1000, 9n, "nine")],
    );
    const [room, message] = told(log);
    assert.deepEqual(room, ["room", { room: "h", status: "joined", byServer: false, recovered: true, missed: 2, position: "9-8" }]);
    assert.equal((message![1] as Message).text(), "nine");

    // The connection breaks amid what was missed: the rest is asked for again.
    connection.end();
    tick(60_000);
    connection = accept();
    assert.deepEqual(joins(connection).map(({ body }) => body), [wire.encodeJoin("h", { epoch: 9n, offset: 9n })]);
    connection.say([op.JOIN_REPLY, joinReply("h", { flags: HISTORY, epoch: 11n, offset: 2n })]);
    assert.deepEqual(told(log), [["room", { room: "h", status: "joined", byServer: false, recovered: false, missed: 0, position: "11-2" }]]);
});

test("a kept position is where a page goes on", (t) => {
    const { comet } = rig(t);
    comet.join("h", { since: "18446744073709551615-5" });
    assert.equal(comet.position("h"), "18446744073709551615-5");
    assert.deepEqual(joins(accept()).map(({ body }) => body), [wire.encodeJoin("h", { epoch: 2n ** 64n - 1n, offset: 5n })]);
    for (const since of ["", "5", "1-", "-1-5", "1-5 ", "x-y", "1-184467440737095516150"]) {
        assert.throws(() => comet.join("h", { since }), RangeError, since);
    }
    for (const room of ["", "x".repeat(257), "ä".repeat(129), "\ud800"]) {
        assert.throws(() => comet.join(room), RangeError);
    }
});

test("in an outage the client's own position goes before one that was kept", (t) => {
    const { comet, tick, connection, back } = member(t, { room: "h", offset: 5n });
    comet.join("new");
    comet.join("new", { since: "9-1" });
    connection.say([op.ROOM_PUSH, roomPush(1, 1000, 6n, "six")], [op.JOIN_REPLY, joinReply("new", { handle: 2, flags: HISTORY, epoch: 9n, offset: 5n })]);
    connection.end();
    comet.join("h", { since: "9-5" });
    comet.join("new", { since: "9-4" });
    comet.join("other", { since: "9-1" });
    comet.join("other", { since: "9-2" });
    comet.join("third");
    comet.join("third", { since: "9-3" });
    tick(60_000);
    const joined = [["h", 6n], ["new", 5n], ["other", 2n], ["third", 3n]] as const;
    const expected = joined.map(([room, offset]) => wire.encodeJoin(room, { epoch: 9n, offset }));
    const next = accept();
    assert.deepEqual(joins(next).map(({ body }) => body), expected);
    // The server has answered: what it says has yet to come, but the page has asked from there.
    next.say([op.JOIN_REPLY, joinReply("other", { handle: 3, flags: HISTORY | RECOVERED, epoch: 9n, offset: 5n, recovered: 3 })]);
    next.end();
    comet.join("other", { since: "9-1" });
    assert.equal(comet.position("other"), "9-2");
    assert.deepEqual(joins(back()).length, 4);
});

test("a page that comes back goes on from its own position in a room of the server", (t) => {
    const { comet, log } = rig(t);
    const connection = accept();
    const enter = (handle: number, room: string) =>
        connection.say([op.JOIN_REPLY, joinReply(room, { flags: HISTORY | UNASKED, handle, epoch: 9n, offset: 7n })]);
    enter(1, "h");
    comet.join("h", { since: "9-5" });
    assert.deepEqual(joins(connection).map(({ body }) => body), [wire.encodeJoin("h", { epoch: 9n, offset: 5n })]);
    told(log);
    connection.say([op.ROOM_PUSH, roomPush(1, 1000, 8n, "eight")]);
    assert.deepEqual(told(log), [], "it comes again behind what was missed");
    const batch = Buffer.concat([frame([1000, "six"]), frame([1000, "seven"]), frame([1000, "eight"])]);
    connection.say(
        [op.JOIN_REPLY, joinReply("h", { flags: HISTORY | RECOVERED, epoch: 9n, offset: 8n, recovered: 3 })],
        [op.ROOM_PUSH, roomPush(1, op.RAW, 8n, batch)],
    );
    const [room, ...messages] = told(log);
    assert.deepEqual(room, ["room", { room: "h", status: "joined", byServer: false, recovered: true, missed: 3, position: "9-5" }]);
    assert.deepEqual(messages.map(([, event]) => (event as Message).position), ["9-6", "9-7", "9-8"]);
    comet.join("h", { since: "9-5" });
    assert.deepEqual(joins(connection), [], "the room is the page's own: its position counts");

    // In the event that tells of the room; of a history that is gone; and where nothing was missed.
    const kept: Record<string, string> = { a: "9-6", b: "8-30", c: "9-7" };
    comet.on("room", (event) => event.byServer && comet.join(event.room, { since: kept[event.room] }));
    ["a", "b", "c"].forEach((name, at) => enter(2 + at, name));
    assert.deepEqual(joins(connection).map(({ body }) => body), [
        wire.encodeJoin("a", { epoch: 9n, offset: 6n }),
        wire.encodeJoin("b", { epoch: 8n, offset: 30n }),
    ]);
});

test("what a listener closes amid a batch is at the position of that message", (t) => {
    const { comet, log, connection } = member(t, { room: "h", offset: 5n });
    comet.on("message", () => comet.close());
    connection.say([op.ROOM_PUSH, roomPush(1, op.RAW, 7n, Buffer.concat([frame([1000, "six"]), frame([1000, "seven"])]))]);
    assert.deepEqual(bodies(log), [["h", "six", "9-6"]]);
    assert.equal(comet.position("h"), "9-6");
});

test("what a gap names is asked for and comes once", (t) => {
    const { comet, log, connection } = member(t, { room: "h", offset: 5n });
    connection.say([op.GAP, gap(1, 6, 7)], [op.GAP, gap(2, 6, 7)], [op.ROOM_PUSH, roomPush(1, 1000, 8n, "late")], [op.GAP, gap(1, 7, 7)]);
    assert.deepEqual(told(log), [["gap", { room: "h", from: 6n, to: 7n, state: "asked" }]]);
    assert.deepEqual(joins(connection).map(({ body }) => body), [wire.encodeJoin("h", { epoch: 9n, offset: 5n })]);
    const batch = Buffer.concat([frame([1000, "six"]), frame([1000, "seven"]), frame([1000, "eight"])]);
    connection.say(
        [op.JOIN_REPLY, joinReply("h", { flags: HISTORY | RECOVERED, epoch: 9n, offset: 8n, recovered: 3 })],
        [op.ROOM_PUSH, roomPush(1, op.RAW, 8n, batch)],
    );
    const [repaired, ...messages] = told(log);
    assert.deepEqual(repaired, ["gap", { room: "h", from: 6n, to: 7n, state: "repaired", missed: 3 }]);
    assert.deepEqual(messages.map(([, event]) => (event as Message).position), ["9-6", "9-7", "9-8"]);

    connection.say([op.GAP, gap(1, 9, 20)]);
    connection.say([op.JOIN_REPLY, joinReply("h", { flags: HISTORY, epoch: 9n, offset: 30n })], [op.GAP, gap(1, 25, 30)]);
    assert.deepEqual(told(log).map(([, event]) => (event as { state: string }).state), ["asked", "lost"]);
    connection.say([op.ROOM_PUSH, roomPush(1, 1000, 31n, "on")]);
    assert.deepEqual(bodies(log), [["h", "on", "9-31"]]);
    assert.equal(comet.position("h"), "9-31");
});

test("a room of the token goes on where the client was", (t) => {
    const { log, back, ...first } = member(t, { room: "h", offset: 5n, byServer: true });
    const byToken = (offset: bigint) => joinReply("h", { flags: HISTORY | UNASKED | PRIMARY, epoch: 9n, offset });
    first.connection.say([op.ROOM_PUSH, roomPush(1, 1000, 6n, "six")]);
    let connection = back();
    // Nothing has come meanwhile.
    connection.say([op.JOIN_REPLY, byToken(6n)]);
    assert.deepEqual(told(log), [["room", { room: "h", status: "joined", byServer: true, recovered: true, missed: 0, position: "9-6" }]]);
    assert.deepEqual(joins(connection), []);
    connection = back();
    connection.say([op.JOIN_REPLY, byToken(7n)], [op.ROOM_PUSH, roomPush(1, 1000, 8n, "live")]);
    assert.deepEqual(told(log), []);
    assert.deepEqual(joins(connection).map(({ body }) => body), [wire.encodeJoin("h", { epoch: 9n, offset: 6n })]);
    const batch = Buffer.concat([frame([1000, "seven"]), frame([1000, "live"])]);
    connection.say(
        [op.JOIN_REPLY, joinReply("h", { flags: HISTORY | RECOVERED, epoch: 9n, offset: 8n, recovered: 2 })],
        [op.ROOM_PUSH, roomPush(1, op.RAW, 8n, batch)],
    );
    const [room, ...messages] = told(log);
    assert.deepEqual(room, ["room", { room: "h", status: "joined", byServer: true, recovered: true, missed: 2, position: "9-6" }]);
    assert.deepEqual(messages.map(([, event]) => (event as Message).position), ["9-7", "9-8"]);
    connection = back();
    connection.say([op.JOIN_REPLY, joinReply("h", { flags: HISTORY | UNASKED, epoch: 10n, offset: 2n })]);
    assert.deepEqual(told(log), [["room", { room: "h", status: "joined", byServer: true, recovered: false, missed: 0, position: "10-2" }]]);
});

test("a room of the token that the page joins between two connections goes on where the client was", (t) => {
    const { comet, log, tick, ...first } = member(t, { room: "h", offset: 5n, byServer: true });
    first.connection.say([op.ROOM_PUSH, roomPush(1, 1000, 6n, "six")]);
    first.connection.end();
    assert.equal(comet.position("h"), "9-6");
    comet.join("h");
    assert.equal(comet.position("h"), "9-6");
    tick(60_000);
    told(log);
    const connection = accept();
    assert.deepEqual(joins(connection).map(({ body }) => body), [wire.encodeJoin("h", { epoch: 9n, offset: 6n })]);
    connection.say(
        [op.JOIN_REPLY, joinReply("h", { flags: HISTORY | UNASKED | PRIMARY, epoch: 9n, offset: 7n })],
        [op.JOIN_REPLY, joinReply("h", { flags: HISTORY | RECOVERED, epoch: 9n, offset: 7n, recovered: 1 })],
        [op.ROOM_PUSH, roomPush(1, 1000, 7n, "seven")],
    );
    const [, room, message] = told(log);
    assert.deepEqual(room, ["room", { room: "h", status: "joined", byServer: false, recovered: true, missed: 1, position: "9-6" }]);
    assert.equal((message![1] as Message).position, "9-7");
});

test("what the page says of a room of the token goes before where the client was", (t) => {
    const { comet, tick, connection } = member(t, { room: "h", offset: 5n, byServer: true });
    connection.end();
    comet.join("h", { since: "9-3" });
    tick(60_000);
    assert.deepEqual(joins(accept()).map(({ body }) => body), [wire.encodeJoin("h", { epoch: 9n, offset: 3n })]);
});

test("rooms of the server are told, and not asked for again", (t) => {
    const { comet, log, tick } = rig(t);
    comet.join("mine");
    let connection = accept();
    connection.say(
        [op.JOIN_REPLY, joinReply("token's", { flags: HISTORY | UNASKED | PRIMARY, handle: 1, epoch: 9n, offset: 5n })],
        [op.JOIN_REPLY, joinReply("mine", { handle: 2 })],
        [op.JOIN_REPLY, joinReply("theirs", { flags: UNASKED, handle: 3 })],
        [op.ROOM_PUSH, roomPush(3, 1000, 0n, "hi")],
        [op.LEAVE_REPLY, leaveReply(2, UNASKED)],
    );
    const [first, , third, message, left] = told(log);
    assert.deepEqual(first, ["room", { room: "token's", status: "joined", byServer: true, position: "9-5" }]);
    assert.deepEqual(third, ["room", { room: "theirs", status: "joined", byServer: true }]);
    assert.equal((message![1] as Message).room, "theirs");
    assert.deepEqual(left, ["room", { room: "mine", status: "left", byServer: true }]);
    comet.leave("theirs");
    assert.deepEqual(connection.taken().slice(-1), [[op.LEAVE, "\0\0\0\u0003"]]);
    assert.equal(comet.position("token's"), "9-5");
    connection.end();
    assert.equal(comet.position("token's"), "9-5");
    tick(60_000);
    connection = accept();
    assert.deepEqual(names(connection), []);
});

test("a room in which the server puts the client while it asks is entered once", (t) => {
    const { comet, log } = rig(t);
    const connection = accept();
    comet.join("r", { since: "9-5" });
    connection.say([op.JOIN_REPLY, joinReply("r", { flags: UNASKED | HISTORY, epoch: 9n, offset: 7n, handle: 4 })]);
    comet.leave("r");
    assert.deepEqual(connection.taken().map(([operation]) => operation), [op.AUTH, op.JOIN]);
    connection.say([op.JOIN_REPLY, joinReply("r", { flags: HISTORY, epoch: 9n, offset: 7n, handle: 4 })]);
    const [, answer] = told(log);
    assert.deepEqual(answer, ["room", { room: "r", status: "joined", byServer: false, recovered: false, missed: 0, position: "9-7" }]);
    assert.deepEqual(connection.taken(), [[op.LEAVE, "\0\0\0\u0004"]]);
});

test("a server of protocol 1, as goim's, has one room: the one that was joined last", (t) => {
    const { comet, log, tick } = rig(t);
    comet.join("a");
    let connection = socket();
    connection.open();
    connection.taken();
    connection.say([op.AUTH_REPLY, "", 1]);
    assert.deepEqual(connection.taken(), [[op.CHANGE_ROOM, "a"]]);
    connection.say([op.CHANGE_ROOM_REPLY, "a", 2], [1000, "hi"]);
    const [room, message] = told(log);
    assert.deepEqual(room, ["room", { room: "a", status: "joined", byServer: false }]);
    assert.equal((message![1] as Message).text(), "hi");

    comet.join("b");
    assert.deepEqual(connection.taken(), [[op.CHANGE_ROOM, "b"]]);
    connection.say([op.CHANGE_ROOM_REPLY, "b", 3]);
    assert.deepEqual(told(log).map(([, event]) => event), [
        { room: "a", status: "refused", reason: "one_room", byServer: false },
        { room: "a", status: "left", byServer: false },
        { room: "b", status: "joined", byServer: false },
    ]);

    connection.end();
    tick(60_000);
    connection = socket();
    connection.open();
    connection.say([op.AUTH_REPLY, "", 1]);
    assert.deepEqual(connection.taken().slice(1), [[op.CHANGE_ROOM, "b"]]);
    comet.join("a");
    comet.leave("a");
    comet.leave("b");
    assert.deepEqual(connection.taken(), [[op.CHANGE_ROOM, "a"], [op.CHANGE_ROOM, "b"], [op.CHANGE_ROOM, ""]]);
});

test("in protocol 1 the room that a listener joins is the last, and listeners that insist leave time for others", async (t) => {
    const { comet, log } = rig(t);
    comet.join("a");
    const connection = socket();
    connection.open();
    connection.say([op.AUTH_REPLY, "", 1]);
    connection.taken();
    const takeAway = comet.on("room", ({ reason, room }) => reason === "one_room" && room === "a" && comet.join("c"));
    comet.join("b");
    assert.deepEqual(connection.taken(), [[op.CHANGE_ROOM, "b"], [op.CHANGE_ROOM, "c"]]);
    assert.deepEqual(told(log).map(([, event]) => (event as { room: string }).room), ["a", "b"]);
    takeAway();
    const insists = comet.on("room", ({ reason, room }) => reason === "one_room" && comet.join(room));
    comet.join("d");
    const asked = connection.taken().length;
    assert(asked > 10 && asked < 10_000, `${asked}`);
    t.mock.timers.tick(1);
    assert.equal(connection.taken().length > 10, true, "it goes on in another turn");
    insists();
    t.mock.timers.tick(1);
    assert(connection.taken().length < 2);
});

test("operations of rooms are messages in protocol 1", (t) => {
    const { log } = rig(t);
    const connection = socket();
    connection.open();
    connection.say([op.AUTH_REPLY, "", 1], [op.ROOM_PUSH, "goim's user's own"]);
    assert.deepEqual(bodies(log), [[undefined, "goim's user's own", undefined]]);
});
