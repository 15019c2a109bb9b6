// Impressions, clicks, conversions, revenue, unique users and rates per campaign: the plugin of ../src/lib.rs, its state
// included, so that either goes on from what the other has saved.

import { defineAggregation, Reject } from "./millrace/millrace.js";

const rate = (part, whole) => (whole === 0 ? null : part / whole);

export const aggregation = defineAggregation({
  name: "campaign-metrics",
  version: "1.0.0",
  // no estimates here ("hll" in Rust)
  options: { unique_users: { enum: ["exact"], default: "exact" } },
  input: { event_type: "string", user_id: "string", revenue: "double?" },
  state: { impressions: "long", clicks: "long", conversions: "long", revenue: "double", users: "distinct<string>" },
  output: {
    impressions: "long", clicks: "long", conversions: "long", revenue: "double", unique_users: "long",
    ctr: "double?", cvr: "double?",
  },

  update(state, event) {
    switch (event.event_type) {
      case "impression": state.impressions += 1; break;
      case "click": state.clicks += 1; break;
      case "conversion": state.conversions += 1; break;
      default: throw new Reject(`unknown event_type ${JSON.stringify(event.event_type)}`);
    }
    state.revenue += event.revenue ?? 0;
    state.users.add(event.user_id);
  },

  merge(state, other) {
    state.impressions += other.impressions;
    state.clicks += other.clicks;
    state.conversions += other.conversions;
    state.revenue += other.revenue;
    other.users.forEach((user) => state.users.add(user));
  },

  evaluate({ impressions, clicks, conversions, revenue, users }) {
    return {
      impressions, clicks, conversions, revenue, unique_users: users.size,
      ctr: rate(clicks, impressions), cvr: rate(conversions, clicks),
    };
  },
});
