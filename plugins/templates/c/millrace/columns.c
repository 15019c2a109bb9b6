// Columns in Arrow's layout ↔ members of structs, one column at a time: a tight loop per type.
#include <stdlib.h>
#include <string.h>

#include "internal.h"

// bytes of a value, in a struct and (but for booleans and texts) in a column
static const size_t WIDTHS[] = { 1, 4, 8, 4, 8, 16, 4, 8, 8, sizeof(ml_text), sizeof(ml_text) };

static bool bit(const uint8_t *bits, size_t row) { return bits[row >> 3] >> (row & 7) & 1; }

static ml_text text_at(const millrace_types_types_var_bytes_t *texts, size_t at) {
  uint32_t start = texts->offsets.ptr[at];
  return (ml_text){ (const char *)texts->data.ptr + start, texts->offsets.ptr[at + 1] - start };
}

static void spread(const char *from, size_t rows, size_t width, char *to, size_t stride) {
  switch (width) {  // constant sizes: each copy is a load and a store
    case 4: for (size_t row = 0; row < rows; row++) memcpy(to + row * stride, from + row * 4, 4); break;
    case 8: for (size_t row = 0; row < rows; row++) memcpy(to + row * stride, from + row * 8, 8); break;
    default: for (size_t row = 0; row < rows; row++) memcpy(to + row * stride, from + row * width, width);
  }
}

const char *ml_read(const ml_field *field, const ml_column *column, size_t rows, char *structs, size_t stride) {
  char *to = structs + field->offset;
  size_t width = WIDTHS[field->type];
  uint8_t tag = column->data.tag;
  if (tag == MILLRACE_TYPES_TYPES_COLUMN_DATA_MISSING) {
    for (size_t row = 0; row < rows; row++) {
      memset(to + row * stride, 0, width + 1);
    }
    return field->nullable ? NULL : "a column is missing";
  }
  if (field->type == ML_STRING && tag == MILLRACE_TYPES_TYPES_COLUMN_DATA_UTF8_DICTIONARY) {
    const millrace_types_types_dictionary_t *dictionary = &column->data.val.utf8_dictionary;
    for (size_t row = 0; row < rows; row++) {
      ml_text value = text_at(&dictionary->values, dictionary->keys.ptr[row]);
      memcpy(to + row * stride, &value, sizeof value);
    }
  } else {
    // the tags of column-data are those of data-type after `missing`, with utf8-dictionary in between
    if (tag != field->type + (field->type < ML_BINARY ? 1 : 2)) {
      return "a column is of another type than was asked for";
    }
    if (field->type == ML_STRING || field->type == ML_BINARY) {
      for (size_t row = 0; row < rows; row++) {
        ml_text value = text_at(&column->data.val.utf8, row);
        memcpy(to + row * stride, &value, sizeof value);
      }
    } else if (field->type == ML_BOOLEAN) {
      for (size_t row = 0; row < rows; row++) {
        *(bool *)(to + row * stride) = bit(column->data.val.boolean.ptr, row);
      }
    } else {
      spread((const char *)column->data.val.int64.ptr, rows, width, to, stride);
    }
  }
  if (field->nullable) {
    const uint8_t *valid = column->validity.is_some ? column->validity.val.ptr : NULL;
    for (size_t row = 0; row < rows; row++) {
      *(bool *)(to + row * stride + width) = !valid || bit(valid, row);
    }
  }
  return NULL;
}

static uint8_t *bits_of(size_t rows, const char *flags, size_t stride) {
  uint8_t *bits = ml_allocate((rows + 7) / 8 + 1);
  memset(bits, 0, (rows + 7) / 8 + 1);
  for (size_t row = 0; row < rows; row++) {
    bits[row >> 3] |= (uint8_t)(*(const bool *)(flags + row * stride) << (row & 7));
  }
  return bits;
}

static void write_texts(size_t rows, const char *from, size_t stride, bool nullable,
                        millrace_types_types_var_bytes_t *texts) {
  size_t length = 0;
  texts->offsets.ptr = ml_allocate((rows + 1) * sizeof(uint32_t));
  texts->offsets.len = rows + 1;
  texts->offsets.ptr[0] = 0;
  for (size_t row = 0; row < rows; row++) {
    const ml_text *value = (const ml_text *)(from + row * stride);
    bool present = !nullable || *(const bool *)(value + 1);
    length += present ? value->length : 0;
    texts->offsets.ptr[row + 1] = (uint32_t)length;
  }
  texts->data.ptr = ml_allocate(length + 1);
  texts->data.len = length;
  for (size_t row = 0; row < rows; row++) {
    uint32_t start = texts->offsets.ptr[row];
    memcpy(texts->data.ptr + start, ((const ml_text *)(from + row * stride))->data, texts->offsets.ptr[row + 1] - start);
  }
}

void ml_write(const ml_field *field, size_t rows, const char *structs, size_t stride, ml_column *column) {
  const char *from = structs + field->offset;
  size_t width = WIDTHS[field->type];
  memset(column, 0, sizeof *column);
  column->data.tag = (uint8_t)(field->type + (field->type < ML_BINARY ? 1 : 2));
  if (field->type == ML_STRING || field->type == ML_BINARY) {
    write_texts(rows, from, stride, field->nullable, &column->data.val.utf8);
  } else if (field->type == ML_BOOLEAN) {
    column->data.val.boolean.ptr = bits_of(rows, from, stride);
    column->data.val.boolean.len = (rows + 7) / 8;
  } else {
    char *values = ml_allocate(rows * width + 1);
    for (size_t row = 0; row < rows; row++) {
      memcpy(values + row * width, from + row * stride, width);
    }
    column->data.val.int64.ptr = (int64_t *)values;
    column->data.val.int64.len = field->type == ML_DECIMAL ? rows * 2 : rows;
  }
  for (size_t row = 0; field->nullable && row < rows; row++) {
    if (!*(const bool *)(from + row * stride + width)) {
      column->validity.is_some = true;
      column->validity.val.ptr = bits_of(rows, from + width, stride);
      column->validity.val.len = (rows + 7) / 8;
      return;
    }
  }
}
