// Millrace plugins in C: describe the state, the input row and the result as structs, write `update`, `merge` and
// `evaluate`, and define `ml_plugin`. millrace.c turns that into the batch interface of wit/ (aggregation_plugin.h, which
// is generated). No WASI, no file, no clock: what is not here does not exist for a plugin.
#ifndef MILLRACE_H
#define MILLRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Types, and the C type that a struct's member has. Nullable: `ML_NULLABLE(int64_t)` and so on.
typedef enum {
  ML_BOOLEAN,      // bool
  ML_INT,          // int32_t
  ML_LONG,         // int64_t
  ML_FLOAT,        // float
  ML_DOUBLE,       // double
  ML_DECIMAL,      // ml_decimal
  ML_DATE,         // int32_t, days since 1970
  ML_TIMESTAMP,    // int64_t, microseconds since 1970
  ML_TIMESTAMPTZ,  // the same, UTC
  ML_STRING,       // ml_text (not in a state)
  ML_BINARY,       // ml_text (not in a state)
  ML_DISTINCT,     // ml_set (in a state only)
} ml_type;

// UTF-8 or bytes, not terminated by a zero. That of an input row is gone when `update` returns; that of a result must
// outlive the call of `evaluate`.
typedef struct { const char *data; size_t length; } ml_text;
// the unscaled value, two's complement
typedef struct { uint64_t low; int64_t high; } ml_decimal;
#define ML_NULLABLE(type) struct { type value; bool present; }

typedef struct {
  const char *name;
  ml_type type;
  size_t offset;
  bool nullable;
  bool optional;  // an input column that may be missing; then it is nullable, too
  uint8_t precision, scale;
} ml_field;

// A column named like the member: ML_FIELD(struct event, user_id, ML_STRING), and `.nullable = true` where it is.
#define ML_FIELD(structure, member, kind, ...) \
  { .name = #member, .type = kind, .offset = offsetof(structure, member), __VA_ARGS__ }
#define ML_FIELDS(list) .list = list, .list##_count = sizeof(list) / sizeof(*list)

// A set of texts; all zeros is an empty one.
typedef struct { char *bytes; uint32_t *ends; uint64_t *slots; size_t length, bytes_max, ends_max, slots_max; } ml_set;
void ml_set_add(ml_set *set, ml_text value);
void ml_set_merge(ml_set *set, const ml_set *other);
static inline int64_t ml_set_count(const ml_set *set) { return (int64_t)set->length; }

// An option of the pipeline file's `config`: one of a list of words (which ends with NULL). NULL as default: required.
typedef struct { const char *name, *otherwise; const char *allowed[8]; } ml_option;
// its value in this instance
const char *ml_option_value(const char *name);

// microseconds, end exclusive; final: it has expired
typedef struct { int64_t start, end; bool final; } ml_window;

// `return ml_reject(reason, "negative revenue")`, or `ml_reject_text(reason, "unknown kind ", kind)`, which quotes the text
// after it: for `update`, they give false.
typedef struct { char *text; size_t length; } ml_reason;
bool ml_reject(ml_reason *reason, const char *what);
bool ml_reject_text(ml_reason *reason, const char *what, ml_text value);
bool ml_is(ml_text text, const char *word);

typedef enum { ML_DEBUG, ML_INFO, ML_WARN, ML_ERROR } ml_level;
void ml_log(ml_level level, const char *message);

typedef struct {
  const char *name, *version;
  const ml_option *options;
  size_t options_count;
  const ml_field *input, *state, *output;
  size_t input_count, state_count, output_count;
  size_t input_bytes, state_bytes, output_bytes;  // sizeof the structs
  bool ordered;                                   // the result depends on the order of rows
  void (*init)(void *state);                      // NULL: all zeros
  // Takes a row in; or changes nothing and returns ml_reject(…).
  bool (*update)(void *state, const void *row, ml_reason *reason);
  // Folds another state in, in any order; a fresh one changes nothing.
  void (*merge)(void *state, const void *other);
  // Fills in the result; false: there is none.
  bool (*evaluate)(const void *state, const ml_window *window, void *result);
} ml_aggregation;

extern const ml_aggregation ml_plugin;

#endif
