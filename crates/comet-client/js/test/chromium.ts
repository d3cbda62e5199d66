// A headless Chromium that tests drive over its DevTools protocol, and pages for it.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { type RequestListener, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { PATIENCE_MS } from "./server.js";

const program = ["chromium", "chromium-browser", "google-chrome"].find((name) => spawnSync(name, ["--version"]).status === 0);

/** Why tests with a browser cannot be run; for the option `skip` of a test. */
export const noChromium: string | false = program === undefined && "SKIPPED: no Chromium. Install it by: apt install chromium";

interface Answer {
    id?: number;
    result?: unknown;
    error?: { message: string };
}

export class Chromium {
    readonly #socket: WebSocket;
    /** How calls under way end: with the answer, or with an error. */
    readonly #calls = new Map<number, { resolve: (answer: Answer) => void; reject: (error: Error) => void }>();
    #id = 0;

    private constructor(socket: WebSocket) {
        this.#socket = socket;
        socket.addEventListener("message", ({ data }) => {
            const answer: Answer = JSON.parse(String(data));
            this.#calls.get(answer.id ?? -1)?.resolve(answer);
        });
        socket.addEventListener("close", () => this.#calls.forEach(({ reject }) => reject(new Error("Chromium ended"))));
    }

    static async start(t: TestContext): Promise<Chromium> {
        const profile = mkdtempSync(join(tmpdir(), "comet-chromium-"));
        const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"];
        // Containers often have 64 MB of shared memory, which several browsers use up.
        flags.push("--disable-dev-shm-usage");
        // A group of its own, which ends as a whole.
        const child = spawn(program!, [...flags, `--user-data-dir=${profile}`, "--remote-debugging-port=0", "about:blank"], {
            stdio: ["ignore", "ignore", "pipe"],
            detached: true,
        });
        const ended = new Promise((resolve) => child.once("close", resolve));
        t.after(async () => {
            process.kill(-child.pid!, "SIGKILL");
            await ended;
            rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
        });
        for await (const line of createInterface({ input: child.stderr! })) {
            const [, url] = /DevTools listening on (\S+)/.exec(line) ?? [];
            if (url) {
                child.stderr!.resume();
                const socket = new WebSocket(url);
                await new Promise((resolve, reject) => {
                    socket.addEventListener("open", resolve);
                    socket.addEventListener("error", reject);
                });
                return new Chromium(socket);
            }
        }
        throw new Error("Chromium ended");
    }

    async call<Result>(method: string, params: object = {}, sessionId?: string): Promise<Result> {
        const id = (this.#id += 1);
        // A socket that is closed takes whatever is sent, and nothing comes back.
        assert.equal(this.#socket.readyState, WebSocket.OPEN, "Chromium ended");
        this.#socket.send(JSON.stringify({ id, method, params, sessionId }));
        const answer = await new Promise<Answer>((resolve, reject) => this.#calls.set(id, { resolve, reject }));
        this.#calls.delete(id);
        assert.equal(answer.error, undefined, `${method}: ${answer.error?.message}`);
        return answer.result as Result;
    }

    /** A new tab, once `ready` is true in it. */
    async open(url: string, ready = "true"): Promise<Tab> {
        const { targetId } = await this.call<{ targetId: string }>("Target.createTarget", { url });
        const { sessionId } = await this.call<{ sessionId: string }>("Target.attachToTarget", { targetId, flatten: true });
        const tab = new Tab(this, sessionId);
        // A browser that was just started has much else to do.
        await tab.until(ready, 3 * PATIENCE_MS);
        return tab;
    }
}

export class Tab {
    constructor(
        private readonly chromium: Chromium,
        private readonly sessionId: string,
    ) {}

    call<Result>(method: string, params: object = {}): Promise<Result> {
        return this.chromium.call(method, params, this.sessionId);
    }

    /** The value of an expression, awaited if it is a promise. */
    async evaluate<Value>(expression: string): Promise<Value> {
        const { result, exceptionDetails } = await this.call<{
            result: { value: Value };
            exceptionDetails?: { exception?: { description?: string } };
        }>("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
        assert.equal(exceptionDetails, undefined, exceptionDetails?.exception?.description);
        return result.value;
    }

    /** Looks again and again whether an expression is true in the page that is there, which may change. */
    async until(expression: string, patienceMs = PATIENCE_MS): Promise<void> {
        const deadline = Date.now() + patienceMs;
        let mistake: unknown;
        while (!(await this.evaluate(expression).catch((error) => void (mistake = error)))) {
            if (Date.now() > deadline) {
                const heard = await this.evaluate("JSON.stringify(window.heard)").catch(String);
                assert.fail(`still waiting for ${expression}, with ${mistake ?? heard}`);
            }
            await new Promise((resolve) => setTimeout(resolve, 20));
        }
    }

    async screenshot(): Promise<Buffer> {
        const { data } = await this.call<{ data: string }>("Page.captureScreenshot", { format: "png" });
        return Buffer.from(data, "base64");
    }
}

/** Serves by HTTP on a port that the kernel picks; returns the URL without the last slash. */
export async function serve(t: TestContext, listener: RequestListener): Promise<string> {
    const server = createServer(listener);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => server.closeAllConnections());
    t.after(() => server.close());
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** A file of what npm publishes. */
export const published = (name: string): string => readFileSync(new URL(`../dist/${name}`, import.meta.url), "utf8");
