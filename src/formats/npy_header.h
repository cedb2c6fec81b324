/* The header of an .npy file (numpy's format 1.0, 2.0 and 3.0), in memory. Knows no file: `name` is
 * for messages. Thread-safe. */
#ifndef MN_FORMATS_NPY_HEADER_H
#define MN_FORMATS_NPY_HEADER_H

#include "mneme.h"

enum { NPY_HEADER = 128 }; /* bytes of a header written here: fixed, so that it can be
                             rewritten; two axes of 20 digits fit */

struct npy_header {
    char kind;         /* 'f', 'i', 'u', 'b' */
    uint32_t bytes;    /* of an element: 1, 2, 4, 8 */
    uint32_t n_axes;   /* 1 or 2 */
    uint64_t shape[2];
    uint64_t len;      /* of the header: the data begins here */
};

/* The header's length from the file's first 12 bytes (10, if that is all). */
MN_CHECKED mn_status npy_header_len(const char *name, const void *bytes, size_t n, size_t *len,
                                    mn_error *err);

/* Reads the header at the beginning of n bytes. Fails, with what numpy must do instead, on Fortran
 * order, big-endian or structured data, objects, and more than two axes. */
MN_CHECKED mn_status npy_header_read(const char *name, const void *bytes, size_t n,
                                     struct npy_header *out, mn_error *err);

/* A header of version 1.0; descr as in "<f4", one or two axes. */
void npy_header_make(char out[NPY_HEADER], const char *descr, const uint64_t *shape,
                     uint32_t n_axes);

#endif
