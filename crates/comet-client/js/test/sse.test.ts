// Event streams in a real browser, which connects again by itself and names the last event that it has.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Chromium, noChromium, serve } from "./chromium.js";
import { Server, TEST_TIMEOUT_MS, noServer } from "./server.js";

const page = `<!doctype html><title>events</title><script>
window.heard = { opened: 0, rooms: [], pushes: [], ids: [] };
const events = new EventSource(new URLSearchParams(location.search).get("url"));
events.onopen = () => (heard.opened += 1);
events.addEventListener("room", ({ data }) => heard.rooms.push(JSON.parse(data)));
events.onmessage = ({ data, lastEventId }) => {
    for (const { room, offset, body } of JSON.parse(data)) heard.pushes.push([room, offset, body].join(" "));
    heard.ids.push(lastEventId);
};
</script>`;

test("Chromium comes back by itself with the positions of its rooms", { skip: noServer || noChromium, timeout: TEST_TIMEOUT_MS }, async (t) => {
    const server = await Server.start(t, ['history.rules=[{rooms="h"}]']);
    const stream = `http://${server.host}:${server.websocket}/sse?token=${encodeURIComponent('{"mid":42}')}&rooms=h1,h2`;
    const site = await serve(t, (_, response) => response.setHeader("Content-Type", "text/html").end(page));
    const chromium = await Chromium.start(t);
    const tab = await chromium.open(`${site}/?url=${encodeURIComponent(stream)}`, "window.heard?.rooms.length === 2");
    for (const room of ["h1", "h2"]) {
        assert.equal(await server.push(`room?room=${room}`, "1"), 1);
    }
    await tab.until("heard.pushes.length === 2");

    // It comes back after that time, and not before the pushes have been made.
    await server.call("/comet/kick/mids?mids=42&retry_after_ms=15000");
    for (const body of ["2", "3"]) {
        assert.equal(await server.push("room?room=h1", body), 0, "it has not come back yet");
    }
    await tab.until("heard.opened === 2 && heard.rooms.length === 4");
    assert.equal(await server.push("room?room=h2", "2"), 1);
    await tab.until('heard.pushes.includes("h2 2 2")');
    const lost = (room: string) => ({ room, recovered: false });
    assert.deepEqual(await tab.evaluate("heard.rooms"), [lost("h1"), lost("h2"), { room: "h1", recovered: 2 }, { room: "h2", recovered: 0 }]);
    assert.deepEqual(await tab.evaluate("heard.pushes"), ["h1 1 1", "h2 1 1", "h1 2 2", "h1 3 3", "h2 2 2"]);
    const ids = await tab.evaluate<string[]>("heard.ids");
    assert(ids.every((id) => /^1[\w-]+$/.test(id)), String(ids));
});
