// A set of texts: open addressing, texts end to end. A slot: in the high half the upper bits of the hash, so that few texts
// are looked at, in the low half one more than the entry's number (0 = free).
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static uint64_t hash(ml_text value) {
  uint64_t h = 0xcbf29ce484222325u ^ value.length;
  size_t at = 0;
  for (; at + 8 <= value.length; at += 8) {
    uint64_t word;
    memcpy(&word, value.data + at, 8);
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    h ^= h >> 32;
  }
  for (; at < value.length; at++) {
    h = (h ^ (uint8_t)value.data[at]) * 0x100000001b3u;
  }
  h *= 0x9e3779b97f4a7c15u;
  return h ^ h >> 29;
}

ml_text ml_set_at(const ml_set *set, size_t entry) {
  uint32_t start = entry == 0 ? 0 : set->ends[entry - 1];
  return (ml_text){ set->bytes + start, set->ends[entry] - start };
}

// Where the value is, or the free slot where it belongs.
static uint64_t *find(const ml_set *set, ml_text value, uint64_t hashed) {
  size_t mask = set->slots_max - 1;
  for (size_t at = hashed & mask;; at = (at + 1) & mask) {
    uint64_t *slot = &set->slots[at];
    if (*slot == 0) {
      return slot;
    }
    if (*slot >> 32 == hashed >> 32) {
      ml_text there = ml_set_at(set, (uint32_t)*slot - 1);
      if (there.length == value.length && memcmp(there.data, value.data, value.length) == 0) {
        return slot;
      }
    }
  }
}

static void grow_slots(ml_set *set) {
  free(set->slots);
  set->slots_max = set->slots_max ? set->slots_max * 2 : 8;
  set->slots = ml_allocate(set->slots_max * sizeof *set->slots);
  memset(set->slots, 0, set->slots_max * sizeof *set->slots);
  for (size_t entry = 0; entry < set->length; entry++) {
    ml_text value = ml_set_at(set, entry);
    uint64_t hashed = hash(value);
    *find(set, value, hashed) = hashed >> 32 << 32 | (entry + 1);
  }
}

void ml_set_add(ml_set *set, ml_text value) {
  if (set->length * 4 >= set->slots_max * 3) {
    grow_slots(set);
  }
  uint64_t hashed = hash(value), *slot = find(set, value, hashed);
  if (*slot != 0) {
    return;
  }
  size_t used = set->length == 0 ? 0 : set->ends[set->length - 1];
  set->bytes = ml_grown(set->bytes, used + value.length, &set->bytes_max, 1);
  set->ends = ml_grown(set->ends, set->length + 1, &set->ends_max, sizeof *set->ends);
  memcpy(set->bytes + used, value.data, value.length);
  set->ends[set->length++] = (uint32_t)(used + value.length);
  *slot = hashed >> 32 << 32 | set->length;
}

void ml_set_merge(ml_set *set, const ml_set *other) {
  for (size_t entry = 0; entry < other->length; entry++) {
    ml_set_add(set, ml_set_at(other, entry));
  }
}

void ml_set_free(ml_set *set) {
  free(set->bytes);
  free(set->ends);
  free(set->slots);
  memset(set, 0, sizeof *set);
}

size_t ml_set_bytes(const ml_set *set) {
  return set->bytes_max + set->ends_max * sizeof *set->ends + set->slots_max * sizeof *set->slots;
}

static int compare(const void *a, const void *b) {
  const ml_text *x = a, *y = b;
  size_t common = x->length < y->length ? x->length : y->length;
  int order = memcmp(x->data, y->data, common);
  return order != 0 ? order : (x->length > y->length) - (x->length < y->length);
}

ml_text *ml_set_sorted(const ml_set *set) {
  ml_text *values = ml_allocate((set->length + 1) * sizeof *values);
  for (size_t entry = 0; entry < set->length; entry++) {
    values[entry] = ml_set_at(set, entry);
  }
  qsort(values, set->length, sizeof *values, compare);
  return values;
}
