// The client with the real server, which is killed, stopped, drained and started again.

import assert from "node:assert/strict";
import { type TestContext, test as testWith } from "node:test";
import { WebSocket as WsWebSocket } from "ws";
import { Comet, type Options } from "../src/comet.js";
import { encode, op, utf8 } from "../src/wire.js";
import { Heard, Server, TEST_TIMEOUT_MS, noServer } from "./server.js";

/** Settings with which rooms of chats keep a history. */
const HISTORY = ['history.rules=[{ rooms = "chat://" }]'];

const settings = { skip: noServer, timeout: TEST_TIMEOUT_MS };
const test = (name: string, run: (t: TestContext) => Promise<void>) => testWith(name, settings, run);

/** A client that comes back fast. */
function connect(t: TestContext, url: string, options: Options = {}) {
    const comet = new Comet(url, { token: "42", backoff: { baseMs: 20, maxMs: 100 }, ...options });
    t.after(() => comet.close());
    return { comet, heard: new Heard(comet) };
}

for (const [name, options] of [["the global WebSocket", {}], ["that of the package ws", { WebSocket: WsWebSocket }]] as const) {
    test(`rooms, batches, messages and operations, over ${name}`, async (t) => {
        const server = await Server.start(t);
        const { comet, heard } = connect(t, server.url, { token: { mid: 7, key: "k", accepts: [] }, ...options });
        await heard.state("open");
        comet.join("live://7");
        comet.join("live://8");
        await heard.joined("live://7");
        await heard.joined("live://8");
        assert.equal(await server.push("room?type=live&room=8", "hello"), 1);
        const message = await heard.next("message");
        assert.deepEqual([message.room, message.operation, message.text()], ["live://8", 1000, "hello"]);

        const batch = Buffer.concat(["a", "b"].map((body) => Buffer.from(encode({ version: 1, operation: 1001, sequence: 0, body: utf8(body) }))));
        assert.equal(await server.push("room?type=live&room=7", new Uint8Array(batch), op.RAW), 1);
        for (const body of ["a", "b"]) {
            const { room, operation, ...message } = await heard.next("message");
            assert.deepEqual([room, operation, Buffer.from(message.body).toString()], ["live://7", 1001, body]);
        }

        assert.equal((await comet.send(4, "to nobody")).length, 0);
        assert.equal(await server.push("keys?keys=k", "not accepted"), 0);
        comet.subscribe(1000);
        // Its reply is behind that of the subscription.
        await comet.send(4);
        assert.equal(await server.push("keys?keys=k", "accepted"), 1);
        const own = await heard.next("message");
        assert.deepEqual([own.room, own.text()], [undefined, "accepted"]);

        comet.leave("live://8");
        await heard.next("room", ({ status }) => status === "left");
        assert.equal(await server.push("room?type=live&room=8", "nobody"), 0);
    });
}

test("a hundred rooms are entered again after the server was killed", async (t) => {
    const sets = ["clients.rooms=99", "protocol.cli_proto=20"];
    const server = await Server.start(t, sets);
    const { comet, heard } = connect(t, server.url, { token: { mid: 7 } });
    const rooms = Array.from({ length: 100 }, (_, n) => `room ${n}`);
    rooms.forEach((room) => comet.join(room));
    const entered = async () => {
        for (const room of rooms.slice(0, 99)) {
            await heard.joined(room);
        }
        const refused = await heard.next("room", ({ status }) => status === "refused");
        assert.deepEqual([refused.room, refused.reason], ["room 99", "too_many_rooms"]);
    };
    await entered();
    await server.end("SIGKILL");
    await heard.state("waiting");
    const again = await Server.start(t, sets, server);
    await entered();
    assert.equal(await again.push("room?room=room%2050", "back"), 1);
    assert.equal((await heard.next("message")).text(), "back");
});

test("operations that fit together are accepted again in an order in which they always do", async (t) => {
    const range = (from: number, count: number) => Array.from({ length: count }, (_, at) => from + at);
    const server = await Server.start(t);
    const { comet, heard } = connect(t, server.url, { token: { mid: 7, key: "k", accepts: range(1001, 40) } });
    await heard.state("open");
    comet.unsubscribe(...range(1001, 30));
    comet.subscribe(...range(2001, 40));
    // Its reply is behind theirs.
    await comet.send(4);
    await server.end("SIGKILL");
    await heard.state("waiting");
    const again = await Server.start(t, [], server);
    await heard.state("open");
    await comet.send(4);
    const push = (operation: number) => again.push("keys?keys=k", "hi", operation);
    assert.deepEqual([await push(1001), await push(1040), await push(2040)], [0, 1, 1]);
    assert.equal(comet.state, "open");
});

