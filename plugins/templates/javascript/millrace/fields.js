// Types as the pipeline file writes them ("long", "double?", "decimal(10,2)"), and what they are at the boundary.
//
// | type                         | in JavaScript                                              |
// |------------------------------|------------------------------------------------------------|
// | int, float, double           | number                                                     |
// | long                         | number; one beyond ±2^53 is an error, "bigint" has them all |
// | timestamp, timestamptz       | number: microseconds since 1970                            |
// | date                         | number: days since 1970                                    |
// | decimal(p,s)                 | BigInt: the unscaled value                                 |
// | boolean, string, binary      | boolean, string, Uint8Array                                |
// | list<long|double|string>     | array                                                      |
// | distinct<long|string>        | Set (state only)                                           |
//
// A "?" at the end: may be null.

const TAGS = {
  boolean: "boolean", int: "int32", long: "int64", bigint: "int64", float: "float32", double: "float64", date: "date",
  timestamp: "timestamp", timestamptz: "timestamptz", string: "utf8", binary: "binary",
  "list<long>": "list-int64", "list<double>": "list-float64", "list<string>": "list-utf8",
};
const DISTINCT = { "distinct<long>": "list<long>", "distinct<string>": "list<string>" };
const ZEROS = {
  boolean: () => false, string: () => "", binary: () => new Uint8Array(0), bigint: () => 0n, decimal: () => 0n,
  "list<long>": () => [], "list<double>": () => [], "list<string>": () => [],
  "distinct<long>": () => new Set(), "distinct<string>": () => new Set(),
};

/** One column: its name, its type in our words, and the WIT interface's field. */
export class Field {
  constructor(name, text) {
    this.name = name;
    this.text = text;
    this.nullable = text.endsWith("?");
    this.kind = this.nullable ? text.slice(0, -1) : text;
    const decimal = /^decimal\((\d+), *(\d+)\)$/.exec(this.kind);
    if (decimal) {
      this.kind = "decimal";
      this.dataType = { tag: "decimal", val: { precision: Number(decimal[1]), scale: Number(decimal[2]) } };
    } else if (TAGS[this.kind]) {
      this.dataType = { tag: TAGS[this.kind] };
    } else {
      const known = [...Object.keys(TAGS), "decimal(p,s)"].join(", ");
      throw new TypeError(`\`${name}\`: no type "${text}"; there are ${known}, each with ? if it may be null`);
    }
  }

  wit() {
    return { name: this.name, dataType: this.dataType, nullable: this.nullable };
  }

  /** Texts are asked for as a dictionary: the host finds out natively which are the same, and each is made here once. */
  wanted() {
    const encoding = this.kind === "string" ? "dictionary" : "plain";
    return { field: this.wit(), encoding, optional: this.optional };
  }

  /** The value of a field that nothing was put into. */
  zero() {
    return this.nullable ? null : (ZEROS[this.kind] ?? (() => 0))();
  }
}

/** A set in a state: a list of its values, and the column in which the Rust SDK keeps an estimate (null here). */
export class Distinct {
  constructor(name, kind) {
    this.name = name;
    this.kind = kind;
    this.values = new Field(`${name}.values`, `${DISTINCT[kind]}?`);
    this.sketch = new Field(`${name}.sketch`, "binary?");
  }

  zero() {
    return new Set();
  }
}

/** `{ name: "type" }` → fields. */
export function fields(declared) {
  return Object.entries(declared).map(([name, text]) => new Field(name, text));
}

/** The same for a state, which may hold sets. */
export function stateFields(declared) {
  return Object.entries(declared).map(([name, text]) => (DISTINCT[text] ? new Distinct(name, text) : new Field(name, text)));
}

/** `{ "name?": "type" }`: a column with ? after its name may be missing, and is null then. */
export function wanted(declared) {
  return Object.entries(declared).map(([key, text]) => {
    const optional = key.endsWith("?");
    const field = new Field(optional ? key.slice(0, -1) : key, text);
    if (optional && !field.nullable) {
      throw new TypeError(`\`${key}\` may be missing, so its type is "${text}?"`);
    }
    return Object.assign(field, { optional });
  });
}
