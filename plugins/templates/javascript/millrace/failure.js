// What goes wrong, and whom it concerns: a row (Reject), the pipeline file ("config"), the host's data ("input"), or the
// plugin itself ("internal": the host throws the instance away and looks for the row that did it).

/** Throw it in `update` or `process`: the row goes where the pipeline sends errors, with this reason. */
export class Reject {
  constructor(reason) {
    this.reason = reason;
  }
}

export function failure(tag, text) {
  return { payload: { tag, val: text } };
}

/** The interface's functions, with every exception turned into the error that the host understands. */
export function guarded(functions) {
  const guard = (call) => (...parameters) => {
    try {
      return call(...parameters);
    } catch (e) {
      throw e?.payload ? e : failure("internal", e instanceof Error ? `${e}\n${e.stack ?? ""}`.trim() : String(e));
    }
  };
  return Object.fromEntries(Object.entries(functions).map(([name, call]) => [name, guard(call)]));
}
