/* UTF-8, base64, hex and numbers with commas. Knows no file. Thread-safe. */
#ifndef MN_FORMATS_TEXT_H
#define MN_FORMATS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the UTF-8 character at p, 0 if it is invalid (surrogates, overlong forms too). */
size_t utf8_char(const char *p, const char *end);

/* Index of the first byte that is not part of a valid character; len if all are. */
size_t utf8_valid_len(const char *p, size_t len);

/* Writes a code point (not a surrogate), returns its 1 to 4 bytes. */
size_t utf8_put(char *out, uint32_t code);

/* Standard alphabet, padded. Decoding may be in place; *out_len <= len / 4 * 3; a text that is no
 * base64 is left as it was. */
bool base64_decode(const char *in, size_t len, void *out, size_t *out_len);
/* Writes (len + 2) / 3 * 4 characters, not terminated. */
void base64_encode(const void *in, size_t len, char *out);

/* len digits, an even number; may be in place. */
bool hex_decode(const char *in, size_t len, void *out);

/* Writes a number with thousands apart: "8,721". Returns text. */
const char *text_commas(char text[27], uint64_t n);

/* A place for messages: as many commas() as one sentence needs. */
struct commas {
    char text[27];
};
#define COMMAS(n) text_commas((struct commas){{0}}.text, (n))

#endif
