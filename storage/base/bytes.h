/* Little-endian integers at any address, for formats on disk. */
#ifndef MN_STORAGE_BASE_BYTES_H
#define MN_STORAGE_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

static inline void le16_put(void *to, uint16_t v)
{
    const unsigned char b[2] = {(unsigned char)v, (unsigned char)(v >> 8)};
    memcpy(to, b, sizeof b);
}

static inline uint16_t le16_get(const void *from)
{
    const unsigned char *b = from;
    return (uint16_t)(b[0] | b[1] << 8);
}

static inline void le32_put(void *to, uint32_t v)
{
    le16_put(to, (uint16_t)v);
    le16_put((char *)to + 2, (uint16_t)(v >> 16));
}

static inline uint32_t le32_get(const void *from)
{
    return le16_get(from) | (uint32_t)le16_get((const char *)from + 2) << 16;
}

static inline void le64_put(void *to, uint64_t v)
{
    le32_put(to, (uint32_t)v);
    le32_put((char *)to + 4, (uint32_t)(v >> 32));
}

static inline uint64_t le64_get(const void *from)
{
    return le32_get(from) | (uint64_t)le32_get((const char *)from + 4) << 32;
}

#endif
