// Options: words out of lists. The configuration is a flat JSON object of strings, without escapes.
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static const char *values[32];

char *ml_join(const char *first, ...) {
  va_list parts;
  size_t length = 0;
  va_start(parts, first);
  for (const char *part = first; part; part = va_arg(parts, const char *)) length += strlen(part);
  va_end(parts);
  char *joined = ml_allocate(length + 1), *at = joined;
  va_start(parts, first);
  for (const char *part = first; part; part = va_arg(parts, const char *)) {
    memcpy(at, part, strlen(part));
    at += strlen(part);
  }
  va_end(parts);
  *at = 0;
  return joined;
}

static char *then(char *text, const char *more) {
  char *joined = ml_join(text, more, NULL);
  free(text);
  return joined;
}

char *ml_options_schema(void) {
  char *text = ml_join("{\"$schema\": \"https://json-schema.org/draft/2020-12/schema\", \"type\": \"object\", "
                       "\"additionalProperties\": false, \"properties\": {", NULL);
  char *required = ml_join("", NULL);
  for (size_t i = 0; i < ml_plugin.options_count; i++) {
    const ml_option *option = &ml_plugin.options[i];
    char *property = ml_join(i ? ", \"" : "\"", option->name, "\": {\"enum\": [", NULL);
    for (size_t j = 0; option->allowed[j]; j++) {
      char *word = ml_join(j ? ", \"" : "\"", option->allowed[j], "\"", NULL);
      property = then(property, word);
      free(word);
    }
    char *end = option->otherwise ? ml_join("], \"default\": \"", option->otherwise, "\"}", NULL) : ml_join("]}", NULL);
    property = then(property, end);
    text = then(text, property);
    if (!option->otherwise) {
      char *name = ml_join(*required ? ", \"" : "\"", option->name, "\"", NULL);
      required = then(required, name);
      free(name);
    }
    free(end);
    free(property);
  }
  char *whole = ml_join(text, "}, \"required\": [", required, "]}", NULL);
  free(text);
  free(required);
  return whole;
}

const char *ml_option_value(const char *name) {
  for (size_t i = 0; i < ml_plugin.options_count; i++) {
    if (strcmp(ml_plugin.options[i].name, name) == 0) {
      return values[i];
    }
  }
  return NULL;
}

typedef struct { const char *at, *end; } cursor;

static void skip(cursor *text) {
  while (text->at < text->end && strchr(" \t\r\n", *text->at)) text->at++;
}

static bool take(cursor *text, char expected) {
  skip(text);
  bool there = text->at < text->end && *text->at == expected;
  text->at += there;
  return there;
}

// A string without escapes, copied; NULL if it is none.
static char *string(cursor *text) {
  if (!take(text, '"')) {
    return NULL;
  }
  const char *start = text->at;
  while (text->at < text->end && *text->at != '"' && *text->at != '\\') text->at++;
  if (text->at == text->end || *text->at == '\\') {
    return NULL;
  }
  size_t length = (size_t)(text->at++ - start);
  char *copy = ml_allocate(length + 1);
  memcpy(copy, start, length);
  copy[length] = 0;
  return copy;
}

static char *set(const char *name, const char *value) {
  for (size_t i = 0; i < ml_plugin.options_count; i++) {
    const ml_option *option = &ml_plugin.options[i];
    if (strcmp(option->name, name) != 0) {
      continue;
    }
    char *wanted = ml_join("", NULL);
    for (size_t j = 0; option->allowed[j]; j++) {
      if (strcmp(option->allowed[j], value) == 0) {
        values[i] = option->allowed[j];
        free(wanted);
        return NULL;
      }
      char *word = ml_join(j ? " or \"" : "\"", option->allowed[j], "\"", NULL);
      wanted = then(wanted, word);
      free(word);
    }
    char *error = ml_join("option `", name, "`: ", wanted, " is wanted, found \"", value, "\"", NULL);
    free(wanted);
    return error;
  }
  return ml_join("unknown option `", name, "`", NULL);
}

char *ml_options_parse(const char *text, size_t length) {
  cursor at = { text, text + length };
  if (ml_plugin.options_count > sizeof values / sizeof *values) {
    return ml_join("this plugin has more options than its helper takes", NULL);
  }
  for (size_t i = 0; i < ml_plugin.options_count; i++) {
    values[i] = ml_plugin.options[i].otherwise;
  }
  skip(&at);
  if (at.at < at.end && !(take(&at, '{') && take(&at, '}'))) {
    do {
      char *name = string(&at);
      char *value = name && take(&at, ':') ? string(&at) : NULL;
      char *error = value ? set(name, value)
                          : ml_join("the configuration is a table of options, each a text without escapes", NULL);
      free(name);
      free(value);
      if (error) {
        return error;
      }
    } while (take(&at, ','));
    if (!take(&at, '}')) {
      return ml_join("the configuration does not end where it should", NULL);
    }
  }
  for (size_t i = 0; i < ml_plugin.options_count; i++) {
    if (!values[i]) {
      return ml_join("option `", ml_plugin.options[i].name, "` is missing", NULL);
    }
  }
  return NULL;
}
