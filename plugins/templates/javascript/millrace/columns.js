// Columns in Arrow's layout ↔ arrays of values. A whole column at a time: an interpreter runs inside the plugin, so that
// every step per value counts, and what the engine does natively (typed arrays, one decode of all the text) is cheap.

const MAX_HIGH = 2 ** 21;
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const encoder = new TextEncoder();

const isValid = (bitmap, row) => (bitmap[row >> 3] >> (row & 7)) & 1;

/** The column's values by row, null where there is none. */
export function read(field, column, rows) {
  const { tag, val } = column.data;
  if (tag === "missing") {
    return new Array(rows).fill(null);
  }
  const values = READERS[tag](val, field, rows);
  return column.validity ? withNulls(values, column.validity, rows) : values;
}

function withNulls(values, validity, rows) {
  const out = new Array(rows).fill(null);
  for (let byte = 0; byte < validity.length; byte++) {
    for (let row = byte * 8, rest = validity[byte]; rest !== 0; row++, rest >>= 1) {
      if (rest & 1) {
        out[row] = values[row];
      }
    }
  }
  return out;
}

const asIs = (values) => values;

function longs(values, field) {
  if (field.kind === "bigint") {
    return values;
  }
  const halves = new Int32Array(values.buffer, values.byteOffset, values.length * 2);
  const out = new Array(values.length);
  for (let i = 0, at = 0; i < out.length; i++, at += 2) {
    const high = halves[at + 1];
    if (high >= MAX_HIGH || high < -MAX_HIGH) {
      throw new RangeError(`\`${field.name}\`: ${values[i]} is beyond what a number holds; declare it "bigint"`);
    }
    out[i] = high * 4294967296 + (halves[at] >>> 0);
  }
  return out;
}

function booleans(bits, field, rows) {
  const out = new Array(rows);
  for (let row = 0; row < rows; row++) {
    out[row] = isValid(bits, row) === 1;
  }
  return out;
}

function decimals(words) {
  const out = new Array(words.length / 2);
  for (let i = 0; i < out.length; i++) {
    out[i] = BigInt.asIntN(128, (words[2 * i + 1] << 64n) | words[2 * i]);
  }
  return out;
}

/** One decode for the whole column; only text beyond ASCII is decoded value by value. */
function strings({ offsets, data }) {
  const out = new Array(offsets.length - 1);
  const text = decoder.decode(data);
  if (text.length === data.length) {
    for (let i = 0, start = 0; i < out.length; i++) {
      const end = offsets[i + 1];
      out[i] = text.substring(start, end);
      start = end;
    }
  } else {
    for (let i = 0; i < out.length; i++) {
      out[i] = decoder.decode(data.subarray(offsets[i], offsets[i + 1]));
    }
  }
  return out;
}

function dictionary({ keys, values }) {
  const words = strings(values);
  const out = new Array(keys.length);
  for (let row = 0; row < out.length; row++) {
    out[row] = words[keys[row]];
  }
  return out;
}

function binaries({ offsets, data }) {
  return Array.from({ length: offsets.length - 1 }, (_, i) => data.slice(offsets[i], offsets[i + 1]));
}

function lists(offsets, elements) {
  return Array.from({ length: offsets.length - 1 }, (_, i) => Array.from(elements.slice(offsets[i], offsets[i + 1])));
}

const READERS = {
  boolean: booleans, int32: asIs, int64: longs, float32: asIs, float64: asIs, decimal: decimals, date: asIs,
  timestamp: longs, timestamptz: longs, utf8: strings, "utf8-dictionary": dictionary, binary: binaries,
  "list-int64": ({ offsets, values }, field) => lists(offsets, longs(values, field)),
  "list-float64": ({ offsets, values }) => lists(offsets, values),
  "list-utf8": ({ offsets, values }) => lists(offsets, strings(values)),
};

