/* Whether a JSON array has a value among its members. Strict (RFC 8259), reads in place, allocates
 * nothing. Thread-safe. */
#ifndef MN_STORAGE_BASE_JSON_MEMBER_H
#define MN_STORAGE_BASE_JSON_MEMBER_H

#include "mneme.h"

/* True if the text is a JSON array of which a member equals the value: a number exactly, a text
 * byte by byte after its escapes. False for any other value, and for what is no JSON, or no array,
 * or nested more than 1,000 deep. */
bool json_member(const void *text, size_t len, const mn_value *value);

#endif
