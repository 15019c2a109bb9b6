// console.log and the like, as messages of the host's log.

import { log } from "millrace:types/host@0.1.0";

const shown = (value) => (typeof value === "string" ? value : value instanceof Error ? `${value}` : JSON.stringify(value));
const at = (level) => (...values) => log(level, values.map((value) => shown(value) ?? String(value)).join(" "));

globalThis.console = { debug: at("debug"), log: at("info"), info: at("info"), warn: at("warn"), error: at("error") };
