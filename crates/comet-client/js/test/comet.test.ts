// The client on a fake socket and a fake clock: connections, delays, heartbeats, pages.

import assert from "node:assert/strict";
import { test } from "node:test";
import { op } from "../src/wire.js";
import { Comet, type GoodbyeEvent, type Options } from "../src/comet.js";
import type { Message } from "../src/message.js";
import { readNotice } from "../src/notice.js";
import { FakeSocket, type Rig, accept, authReply, fakePage, frame, last, rig, settle, socket, states } from "./fake.js";

const messages = (log: Rig["log"]): string[] =>
    log.flatMap(([name, event]) => (name === "message" ? [(event as Message).text()] : []));
const goodbyes = (log: Rig["log"]): GoodbyeEvent[] =>
    log.flatMap(([name, event]) => (name === "goodbye" ? [event as GoodbyeEvent] : []));

test("the first frame carries the token and asks for protocol 2", (t) => {
    const { comet, log } = rig(t, { token: { mid: 7, accepts: [1000] } });
    assert.equal(comet.state, "connecting");
    socket().open();
    const [auth] = socket().sent;
    assert.deepEqual([auth?.version, auth?.operation, auth?.sequence], [2, op.AUTH, 1]);
    assert.deepEqual(socket().taken(), [[op.AUTH, '{"mid":7,"accepts":[1000]}']]);
    socket().say([op.AUTH_REPLY, authReply(), 1]);
    assert.equal(comet.state, "open");
    assert.deepEqual(log, [["state", { state: "open" }]]);
});

test("a session is kept where that is asked for, and the state says what has waited", (t) => {
    const { comet, log, tick } = rig(t, { token: 7, keepSession: true });
    socket().open();
    assert.deepEqual(socket().sent.map(({ version, operation, body }) => [version, operation, [...body]]), [
        [2, op.KEEP, [1]],
        [2, op.AUTH, [0x37]],
    ]);
    socket().say([op.AUTH_REPLY, authReply({ flags: 4, kept: [0, 0, 0] }), 2]);
    assert.deepEqual(last(log), { state: "open" });
    socket().fail();
    tick(2000);
    accept(authReply({ flags: 12, kept: [3, 1, 2] })).say([1000, "waited"]);
    assert.deepEqual(last(log), { state: "open", resumed: { parked: 3, lost: 3 } });
    assert.deepEqual(messages(log), ["waited"]);
    comet.close();
    assert.equal(socket().closedWith, 1000);
});

test("the frames of a batch are messages", (t) => {
    const { log } = rig(t);
    accept().say([op.RAW, Buffer.concat([frame([1000, "a"]), frame([1001, "b"])])], [5, "c"]);
    assert.deepEqual(messages(log), ["a", "b", "c"]);
});

test("delays are random below a ceiling that doubles up to the longest", (t) => {
    const { log, tick } = rig(t, { backoff: { baseMs: 1000, maxMs: 10_000 } }, 0.5);
    for (const retryInMs of [1000, 2000, 4000, 5000, 5000]) {
        socket().fail();
        assert.deepEqual(last(log), { state: "waiting", reason: "the connection was lost", retryInMs });
        const attempts = FakeSocket.all.length;
        tick(retryInMs - 1);
        assert.equal(FakeSocket.all.length, attempts);
        tick(1);
        assert.equal(FakeSocket.all.length, attempts + 1);
    }
});

test("only a connection that lasted lets the delays begin again", (t) => {
    const { log, tick } = rig(t, { backoff: { baseMs: 1000, maxMs: 10_000 } });
    for (const [lastedMs, retryInMs] of [[0, 2000], [9000, 4000], [10_000, 2000]] as const) {
        const connection = accept();
        for (let ms = 0; ms < lastedMs; ms += 1000) {
            tick(1000);
        }
        connection.end();
        assert.equal(last(log)?.retryInMs, retryInMs);
        tick(retryInMs);
    }
});

