// The client in a real browser: its WebSocket, its network, its page cache.

import assert from "node:assert/strict";
import { type TestContext, test as testWith } from "node:test";
import { Chromium, noChromium, published, serve, type Tab } from "./chromium.js";
import { Server, TEST_TIMEOUT_MS, noServer } from "./server.js";

const settings = { skip: noServer || noChromium, timeout: TEST_TIMEOUT_MS };
const test = (name: string, run: (t: TestContext) => Promise<void>) => testWith(name, settings, run);

/** A page that connects and says what it got, in `heard`. */
const page = (script: string, options: object) => `<!doctype html><title>comet</title>${script}
<script type="module">
const { Comet } = window.comet ?? (await import("/esm/index.js"));
window.heard = { states: [], messages: [], rooms: [], goodbyes: [], shown: [] };
addEventListener("pageshow", ({ persisted }) => heard.shown.push(persisted));
window.client = new Comet(new URLSearchParams(location.search).get("url"), ${JSON.stringify(options)});
client.on("state", ({ state }) => heard.states.push(state));
client.on("message", (message) => heard.messages.push(message.room + ": " + message.text()));
client.on("room", ({ room, status }) => heard.rooms.push(room + " " + status));
client.on("goodbye", ({ reason }) => heard.goodbyes.push(reason));
client.join("a");
client.join("b");
</script>`;

async function open(t: TestContext, server: Server, script: string, options: object, ready = ENTERED): Promise<Tab> {
    const site = await serve(t, ({ url }, response) => {
        const path = url!.split("?")[0];
        const body = path === "/esm/index.js" ? published("esm/index.js")
            : path === "/comet.min.js" ? published("comet.min.js")
            : path === "/" ? page(script, options)
            : "<!doctype html><title>elsewhere</title>";
        response.setHeader("Content-Type", path!.endsWith(".js") ? "text/javascript" : "text/html");
        response.end(body);
    });
    const chromium = await Chromium.start(t);
    return chromium.open(`${site}/?url=${encodeURIComponent(server.url)}`, ready);
}

/** Both rooms were entered, since `forget`. */
const ENTERED = '["a joined", "b joined"].every((room) => heard.rooms.includes(room))';
/** Connects at once where the client waits, as on a slow machine after an attempt that took too long. */
const RETRY = 'client.state === "waiting" && dispatchEvent(new Event("online"))';
const forget = (tab: Tab) => tab.evaluate("heard.rooms.length = 0");

const options = { token: { mid: 42 }, backoff: { baseMs: 20, maxMs: 100 }, timeoutMs: 5000 };

test("a page whose browser negotiates compression gets what is pushed to its rooms", async (t) => {
    const server = await Server.start(t, ["websocket.deflate=true"]);
    const watch = "window.WebSocket = class extends WebSocket { constructor(...given) { super(...given); window.socket = this; } };";
    const tab = await open(t, server, `<script>${watch}</script>`, { ...options, timeoutMs: 10_000 });
    assert.match(String(await tab.evaluate("socket.extensions")), /^permessage-deflate;/);
    const long = JSON.stringify(Array.from({ length: 100 }, (_, id) => ({ id, symbol: "ACME" })));
    for (const text of [long, "short", long + long]) {
        assert((await server.push("room?room=b", text)) >= 1);
        await tab.until(`heard.messages.includes(${JSON.stringify(`b: ${text}`)})`);
    }
});

test("a page as a script: pushes, a killed server, one that stands still, a goodbye", async (t) => {
    let server = await Server.start(t);
    const tab = await open(t, server, '<script src="/comet.min.js"></script>', options);
    const reaches = async (text: string) => {
        // The server may not have seen the end of a former connection.
        assert((await server.push("room?room=b", text)) >= 1);
        await tab.until(`heard.messages.includes("b: ${text}")`);
    };
    await reaches("first");
    await forget(tab);
    await server.end("SIGKILL");
    await tab.until('client.state === "waiting"');
    server = await Server.start(t, [], server);
    await tab.until(ENTERED);
    await reaches("second");

    await forget(tab);
    await server.stop();
    // The client asks the server whether it is still there, and gets no answer.
    await tab.evaluate('dispatchEvent(new Event("offline")); 0');
    await tab.until('client.state !== "open"');
    server.signal("SIGCONT");
    await tab.until(ENTERED);
    await reaches("third");

    await server.call("/comet/kick/room?room=a&reason=bye");
    await tab.until('client.state === "closed"');
    assert.deepEqual(await tab.evaluate("heard.goodbyes"), ["kicked: bye"]);
    assert.deepEqual(await tab.evaluate("heard.messages"), ["b: first", "b: second", "b: third"]);
});

test("a page as a module: the network goes and comes, the page leaves for the page cache and comes back", async (t) => {
    const server = await Server.start(t);
    // Without the browser's events this client would come back after an hour at the earliest.
    const patient = { token: { mid: 42 }, backoff: { baseMs: 3.6e6, maxMs: 3.6e6 }, timeoutMs: 5000 };
    const tab = await open(t, server, "", patient, `(${RETRY}, ${ENTERED})`);
    // With a latency this also holds where the host itself has no network, for which Chromium is offline.
    const network = (offline: boolean) =>
        tab.call("Network.emulateNetworkConditions", { offline, latency: 1, downloadThroughput: -1, uploadThroughput: -1 });

    await network(false);
    await tab.until("navigator.onLine");
    await tab.evaluate("Math.random = () => 1; 0");
    await server.stop();
    await forget(tab);
    await network(true);
    await tab.until('client.state === "waiting"');
    server.signal("SIGCONT");
    await network(false);
    await tab.until('client.state !== "waiting"');
    await tab.until(`(${RETRY}, ${ENTERED})`);

    await forget(tab);
    const elsewhere = await tab.evaluate<string>('new URL("/elsewhere", location).href');
    await tab.evaluate(`location.href = ${JSON.stringify(elsewhere)}; 0`);
    await tab.until('document.title === "elsewhere"');
    await tab.evaluate("history.back(); 0");
    await tab.until('window.heard && client.state === "open"');
    assert.equal(await tab.evaluate("heard.shown.at(-1)"), true, "it came from the page cache");
    await tab.until(ENTERED);
    assert((await server.push("room?room=a", "welcome back")) >= 1);
    await tab.until('heard.messages.includes("a: welcome back")');
});
