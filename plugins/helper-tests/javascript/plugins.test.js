// Aggregations and transforms through the interface's functions, as the host calls them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { defineAggregation, defineTransform, Reject } from "../../templates/javascript/millrace/millrace.js";
import { read, write } from "../../templates/javascript/millrace/columns.js";
import { Field } from "../../templates/javascript/millrace/fields.js";

const column = (type, values) => write(new Field("x", type), values);
const groups = (...list) => Uint32Array.from(list);
const window = { start: 0n, end: 1n };

function users(more = {}, config = "{}") {
  const aggregation = defineAggregation({
    name: "users", version: "1.0.0",
    input: { user: "string", points: "long?" },
    state: { sum: "long", users: "distinct<string>", numbers: "distinct<long>" },
    output: { sum: "long", users: "long" },
    update(state, { user, points }) {
      if (points < 0) throw new Reject("negative");
      state.sum += points ?? 0;
      state.users.add(user);
      state.numbers.add(user.length);
    },
    merge(state, other) {
      state.sum += other.sum;
      other.users.forEach((user) => state.users.add(user));
      other.numbers.forEach((number) => state.numbers.add(number));
    },
    evaluate: (state) => ({ sum: state.sum, users: state.users.size }),
    ...more,
  });
  aggregation.open(config, []);
  return aggregation;
}

function fill(aggregation, names, slots, points = names.map(() => 1)) {
  return aggregation.update([column("string", names), column("long?", points)], groups(...slots), 8);
}

function results(aggregation, ...slots) {
  const { columns, groups: owners } = aggregation.evaluate(groups(...slots), slots.map(() => window), true);
  return { rows: columns.map((c) => Array.from(c.data.val, Number)), owners };
}

const failure = (call) => {
  try {
    call();
  } catch (e) {
    return e.payload;
  }
  return assert.fail("no error");
};

test("rows go to their groups, and refused ones leave no trace", () => {
  const aggregation = users();
  const rejected = fill(aggregation, ["a", "b", "a", "c"], [0, 2, 0, 2], [1, -5, 2, null]);
  assert.deepEqual(rejected, [{ row: 1, reason: "negative" }]);
  assert.deepEqual(results(aggregation, 2, 0, 1), { rows: [[0, 3, 0], [1, 1, 0]], owners: undefined });
});

test("a state in chunks of any size comes back as it was", () => {
  const names = Array.from({ length: 200 }, (_, i) => `user-${(i * 37) % 91}`);
  const slots = names.map((_, i) => i % 5);
  const aggregation = users();
  fill(aggregation, names, slots);
  for (const max of [1n, 50n, 400n, 1_000_000n]) {
    const again = users();
    let [next, chunks] = [0n, 0];
    while (next !== undefined) {
      const chunk = aggregation.state(groups(0, 1, 2, 3, 4, 5), next, max);
      assert.ok(chunk.next === undefined || chunk.next > next);
      again.merge(chunk.columns, chunk.groups, 8);
      [next, chunks] = [chunk.next, chunks + 1];
    }
    assert.equal(chunks > 5, max < 1_000_000n);
    assert.deepEqual(results(again, 0, 1, 2, 3, 4, 5), results(aggregation, 0, 1, 2, 3, 4, 5));
    const whole = (a) => a.state(groups(0, 1, 2, 3, 4, 5), 0n, 1_000_000n).columns;
    assert.deepEqual(whole(again), whole(aggregation));
  }
});

test("sets are sorted, and their sketch is null", () => {
  const aggregation = users();
  fill(aggregation, ["bb", "a", "ccc"], [0, 0, 0]);
  const { columns } = aggregation.state(groups(0), 0n, 1_000n);
  assert.deepEqual(read(new Field("x", "list<string>?"), columns[1], 1), [["a", "bb", "ccc"]]);
  assert.deepEqual(read(new Field("x", "binary?"), columns[2], 1), [null]);
  assert.deepEqual(read(new Field("x", "list<long>?"), columns[3], 1), [[1, 2, 3]]);
  columns[2] = column("binary?", [Uint8Array.of(1)]);
  assert.match(failure(() => users().merge(columns, groups(0), 1)).val, /`users` is an estimate/);
});

