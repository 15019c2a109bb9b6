// An aggregation by row: a state per group, `update` for a row, `merge` for another state, `evaluate` for the result.
//
// Slot g holds the state of group g; undefined: no row seen since the last reset. States leave as typed columns, a group
// in one row, or in several when its sets are large; in the rows after the first, all but the sets is as in a fresh state,
// so that merging puts them together again.

import { read, write } from "./columns.js";
import { parse, schema } from "./config.js";
import { failure, guarded, Reject } from "./failure.js";
import { Gathered, updater } from "./rows.js";
import { Distinct, fields, stateFields, wanted } from "./fields.js";

// what the engine takes, about: an object and its properties, an entry of a set
const STATE_BYTES = 100;
const FIELD_BYTES = 16;
const ENTRY_BYTES = 80;

/**
 * `{ name, version, options = {}, input, state, output, update, merge, evaluate }`; `init(config)` makes a fresh state,
 * where zeros, empty texts and empty sets will not do; `ordered: true` if the order of rows matters.
 *
 * `update(state, row, config)` takes a row in, or throws a `Reject` before it has changed anything; `merge(state, other)`
 * folds another state in, in any order, and a fresh one changes nothing; `evaluate(state, window, config)` gives a row,
 * several, or none, and leaves the state as it is; the window has `start`, `end` (microseconds) and `final`.
 */
export function defineAggregation(definition) {
  const { name, version, options = {}, input, state, output, ordered = false } = definition;
  const { update, merge, evaluate } = definition;
  const columns = wanted(input);
  const parts = stateFields(state);
  const stored = parts.flatMap((part) => (part instanceof Distinct ? [part.values, part.sketch] : [part]));
  const results = fields(output);
  const each = updater(columns);
  let config;
  let slots = [];

  // another version may have had options that this one does not know
  const parsed = (text) => {
    try {
      return parse(options, text);
    } catch {
      return undefined;
    }
  };
  const zeros = () => Object.fromEntries(parts.map((part) => [part.name, part.zero()]));
  const fresh = definition.init ? () => Object.assign(zeros(), definition.init(config)) : zeros;

  return guarded({
    info: () => ({ name, version, configSchema: schema(options), hints: [] }),

    open(text) {
      config = parse(options, text);
      slots = [];
      return {
        input: columns.map((field) => field.wanted()),
        state: stored.map((field) => field.wit()), output: results.map((field) => field.wit()), ordered,
      };
    },

    update(rows, groups) {
      const values = columns.map((field, i) => read(field, rows[i], groups.length));
      const rejected = [];
      each(values, groups, slots, fresh, update, config, rejected, Reject);
      return rejected;
    },

    combine(sources, targets) {
      for (let i = 0; i < sources.length; i++) {
        const from = slots[sources[i]];
        if (from !== undefined) {
          merge((slots[targets[i]] ??= fresh()), from);
        }
      }
    },

    merge(rows, groups) {
      const others = imported(parts, rows, groups.length);
      for (let i = 0; i < groups.length; i++) {
        const into = slots[groups[i]];
        if (into === undefined) {
          slots[groups[i]] = others(i);
        } else {
          merge(into, others(i));
        }
      }
    },

    state(groups, cursor, maxBytes) {
      return exported(parts, (group) => slots[group] ?? fresh(), fresh(), groups, cursor, Number(maxBytes));
    },

    evaluate(groups, windows, final) {
      const [owners, gathered] = [[], new Gathered(results)];
      for (let i = 0; i < groups.length; i++) {
        const window = { start: Number(windows[i].start), end: Number(windows[i].end), final };
        for (let n = gathered.add(evaluate(slots[groups[i]] ?? fresh(), window, config)); n > 0; n--) {
          owners.push(groups[i]);
        }
      }
      const oneEach = owners.length === groups.length && owners.every((owner, i) => owner === groups[i]);
      return {
        columns: results.map((field, i) => write(field, gathered.columns[i])),
        groups: oneEach ? undefined : Uint32Array.from(owners),
      };
    },

    reset(groups) {
      groups.forEach((group) => {
        slots[group] = undefined;
      });
    },

    size() {
      const sets = parts.filter((part) => part instanceof Distinct);
      let bytes = slots.length * 8;
      for (const held of slots) {
        if (held !== undefined) {
          bytes += STATE_BYTES + FIELD_BYTES * parts.length;
          for (const { name } of sets) {
            bytes += held[name].size * ENTRY_BYTES;
          }
        }
      }
      return BigInt(bytes);
    },

    migrate(origin, rows) {
      const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
      const isMine = () => same(origin.state, stored.map((field) => field.wit())) && same(parsed(origin.config), config);
      return isMine() ? rows : undefined;
    },
  });
}

/** Columns → a function that makes the state of a row. */
function imported(parts, columns, rows) {
  let next = 0;
  const readers = parts.map((part) => {
    if (!(part instanceof Distinct)) {
      return read(part, columns[next++], rows);
    }
    const [values, sketch] = [read(part.values, columns[next++], rows), read(part.sketch, columns[next++], rows)];
    if (sketch.some((bytes) => bytes !== null)) {
      throw failure("input", `\`${part.name}\` is an estimate (hll); this plugin keeps exact sets only`);
    }
    return values;
  });
  return (row) => Object.fromEntries(
    parts.map((part, i) => [part.name, part instanceof Distinct ? new Set(readers[i][row]) : readers[i][row]]),
  );
}

/** A cursor: in the high half which of the groups, in the low half how many of its sets' elements have been sent. */
function exported(parts, stateOf, empty, groups, cursor, maxBytes) {
  const columns = parts.map(() => []);
  const owners = [];
  let index = Number(cursor >> 32n);
  let skip = Number(cursor & 0xffffffffn);
  let bytes = 0;
  while (index < groups.length && (bytes < maxBytes || owners.length === 0)) {
    const state = stateOf(groups[index]);
    const first = skip === 0;
    let [before, taken, more] = [0, 0, false];
    parts.forEach((part, i) => {
      if (!(part instanceof Distinct)) {
        const value = first ? state[part.name] : empty[part.name];
        columns[i].push(value);
        bytes += 8 + (value?.length ?? 0);
        return;
      }
      const all = sorted(state[part.name]);
      let at = Math.min(Math.max(skip - before, 0), all.length);
      before += all.length;
      const from = at;
      while (at < all.length && !more) {
        const cost = 4 + (all[at].length ?? 4);
        more = taken > 0 && bytes + cost > maxBytes;
        if (!more) {
          at++;
          taken++;
          bytes += cost;
        }
      }
      columns[i].push(all.slice(from, at));
    });
    owners.push(groups[index]);
    [index, skip] = more ? [index, skip + taken] : [index + 1, 0];
  }
  const sent = parts.flatMap((part, i) => (part instanceof Distinct
    ? [write(part.values, columns[i]), write(part.sketch, new Array(owners.length).fill(null))]
    : [write(part, columns[i])]));
  const next = index < groups.length ? (BigInt(index) << 32n) | BigInt(skip) : undefined;
  return { columns: sent, groups: Uint32Array.from(owners), next };
}

function sorted(set) {
  const values = [...set];
  return typeof values[0] === "number" ? values.sort((a, b) => a - b) : values.sort();
}
