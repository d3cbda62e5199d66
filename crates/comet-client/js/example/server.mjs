// The backend of the example, and the server it needs: it starts comet, serves the page, signs tokens, and pushes what
// people say. A client of comet does not push to others itself: it asks the application, which decides.

import { spawn } from "node:child_process";
import { createHash, createHmac, randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const port = Number(process.env.PORT ?? 8000);
const TEXT_MAX = 200;
const TOKEN_SECONDS = Number(process.env.TOKEN_SECONDS ?? 300);
/** The rooms of the page, with the operation that tells it what a message is. */
const rooms = { "chat://lobby": 1000, "chat://music": 1000, "live://stage": 1001 };

/** What the page loads, by its path. */
const files = {
    "/": ["text/html", here("index.html")],
    "/page.js": ["text/javascript", here("page.js")],
    "/comet-push.js": ["text/javascript", here("../dist/esm/index.js")],
};

const folder = mkdtempSync(join(tmpdir(), "comet-example-"));
const secret = randomBytes(32);
writeFileSync(join(folder, "secret"), secret.toString("hex"));

/**
 * A JSON Web Token (RFC 7519) for a user: comet verifies it with the same secret. The next one for a name is the same user's, or
 * comet would not take it for a renewal. A real backend takes the user from the session of the one who asks.
 */
function token(name) {
    const mid = 1 + (createHash("sha256").update(name).digest().readUInt32BE() >>> 1);
    const encode = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
    const claims = { mid, exp: Math.floor(Date.now() / 1000) + TOKEN_SECONDS };
    const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
    return `${signed}.${createHmac("sha256", secret.toString("hex")).update(signed).digest("base64url")}`;
}

/** Starts comet on free ports; resolves to where clients connect and where this backend pushes. */
async function startComet() {
    const target = process.env.CARGO_TARGET_DIR ?? here("../../../../target");
    const built = [process.env.COMET_BIN, join(target, "release/comet"), join(target, "debug/comet")];
    const program = built.find((path) => path && existsSync(path));
    if (!program) {
        throw new Error("there is no comet yet. Build it by: cargo build --release --bin comet");
    }
    const sets = {
        "tcp.bind": [],
        "websocket.bind": ["127.0.0.1:0"],
        "push.grpc": [],
        "push.http": ["127.0.0.1:0"],
        "monitor.stat": [],
        "monitor.pprof": [],
        "limits.ring_entries": 256,
        "token.kind": "jwt",
        "token.jwt_keys": [join(folder, "secret")],
    };
    const flags = Object.entries(sets).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`]);
    // All rooms keep a history, so that a page that is loaded again gets what it has missed.
    flags.push("--set", 'history.rules=[{ rooms = "" }]');
    const comet = spawn(program, flags, { stdio: ["ignore", "ignore", "pipe"] });
    comet.once("close", (code) => end(`comet ended: ${code}`));
    process.once("exit", () => comet.kill());
    const found = {};
    for await (const line of createInterface({ input: comet.stderr })) {
        for (const [, what, address] of line.matchAll(/(websocket|http push) \[([^\]]+)\]/g)) {
            found[what] = address;
        }
        if (found["http push"]) {
            comet.stderr.resume();
            return { url: `ws://${found.websocket}/sub`, push: `http://${found["http push"]}` };
        }
        if (/ERROR/.test(line)) {
            console.error(line);
        }
    }
    throw new Error("comet did not start");
}

function end(reason) {
    console.error(reason);
    process.exit(1);
}

/** Pushes a message to everybody in its room. A real backend takes the name from the session of the one who asks. */
async function say({ room, name, text }) {
    const operation = rooms[room];
    const isText = (value, max) => typeof value === "string" && value.length > 0 && value.length <= max;
    if (!operation || !isText(name, 20) || !isText(text, TEXT_MAX)) {
        return 400;
    }
    const [type, id] = room.split("://");
    const query = new URLSearchParams({ type, room: id, operation });
    const body = JSON.stringify({ name, text, at: Date.now() });
    const answer = await fetch(`${comet.push}/goim/push/room?${query}`, { method: "POST", body });
    return (await answer.json()).code === 0 ? 204 : 502;
}

async function bodyOf(request) {
    let body = "";
    for await (const chunk of request) {
        body += chunk;
        if (body.length > 4096) {
            return undefined;
        }
    }
    try {
        return Object(JSON.parse(body));
    } catch {
        return undefined;
    }
}

async function answer(request, response) {
    const { pathname } = new URL(request.url, "http://example");
    const file = files[pathname];
    if (request.method === "POST" && pathname === "/say") {
        const said = await bodyOf(request);
        response.writeHead(said ? await say(said) : 400).end();
    } else if (request.method === "POST" && pathname === "/token") {
        const { name } = (await bodyOf(request)) ?? {};
        if (typeof name !== "string") {
            response.writeHead(400).end();
            return;
        }
        response.setHeader("Content-Type", "application/json");
        response.end(JSON.stringify({ url: comet.url, token: token(name) }));
    } else if (request.method === "GET" && file) {
        response.setHeader("Content-Type", `${file[0]}; charset=utf-8`);
        response.end(readFileSync(file[1]));
    } else {
        response.writeHead(404).end();
    }
}

process.once("exit", () => rmSync(folder, { recursive: true }));
for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => process.exit(0));
}
const comet = await startComet().catch((error) => end(error.message));
const site = createServer((request, response) => answer(request, response).catch(() => response.writeHead(500).end()));
site.on("error", (error) => end(error.message));
site.listen(port, "127.0.0.1", () => {
    console.log(`Open http://127.0.0.1:${site.address().port} in two windows. Ctrl-C ends it.`);
});