test("combine leaves the source, reset leaves nothing", () => {
  const aggregation = users();
  fill(aggregation, ["a", "b"], [0, 1]);
  aggregation.combine(groups(0, 3), groups(1, 1));
  assert.deepEqual(results(aggregation, 0, 1).rows, [[1, 2], [1, 2]]);
  const held = aggregation.size();
  aggregation.reset(groups(0, 1));
  assert.deepEqual(results(aggregation, 0, 1).rows, [[0, 0], [0, 0]]);
  assert.ok(aggregation.size() < held);
});

test("none, one or several rows a group", () => {
  const aggregation = users({ evaluate: (state) => [...state.users].map((_, i) => ({ sum: i, users: 0 })) });
  fill(aggregation, ["a", "b", "c"], [1, 1, 2]);
  assert.deepEqual(results(aggregation, 0, 1, 2), { rows: [[0, 1, 0], [0, 0, 0]], owners: groups(1, 1, 2) });
  const none = users({ evaluate: () => null });
  assert.deepEqual(results(none, 0).owners, groups());
});

test("an exception is the plugin's fault, and says where", () => {
  const aggregation = users({ update: (state, row) => row.nothing.there });
  const { tag, val } = failure(() => fill(aggregation, ["a"], [0]));
  assert.equal(tag, "internal");
  assert.match(val, /^TypeError: .*\n.*plugins\.test\.js/s);
});

test("only its own state schema is taken over", () => {
  const aggregation = users();
  const { state } = aggregation.open("{}", []);
  const rows = aggregation.state(groups(0), 0n, 10n).columns;
  assert.equal(aggregation.migrate({ state, config: "{}" }, rows), rows);
  assert.equal(aggregation.migrate({ state: state.slice(1), config: "{}" }, rows), undefined);
  assert.equal(aggregation.migrate({ state, config: '{"other": 1}' }, rows), undefined);
});

test("options have defaults, and what is wrong with them is said", () => {
  const options = { mode: { enum: ["a", "b"], default: "a" }, size: { type: "integer" } };
  const seen = [];
  const aggregation = users({ options, init: (config) => { seen.push(config); return {}; } }, '{"size": 1}');
  assert.deepEqual(failure(() => aggregation.open("", [])), { tag: "config", val: "option `size` is missing" });
  const says = (config) => failure(() => aggregation.open(JSON.stringify(config), [])).val;
  assert.equal(says({ size: 1, mode: "c" }), 'option `mode`: "a" or "b" is wanted, found "c"');
  assert.equal(says({ size: 1.5 }), "option `size`: a whole number is wanted, found 1.5");
  assert.equal(says({ sise: 1 }), "unknown option `sise`; there are: mode, size");
  assert.equal(says([]), "the configuration is a table of options, not []");
  aggregation.open('{"size": 3}', []);
  aggregation.state(groups(0), 0n, 1n);
  assert.deepEqual(seen[0], { mode: "a", size: 3 });
  assert.deepEqual(JSON.parse(aggregation.info().configSchema).required, ["size"]);
});

test("a transform drops, doubles and refuses rows", () => {
  const transform = defineTransform({
    name: "t", version: "1.0.0", input: { n: "long", "extra?": "string?" }, output: { n: "long" },
    process({ n, extra }) {
      assert.equal(extra, null);
      if (n < 0) throw new Reject(`${n}`);
      return n === 0 ? null : Array.from({ length: n }, () => ({ n }));
    },
  });
  transform.open("{}", []);
  const out = transform.process([column("long", [1, 0, -3, 2]), { data: { tag: "missing" } }], 4);
  assert.deepEqual(read(new Field("n", "long"), out.columns[0], 3), [1, 2, 2]);
  assert.deepEqual(out.origins, Uint32Array.of(0, 3, 3));
  assert.deepEqual(out.rejected, [{ row: 2, reason: "-3" }]);
});
