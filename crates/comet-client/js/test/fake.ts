// A socket and a clock without a network or a wait, and what the server says over the one.

import { getEventListeners } from "node:events";
import { type TestContext } from "node:test";
import assert from "node:assert/strict";
import * as wire from "../src/wire.js";
import { Comet, type Events, type Options, type StateEvent } from "../src/comet.js";

/** A frame as tests write it. */
export type Spoken = [operation: number, body?: string | Uint8Array, sequence?: number];

export const frame = ([operation, body = "", sequence = 0]: Spoken): Uint8Array<ArrayBuffer> =>
    new Uint8Array(wire.encode({ version: 2, operation, sequence, body: typeof body === "string" ? wire.utf8(body) : body }));

export class FakeSocket {
    /** Of this test, in the order in which they were made. */
    static all: FakeSocket[] = [];

    binaryType = "blob";
    readonly sent: wire.Frame[] = [];
    /** The code with which this side has closed it. */
    closedWith: number | undefined;
    readonly #listeners = new Map<string, (event: object) => void>();

    constructor(readonly url: string) {
        FakeSocket.all.push(this);
    }

    addEventListener(type: string, listener: (event: object) => void): void {
        this.#listeners.set(type, listener);
    }

    send(data: ArrayBuffer): void {
        this.sent.push(...wire.decode(new Uint8Array(data)));
    }

    close(code = 1005): void {
        this.closedWith ??= code;
    }

    #tell(type: string, event: object = {}): void {
        this.#listeners.get(type)?.(event);
    }

    open(): void {
        this.#tell("open");
    }

    /** The server sends these frames, each in a message of its own. */
    say(...frames: Spoken[]): void {
        for (const spoken of frames) {
            this.#tell("message", { data: frame(spoken).buffer });
        }
    }

    sayRaw(data: unknown): void {
        this.#tell("message", { data });
    }

    /** The connection ends; without a code it breaks. */
    end(code = 1006, reason = ""): void {
        this.#tell("close", { code, reason });
    }

    fail(): void {
        this.#tell("error");
    }

    /** What was sent since the last call, heartbeats included: operation and body. */
    taken(): [number, string][] {
        return this.sent.splice(0).map(({ operation, body }) => [operation, wire.text(body)]);
    }
}

export interface Rig {
    comet: Comet;
    /** The events so far: name and event. */
    log: [keyof Events, Events[keyof Events]][];
    tick(ms: number): void;
}

/** A client on fake sockets and a fake clock. `random` is what each delay's random factor is. */
export function rig(t: TestContext, options: Options = {}, random = 1): Rig {
    FakeSocket.all = [];
    t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
    t.mock.method(Math, "random", () => random);
    const comet = new Comet("ws://comet.test/sub", { token: "42", WebSocket: FakeSocket, ...options });
    const log: Rig["log"] = [];
    for (const name of ["message", "room", "gap", "state", "goodbye"] as const) {
        comet.on(name, (event) => log.push([name, event]));
    }
    t.after(() => comet.close());
    return { comet, log, tick: (ms) => t.mock.timers.tick(ms) };
}

/** The states that were told. */
export const states = (log: Rig["log"]): StateEvent[] => log.flatMap(([name, event]) => (name === "state" ? [event as StateEvent] : []));
export const last = (log: Rig["log"]): StateEvent | undefined => states(log).at(-1);

/** The youngest socket. */
export function socket(): FakeSocket {
    const youngest = FakeSocket.all.at(-1);
    assert(youngest);
    return youngest;
}

/** The body of operation 8 in protocol 2. */
export function authReply({ flags = 0, heartbeatMs = 300_000, expiresInMs = 0, kept = [] as number[] } = {}): Uint8Array {
    const body = new DataView(new ArrayBuffer(12 + 4 * kept.length));
    kept.forEach((number, at) => body.setUint32(12 + 4 * at, number));
    body.setUint8(0, 2);
    body.setUint8(1, flags);
    body.setUint32(4, heartbeatMs);
    body.setUint32(8, expiresInMs);
    return new Uint8Array(body.buffer);
}

/** The server takes the youngest socket, and accepts the token in protocol 2. */
export function accept(reply = authReply()): FakeSocket {
    const accepted = socket();
    accepted.open();
    accepted.say([wire.op.AUTH_REPLY, reply, 1]);
    return accepted;
}

/** The body of operation 19. */
export function joinReply(
    room: string,
    { status = 0, flags = 0, handle = 1, epoch = 0n, offset = 0n, recovered = 0 } = {},
): Uint8Array {
    const name = wire.utf8(room);
    const body = new DataView(new ArrayBuffer(28 + name.length));
    body.setUint8(0, status);
    body.setUint8(1, flags);
    body.setUint32(4, handle);
    body.setBigUint64(8, epoch);
    body.setBigUint64(16, offset);
    body.setUint32(24, recovered);
    new Uint8Array(body.buffer).set(name, 28);
    return new Uint8Array(body.buffer);
}

/** The body of operation 20. */
export function roomPush(handle: number, operation: number, offset: bigint, body: string | Uint8Array): Uint8Array {
    const inner = typeof body === "string" ? wire.utf8(body) : body;
    const bytes = new Uint8Array(16 + inner.length);
    const fields = new DataView(bytes.buffer);
    fields.setUint32(0, handle);
    fields.setInt32(4, operation);
    fields.setBigUint64(8, offset);
    bytes.set(inner, 16);
    return bytes;
}

/** The bodies of operations 22 and 23. */
export const leaveReply = (handle: number, flags = 0): Uint8Array => new Uint8Array([0, flags, 0, 0, 0, 0, 0, handle]);
export const gap = (handle: number, from: number, to: number): Uint8Array =>
    new Uint8Array([0, 0, 0, handle, 0, 0, 0, 0, ...[from, to].flatMap((offset) => [0, 0, 0, 0, 0, 0, 0, offset])]);

/** Lets promises settle. */
export const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A page around the test, whose events the test makes. */
export function fakePage(t: TestContext) {
    const page = new EventTarget();
    const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
    const globals = { document, addEventListener: page.addEventListener.bind(page) };
    Object.assign(globalThis, globals);
    t.after(() => Object.keys(globals).forEach((name) => Reflect.deleteProperty(globalThis, name)));
    return {
        listeners: () => ["online", "offline", "pagehide", "pageshow"].flatMap((event) => getEventListeners(page, event)),
        set visibility(state: string) {
            document.visibilityState = state;
        },
        tell(event: string) {
            page.dispatchEvent(new Event(event));
            document.dispatchEvent(new Event(event));
        },
    };
}
