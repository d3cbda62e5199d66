// The real server as a process of its own, on ports that the kernel picks, and pushes to it over HTTP.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import type { Comet, Events } from "../src/comet.js";

const built = fileURLToPath(new URL("../../../../target/debug/comet", import.meta.url));
const program = process.env.COMET_BIN ?? built;

/** Why tests with the server cannot be run; for the option `skip` of a test. */
export const noServer: string | false =
    process.env.COMET_BIN === undefined && !existsSync(built) && "SKIPPED: no server. Build it by: cargo build --bin comet";

/** Longest wait for something that has to happen, before the test fails. */
export const PATIENCE_MS = 60_000;

const LISTENERS = ["tcp.bind", "push.grpc", "monitor.stat", "monitor.pprof"];

/** Limit of a test with a server: it is for one that would never end, and longer than any wait in it. */
export const TEST_TIMEOUT_MS = 300_000;

/** Servers of this process so far. */
let servers = 0;

/** A loopback address of its own for each server, so that nobody takes its ports while it is down. */
const ownHost = () => `127.${1 + ((process.pid >> 8) & 127)}.${process.pid & 255}.${1 + (servers++ % 250)}`;

export class Server {
    readonly #process: ChildProcess;
    readonly #ended: Promise<unknown>;
    readonly host: string;
    readonly websocket: number;
    readonly http: number;

    private constructor(child: ChildProcess, ended: Promise<unknown>, host: string, websocket: number, http: number) {
        this.#process = child;
        this.#ended = ended;
        this.host = host;
        this.websocket = websocket;
        this.http = http;
    }

    /** `at`: host and ports of a server that was there before. */
    static async start(t: TestContext, sets: string[] = [], at = { host: ownHost(), websocket: 0, http: 0 }): Promise<Server> {
        const all = [
            ...LISTENERS.map((key) => `${key}=["${at.host}:0"]`),
            `websocket.bind=["${at.host}:${at.websocket}"]`,
            `push.http=["${at.host}:${at.http}"]`,
            "limits.ring_entries=256",
            ...sets,
        ];
        const [cpu] = /Cpus_allowed_list:\s*(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.slice(1) ?? [];
        // Settings of whoever runs the tests.
        const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(COMET_|RUST_LOG$)/.test(name)));
        const child = spawn(program, ["--cores", cpu ?? "0", ...all.flatMap((set) => ["--set", set])], {
            env,
            stdio: ["ignore", "ignore", "pipe"],
        });
        const ended = new Promise((resolve) => child.once("close", resolve));
        t.after(async () => {
            child.kill("SIGKILL");
            await ended;
        });
        const log: string[] = [];
        const port = (what: string) => /:(\d+)/.exec(log.find((line) => line.includes(`${what} [`))?.split(`${what} [`)[1] ?? "")?.[1];
        const lines = createInterface({ input: child.stderr! });
        await new Promise<void>((resolve, reject) => {
            lines.on("line", (line) => {
                log.push(line);
                if (port("debug")) {
                    resolve();
                }
            });
            child.once("error", reject);
            lines.once("close", () => reject(new Error(log.join("\n"))));
        });
        return new Server(child, ended, at.host, Number(port("websocket")), Number(port("http push")));
    }

    get url(): string {
        return `ws://${this.host}:${this.websocket}/sub`;
    }

    signal(signal: NodeJS.Signals): void {
        this.#process.kill(signal);
    }

    /** Stops the process. The signal reaches one of its threads first, so the others may run on for a moment. */
    async stop(): Promise<void> {
        this.signal("SIGSTOP");
        const tasks = `/proc/${this.#process.pid}/task`;
        const isStopped = (task: string) => /^ T /.test(readFileSync(`${tasks}/${task}/stat`, "utf8").replace(/^.*\)/s, ""));
        while (!readdirSync(tasks).every(isStopped)) {
            await new Promise((resolve) => setTimeout(resolve, 5));
        }
    }

    async end(signal: NodeJS.Signals): Promise<void> {
        this.signal(signal);
        await this.#ended;
    }

    /** Pushes, and returns how many clients have it. */
    async push(target: string, body: string | Uint8Array<ArrayBuffer>, operation = 1000): Promise<number> {
        return (await this.call(`/goim/push/${target}${target.includes("?") ? "&" : "?"}operation=${operation}`, body)).queued!;
    }

    async call(path: string, body: string | Uint8Array<ArrayBuffer> = ""): Promise<Record<string, number>> {
        const response = await fetch(`http://${this.host}:${this.http}${path}`, { method: "POST", body });
        const { code, data, message } = (await response.json()) as { code: number; data: Record<string, number>; message: string };
        assert.equal(code, 0, message);
        return data;
    }
}

/** The events of a client, to be awaited one after another. */
export class Heard {
    readonly #events: [keyof Events, unknown][] = [];
    #wake = () => {};

    constructor(comet: Comet) {
        for (const name of ["message", "room", "gap", "state", "goodbye"] as const) {
            comet.on(name, (event) => {
                this.#events.push([name, event]);
                this.#wake();
            });
        }
    }

    /** The next event of this name that fits; others before it are passed over. */
    async next<Name extends keyof Events>(name: Name, fits: (event: Events[Name]) => boolean = () => true): Promise<Events[Name]> {
        const passed: unknown[] = [];
        const deadline = Date.now() + PATIENCE_MS;
        while (true) {
            for (let event = this.#events.shift(); event; event = this.#events.shift()) {
                if (event[0] === name && fits(event[1] as Events[Name])) {
                    return event[1] as Events[Name];
                }
                passed.push(event);
            }
            await new Promise<void>((resolve, reject) => {
                const timer = setTimeout(() => reject(new Error(`no ${name}, but ${JSON.stringify(passed)}`)), deadline - Date.now());
                this.#wake = () => {
                    clearTimeout(timer);
                    resolve();
                };
            });
        }
    }

    state(state: Events["state"]["state"]): Promise<Events["state"]> {
        return this.next("state", (event) => event.state === state);
    }

    joined(room: string): Promise<Events["room"]> {
        return this.next("room", (event) => event.room === room && event.status === "joined");
    }
}
