/* The header of an .npy file (numpy's format 1.0, 2.0 and 3.0). */
#ifndef MN_FORMATS_NPY_H
#define MN_FORMATS_NPY_H

#include "src/formats/source.h"

struct npy_header {
    char kind;         /* 'f', 'i', 'u' */
    uint32_t bytes;    /* of an element: 1, 2, 4, 8 */
    uint32_t n_axes;   /* 1 or 2 */
    uint64_t shape[2];
    uint64_t len;      /* of the header: the data begins here */
};

/* Reads and takes the header. Fails, with what numpy must do instead, on Fortran order, big-endian
 * or structured data, objects, and more than two axes. */
MN_CHECKED mn_status npy_read_header(struct source *src, struct npy_header *out, mn_error *err);

#endif
