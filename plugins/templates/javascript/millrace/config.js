// Options: a JSON Schema for the host, the defaults filled in, and errors that say what is allowed.

import { failure } from "./failure.js";

/** `options`: name → the JSON Schema of one option; one without a `default` must be given. */
export function schema(options) {
  const required = Object.keys(options).filter((name) => options[name].default === undefined);
  return JSON.stringify({
    $schema: "https://json-schema.org/draft/2020-12/schema",
    type: "object", properties: options, required, additionalProperties: false,
  });
}

export function parse(options, text) {
  let given;
  try {
    given = JSON.parse(text.trim() || "{}");
  } catch (e) {
    throw failure("config", `the configuration is not JSON: ${e.message}`);
  }
  if (given === null || typeof given !== "object" || Array.isArray(given)) {
    throw failure("config", `the configuration is a table of options, not ${JSON.stringify(given)}`);
  }
  const known = Object.keys(options);
  const unknown = Object.keys(given).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    const there = known.length ? `; there are: ${known.join(", ")}` : ": this plugin has no options";
    throw failure("config", `unknown option \`${unknown}\`${there}`);
  }
  return Object.fromEntries(known.map((name) => [name, option(name, options[name], given[name])]));
}

function option(name, { type, enum: allowed, default: otherwise }, value = otherwise) {
  if (value === undefined) {
    throw failure("config", `option \`${name}\` is missing`);
  }
  const wanted = allowed ? allowed.map((v) => JSON.stringify(v)).join(" or ") : type && WORDS[type];
  const fits = allowed ? allowed.includes(value) : !type || KINDS[type]?.(value);
  if (!fits) {
    throw failure("config", `option \`${name}\`: ${wanted ?? type} is wanted, found ${JSON.stringify(value)}`);
  }
  return value;
}

const KINDS = {
  string: (v) => typeof v === "string", number: (v) => typeof v === "number", integer: Number.isInteger,
  boolean: (v) => typeof v === "boolean", array: Array.isArray,
  object: (v) => v !== null && typeof v === "object" && !Array.isArray(v),
};
const WORDS = {
  string: "a string", number: "a number", integer: "a whole number", boolean: "true or false", array: "a list",
  object: "a table",
};
