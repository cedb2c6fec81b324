/* The header of an .npy file, read from a source. */
#ifndef MN_FORMATS_NPY_H
#define MN_FORMATS_NPY_H

#include "src/formats/npy_header.h"
#include "src/formats/source.h"

/* Reads and takes the header; see npy_header_read(). */
MN_CHECKED mn_status npy_read_header(struct source *src, struct npy_header *out, mn_error *err);

#endif
