// node millrace/build.mjs SOURCE KIND OUTPUT: makes a component of a JavaScript module. It imports no WASI: what would
// need a clock, randomness, files or the network does not reach the host at all.

import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { componentize } from "@bytecodealliance/componentize-js";

const [source, kind, output] = process.argv.slice(2);
const helper = dirname(fileURLToPath(import.meta.url));
const wit = join(helper, "wit");
const folder = mkdtempSync(join(tmpdir(), "millrace-"));
try {
  cpSync(join(wit, kind), folder, { recursive: true });
  cpSync(join(wit, "types"), join(folder, "deps", "types"), { recursive: true });
  mkdirSync(dirname(output), { recursive: true });
  const sourcePath = resolve(`${output}.js`);
  const from = (file) => JSON.stringify(`./${relative(dirname(sourcePath), file)}`);
  writeFileSync(sourcePath, `import ${from(join(helper, "console.js"))};\nexport * from ${from(resolve(source))};\n`);
  const { component } = await componentize({
    sourcePath, witPath: folder, worldName: `${kind}-plugin`,
    disableFeatures: ["stdio", "random", "clocks", "http", "fetch-event"],
  });
  writeFileSync(output, component);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
