// The page of the example: a stage with live comments, and a chat, over one connection.

import { Comet } from "/comet-push.js";

const CHAT = 1000;
const LIVE = 1001;
const KEPT_MAX = 100;
const LANES = 6;
let lane = 0;

const find = (selector) => document.querySelector(selector);
const name = new URLSearchParams(location.search).get("name") || `guest ${Math.floor(Math.random() * 900 + 100)}`;
find("#name").textContent = name;

// The application says where comet is, and gives tokens: comet asks for a new one before the last expires.
const askForToken = async () => (await fetch("/token", { method: "POST", body: JSON.stringify({ name }) })).json();
const { url, token } = await askForToken();
const comet = new Comet(url, { token, getToken: async () => (await askForToken()).token });

// What a tab has shown, and where it is in each room: after a reload it goes on there.
const storage = `comet-example ${name}`;
const kept = JSON.parse(sessionStorage.getItem(storage) ?? '{"lines":[],"positions":{}}');
const keep = () => sessionStorage.setItem(storage, JSON.stringify(kept));

comet.on("state", ({ state, retryInMs }) => {
    const wait = retryInMs === undefined ? "" : `, next attempt in ${Math.ceil(retryInMs / 1000)} s`;
    find("#state").textContent = state + wait;
    find("#state").className = state;
});

comet.on("room", ({ room, status, reason, recovered, missed, position }) => {
    const box = find(`input[value="${room}"]`);
    if (box) {
        box.checked = status === "joined";
    }
    // A refusal has none: what the tab has shown stays where it is.
    if (position) {
        kept.positions[room] = position;
    } else if (status === "left") {
        delete kept.positions[room];
    }
    keep();
    if (status === "refused") {
        note(room, `no entry: ${reason}`);
    } else if (recovered === true && missed > 0) {
        note(room, `${missed} missed while away`);
    } else if (recovered === false) {
        note(room, "something may be missing here");
    }
});

comet.on("gap", ({ room, from, to, state }) => note(room, `messages ${from} to ${to} are missing: ${state}`));

comet.on("message", (message) => {
    const { room, operation, position } = message;
    kept.positions[room] = position;
    if (operation === LIVE) {
        fly(message.json().text);
    } else if (operation === CHAT) {
        const line = { room, ...message.json() };
        kept.lines = [...kept.lines, line].slice(-KEPT_MAX);
        show(line);
    }
    keep();
});

kept.lines.forEach(show);
for (const room of ["chat://lobby", "live://stage"]) {
    comet.join(room, { since: kept.positions[room] });
}
for (const box of document.querySelectorAll("input[type=checkbox]")) {
    box.addEventListener("change", () => (box.checked ? comet.join(box.value) : comet.leave(box.value)));
}
for (const form of document.querySelectorAll("form")) {
    form.addEventListener("submit", async (event) => {
        event.preventDefault();
        const { room, text } = form.elements;
        const body = JSON.stringify({ room: room.value, name, text: text.value });
        const { ok } = await fetch("/say", { method: "POST", body }).catch(() => ({ ok: false }));
        if (ok) {
            text.value = "";
        } else {
            note(room.value, "this was not sent");
        }
    });
}

function show({ room, name, text, at }) {
    const who = document.createElement("b");
    who.textContent = name;
    add("line", [who, ` ${text} `], `${room.split("://")[1]} ${new Date(at).toTimeString().slice(0, 5)}`);
}

function note(room, text) {
    add("note", [text], room.split("://")[1]);
}

function add(kind, parts, small) {
    const line = document.createElement("li");
    const where = document.createElement("small");
    where.textContent = small;
    line.className = kind;
    line.append(...parts, where);
    find("#lines").append(line);
    line.scrollIntoView();
}

/** A live comment crosses the stage, in the next of its lanes. */
function fly(text) {
    lane = (lane + 1) % LANES;
    const comment = document.createElement("span");
    comment.textContent = text;
    comment.style.top = `${8 + (lane * 85) / LANES}%`;
    comment.addEventListener("animationend", () => comment.remove());
    find("#stage").append(comment);
}