test("a room of the token that was left is left again after the server was killed", async (t) => {
    const server = await Server.start(t);
    const { comet, heard } = connect(t, server.url, { token: { mid: 7, room_id: "live://token" } });
    await heard.joined("live://token");
    comet.leave("live://token");
    await heard.next("room", ({ status }) => status === "left");
    comet.join("live://own");
    await heard.joined("live://own");
    await server.end("SIGKILL");
    const again = await Server.start(t, [], server);
    const { room, status } = await heard.next("room");
    assert.deepEqual([room, status], ["live://own", "joined"]);
    // Its reply is behind the one to the request to leave, which came with operation 8.
    await comet.send(4);
    assert.equal(await again.push("room?type=live&room=token", "nobody"), 0);
    assert.equal(await again.push("room?type=live&room=own", "to me"), 1);
    assert.equal((await heard.next("message")).text(), "to me");
});

test("a server that stands still is left, and found again when it goes on", async (t) => {
    const server = await Server.start(t);
    const { comet, heard } = connect(t, server.url, { heartbeatMs: 300, timeoutMs: 1000 });
    await heard.state("open");
    comet.join("r");
    await server.stop();
    await heard.next("state", ({ reason }) => reason === "no heartbeat was answered");
    await heard.next("state", ({ reason }) => reason === "not accepted in time");
    server.signal("SIGCONT");
    await heard.state("open");
    await heard.joined("r");
});

test("a client that comes back with its position misses nothing, and is told if it may have", async (t) => {
    // A server that does not know the setting does not start.
    const server = await Server.start(t, HISTORY).catch(() => undefined);
    if (!server) {
        return t.skip("SKIPPED: this server keeps no history");
    }
    const room = "chat://a";
    const push = (on: Server, text: string) => on.push("room?type=chat&room=a", text);
    const first = connect(t, server.url);
    first.comet.join(room);
    assert.notEqual((await first.heard.joined(room)).position, undefined);
    await push(server, "seen");
    const since = (await first.heard.next("message")).position;
    first.comet.close();
    await push(server, "missed");
    await push(server, "missed, too");

    const second = connect(t, server.url);
    second.comet.join(room, { since });
    const { recovered, missed } = await second.heard.joined(room);
    assert.deepEqual([recovered, missed], [true, 2]);
    for (const text of ["missed", "missed, too"]) {
        assert.equal((await second.heard.next("message")).text(), text);
    }
    await push(server, "live");
    assert.equal((await second.heard.next("message")).text(), "live");

    // The history ends with the process.
    await server.end("SIGKILL");
    const again = await Server.start(t, HISTORY, server);
    assert.equal((await second.heard.joined(room)).recovered, false);
    await push(again, "new");
    assert.equal((await second.heard.next("message")).text(), "new");
});

test("a drain says goodbye with a time to wait, which is kept", async (t) => {
    const server = await Server.start(t, ['server.retry_after="1s"']);
    const { heard } = connect(t, server.url);
    await heard.state("open");
    const begin = Date.now();
    await server.end("SIGTERM");
    const goodbye = await heard.next("goodbye");
    assert.deepEqual([goodbye.code, goodbye.reason, goodbye.isFinal], [1001, "draining", false]);
    assert.equal((await heard.state("waiting")).retryInMs! <= goodbye.retryAfterMs!, true);
    await Server.start(t, [], server);
    await heard.state("open");
    assert(Date.now() - begin >= goodbye.retryAfterMs!);
});

test("a refused token is final, unless getToken has a better one", async (t) => {
    const server = await Server.start(t);
    const bad = '{"no":"mid"}';
    const { comet, heard } = connect(t, server.url, { token: bad });
    assert.match((await heard.next("goodbye", ({ isFinal }) => isFinal)).reason, /^auth_refused: /);
    await heard.state("closed");
    assert.equal(comet.state, "closed");
    const { heard: better } = connect(t, server.url, { token: bad, getToken: () => ({ mid: 7 }) });
    await better.state("open");
});

test("a client that is kicked, or replaced by one with its key, stays away", async (t) => {
    const server = await Server.start(t);
    const token = { mid: 7, key: "k" };
    const { heard: first } = connect(t, server.url, { token });
    await first.state("open");
    const { heard: second } = connect(t, server.url, { token });
    await second.state("open");
    assert.equal((await first.state("closed")).reason, "replaced");
    assert.equal((await server.call("/comet/kick/keys?keys=k&reason=banned")).closed, 1);
    assert.equal((await second.state("closed")).reason, "kicked: banned");
});
