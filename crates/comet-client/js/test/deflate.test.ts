// Compression (permessage-deflate) by the server, with clients that others wrote: the package ws, and Chromium.

import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { type TestContext, test as testWith } from "node:test";
import { WebSocket } from "ws";
import { decode, encode, op, utf8 } from "../src/wire.js";
import { Chromium, noChromium, serve } from "./chromium.js";
import { Server, TEST_TIMEOUT_MS, noServer } from "./server.js";

const settings = { skip: noServer, timeout: TEST_TIMEOUT_MS };
const test = (name: string, run: (t: TestContext) => Promise<void>) => testWith(name, settings, run);

const DEFLATE = ["websocket.deflate=true", "websocket.text=true", "protocol.body_max=8192", "protocol.handshake_timeout=\"5m\""];
const VERSION = 1;
const VERSION_2 = 2;
const BODY = JSON.stringify(Array.from({ length: 100 }, (_, id) => ({ id, symbol: "ACME", side: id % 2 ? "buy" : "sell" })));

/** A client that offers compression, and has its messages in order. */
class Peer {
    readonly socket: WebSocket;
    readonly #messages: Buffer[] = [];
    #wake = () => {};

    constructor(t: TestContext, url: string, offer: object | boolean) {
        // With this threshold it compresses all that it sends.
        this.socket = new WebSocket(url, { perMessageDeflate: offer });
        t.after(() => this.socket.terminate());
        this.socket.on("message", (data: Buffer) => {
            this.#messages.push(data);
            this.#wake();
        });
    }

    async opened(): Promise<this> {
        await new Promise((resolve, reject) => this.socket.once("open", resolve).once("error", reject));
        return this;
    }

    async next(): Promise<Buffer> {
        while (this.#messages.length === 0) {
            await new Promise<void>((resolve, reject) => {
                this.socket.once("close", (code) => reject(new Error(`closed: ${code}`)));
                this.#wake = resolve;
            });
        }
        return this.#messages.shift()!;
    }

    /** How many bytes came on its connection. */
    get received(): number {
        return (this.socket as unknown as { _socket: Socket })._socket.bytesRead;
    }
}

const auth = (version: number) => encode({ version, operation: op.AUTH, sequence: 1, body: utf8('{"mid":7,"key":"k","room_id":"live://7","accepts":[1000]}') });

for (const offer of [
    { threshold: 0 },
    { threshold: 0, clientMaxWindowBits: 9 },
    { threshold: 0, serverMaxWindowBits: 15, serverNoContextTakeover: true, clientNoContextTakeover: true },
]) {
    test(`ws negotiates compression, and understands what is compressed: ${JSON.stringify(offer)}`, async (t) => {
        const server = await Server.start(t, DEFLATE);
        for (const version of [VERSION, VERSION_2]) {
            const peer = await new Peer(t, server.url, offer).opened();
            assert.equal(peer.socket.extensions.split(";")[0], "permessage-deflate");
            peer.socket.send(auth(version));
            assert.equal(decode(await peer.next())[0]?.operation, op.AUTH_REPLY);
            if (version === VERSION_2) {
                assert.equal(decode(await peer.next())[0]?.operation, op.JOIN_REPLY);
            }
            for (const body of [BODY, "short", `${BODY}, twice`]) {
                const before = peer.received;
                assert.equal(await server.push("room?type=live&room=7", body), 1);
                const message = await peer.next();
                assert(message.toString("latin1").endsWith(body), message.toString("latin1"));
                if (body !== "short") {
                    assert(peer.received - before < body.length / 3, "it came compressed");
                }
            }
            // Long messages of the client are compressed, each without the one before it.
            for (const sequence of [2, 3]) {
                peer.socket.send(encode({ version: VERSION, operation: 777, sequence, body: utf8(BODY) }));
                assert.equal(decode(await peer.next())[0]?.sequence, sequence);
            }
            const closed = new Promise((resolve) => peer.socket.once("close", resolve));
            peer.socket.send(encode({ version: VERSION, operation: 777, sequence: 4, body: utf8("x".repeat(9000)) }));
            assert.equal(await closed, 1009, "too long once it is inflated");
        }
    });
}

test("an offer of ws that is not taken leaves the connection without compression", async (t) => {
    for (const [sets, offer] of [[DEFLATE, { serverMaxWindowBits: 10 }], [[], true], [DEFLATE, false]] as const) {
        const server = await Server.start(t, [...sets]);
        const peer = await new Peer(t, server.url, offer).opened();
        assert.equal(peer.socket.extensions, "");
        peer.socket.send(auth(VERSION));
        await peer.next();
        assert.equal(await server.push("keys?keys=k", BODY), 1);
        assert.equal((await peer.next()).subarray(16).toString(), BODY);
    }
});

testWith("Chromium negotiates compression, in the binary form and in the text form", { skip: noServer || noChromium, timeout: TEST_TIMEOUT_MS }, async (t) => {
    const server = await Server.start(t, DEFLATE);
    const site = await serve(t, (_, response) => {
        response.setHeader("Content-Type", "text/html");
        response.end(`<!doctype html><title>deflate</title><script>
            window.heard = [];
            const frame = (operation, body) => {
                const bytes = new TextEncoder().encode(body);
                const view = new DataView(new ArrayBuffer(16 + bytes.length));
                view.setUint32(0, 16 + bytes.length); view.setUint16(4, 16); view.setUint16(6, 1);
                view.setUint32(8, operation); view.setUint32(12, 1);
                new Uint8Array(view.buffer).set(bytes, 16);
                return view.buffer;
            };
            const open = (key, first, read) => {
                const socket = new WebSocket(new URLSearchParams(location.search).get("url"));
                socket.binaryType = "arraybuffer";
                socket.onopen = () => { socket.send(first); };
                socket.onmessage = ({ data }) => heard.push(key + " " + read(data));
                window[key] = socket;
            };
            const token = (key) => '{"mid":7,"key":"' + key + '","room_id":"live://7"}';
            open("binary", frame(7, token("binary")), (data) => new TextDecoder().decode(data.slice(16)));
            open("text", '{"op":7,"seq":1,"body":' + token("text") + "}", (data) => JSON.stringify(JSON.parse(data)[0].body));
        </script>`);
    });
    const chromium = await Chromium.start(t);
    const tab = await chromium.open(`${site}/?url=${encodeURIComponent(server.url)}`, "heard.length === 2");
    for (const key of ["binary", "text"]) {
        const extensions = await tab.evaluate(`${key}.extensions`);
        assert.match(String(extensions), /^permessage-deflate;/);
    }
    for (const body of [BODY, JSON.stringify({ short: true }), BODY]) {
        await tab.evaluate("heard.length = 0");
        assert.equal(await server.push("room?type=live&room=7", body), 2);
        await tab.until("heard.length === 2");
        assert.deepEqual((await tab.evaluate("heard.sort()")), [`binary ${body}`, `text ${body}`]);
    }
    // A long message of a page is compressed, too.
    await tab.evaluate("heard.length = 0");
    await tab.evaluate(`binary.send(frame(777, ${JSON.stringify(BODY)}))`);
    await tab.until("heard.length === 1");
});
