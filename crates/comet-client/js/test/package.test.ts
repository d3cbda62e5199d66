// What npm publishes: three formats, types, and their size.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";
import { runInNewContext } from "node:vm";
import { gzipSync } from "node:zlib";
import * as esm from "comet-push";
import type cjs = require("./consumer.cjs");

const GZIPPED_MAX = 7400;
const require = createRequire(import.meta.url);
const read = (name: string) => readFileSync(new URL(`../dist/${name}`, import.meta.url), "utf8");

test("each format has the class and nothing else", () => {
    const script = { comet: undefined as unknown };
    runInNewContext(read("comet.min.js").replace(/^"use strict";/, ""), Object.assign(script, { TextEncoder, TextDecoder }));
    const required: typeof cjs = require("comet-push");
    for (const exported of [esm, required, script.comet as typeof esm]) {
        assert.deepEqual(Object.keys(exported), ["Comet"]);
    }
});

for (const name of ["comet.min.js", "esm/index.js", "cjs/index.js"]) {
    test(`${name} has at most ${GZIPPED_MAX} bytes gzipped`, (t) => {
        const size = gzipSync(read(name), { level: 9 }).length;
        t.diagnostic(`${size} bytes`);
        assert(size <= GZIPPED_MAX, `${size} bytes`);
    });
}

test("it needs no other package", () => {
    const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
    assert.deepEqual([manifest.dependencies, manifest.peerDependencies], [undefined, undefined]);
});
