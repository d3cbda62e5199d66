// What happens to a page and to its network, on a fake socket and a fake clock.

import assert from "node:assert/strict";
import { test } from "node:test";
import { op } from "../src/wire.js";
import { FakeSocket, accept, fakePage, last, rig, socket, states } from "./fake.js";

test("a closed client does nothing any more", (t) => {
    const page = fakePage(t);
    const { comet, log, tick } = rig(t);
    socket().fail();
    comet.close();
    comet.close();
    page.tell("online");
    page.tell("pageshow");
    tick(3_600_000);
    assert.equal(FakeSocket.all.length, 1);
    assert.deepEqual(states(log).map(({ state }) => state), ["waiting", "closed"]);
    assert.deepEqual(page.listeners(), []);
});

test("the network's return ends a wait, and a doubt asks the server", (t) => {
    const page = fakePage(t);
    const { comet, tick } = rig(t);
    socket().fail();
    page.tell("offline");
    assert.equal(comet.state, "waiting");
    page.tell("online");
    assert.equal(comet.state, "connecting");
    const connection = accept();
    connection.taken();
    for (const event of ["offline", "online", "visibilitychange"]) {
        page.tell(event);
        page.tell(event);
        assert.deepEqual(connection.taken(), [[op.HEARTBEAT, ""]], event);
        connection.say([op.HEARTBEAT_REPLY]);
    }
    page.visibility = "hidden";
    page.tell("visibilitychange");
    assert.deepEqual(connection.taken(), []);
    page.tell("offline");
    tick(10_000);
    assert.equal(comet.state, "waiting", "the doubt was right");
});

test("the page cache gets no open socket, and the page comes back with a new one", (t) => {
    const page = fakePage(t);
    const { comet, log, tick } = rig(t);
    const connection = accept();
    page.tell("pagehide");
    assert.equal(connection.closedWith, 1000);
    connection.end(1000);
    page.tell("online");
    tick(3_600_000);
    assert.equal(comet.state, "paused");
    assert.equal(FakeSocket.all.length, 1);
    page.tell("pageshow");
    tick(0);
    accept();
    assert.deepEqual(states(log).map(({ state }) => state), ["open", "paused", "waiting", "connecting", "open"]);
});

test("a page that left amid an attempt is not closed by the token of that one", (t) => {
    const page = fakePage(t);
    const { comet, tick } = rig(t);
    const leave = () => {
        page.tell("pagehide");
        page.tell("pageshow");
        tick(0);
    };
    socket().open();
    leave();
    accept().end(1008, "replaced");
    assert.equal(comet.state, "waiting");
    tick(60_000);
    accept();
    // That one has got its answer.
    leave();
    accept().end(1008, "replaced");
    assert.equal(comet.state, "closed");
});

test("the network's return during an attempt lets the delays begin again, if that attempt fails", (t) => {
    const page = fakePage(t);
    const { comet, log, tick } = rig(t);
    const fail = () => {
        socket().fail();
        const { retryInMs } = last(log)!;
        tick(retryInMs!);
        return retryInMs;
    };
    const outage = () => Array.from({ length: 6 }, fail).at(-1);
    for (const event of ["online", "resume", "visibilitychange"]) {
        assert.equal(outage(), 60_000);
        page.tell(event);
        assert.equal(comet.state, "connecting");
        assert.deepEqual([fail(), fail()], [2000, 4000], event);
    }
    // A server that can be reached has said why.
    assert.equal(outage(), 60_000);
    page.tell("online");
    socket().end(1001, "draining");
    assert.equal(last(log)?.retryInMs, 60_000);
    tick(60_000);
    // It is over with the attempt, whatever becomes of that.
    page.tell("online");
    accept().end();
    assert.equal(last(log)?.retryInMs, 60_000);
});
