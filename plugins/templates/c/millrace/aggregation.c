// The batch interface, in terms of `ml_plugin`: one state per group.
//
// Slot g holds the state of group g; NULL: no row seen since the last reset. States leave as typed columns, a group in one
// row, or in several when its sets are large; in the rows after the first, all but the sets is as in a fresh state, so
// that merging puts them together again. What the host passed in belongs to us, what we return is its own to free.
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define SHORT(name) exports_millrace_aggregation_aggregation_##name
typedef SHORT(error_t) error_t;
typedef SHORT(list_column_t) columns_t;
typedef aggregation_plugin_list_u32_t list_u32_t;
typedef aggregation_plugin_string_t string_t;

static char **slots;
static size_t slots_count, slots_max;

void *ml_allocate(size_t bytes) {
  void *memory = malloc(bytes ? bytes : 1);
  if (!memory) __builtin_trap();
  return memory;
}

void *ml_grown(void *memory, size_t wanted, size_t *items_max, size_t width) {
  if (wanted <= *items_max) {
    return memory;
  }
  *items_max = wanted > *items_max * 2 ? wanted : *items_max * 2;
  memory = realloc(memory, *items_max * width);
  if (!memory) __builtin_trap();
  return memory;
}

static string_t owned(const char *text) {
  size_t length = strlen(text);
  string_t copy = { ml_allocate(length), length };
  memcpy(copy.ptr, text, length);
  return copy;
}

static bool failed(error_t *error, uint8_t tag, const char *text) {
  error->tag = tag;
  error->val.input = owned(text);
  return false;
}

static char *fresh(void) {
  char *state = ml_allocate(ml_plugin.state_bytes);
  memset(state, 0, ml_plugin.state_bytes);
  if (ml_plugin.init) ml_plugin.init(state);
  return state;
}

static ml_set *set_of(const char *state, const ml_field *field) { return (ml_set *)(state + field->offset); }

static void discard(char *state) {
  for (size_t i = 0; state && i < ml_plugin.state_count; i++) {
    if (ml_plugin.state[i].type == ML_DISTINCT) ml_set_free(set_of(state, &ml_plugin.state[i]));
  }
  free(state);
}

static void grow(size_t total) {
  if (total > slots_count) {
    slots = ml_grown(slots, total, &slots_max, sizeof *slots);
    memset(slots + slots_count, 0, (total - slots_count) * sizeof *slots);
    slots_count = total;
  }
}

static void grow_for(const list_u32_t *groups) {
  for (size_t i = 0; i < groups->len; i++) {
    grow((size_t)groups->ptr[i] + 1);
  }
}

static char *slot(uint32_t group) {
  if (!slots[group]) slots[group] = fresh();
  return slots[group];
}

void ml_log(ml_level level, const char *message) {
  string_t text = { (uint8_t *)message, strlen(message) };
  millrace_types_host_log((uint8_t)level, &text);
}

bool ml_is(ml_text text, const char *word) {
  return text.length == strlen(word) && memcmp(text.data, word, text.length) == 0;
}

bool ml_reject(ml_reason *reason, const char *what) {
  string_t text = owned(what);
  *reason = (ml_reason){ (char *)text.ptr, text.len };
  return false;
}

bool ml_reject_text(ml_reason *reason, const char *what, ml_text value) {
  char *text = ml_allocate(strlen(what) + value.length * 2 + 2), *at = text + strlen(what);
  memcpy(text, what, strlen(what));
  *at++ = '"';
  for (size_t i = 0; i < value.length; i++) {
    char c = value.data[i];
    char escaped = c == '\n' ? 'n' : c == '\t' ? 't' : c == '\r' ? 'r' : c == '"' || c == '\\' ? c : 0;
    if (escaped) *at++ = '\\';
    *at++ = escaped ? escaped : c;
  }
  *at++ = '"';
  reason->text = text;
  reason->length = (size_t)(at - text);
  return false;
}

