// Loops over a batch, written out for the plugin's own columns: in an interpreter, building a row by a loop over names
// costs several times what the author's function does. The text is made of field names only, quoted.

const literal = (fields) => fields.map((field, i) => `${JSON.stringify(field.name)}: c${i}[row]`).join(", ");
const columns = (fields) => fields.map((_, i) => `const c${i} = columns[${i}];`).join(" ");

/** (columns, groups, slots, fresh, update, config, rejected, Reject): calls `update(state, row, config)` for each row. */
export function updater(fields) {
  return new Function("columns", "groups", "slots", "fresh", "update", "config", "rejected", "Reject", `
    ${columns(fields)}
    for (let row = 0; row < groups.length; row++) {
      const group = groups[row];
      const state = slots[group] ?? (slots[group] = fresh());
      try {
        update(state, { ${literal(fields)} }, config);
      } catch (e) {
        if (!(e instanceof Reject)) throw e;
        rejected.push({ row, reason: e.reason });
      }
    }`);
}

/** (columns, rows, process, config, take, rejected, Reject): calls `take(row, process(row, config))` for each row. */
export function processor(fields) {
  return new Function("columns", "rows", "process", "config", "take", "rejected", "Reject", `
    ${columns(fields)}
    for (let row = 0; row < rows; row++) {
      try {
        take(row, process({ ${literal(fields)} }, config));
      } catch (e) {
        if (!(e instanceof Reject)) throw e;
        rejected.push({ row, reason: e.reason });
      }
    }`);
}

/** Results of one kind, gathered by column: `add` takes nothing (null), a row, or an array of rows; says how many. */
export class Gathered {
  constructor(fields) {
    this.fields = fields;
    this.columns = fields.map(() => []);
  }

  add(result) {
    if (result === null || result === undefined) {
      return 0;
    }
    if (Array.isArray(result)) {
      result.forEach((row) => this.add(row));
      return result.length;
    }
    for (let i = 0; i < this.fields.length; i++) {
      this.columns[i].push(result[this.fields[i].name]);
    }
    return 1;
  }
}
