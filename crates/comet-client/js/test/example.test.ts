// The example as a person starts it: two browsers, side by side. UPDATE_DOCS=1 makes the screenshot again.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Chromium, noChromium } from "./chromium.js";
import { TEST_TIMEOUT_MS, noServer } from "./server.js";

const file = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** The address that the example's server names. */
async function start(t: TestContext, env: Record<string, string> = {}): Promise<string> {
    const child = spawn(process.execPath, [file("../example/server.mjs")], {
        env: { ...process.env, PORT: "0", ...env },
        stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = new Promise((resolve) => child.once("close", resolve));
    t.after(async () => {
        child.kill();
        await ended;
    });
    for await (const line of createInterface({ input: child.stdout })) {
        const [url] = /http:\S+/.exec(line) ?? [];
        if (url) {
            return url;
        }
    }
    throw new Error("the example ended");
}

/** Types a text into a form of the page, and sends it. */
const submit = (form: string, text: string) =>
    `{ const form = document.querySelector("${form}"); form.elements.text.value = ${JSON.stringify(text)}; form.requestSubmit(); }`;
const READY = 'document.querySelector("input[type=checkbox]:checked")';
const shows = (selector: string, text: string) =>
    `[...document.querySelectorAll("${selector}")].some((shown) => shown.textContent.includes(${JSON.stringify(text)}))`;

test("what one browser says, the other shows", { skip: noServer || noChromium, timeout: TEST_TIMEOUT_MS }, async (t) => {
    const site = await start(t);
    const chromium = await Chromium.start(t);
    const ada = await chromium.open(`${site}/?name=Ada`, READY);
    const ben = await chromium.open(`${site}/?name=Ben`, READY);
    await ada.evaluate(submit("#chat", "Hello, Ben! <b>no markup</b>"));
    await ben.until(shows(".line", "Ada Hello, Ben! <b>no markup</b>"));
    await ben.evaluate(submit("#comment", "what a show"));
    await ada.until(shows("#stage span", "what a show"));

    // Ada is not in the other room yet.
    const music = 'document.querySelector("input[value=\'chat://music\']")';
    // The page checks the box again once the server has let Ben in.
    await ben.evaluate(`document.querySelector("select").value = "chat://music"; ${music}.click(); ${music}.checked = false; 0`);
    await ben.until(`${music}.checked`);
    await ben.evaluate(submit("#chat", "for those in music"));
    await ben.until(shows(".line", "for those in music"));
    assert.equal(await ada.evaluate(shows(".line", "for those in music")), false);

    const [nobody, nothing, noJson] = await Promise.all(
        ["{}", '{"room":"chat://lobby","name":"Eve","text":""}', "{"].map((body) => fetch(`${site}/say`, { method: "POST", body })),
    );
    assert.deepEqual([nobody?.status, nothing?.status, noJson?.status], [400, 400, 400]);
});

test("a token is renewed on its connection", { skip: noServer || noChromium, timeout: TEST_TIMEOUT_MS }, async (t) => {
    // The server ends a connection a minute after the token says, because clocks differ: so it lasts for ten seconds.
    const site = await start(t, { TOKEN_SECONDS: "-50" });
    const chromium = await Chromium.start(t);
    const ada = await chromium.open(`${site}/?name=Ada`, READY);
    await ada.evaluate(`{
        const { fetch } = window;
        Object.assign(window, { asked: 0, states: [] });
        window.fetch = (path, init) => ((window.asked += path === "/token"), fetch(path, init));
        const state = document.querySelector("#state");
        new MutationObserver(() => states.push(state.textContent)).observe(state, { childList: true });
    }`);
    // After a renewal that is refused the next token is for the next connection.
    await ada.until("asked >= 2");
    assert.deepEqual(await ada.evaluate("states"), []);
});

test("a page that is loaded again goes on where it was", { skip: noServer || noChromium, timeout: TEST_TIMEOUT_MS }, async (t) => {
    const site = await start(t);
    const chromium = await Chromium.start(t);
    const ada = await chromium.open(`${site}/?name=Ada`, READY);
    const ben = await chromium.open(`${site}/?name=Ben`, READY);
    await ada.evaluate(submit("#chat", "before"));
    await ada.evaluate(submit("#comment", "a comment before"));
    await ada.until(shows(".line", "before"));
    await ada.until(shows("#stage span", "a comment before"));
    await ada.call("Page.navigate", { url: `${site}/page.js` });
    await ada.until('location.pathname === "/page.js"');
    await ben.evaluate(submit("#chat", "meanwhile"));
    await ben.until(shows(".line", "meanwhile"));
    await ben.evaluate(submit("#comment", "a comment meanwhile"));
    await ben.until(shows("#stage span", "a comment meanwhile"));
    await ada.call("Page.navigate", { url: `${site}/?name=Ada` });
    await ada.until(shows(".line", "meanwhile"));
    await ada.until(shows("#stage span", "a comment meanwhile"));
    await ada.until(`[...document.querySelectorAll(".note")].filter((note) => note.textContent.includes("1 missed while away")).length === 2`);
});

test("a refusal takes no position away, and leaving does", { skip: noServer || noChromium, timeout: TEST_TIMEOUT_MS }, async (t) => {
    const site = await start(t, { COMET_CLIENTS_ROOMS: "1" });
    const chromium = await Chromium.start(t);
    const ada = await chromium.open(`${site}/page.js`, 'location.pathname === "/page.js"');
    const kept = { lines: [], positions: { "chat://lobby": "1-7", "live://stage": "1-5" } };
    await ada.evaluate(`sessionStorage.setItem("comet-example Ada", ${JSON.stringify(JSON.stringify(kept))})`);
    await ada.call("Page.navigate", { url: `${site}/?name=Ada` });
    await ada.until(shows(".note", "no entry: too_many_rooms"));
    const position = (room: string) => `JSON.parse(sessionStorage.getItem("comet-example Ada")).positions[${JSON.stringify(room)}]`;
    assert.equal(await ada.evaluate(position("live://stage")), "1-5");
    await ada.evaluate('document.querySelector("input[value=\'chat://lobby\']").click()');
    await ada.until(`${position("live://stage")} !== "1-5"`);
    assert.equal(await ada.evaluate(position("chat://lobby")), undefined);
});

test("a screenshot for the documents", { skip: noServer || noChromium || (!process.env.UPDATE_DOCS && "only with UPDATE_DOCS"), timeout: TEST_TIMEOUT_MS }, async (t) => {
    const site = await start(t);
    const chromium = await Chromium.start(t);
    const both = await chromium.open(`${site}/page.js`, 'location.pathname === "/page.js" && document.readyState === "complete"');
    await both.call("Emulation.setDeviceMetricsOverride", { width: 1480, height: 430, deviceScaleFactor: 1, mobile: false });
    await both.evaluate(`document.body.innerHTML = ["Ada", "Ben"].map((name) => '<iframe id="' + name + '" src="/?name=' + name
        + '" style="flex: 1; height: 420px; border: 1px solid #aab; margin: 0 4px"></iframe>').join(""); document.body.style.cssText = "display: flex; margin: 4px"; 0`);
    const within = (name: string, expression: string) => `document.querySelector("#${name}").contentWindow.eval(${JSON.stringify(expression)})`;
    for (const name of ["Ada", "Ben"]) {
        await both.until(within(name, READY));
    }
    const says: [string, string, string][] = [
        ["Ada", "#chat", "Is anybody here?"],
        ["Ben", "#chat", "I am. One connection, several rooms."],
        ["Ada", "#chat", "And each message in order."],
        ["Ben", "#comment", "what a show"],
        ["Ada", "#comment", "encore!"],
        ["Ben", "#comment", "hello from the other window"],
    ];
    for (const [name, form, text] of says) {
        await both.evaluate(within(name, submit(form, text)));
        for (const other of ["Ada", "Ben"]) {
            await both.until(within(other, shows(form === "#chat" ? ".line" : "#stage span", text)));
        }
    }
    await both.until(`document.querySelector("#Ben").contentWindow.eval('document.querySelector("#stage span:last-child").getBoundingClientRect().right < innerWidth * 0.5')`);
    writeFileSync(file("../../../../docs/images/chat.png"), await both.screenshot());
});