static SHORT(field_t) field_out(const ml_field *field) {
  SHORT(field_t) out = { .name = owned(field->name), .nullable = field->nullable };
  out.data_type.tag = (uint8_t)field->type;
  if (field->type == ML_DECIMAL) {
    out.data_type.val.decimal.precision = field->precision;
    out.data_type.val.decimal.scale = field->scale;
  }
  return out;
}

static SHORT(field_t) named(const char *name, const char *suffix, uint8_t tag) {
  char *whole = ml_join(name, suffix, NULL);
  SHORT(field_t) out = { .name = owned(whole), .data_type.tag = tag, .nullable = true };
  free(whole);
  return out;
}

// A set is its values, and the column in which the Rust SDK keeps an estimate (null here).
static SHORT(list_field_t) stored_fields(void) {
  SHORT(field_t) *fields = ml_allocate(ml_plugin.state_count * 2 * sizeof *fields);
  size_t count = 0;
  for (size_t i = 0; i < ml_plugin.state_count; i++) {
    const ml_field *field = &ml_plugin.state[i];
    if (field->type == ML_DISTINCT) {
      fields[count++] = named(field->name, ".values", MILLRACE_TYPES_TYPES_DATA_TYPE_LIST_UTF8);
      fields[count++] = named(field->name, ".sketch", MILLRACE_TYPES_TYPES_DATA_TYPE_BINARY);
    } else {
      fields[count++] = field_out(field);
    }
  }
  return (SHORT(list_field_t)){ fields, count };
}

void SHORT(info)(SHORT(plugin_info_t) *ret) {
  char *schema = ml_options_schema();
  *ret = (SHORT(plugin_info_t)){ owned(ml_plugin.name), owned(ml_plugin.version), owned(schema), { NULL, 0 } };
  free(schema);
}

bool SHORT(open)(string_t *config, SHORT(list_field_t) *offered, SHORT(signature_t) *ret, error_t *err) {
  char *error = ml_options_parse((const char *)config->ptr, config->len);
  aggregation_plugin_string_free(config);
  SHORT(list_field_free)(offered);
  if (error) {
    failed(err, MILLRACE_TYPES_TYPES_ERROR_CONFIG, error);
    free(error);
    return false;
  }
  SHORT(wanted_t) *input = ml_allocate(ml_plugin.input_count * sizeof *input);
  for (size_t i = 0; i < ml_plugin.input_count; i++) {
    const ml_field *field = &ml_plugin.input[i];
    uint8_t encoding = field->type == ML_STRING ? MILLRACE_TYPES_TYPES_ENCODING_EITHER : MILLRACE_TYPES_TYPES_ENCODING_PLAIN;
    input[i] = (SHORT(wanted_t)){ field_out(field), encoding, field->optional };
  }
  SHORT(field_t) *output = ml_allocate(ml_plugin.output_count * sizeof *output);
  for (size_t i = 0; i < ml_plugin.output_count; i++) {
    output[i] = field_out(&ml_plugin.output[i]);
  }
  for (size_t i = 0; i < ml_plugin.state_count; i++) {
    if (ml_plugin.state[i].type == ML_STRING || ml_plugin.state[i].type == ML_BINARY) {
      return failed(err, MILLRACE_TYPES_TYPES_ERROR_INTERNAL, "a state in C holds no text: keep it in a set");
    }
  }
  *ret = (SHORT(signature_t)){
    { input, ml_plugin.input_count }, stored_fields(), { output, ml_plugin.output_count }, ml_plugin.ordered,
  };
  return true;
}

