// Tokens on a fake socket and a fake clock: who asks for them when, and what becomes of those that are refused.

import assert from "node:assert/strict";
import { test } from "node:test";
import { op } from "../src/wire.js";
import { FakeSocket, accept, authReply, fakePage, last, rig, settle, socket, states } from "./fake.js";

test("a refused token is asked for once more, and a second refusal is final", async (t) => {
    let asked = 0;
    const { comet } = rig(t, { getToken: async () => `fresh ${(asked += 1)}` });
    const refuse = async () => {
        socket().open();
        socket().end(1008, "auth_refused: too old");
        await settle();
    };
    await refuse();
    assert.deepEqual([comet.state, asked, FakeSocket.all.length], ["connecting", 1, 2], "at once");
    accept();
    assert.deepEqual(socket().taken()[0], [op.AUTH, "fresh 1"]);
    socket().end();
    assert.equal(comet.state, "waiting", "a lost connection says nothing about the token");
    t.mock.timers.tick(2000);
    await refuse();
    assert.equal(asked, 2);
    await refuse();
    assert.deepEqual([comet.state, asked, FakeSocket.all.length], ["closed", 2, 4]);
});

test("an attempt that ends without a refusal between two lets the second be followed by a fresh token", async (t) => {
    let asked = 0;
    const { comet, tick } = rig(t, { getToken: async () => `fresh ${(asked += 1)}` });
    const refuse = async () => {
        socket().open();
        socket().end(1008, "auth_refused: too old");
        await settle();
    };
    const outages = [() => socket().fail(), () => socket().end(1013, "logic_unavailable; retry_after_ms=3600000"), () => tick(10_000)];
    for (const [before, outage] of outages.entries()) {
        await refuse();
        assert.equal(asked, 1 + 2 * before);
        outage();
        tick(3_600_000);
        await refuse();
        assert.deepEqual([comet.state, asked], ["connecting", 2 + 2 * before], "the token was new before the outage");
        accept().end();
        tick(60_000);
    }
});

test("a token is asked for anew where a server takes the former one twice and ends without a word", async (t) => {
    let asked = 0;
    const { comet, tick } = rig(t, { getToken: async () => `fresh ${(asked += 1)}` });
    const goim = () => {
        socket().open();
        socket().say([op.AUTH_REPLY, "", 1]);
        assert.equal(comet.state, "open");
    };
    const endSilently = async (end: () => void) => {
        end();
        tick(60_000);
        await settle();
    };
    const refuse = () => endSilently(() => (socket().open(), socket().end()));
    goim();
    await endSilently(() => socket().end());
    for (let offline = 0; offline < 5; offline += 1) {
        await endSilently(() => socket().fail());
    }
    assert.equal(asked, 0, "nobody has seen the token");
    await refuse();
    assert.equal(asked, 0, "once, any loss of the network does it");
    await refuse();
    assert.equal(asked, 1);
    goim();
    assert.deepEqual(socket().taken(), [[op.AUTH, "fresh 1"]]);
    await endSilently(() => socket().end());
    await endSilently(() => (socket().open(), tick(10_000)));
    assert.equal(asked, 1, "an acceptance begins anew");
    await endSilently(() => (socket().open(), tick(10_000)));
    assert.equal(asked, 2);
});

test("getToken that fails or hangs is tried again, and what comes too late is not used", async (t) => {
    const answers: { resolve(token: string): void; reject(error: Error): void }[] = [];
    const getToken = () => new Promise<string>((resolve, reject) => answers.push({ resolve, reject }));
    const { log, tick } = rig(t, { token: undefined, getToken } as never);
    assert.equal(FakeSocket.all.length, 0);
    answers[0]!.reject(new Error("503"));
    await settle();
    assert.deepEqual(last(log), { state: "waiting", reason: "no token: Error: 503", retryInMs: 2000 });
    tick(2000);
    tick(10_000);
    assert.deepEqual(last(log), { state: "waiting", reason: "no token in time", retryInMs: 4000 });
    answers[1]!.resolve("late");
    await settle();
    assert.equal(FakeSocket.all.length, 0);
    tick(4000);
    answers[2]!.resolve("good");
    await settle();
    socket().open();
    assert.deepEqual(socket().taken(), [[op.AUTH, "good"]]);
});

