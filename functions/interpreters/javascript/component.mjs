// usage: node component.mjs CORE WIT OUT
//
// Makes a component of a core module: says what it imports and exports, and joins it with the adapter that turns WASI
// preview 1 into preview 2.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [, , core, wit, out] = process.argv;
const nodeModules = join(process.env.NODE_MODULES, "@bytecodealliance");
const { componentEmbed, componentNew } = await import(
  pathToFileURL(join(nodeModules, "jco-transpile/dist/wasm-tools.js"))
);
const adapter = readFileSync(join(nodeModules, "jco/lib/wasi_snapshot_preview1.reactor.wasm"));
// Only the world of interpreters: the others speak of packages that are not in this file.
const witSource = readFileSync(wit, "utf8").replace(/^world (?!text )[a-z-]+ \{.*?^\}\n/gms, "");
const binary = await componentEmbed({
  binary: readFileSync(core), witSource, world: "text", stringEncoding: "utf8",
});
writeFileSync(out, await componentNew(binary, [["wasi_snapshot_preview1", adapter]]));