bool SHORT(update)(columns_t *rows, list_u32_t *groups, uint32_t total, SHORT(list_rejected_t) *ret, error_t *err) {
  grow(total);
  size_t stride = ml_plugin.input_bytes, count = groups->len, rejected_max = 0;
  char *structs = ml_allocate(count * stride + 1);
  const char *wrong = NULL;
  for (size_t i = 0; !wrong && i < ml_plugin.input_count; i++) {
    wrong = ml_read(&ml_plugin.input[i], &rows->ptr[i], count, structs, stride);
  }
  *ret = (SHORT(list_rejected_t)){ NULL, 0 };
  for (size_t row = 0; !wrong && row < count; row++) {
    ml_reason reason = { NULL, 0 };
    if (!ml_plugin.update(slot(groups->ptr[row]), structs + row * stride, &reason)) {
      ret->ptr = ml_grown(ret->ptr, ret->len + 1, &rejected_max, sizeof *ret->ptr);
      ret->ptr[ret->len++] = (SHORT(rejected_t)){ (uint32_t)row, { (uint8_t *)reason.text, reason.length } };
    }
  }
  free(structs);
  SHORT(list_column_free)(rows);
  aggregation_plugin_list_u32_free(groups);
  return wrong ? failed(err, MILLRACE_TYPES_TYPES_ERROR_INPUT, wrong) : true;
}

bool SHORT(combine)(list_u32_t *sources, list_u32_t *targets, error_t *err) {
  (void)err;
  grow_for(sources);
  grow_for(targets);
  for (size_t i = 0; i < sources->len; i++) {
    const char *from = slots[sources->ptr[i]];
    if (from) ml_plugin.merge(slot(targets->ptr[i]), from);
  }
  aggregation_plugin_list_u32_free(sources);
  aggregation_plugin_list_u32_free(targets);
  return true;
}

static void import_set(ml_set *set, const millrace_types_types_list_utf8_data_t *lists, size_t row) {
  const millrace_types_types_var_bytes_t *values = &lists->values;
  for (size_t at = lists->offsets.ptr[row]; at < lists->offsets.ptr[row + 1]; at++) {
    uint32_t start = values->offsets.ptr[at];
    ml_set_add(set, (ml_text){ (char *)values->data.ptr + start, values->offsets.ptr[at + 1] - start });
  }
}

bool SHORT(merge)(columns_t *state, list_u32_t *groups, uint32_t total, error_t *err) {
  grow(total);
  size_t stride = ml_plugin.state_bytes, count = groups->len;
  char *structs = ml_allocate(count * stride + 1);
  memset(structs, 0, count * stride);
  const char *wrong = NULL;
  const ml_column *column = state->ptr;
  for (size_t i = 0; !wrong && i < ml_plugin.state_count; i++, column++) {
    const ml_field *field = &ml_plugin.state[i];
    if (field->type != ML_DISTINCT) {
      wrong = ml_read(field, column, count, structs, stride);
      continue;
    }
    for (size_t row = 0; row < count; row++) {
      import_set(set_of(structs + row * stride, field), &column->data.val.list_utf8, row);
    }
    column++;
    for (size_t byte = 0; byte < (count + 7) / 8; byte++) {
      if (count && (!column->validity.is_some || column->validity.val.ptr[byte])) {
        wrong = "a set in the state is an estimate (hll); this plugin keeps exact sets only";
      }
    }
  }
  for (size_t row = 0; !wrong && row < count; row++) {
    char *part = structs + row * stride;
    if (slots[groups->ptr[row]]) {
      ml_plugin.merge(slots[groups->ptr[row]], part);
      for (size_t i = 0; i < ml_plugin.state_count; i++) {
        if (ml_plugin.state[i].type == ML_DISTINCT) ml_set_free(set_of(part, &ml_plugin.state[i]));
      }
    } else {
      slots[groups->ptr[row]] = ml_allocate(stride);
      memcpy(slots[groups->ptr[row]], part, stride);
    }
  }
  free(structs);
  SHORT(list_column_free)(state);
  aggregation_plugin_list_u32_free(groups);
  return wrong ? failed(err, MILLRACE_TYPES_TYPES_ERROR_INPUT, wrong) : true;
}

// A list column that grows.
typedef struct {
  uint32_t *rows, *ends;
  char *bytes;
  size_t rows_count, rows_max, ends_count, ends_max, bytes_count, bytes_max;
} texts_t;

static void push_u32(uint32_t **list, size_t *count, size_t *max, size_t value) {
  *list = ml_grown(*list, *count + 1, max, sizeof **list);
  (*list)[(*count)++] = (uint32_t)value;
}

