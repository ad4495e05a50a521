// Writes src/schema.ts from the document of the API, without the console's operations: apps ask none of them.
// With --check it only says whether the file is as it would be.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const document = JSON.parse(readFileSync("../../docs/reference/openapi.json", "utf8"));
const { schemas } = document.components;

function reach(part, found = new Set()) {
  for (const [, name] of JSON.stringify(part).matchAll(/#\/components\/schemas\/(\w+)/g)) {
    if (!found.has(name)) reach(schemas[name], found.add(name));
  }
  return found;
}

const paths = Object.entries(document.paths);
const [admin, own] = [true, false].map((wanted) =>
  Object.fromEntries(paths.filter(([path]) => path.startsWith("/v1/admin/") === wanted)),
);
const kept = reach(own);
for (const name of reach(admin)) if (!kept.has(name)) delete schemas[name];
document.paths = own;

const folder = mkdtempSync(join(tmpdir(), "headwater-"));
try {
  const input = join(folder, "openapi.json");
  writeFileSync(input, JSON.stringify(document));
  const words = [input, "--default-non-nullable", "false", "--output", "src/schema.ts", ...process.argv.slice(2)];
  execFileSync("openapi-typescript", words, { stdio: "inherit" });
} finally {
  rmSync(folder, { recursive: true });
}