test("a time to wait goes before the client's own delay, and no event of the page shortens it", (t) => {
    const page = fakePage(t);
    const { log, tick } = rig(t, {}, 0);
    const connection = accept();
    connection.say([op.GOODBYE, "draining; retry_after_ms=1830"]);
    assert.equal(last(log)?.state, "open", "the close frame is awaited");
    connection.end(1001, "draining; retry_after_ms=1830");
    assert.deepEqual(goodbyes(log), [{ code: 1001, reason: "draining", retryAfterMs: 1830, isFinal: false }]);
    assert.deepEqual(last(log), { state: "waiting", reason: "draining", retryInMs: 1830 });
    page.tell("online");
    tick(1829);
    assert.equal(FakeSocket.all.length, 1);
    tick(1);
    assert.equal(FakeSocket.all.length, 2);
});

test("a clock that is set back makes no wait longer", (t) => {
    const page = fakePage(t);
    const { comet, log, tick } = rig(t);
    const turnAway = () => socket().end(1001, "draining; retry_after_ms=5000");
    // Not the mocked clock: the timers go by that.
    const clock = Date.now;
    let behindMs = 0;
    t.mock.method(Date, "now", () => clock() - behindMs);
    const setBack = () => (behindMs += 7_200_000);
    turnAway();
    setBack();
    tick(5000);
    assert.equal(comet.state, "connecting");
    socket().fail();
    assert.equal(last(log)?.retryInMs, 5000, "what was asked for, at most");
    page.tell("pagehide");
    setBack();
    page.tell("pageshow");
    assert.equal(last(log)?.retryInMs, 5000);
    tick(5000);
    accept();
    setBack();
    socket().end();
    assert.equal(last(log)?.retryInMs, 8000, "the server has let the client in: its wish is over");
    page.tell("online");
    assert.equal(comet.state, "connecting");
});

test("a goodbye without a close frame counts after a while", (t) => {
    const page = fakePage(t);
    const { log, tick } = rig(t);
    const connection = accept();
    connection.taken();
    connection.say([op.GOODBYE, "kicked: banned"]);
    page.tell("online");
    assert.deepEqual(connection.taken(), []);
    tick(10_000);
    assert.deepEqual(goodbyes(log), [{ code: undefined, reason: "kicked: banned", retryAfterMs: undefined, isFinal: true }]);
    assert.deepEqual(last(log), { state: "closed", reason: "kicked: banned" });
});

for (const [code, reason, wasAccepted, isFinal] of [
    [1008, "auth_refused: no such token", false, true],
    [1002, "bad_frame", false, true],
    [1008, "handshake_timeout", false, false],
    [1001, "draining", false, false],
    [1013, "logic_unavailable; retry_after_ms=5", false, false],
    [1012, "", false, false],
    [1008, "too_many_sessions", false, false],
    [1008, "replaced", true, true],
    [1008, "kicked", true, true],
    [1013, "kicked: for a while; retry_after_ms=60000", true, false],
    [1008, "heartbeat_timeout", true, false],
    [1008, "kicked; retry_after_ms=99999999", true, false],
    [1008, "kicked: banned; retry_after_ms=99999999", true, false],
] as const) {
    test(`${code} ${reason} ${wasAccepted ? "after" : "before"} the acceptance is ${isFinal ? "" : "not "}final`, (t) => {
        const { comet, log } = rig(t);
        if (wasAccepted) {
            accept();
        }
        socket().end(code, reason);
        assert.equal(goodbyes(log)[0]?.isFinal, isFinal);
        assert.equal(comet.state, isFinal ? "closed" : "waiting");
    });
}

test("a time to wait is read as every client of comet reads it", () => {
    const check = (text: string, reason: string, retryAfterMs: number | undefined) =>
        assert.deepEqual(readNotice(1001, text), { code: 1001, reason, retryAfterMs });
    check("draining; retry_after_ms=1830", "draining", 1830);
    check("; retry_after_ms=0", "", 0);
    check("a; retry_after_ms=1; retry_after_ms=2", "a; retry_after_ms=1", 2);
    check("a\nb; retry_after_ms=3600000", "a\nb", 3_600_000);
    check("kicked: banned; retry_after_ms=3600001", "kicked: banned", 3_600_000);
    for (const delay of ["", "+5", "-5", " 5", "5 ", "5ms", "1.5", "0x10", "9".repeat(40)]) {
        check(`draining; retry_after_ms=${delay}`, `draining; retry_after_ms=${delay}`, undefined);
    }
});

