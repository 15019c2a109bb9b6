// Events, revenue and unique users of each key.

import { defineAggregation, Reject } from "./millrace/millrace.js";

export const aggregation = defineAggregation({
  name: "{{name}}",
  version: "0.1.0",
  // the columns that it reads
  input: { user_id: "string", revenue: "double?" },
  // what it keeps of one key while a window is open
  state: { events: "long", revenue: "double", users: "distinct<string>" },
  // the columns of a result, after the key's and the window's
  output: { events: "long", revenue: "double", unique_users: "long" },

  update(state, event) {
    if (event.revenue < 0) {
      throw new Reject("negative revenue");
    }
    state.events += 1;
    state.revenue += event.revenue ?? 0;
    state.users.add(event.user_id);
  },

  merge(state, other) {
    state.events += other.events;
    state.revenue += other.revenue;
    other.users.forEach((user) => state.users.add(user));
  },

  evaluate(state) {
    return { events: state.events, revenue: state.revenue, unique_users: state.users.size };
  },
});