static void push_text(texts_t *texts, ml_text value) {
  texts->bytes = ml_grown(texts->bytes, texts->bytes_count + value.length + 1, &texts->bytes_max, 1);
  memcpy(texts->bytes + texts->bytes_count, value.data, value.length);
  texts->bytes_count += value.length;
  push_u32(&texts->ends, &texts->ends_count, &texts->ends_max, texts->bytes_count);
}

static void end_list(texts_t *texts) {
  push_u32(&texts->rows, &texts->rows_count, &texts->rows_max, texts->ends_count - 1);
}

static void set_columns(const texts_t *texts, size_t rows, ml_column *columns) {
  static const ml_field SKETCH = { .type = ML_BINARY, .nullable = true };
  struct { ml_text value; bool present; } nothing = { { NULL, 0 }, false };
  memset(columns, 0, sizeof *columns);
  columns->data.tag = MILLRACE_TYPES_TYPES_COLUMN_DATA_LIST_UTF8;
  columns->data.val.list_utf8 = (millrace_types_types_list_utf8_data_t){
    { texts->rows, texts->rows_count },
    { { texts->ends, texts->ends_count }, { (uint8_t *)texts->bytes, texts->bytes_count } },
  };
  ml_write(&SKETCH, rows, (const char *)&nothing, 0, columns + 1);
}

// The cursor: in the high half which of the groups, in the low half how many of its sets' values have been sent.
bool SHORT(state)(list_u32_t *groups, uint64_t cursor, uint64_t bytes_wanted, SHORT(state_chunk_t) *ret, error_t *err) {
  (void)err;
  grow_for(groups);
  size_t stride = ml_plugin.state_bytes, owners_max = 0, structs_max = 0, bytes = 0;
  size_t index = (size_t)(cursor >> 32), skip = (size_t)(uint32_t)cursor;
  char *structs = NULL, *empty = fresh();
  texts_t *sets = ml_allocate(ml_plugin.state_count * sizeof *sets);
  memset(sets, 0, ml_plugin.state_count * sizeof *sets);
  for (size_t i = 0; i < ml_plugin.state_count; i++) {
    push_u32(&sets[i].rows, &sets[i].rows_count, &sets[i].rows_max, 0);
    push_u32(&sets[i].ends, &sets[i].ends_count, &sets[i].ends_max, 0);
  }
  list_u32_t owners = { NULL, 0 };
  while (index < groups->len && (bytes < bytes_wanted || owners.len == 0)) {
    const char *held = slots[groups->ptr[index]] ? slots[groups->ptr[index]] : empty;
    structs = ml_grown(structs, owners.len + 1, &structs_max, stride);
    memcpy(structs + owners.len * stride, skip == 0 ? held : empty, stride);
    bytes += stride;
    size_t before = 0, taken = 0;
    bool more = false;
    for (size_t i = 0; i < ml_plugin.state_count; i++) {
      if (ml_plugin.state[i].type != ML_DISTINCT) continue;
      const ml_set *set = set_of(held, &ml_plugin.state[i]);
      ml_text *values = ml_set_sorted(set);
      size_t at = skip > before ? skip - before : 0;
      before += set->length;
      for (; at < set->length && !more; at++) {
        size_t cost = values[at].length + 4;
        more = taken > 0 && bytes + cost > bytes_wanted;
        if (!more) {
          push_text(&sets[i], values[at]);
          taken++;
          bytes += cost;
        }
      }
      free(values);
      end_list(&sets[i]);
    }
    push_u32(&owners.ptr, &owners.len, &owners_max, groups->ptr[index]);
    skip = more ? skip + taken : 0;
    index += !more;
  }
  ml_column *columns = ml_allocate(ml_plugin.state_count * 2 * sizeof *columns);
  size_t count = 0;
  for (size_t i = 0; i < ml_plugin.state_count; i++) {
    if (ml_plugin.state[i].type == ML_DISTINCT) {
      set_columns(&sets[i], owners.len, columns + count);
      count += 2;
    } else {
      ml_write(&ml_plugin.state[i], owners.len, structs, stride, &columns[count++]);
      free(sets[i].rows);
      free(sets[i].ends);
    }
  }
  *ret = (SHORT(state_chunk_t)){
    { columns, count }, owners, { index < groups->len, (uint64_t)index << 32 | skip },
  };
  free(sets);
  free(structs);
  discard(empty);
  aggregation_plugin_list_u32_free(groups);
  return true;
}

