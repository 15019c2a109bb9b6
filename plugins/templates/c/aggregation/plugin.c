// Events, revenue and unique users of each key.
#include "millrace/millrace.h"

// the columns that it reads
struct event { ml_text user_id; ML_NULLABLE(double) revenue; };
// what it keeps of one key while a window is open
struct state { int64_t events; double revenue; ml_set users; };
// the columns of a result, after the key's and the window's
struct row { int64_t events; double revenue; int64_t unique_users; };

static bool update(void *held, const void *row, ml_reason *reason) {
  struct state *state = held;
  const struct event *event = row;
  double revenue = event->revenue.present ? event->revenue.value : 0.0;
  if (revenue < 0.0) {
    return ml_reject(reason, "negative revenue");
  }
  state->events += 1;
  state->revenue += revenue;
  ml_set_add(&state->users, event->user_id);
  return true;
}

static void merge(void *held, const void *from) {
  struct state *state = held;
  const struct state *other = from;
  state->events += other->events;
  state->revenue += other->revenue;
  ml_set_merge(&state->users, &other->users);
}

static bool evaluate(const void *held, const ml_window *window, void *result) {
  const struct state *state = held;
  (void)window;
  *(struct row *)result = (struct row){ state->events, state->revenue, ml_set_count(&state->users) };
  return true;
}

static const ml_field input[] = {
  ML_FIELD(struct event, user_id, ML_STRING),
  ML_FIELD(struct event, revenue, ML_DOUBLE, .nullable = true),
};
static const ml_field state[] = {
  ML_FIELD(struct state, events, ML_LONG),
  ML_FIELD(struct state, revenue, ML_DOUBLE),
  ML_FIELD(struct state, users, ML_DISTINCT),
};
static const ml_field output[] = {
  ML_FIELD(struct row, events, ML_LONG),
  ML_FIELD(struct row, revenue, ML_DOUBLE),
  ML_FIELD(struct row, unique_users, ML_LONG),
};

const ml_aggregation ml_plugin = {
  .name = "{{name}}", .version = "0.1.0",
  ML_FIELDS(input), .input_bytes = sizeof(struct event),
  ML_FIELDS(state), .state_bytes = sizeof(struct state),
  ML_FIELDS(output), .output_bytes = sizeof(struct row),
  .update = update, .merge = merge, .evaluate = evaluate,
};