test("a connection that is not accepted in time is given up", (t) => {
    const { log, tick } = rig(t);
    socket().open();
    tick(10_000);
    assert.deepEqual(last(log), { state: "waiting", reason: "not accepted in time", retryInMs: 2000 });
    assert.notEqual(socket().closedWith, undefined);
    socket().say([op.AUTH_REPLY, authReply(), 1]);
    assert.equal(last(log)?.state, "waiting", "what a former connection says does not count");
});

test("who is replaced by an attempt of his own, whose token came late, comes back once", (t) => {
    for (const replacedAfterMs of [0, 60_000, 120_000]) {
        const { comet, log, tick } = rig(t, { heartbeatMs: 1e9 }, 0);
        socket().open();
        tick(10_000);
        tick(0);
        const connection = accept(authReply({ heartbeatMs: 2e9 }));
        tick(replacedAfterMs);
        connection.end(1008, "replaced");
        assert.equal(goodbyes(log).at(-1)?.isFinal, replacedAfterMs === 120_000);
        assert.equal(comet.state, replacedAfterMs === 120_000 ? "closed" : "waiting");
        if (comet.state === "waiting") {
            tick(0);
            accept().end(1008, "replaced");
            assert.equal(comet.state, "closed", "another client has the key");
        }
        t.mock.timers.reset();
        t.mock.restoreAll();
    }
});

test("heartbeats go at half of the server's time, and one without an answer ends the connection", (t) => {
    const { comet, log, tick } = rig(t, { timeoutMs: 3000 });
    const connection = accept(authReply({ heartbeatMs: 20_000 }));
    connection.taken();
    tick(9999);
    assert.deepEqual(connection.taken(), []);
    tick(1);
    assert.deepEqual(connection.taken(), [[op.HEARTBEAT, ""]]);
    connection.say([op.HEARTBEAT_REPLY, "\0\0\0\u0001", 2]);
    tick(3000);
    tick(7000);
    assert.deepEqual(connection.taken(), [[op.HEARTBEAT, ""]]);
    connection.say([1000, "any byte will do"]);
    tick(3000);
    assert.equal(comet.state, "open");
    tick(7000);
    tick(2999);
    assert.equal(comet.state, "open");
    tick(1);
    assert.deepEqual(last(log), { state: "waiting", reason: "no heartbeat was answered", retryInMs: 2000 });
});

test("timers that come once a minute, as those of a hidden page, send a heartbeat each", (t) => {
    const { comet, log, tick } = rig(t);
    const connection = accept(authReply({ heartbeatMs: 90_000 }));
    connection.taken();
    const minute = () => {
        t.mock.timers.setTime(Date.now() + 59_999);
        tick(1);
    };
    for (let passed = 0; passed < 5; passed += 1) {
        minute();
        assert.deepEqual(connection.taken(), [[op.HEARTBEAT, ""]]);
        connection.say([op.HEARTBEAT_REPLY]);
    }
    assert.deepEqual(connection.taken(), [], "an answer needs none");
    assert.deepEqual([comet.state, states(log).length], ["open", 1]);
});

test("what arrives sends a heartbeat that a timer owes", (t) => {
    const { tick } = rig(t);
    const connection = accept(authReply({ heartbeatMs: 60_000 }));
    connection.taken();
    const clock = Date.now;
    let lateMs = 0;
    t.mock.method(Date, "now", () => clock() + lateMs);
    connection.say([1000, "in time"]);
    assert.deepEqual(connection.taken(), []);
    lateMs = 30_000;
    connection.say([1000, "late"], [1000, "too"]);
    assert.deepEqual(connection.taken(), [[op.HEARTBEAT, ""]]);
    connection.say([op.HEARTBEAT_REPLY]);
    tick(10_000);
    // A clock that is set back makes no heartbeat later.
    lateMs = -7_200_000;
    tick(20_000);
    tick(10_000);
    assert.deepEqual(connection.taken(), [[op.HEARTBEAT, ""]]);
});