bool SHORT(evaluate)(list_u32_t *groups, SHORT(list_window_t) *windows, bool final, SHORT(output_rows_t) *ret,
                     error_t *err) {
  (void)err;
  grow_for(groups);
  size_t stride = ml_plugin.output_bytes, rows = 0, owners_max = 0;
  char *results = ml_allocate(groups->len * stride + 1), *empty = fresh();
  memset(results, 0, groups->len * stride);
  list_u32_t owners = { NULL, 0 };
  for (size_t i = 0; i < groups->len; i++) {
    ml_window window = { windows->ptr[i].start, windows->ptr[i].end, final };
    const char *held = slots[groups->ptr[i]] ? slots[groups->ptr[i]] : empty;
    if (ml_plugin.evaluate(held, &window, results + rows * stride)) {
      rows++;
      push_u32(&owners.ptr, &owners.len, &owners_max, groups->ptr[i]);
    }
  }
  ml_column *columns = ml_allocate(ml_plugin.output_count * sizeof *columns);
  for (size_t i = 0; i < ml_plugin.output_count; i++) {
    ml_write(&ml_plugin.output[i], rows, results, stride, &columns[i]);
  }
  *ret = (SHORT(output_rows_t)){ { columns, ml_plugin.output_count }, { rows < groups->len, owners } };
  if (!ret->groups.is_some) free(owners.ptr);
  free(results);
  discard(empty);
  aggregation_plugin_list_u32_free(groups);
  SHORT(list_window_free)(windows);
  return true;
}

bool SHORT(reset)(list_u32_t *groups, error_t *err) {
  (void)err;
  grow_for(groups);
  for (size_t i = 0; i < groups->len; i++) {
    discard(slots[groups->ptr[i]]);
    slots[groups->ptr[i]] = NULL;
  }
  aggregation_plugin_list_u32_free(groups);
  return true;
}

uint64_t SHORT(size)(void) {
  uint64_t bytes = slots_max * sizeof *slots;
  for (size_t group = 0; group < slots_count; group++) {
    if (!slots[group]) continue;
    bytes += ml_plugin.state_bytes;
    for (size_t i = 0; i < ml_plugin.state_count; i++) {
      if (ml_plugin.state[i].type == ML_DISTINCT) bytes += ml_set_bytes(set_of(slots[group], &ml_plugin.state[i]));
    }
  }
  return bytes;
}

static bool same(const SHORT(list_field_t) *a, const SHORT(list_field_t) *b) {
  bool equal = a->len == b->len;
  for (size_t i = 0; equal && i < a->len; i++) {
    const SHORT(field_t) *x = &a->ptr[i], *y = &b->ptr[i];
    equal = x->name.len == y->name.len && memcmp(x->name.ptr, y->name.ptr, x->name.len) == 0 &&
            x->nullable == y->nullable && x->data_type.tag == y->data_type.tag &&
            (x->data_type.tag != ML_DECIMAL || (x->data_type.val.decimal.precision == y->data_type.val.decimal.precision &&
                                                x->data_type.val.decimal.scale == y->data_type.val.decimal.scale));
  }
  return equal;
}

bool SHORT(migrate)(SHORT(origin_t) *origin, columns_t *state, SHORT(option_list_column_t) *ret, error_t *err) {
  (void)err;
  SHORT(list_field_t) mine = stored_fields();
  ret->is_some = same(&origin->state, &mine);
  ret->val = *state;
  if (!ret->is_some) SHORT(list_column_free)(state);
  SHORT(list_field_free)(&mine);
  SHORT(origin_free)(origin);
  return true;
}
