// What the files of the helper share; plugins include millrace.h only.
#ifndef MILLRACE_INTERNAL_H
#define MILLRACE_INTERNAL_H

#include "aggregation_plugin.h"
#include "millrace.h"

typedef millrace_types_types_column_t ml_column;

// Memory or a trap: the host says that the plugin is out of it.
void *ml_allocate(size_t bytes);
// `memory` with room for `wanted` items of `width` bytes
void *ml_grown(void *memory, size_t wanted, size_t *items_max, size_t width);

ml_text ml_set_at(const ml_set *set, size_t entry);
void ml_set_free(ml_set *set);
size_t ml_set_bytes(const ml_set *set);
// in the order of their bytes; to be freed
ml_text *ml_set_sorted(const ml_set *set);

// A column's values into the member of `rows` structs, `stride` bytes apart; NULL, or what is wrong.
const char *ml_read(const ml_field *field, const ml_column *column, size_t rows, char *structs, size_t stride);
// The other way round; the column is the host's to free.
void ml_write(const ml_field *field, size_t rows, const char *structs, size_t stride, ml_column *column);

// Parses the configuration; NULL, or what is wrong (to be freed).
char *ml_options_parse(const char *text, size_t length);
char *ml_options_schema(void);
// texts, put together; ends with NULL
char *ml_join(const char *first, ...);

#endif