test("after a sleep the server gets another chance to answer, but no third one from late timers", (t) => {
    const { comet, tick } = rig(t, { timeoutMs: 3000 });
    const sleep = () => {
        t.mock.timers.setTime(Date.now() + 3_600_000);
        tick(1);
    };
    const connection = accept(authReply({ heartbeatMs: 20_000 }));
    tick(10_000);
    for (let again = 0; again < 2; again += 1) {
        connection.taken();
        sleep();
        assert.deepEqual(connection.taken(), [[op.HEARTBEAT, ""]]);
        connection.say([op.HEARTBEAT_REPLY]);
        tick(3000);
        tick(7000);
    }
    sleep();
    assert.equal(comet.state, "open");
    sleep();
    assert.equal(comet.state, "waiting");
});

test("a reply settles its message; a lost connection, a timeout and a wrong message do not", async (t) => {
    const { comet, log, tick } = rig(t);
    await assert.rejects(comet.send(4, "too early"), /not connected/);
    const connection = accept();
    connection.taken();
    const replies = ["one", "two", "three"].map((body) => comet.send(1000, body));
    const [one, two] = connection.sent.splice(0);
    connection.say([1000, "logic failed", two!.sequence], [1000, "", one!.sequence], [1000, "push", 99], [1001, "push", 4]);
    assert.deepEqual(await replies[0], new Uint8Array());
    assert.equal(Buffer.from((await replies[1])!).toString(), "logic failed");
    assert.deepEqual(messages(log), ["push", "push"]);
    tick(10_000);
    await assert.rejects(replies[2]!, /no answer in time/);
    const lost = comet.send(4);
    connection.end();
    await assert.rejects(lost, /the connection was lost/);
    for (const operation of [0, 2, 7, 9, 18, 23, 1.5, 2 ** 31]) {
        await assert.rejects(comet.send(operation), RangeError);
    }
    await assert.rejects(comet.send(4, "x".repeat(4097)), RangeError);
});

test("accepted operations are told again after a reconnect", (t) => {
    const { comet, tick } = rig(t);
    comet.subscribe(1000, 1001);
    let connection = accept();
    assert.deepEqual(connection.taken(), [[op.AUTH, "42"], [op.SUBSCRIBE, "1000,1001"]]);
    comet.unsubscribe(1001);
    comet.subscribe(1000);
    assert.deepEqual(connection.taken(), [[op.UNSUBSCRIBE, "1001"]]);
    connection.end();
    tick(2000);
    connection = accept();
    assert.deepEqual(connection.taken(), [[op.AUTH, "42"], [op.UNSUBSCRIBE, "1001"], [op.SUBSCRIBE, "1000"]]);
    assert.throws(() => comet.subscribe(...Array(64).keys()), RangeError);
    assert.throws(() => comet.subscribe(0.5), RangeError);
    assert.throws(() => comet.subscribe(2 ** 31), RangeError);
});

test("only accepted operations count for the bound, and the latest others are remembered", (t) => {
    const { comet, tick } = rig(t);
    const connection = accept();
    for (let operation = 1000; operation < 1100; operation += 1) {
        comet.subscribe(operation);
        comet.unsubscribe(operation);
    }
    comet.subscribe(...Array(64).keys());
    connection.end();
    tick(2000);
    const [, unsubscribed, subscribed] = accept().taken();
    assert.deepEqual(subscribed, [op.SUBSCRIBE, [...Array(64).keys()].join()]);
    assert.deepEqual(unsubscribed, [op.UNSUBSCRIBE, Array.from({ length: 64 }, (_, at) => 1036 + at).join()]);
});

test("a socket that cannot be made is an attempt that failed", (t) => {
    let attempts = 0;
    class Forbidden extends FakeSocket {
        constructor(url: string) {
            attempts += 1;
            if (attempts < 3) {
                throw new Error("the page's policy forbids it");
            }
            super(url);
        }
    }
    const { comet, log, tick } = rig(t, { WebSocket: Forbidden });
    assert.equal(comet.state, "waiting");
    tick(60_000);
    assert.equal(last(log)?.reason, "Error: the page's policy forbids it");
    tick(60_000);
    accept();
    assert.equal(comet.state, "open");
    assert.throws(() => new Comet("mailto:a@example.com"), TypeError);
});

