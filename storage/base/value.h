/* SQLite's order of values: NULL, then numbers, then texts, then blobs. Numbers are compared
 * exactly, an integer with a real too; texts and blobs byte by byte (BINARY). Knows no affinity: a
 * text that looks like a number is a text. */
#ifndef MN_STORAGE_BASE_VALUE_H
#define MN_STORAGE_BASE_VALUE_H

#include "mneme.h"

/* NULL, or a real that is no number, which SQLite stores as NULL. */
bool value_is_null(const mn_value *v);

/* Below, equal to or above 0 as a stands before, with or behind b; NULL equals NULL here. */
int value_compare(const mn_value *a, const mn_value *b);

#endif