/** Values by row → a column. A value that the declared type does not hold is an error that names it. */
export function write(field, values) {
  let validity;
  const nulls = values.reduce((count, value) => count + (value === null || value === undefined ? 1 : 0), 0);
  if (nulls > 0) {
    if (!field.nullable) {
      throw new TypeError(`\`${field.name}\` is ${values.find((v) => v == null)}; if it may be null, declare it "${field.text}?"`);
    }
    validity = bits(values.map((value) => value !== null && value !== undefined));
    const nothing = NOTHING[field.kind] ?? 0;
    values = values.map((value) => value ?? nothing);
  }
  return { data: { tag: field.dataType.tag, val: WRITERS[field.dataType.tag](values, field) }, validity };
}

const NOTHING = {
  boolean: false, string: "", binary: new Uint8Array(0), bigint: 0n, decimal: 0n,
  "list<long>": [], "list<double>": [], "list<string>": [],
};

function check(fits, value, field) {
  if (!fits) {
    const shown = typeof value === "string" ? JSON.stringify(value) : String(value);
    throw new TypeError(`\`${field.name}\` is ${shown}, which is no ${field.text}`);
  }
}

function bits(flags) {
  const out = new Uint8Array((flags.length + 7) >> 3);
  for (let i = 0; i < flags.length; i++) {
    if (flags[i]) {
      out[i >> 3] |= 1 << (i & 7);
    }
  }
  return out;
}

function writeBooleans(values, field) {
  values.forEach((value) => check(typeof value === "boolean", value, field));
  return bits(values);
}

function writeInts(values, field) {
  values.forEach((value) => check(value === (value | 0), value, field));
  return Int32Array.from(values);
}

const writeFloats = (Type) => (values, field) => {
  values.forEach((value) => check(typeof value === "number", value, field));
  return Type.from(values);
};

function writeLongs(values, field) {
  const out = new BigInt64Array(values.length);
  const halves = new Int32Array(out.buffer);
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (typeof value === "bigint") {
      check(value === BigInt.asIntN(64, value), value, field);
      out[i] = value;
    } else {
      check(Number.isSafeInteger(value), value, field);
      halves[2 * i] = value;
      halves[2 * i + 1] = Math.floor(value / 4294967296);
    }
  }
  return out;
}

function writeDecimals(values, field) {
  const out = new BigUint64Array(values.length * 2);
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    check(typeof value === "bigint" && value === BigInt.asIntN(128, value), value, field);
    out[2 * i] = value;
    out[2 * i + 1] = value >> 64n;
  }
  return out;
}

function offsetsOf(lengths) {
  const offsets = new Uint32Array(lengths.length + 1);
  let end = 0;
  for (let i = 0; i < lengths.length; i++) {
    end += lengths[i];
    offsets[i + 1] = end;
  }
  return offsets;
}

function writeStrings(values, field) {
  values.forEach((value) => check(typeof value === "string", value, field));
  const text = values.join("");
  const data = encoder.encode(text);
  if (data.length === text.length) {
    return { offsets: offsetsOf(values.map((value) => value.length)), data };
  }
  return writeBinaries(values.map((value) => encoder.encode(value)), field);
}

function writeBinaries(values, field) {
  values.forEach((value) => check(value instanceof Uint8Array, value, field));
  const offsets = offsetsOf(values.map((value) => value.length));
  const data = new Uint8Array(offsets[values.length]);
  values.forEach((value, i) => data.set(value, offsets[i]));
  return { offsets, data };
}

const writeLists = (writer) => (values, field) => {
  values.forEach((value) => check(Array.isArray(value), value, field));
  return { offsets: offsetsOf(values.map((value) => value.length)), values: writer(values.flat(), field) };
};

const WRITERS = {
  boolean: writeBooleans, int32: writeInts, int64: writeLongs, float32: writeFloats(Float32Array),
  float64: writeFloats(Float64Array), decimal: writeDecimals, date: writeInts, timestamp: writeLongs,
  timestamptz: writeLongs, utf8: writeStrings, binary: writeBinaries, "list-int64": writeLists(writeLongs),
  "list-float64": writeLists(writeFloats(Float64Array)), "list-utf8": writeLists(writeStrings),
};
