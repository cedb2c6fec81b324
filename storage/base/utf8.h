/* UTF-8: is this text valid? Nothing else. */
#ifndef MN_STORAGE_BASE_UTF8_H
#define MN_STORAGE_BASE_UTF8_H

#include <stddef.h>

/* Offset of the first byte that is no valid UTF-8 (overlong forms, surrogates and numbers above
 * 0x10ffff are not), n if all is well. */
size_t utf8_check(const char *text, size_t n);

#endif
