// A transform by row: `process(row, config)` gives a row, several, or none.

import { read, write } from "./columns.js";
import { parse, schema } from "./config.js";
import { guarded, Reject } from "./failure.js";
import { Gathered, processor } from "./rows.js";
import { fields, wanted } from "./fields.js";

/**
 * `{ name, version, options = {}, input, output, process }`. Columns of the input that `output` does not have are carried
 * along by the host. To refuse a row, throw a `Reject`.
 */
export function defineTransform({ name, version, options = {}, input, output, process }) {
  const columns = wanted(input);
  const results = fields(output);
  const each = processor(columns);
  let config;

  return guarded({
    info: () => ({ name, version, configSchema: schema(options), hints: [] }),

    open(text) {
      config = parse(options, text);
      return {
        input: columns.map((field) => field.wanted()),
        output: results.map((field) => field.wit()),
      };
    },

    process(rows, total) {
      const values = columns.map((field, i) => read(field, rows[i], total));
      const [origins, rejected, gathered] = [[], [], new Gathered(results)];
      const take = (row, result) => {
        for (let n = gathered.add(result); n > 0; n--) {
          origins.push(row);
        }
      };
      each(values, total, process, config, take, rejected, Reject);
      return {
        columns: results.map((field, i) => write(field, gathered.columns[i])), origins: Uint32Array.from(origins), rejected,
      };
    },
  });
}
