// Columns against Arrow's layout, written down by hand, and back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { read, write } from "../../templates/javascript/millrace/columns.js";
import { Field, wanted } from "../../templates/javascript/millrace/fields.js";

const bytes = (text) => new TextEncoder().encode(text);

// type, values, the column
const LAYOUTS = [
  ["boolean", [true, false, true, false, false, false, false, false, true], Uint8Array.of(0b101, 1)],
  ["int", [1, -1, 2 ** 31 - 1, -(2 ** 31)], Int32Array.of(1, -1, 2 ** 31 - 1, -(2 ** 31))],
  ["long", [0, -1, 2 ** 53 - 1, -(2 ** 53) + 1, 2 ** 32, -(2 ** 32)],
    BigInt64Array.of(0n, -1n, 2n ** 53n - 1n, 1n - 2n ** 53n, 2n ** 32n, -(2n ** 32n))],
  ["bigint", [2n ** 63n - 1n, -(2n ** 63n)], BigInt64Array.of(2n ** 63n - 1n, -(2n ** 63n))],
  ["float", [1.5, -0.25], Float32Array.of(1.5, -0.25)],
  ["double", [0.1, NaN, -Infinity], Float64Array.of(0.1, NaN, -Infinity)],
  ["decimal(38,2)", [12345n, -1n, 2n ** 70n], BigUint64Array.of(12345n, 0n, 2n ** 64n - 1n, 2n ** 64n - 1n, 0n, 64n)],
  ["date", [0, -1], Int32Array.of(0, -1)],
  ["timestamp", [1_700_000_000_000_000], BigInt64Array.of(1_700_000_000_000_000n)],
  ["timestamptz", [-1], BigInt64Array.of(-1n)],
  ["string", ["ab", "", "c"], { offsets: Uint32Array.of(0, 2, 2, 3), data: bytes("abc") }],
  ["string", ["é", "日本", "😀"], { offsets: Uint32Array.of(0, 2, 8, 12), data: bytes("é日本😀") }],
  ["string", [], { offsets: Uint32Array.of(0), data: bytes("") }],
  ["binary", [Uint8Array.of(1, 2), Uint8Array.of()], { offsets: Uint32Array.of(0, 2, 2), data: Uint8Array.of(1, 2) }],
  ["list<long>", [[1, 2], [], [3]], { offsets: Uint32Array.of(0, 2, 2, 3), values: BigInt64Array.of(1n, 2n, 3n) }],
  ["list<double>", [[], [0.5]], { offsets: Uint32Array.of(0, 0, 1), values: Float64Array.of(0.5) }],
  ["list<string>", [["a", "é"], []],
    { offsets: Uint32Array.of(0, 2, 2), values: { offsets: Uint32Array.of(0, 1, 3), data: bytes("aé") } }],
];

for (const [type, values, layout] of LAYOUTS) {
  test(`${type} of ${values.length}`, () => {
    const field = new Field("x", type);
    const column = write(field, values);
    assert.deepEqual(column, { data: { tag: field.dataType.tag, val: layout }, validity: undefined });
    assert.deepEqual(Array.from(read(field, column, values.length)), values);
  });

  test(`${type} with nulls`, () => {
    const field = new Field("x", `${type}?`);
    const holes = values.flatMap((value) => [null, value]);
    const column = write(field, holes);
    if (values.length > 0) {
      assert.equal(column.validity.length, Math.ceil(holes.length / 8));
      column.validity.forEach((bits, i) => assert.equal(bits, 0b10101010 & (2 ** Math.min(8, holes.length - 8 * i) - 1)));
    }
    assert.deepEqual(Array.from(read(field, column, holes.length)), holes);
  });
}

test("a dictionary, a missing column", () => {
  const dictionary = { keys: Uint32Array.of(1, 0, 1), values: { offsets: Uint32Array.of(0, 1, 3), data: bytes("abc") } };
  const column = { data: { tag: "utf8-dictionary", val: dictionary }, validity: Uint8Array.of(0b101) };
  assert.deepEqual(read(new Field("x", "string?"), column, 3), ["bc", null, "bc"]);
  assert.deepEqual(read(new Field("x", "long?"), { data: { tag: "missing" } }, 2), [null, null]);
});

test("what does not fit is named", () => {
  const wrong = (type, value, pattern) => assert.throws(() => write(new Field("x", type), [value]), pattern);
  wrong("long", 1.5, /`x` is 1.5, which is no long/);
  wrong("long", 2 ** 53, /no long/);
  wrong("bigint", 2n ** 63n, /no bigint/);
  wrong("int", 2 ** 31, /no int/);
  wrong("double", "1", /`x` is "1", which is no double/);
  wrong("string", 1, /no string/);
  wrong("boolean", 0, /no boolean/);
  wrong("list<long>", [[1], ["a"]].flat(), /no/);
  wrong("double", null, /declare it "double\?"/);
  wrong("double", undefined, /`x` is undefined/);
  const beyond = { data: { tag: "int64", val: BigInt64Array.of(2n ** 53n) } };
  assert.throws(() => read(new Field("x", "long"), beyond, 1), /declare it "bigint"/);
});

test("types and optional columns", () => {
  assert.throws(() => new Field("x", "varchar"), /no type "varchar"; there are boolean, int/);
  assert.throws(() => wanted({ "x?": "long" }), /its type is "long\?"/);
  const [field] = wanted({ "x?": "string?" });
  assert.deepEqual(field.wanted(), {
    field: { name: "x", dataType: { tag: "utf8" }, nullable: true }, encoding: "dictionary", optional: true,
  });
});
