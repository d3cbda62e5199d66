// Builds what npm publishes into dist/, and with --tests the tests into build/.

import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
rmSync("dist", { recursive: true, force: true });
rmSync("build", { recursive: true, force: true });

const tsc = (...args) => execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", ...args], { stdio: "inherit" });

const common = { entryPoints: ["src/index.ts"], bundle: true, minify: true, sourcemap: true, target: "es2022", logLevel: "warning" };
await Promise.all([
    build({ ...common, format: "esm", outfile: "dist/esm/index.js" }),
    build({ ...common, format: "cjs", outfile: "dist/cjs/index.js" }),
    build({ ...common, format: "iife", globalName: "comet", outfile: "dist/comet.min.js" }),
]);
// Both formats have declarations of their own: a declaration is of the format that the nearest package.json says.
tsc("--project", "tsconfig.types.json");
mkdirSync("dist/cjs", { recursive: true });
for (const name of readdirSync("dist/esm").filter((name) => name.endsWith(".d.ts"))) {
    cpSync(`dist/esm/${name}`, `dist/cjs/${name}`);
}
writeFileSync("dist/cjs/package.json", '{ "type": "commonjs" }\n');

if (process.argv.includes("--tests")) {
    tsc("--project", "tsconfig.json");
    await build({
        entryPoints: readdirSync("test").filter((name) => name.endsWith(".test.ts")).map((name) => `test/${name}`),
        outdir: "build",
        bundle: true,
        packages: "external",
        platform: "node",
        format: "esm",
        target: "node20",
        sourcemap: "inline",
        logLevel: "warning",
    });
}