test("a token is renewed on its connection before it expires, and again while nobody can check it", async (t) => {
    let asked = 0;
    const { log, tick } = rig(t, { getToken: () => `fresh ${(asked += 1)}`, heartbeatMs: 1e9 }, 0);
    const connection = accept(authReply({ expiresInMs: 100_000, heartbeatMs: 2e9 }));
    connection.taken();
    tick(69_999);
    assert.equal(asked, 0);
    tick(1);
    await settle();
    assert.deepEqual(connection.taken(), [[op.AUTH, "fresh 1"]]);
    connection.say([op.AUTH_REPLY, authReply({ flags: 2, expiresInMs: 30_000 }), 2]);
    tick(21_000);
    await settle();
    assert.deepEqual(connection.taken(), [[op.AUTH, "fresh 2"]]);
    connection.say([op.AUTH_REPLY, authReply({ flags: 1, expiresInMs: 9_000 }), 3]);
    tick(9_000);
    assert.equal(asked, 2, "a refused token is not sent again");
    connection.end(3000, "token_expired; retry_after_ms=500");
    tick(500);
    await settle();
    socket().open();
    assert.deepEqual(socket().taken(), [[op.AUTH, "fresh 3"]]);
    assert.deepEqual(states(log).map(({ state }) => state), ["open", "waiting", "connecting"]);
});

for (const expiresInMs of [120_000, 300_000, 720_000, 1_800_000]) {
    test(`a page whose timers come once a minute renews a token of ${expiresInMs / 1000} s in time`, async (t) => {
        fakePage(t);
        let asked = 0;
        const { tick } = rig(t, { getToken: () => `fresh ${(asked += 1)}` });
        const connection = accept();
        for (const random of [0, 0.5, 1]) {
            t.mock.method(Math, "random", () => random);
            for (let phaseMs = 0; phaseMs < 60_000; phaseMs += 1000) {
                let minute = Math.ceil(Date.now() / 60_000) * 60_000;
                t.mock.timers.setTime(minute + phaseMs);
                connection.say([op.AUTH_REPLY, authReply({ expiresInMs }), 2], [op.HEARTBEAT_REPLY]);
                const accepted = Date.now();
                const before = asked;
                while (asked === before) {
                    minute += 60_000;
                    t.mock.timers.setTime(minute - 1);
                    tick(1);
                    connection.say([op.HEARTBEAT_REPLY]);
                    await settle();
                    assert(Date.now() - accepted < expiresInMs, `accepted ${phaseMs} ms after a full minute, random ${random}`);
                }
                assert.deepEqual(connection.taken().at(-1), [op.AUTH, `fresh ${asked}`]);
            }
        }
    });
}

test("what arrives renews a token that a timer owes", async (t) => {
    let asked = 0;
    const { tick } = rig(t, { getToken: () => `fresh ${(asked += 1)}`, heartbeatMs: 1e9 }, 0);
    const connection = accept(authReply({ expiresInMs: 100_000, heartbeatMs: 2e9 }));
    connection.taken();
    const clock = Date.now;
    let lateMs = 69_999;
    t.mock.method(Date, "now", () => clock() + lateMs);
    connection.say([1000, "in time"]);
    assert.equal(asked, 0);
    lateMs = 70_000;
    connection.say([1000, "late"], [1000, "too"]);
    await settle();
    assert.deepEqual(connection.taken(), [[op.AUTH, "fresh 1"]]);
    tick(100_000);
    await settle();
    assert.equal(asked, 1, "once");
});

test("a token that JSON refuses is one that getToken has failed to give", async (t) => {
    const round: { self?: object } = {};
    round.self = round;
    const tokens: object[] = [round, { mid: 1 }, round, { mid: 2 }];
    const { log, tick } = rig(t, { token: undefined, getToken: () => tokens.shift() } as never, 0);
    await settle();
    assert.equal(last(log)?.state, "waiting");
    tick(1000);
    await settle();
    const connection = accept(authReply({ expiresInMs: 100_000, heartbeatMs: 2e9 }));
    assert.deepEqual(connection.taken()[0], [op.AUTH, '{"mid":1}']);
    tick(70_000);
    // Where nobody catches what is thrown, it ends Node.
    await settle();
    tick(21_000);
    await settle();
    assert.deepEqual(connection.taken().filter(([operation]) => operation === op.AUTH), [[op.AUTH, '{"mid":2}']]);
});

test("who is replaced or kicked before the acceptance asks for no other token", async (t) => {
    const { comet } = rig(t, { getToken: () => assert.fail("nobody needs it") });
    socket().end(1008, "replaced");
    await settle();
    assert.equal(comet.state, "closed");
});
