// Events with a revenue that is never missing, and with whether they earned something; those of testers are left out.

import { defineTransform, Reject } from "./millrace/millrace.js";

export const transform = defineTransform({
  name: "{{name}}",
  version: "0.1.0",
  // the columns that it reads
  input: { user_id: "string", revenue: "double?" },
  // the columns that it writes; those of the input that are not among them are carried along
  output: { revenue: "double", paid: "boolean" },

  // gives a row, an array of rows, or null for none
  process(event) {
    if (event.revenue < 0) {
      throw new Reject("negative revenue");
    }
    if (event.user_id.startsWith("test-")) {
      return null;
    }
    const revenue = event.revenue ?? 0;
    return { revenue, paid: revenue > 0 };
  },
});
