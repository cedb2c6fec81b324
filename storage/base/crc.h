/* CRC32C (Castagnoli), as iSCSI, ext4 and the WALs of other databases compute it. Finds flips and
 * tears; finds no block that lies in the wrong place: whoever keeps the sum must keep it apart from
 * the bytes. Thread-safe; picks the fastest code for this CPU at its first use. */
#ifndef MN_STORAGE_BASE_CRC_H
#define MN_STORAGE_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

enum { CRC_BLOCK = 4096 };

/* CRC of the bytes that `crc` stands for (0: none) followed by these n. */
uint32_t crc32c(uint32_t crc, const void *data, size_t n);

/* out[i]: the CRC of the i-th of n blocks of CRC_BLOCK bytes, each by itself. */
void crc32c_blocks(const void *data, size_t n, uint32_t *out);

/* The same by a table, byte by byte: what the tests hold the fast code against. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t n);

/* "sse4.2" or "portable". */
const char *crc32c_name(void);

#endif
