// Impressions, clicks, conversions, revenue, unique users and rates per campaign: the plugin of ../src/lib.rs, its state
// included, so that either goes on from what the other has saved.
#include "millrace/millrace.h"

struct event { ml_text event_type, user_id; ML_NULLABLE(double) revenue; };
struct campaign { int64_t impressions, clicks, conversions; double revenue; ml_set users; };
struct metrics {
  int64_t impressions, clicks, conversions;
  double revenue;
  int64_t unique_users;
  ML_NULLABLE(double) ctr, cvr;
};

static bool update(void *state, const void *row, ml_reason *reason) {
  struct campaign *campaign = state;
  const struct event *event = row;
  if (ml_is(event->event_type, "impression")) {
    campaign->impressions += 1;
  } else if (ml_is(event->event_type, "click")) {
    campaign->clicks += 1;
  } else if (ml_is(event->event_type, "conversion")) {
    campaign->conversions += 1;
  } else {
    return ml_reject_text(reason, "unknown event_type ", event->event_type);
  }
  campaign->revenue += event->revenue.present ? event->revenue.value : 0.0;
  ml_set_add(&campaign->users, event->user_id);
  return true;
}

static void merge(void *state, const void *from) {
  struct campaign *campaign = state;
  const struct campaign *other = from;
  campaign->impressions += other->impressions;
  campaign->clicks += other->clicks;
  campaign->conversions += other->conversions;
  campaign->revenue += other->revenue;
  ml_set_merge(&campaign->users, &other->users);
}

static bool evaluate(const void *state, const ml_window *window, void *result) {
  const struct campaign *c = state;
  struct metrics *metrics = result;
  (void)window;
  *metrics = (struct metrics){
    .impressions = c->impressions, .clicks = c->clicks, .conversions = c->conversions, .revenue = c->revenue,
    .unique_users = ml_set_count(&c->users),
  };
  metrics->ctr.present = c->impressions != 0;
  metrics->ctr.value = metrics->ctr.present ? (double)c->clicks / (double)c->impressions : 0.0;
  metrics->cvr.present = c->clicks != 0;
  metrics->cvr.value = metrics->cvr.present ? (double)c->conversions / (double)c->clicks : 0.0;
  return true;
}

// no estimates here ("hll" in Rust)
static const ml_option options[] = { { "unique_users", "exact", { "exact" } } };
static const ml_field input[] = {
  ML_FIELD(struct event, event_type, ML_STRING),
  ML_FIELD(struct event, user_id, ML_STRING),
  ML_FIELD(struct event, revenue, ML_DOUBLE, .nullable = true),
};
static const ml_field state[] = {
  ML_FIELD(struct campaign, impressions, ML_LONG),
  ML_FIELD(struct campaign, clicks, ML_LONG),
  ML_FIELD(struct campaign, conversions, ML_LONG),
  ML_FIELD(struct campaign, revenue, ML_DOUBLE),
  ML_FIELD(struct campaign, users, ML_DISTINCT),
};
static const ml_field output[] = {
  ML_FIELD(struct metrics, impressions, ML_LONG),
  ML_FIELD(struct metrics, clicks, ML_LONG),
  ML_FIELD(struct metrics, conversions, ML_LONG),
  ML_FIELD(struct metrics, revenue, ML_DOUBLE),
  ML_FIELD(struct metrics, unique_users, ML_LONG),
  ML_FIELD(struct metrics, ctr, ML_DOUBLE, .nullable = true),
  ML_FIELD(struct metrics, cvr, ML_DOUBLE, .nullable = true),
};

const ml_aggregation ml_plugin = {
  .name = "campaign-metrics", .version = "1.0.0", ML_FIELDS(options),
  ML_FIELDS(input), .input_bytes = sizeof(struct event),
  ML_FIELDS(state), .state_bytes = sizeof(struct campaign),
  ML_FIELDS(output), .output_bytes = sizeof(struct metrics),
  .update = update, .merge = merge, .evaluate = evaluate,
};
