// Millrace plugins in JavaScript: `defineAggregation` and `defineTransform` turn a few functions into the batch interface
// of wit/. Types are those of fields.js.

export { defineAggregation } from "./aggregation.js";
export { defineTransform } from "./transform.js";
export { Reject } from "./failure.js";