test("a listener that is added or taken away amid an event", (t) => {
    const { comet } = rig(t);
    const heard: string[] = [];
    comet.on("message", () => {
        comet.on("message", (message) => heard.push(`late ${message.text()}`));
        takeAway();
    });
    const takeAway = comet.on("message", (message) => heard.push(message.text()));
    accept().say([1000, "a"], [1000, "b"]);
    assert.deepEqual(heard, ["late b"]);
});

test("every listener hears of events in their order, also if one of them acts", (t) => {
    const { comet, log, tick } = rig(t);
    const heard: string[] = [];
    comet.on("state", ({ state }) => state === "waiting" && comet.close());
    comet.on("state", ({ state }) => heard.push(state));
    socket().end();
    assert.deepEqual(heard, ["waiting", "closed"]);
    assert.deepEqual(states(log).map(({ state }) => state), heard);
    tick(60_000);
    assert.equal(FakeSocket.all.length, 1);
});

test("what breaks the protocol ends the connection", (t) => {
    const { comet, tick } = rig(t);
    for (const data of ["text", new ArrayBuffer(3), frame([op.ROOM_PUSH, new Uint8Array(16)]).buffer]) {
        accept().sayRaw(data);
        assert.equal(comet.state, "waiting");
        assert.notEqual(socket().closedWith, undefined);
        tick(60_000);
    }
});

test("a listener may close the client, or throw, amid a batch", (t) => {
    const { comet, log } = rig(t);
    comet.on("message", (message) => message.text() === "last" && comet.close());
    accept().say([op.RAW, Buffer.concat([frame([5, "last"]), frame([5, "more"])])], [5, "even more"]);
    assert.deepEqual(messages(log), ["last"]);
    assert.equal(socket().closedWith, 1000);
    assert.equal(comet.state, "closed");
});

test("a listener may close the client as soon as it is open", async (t) => {
    let asked = 0;
    const { comet, tick } = rig(t, { getToken: () => `fresh ${(asked += 1)}` });
    comet.on("state", ({ state }) => state === "open" && comet.close());
    comet.join("r");
    const connection = accept(authReply({ expiresInMs: 100_000 }));
    assert.deepEqual(connection.taken(), [[op.AUTH, "42"]]);
    tick(100_000);
    await settle();
    assert.equal(asked, 0);
});

test("a client without a WebSocket or with a wrong URL is a mistake of the program", (t) => {
    assert.throws(() => new Comet("no url", { WebSocket: FakeSocket }), TypeError);
    const own = Object.getOwnPropertyDescriptor(globalThis, "WebSocket");
    Reflect.deleteProperty(globalThis, "WebSocket");
    t.after(() => own && Object.defineProperty(globalThis, "WebSocket", own));
    assert.throws(() => new Comet("ws://comet.test/sub"), /no WebSocket/);
});

test("times that no timer can wait are a mistake of the program", (t) => {
    FakeSocket.all = [];
    const make = (options: Options) => () => new Comet("ws://comet.test/sub", { WebSocket: FakeSocket, ...options });
    for (const ms of [0, -1, NaN, Infinity, 2 ** 31]) {
        assert.throws(make({ heartbeatMs: ms }), RangeError, `heartbeatMs ${ms}`);
        assert.throws(make({ timeoutMs: ms }), RangeError, `timeoutMs ${ms}`);
        assert.throws(make({ backoff: { baseMs: ms } }), RangeError, `baseMs ${ms}`);
        assert.throws(make({ backoff: { maxMs: ms } }), RangeError, `maxMs ${ms}`);
    }
    assert.equal(FakeSocket.all.length, 0);
    const longest = 2 ** 31 - 1;
    const { tick } = rig(t, { heartbeatMs: longest, timeoutMs: longest, backoff: { baseMs: longest, maxMs: longest } });
    socket().end();
    tick(longest - 1);
    assert.equal(FakeSocket.all.length, 1);
    tick(1);
    const connection = accept(authReply({ heartbeatMs: 0 }));
    connection.taken();
    tick(3_600_000);
    assert.deepEqual(connection.taken(), [], "a server that names no time for heartbeats demands none");
});
