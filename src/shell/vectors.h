/* Vectors and values on their way between files, the command line, a collection and the screen.
 * Opens nothing. Any thread. */
#ifndef MN_SHELL_VECTORS_H
#define MN_SHELL_VECTORS_H

#include "mneme.h"
#include "src/formats/formats.h"
#include "src/shell/print.h"

/* Choices of an option that names a format; the index is the enum's. */
#define FORMAT_CHOICE(name, word, extensions) word "|"
#define FORMAT_CHOICES FORMAT_KINDS(FORMAT_CHOICE)

/* How the vectors of a file become those of a collection: as they are, as f32 that the library
 * rounds, or, for bit collections, bytes that are bits already (u8 files) or elements 0 and 1. */
struct vector_plan {
    mn_dtype dtype; /* the collection's */
    uint32_t dim;
    bool native;       /* format_opts.native: the file's own type is wanted */
    bool from_f32;     /* mn_put_opts and mn_search_opts */
    bool pack;         /* elements 0 and 1 become bits */
    size_t bytes;      /* of one vector as the library takes it */
    uint32_t file_dim; /* elements of the file's vectors */
};

/* dim 0: the collection is not made yet; it will have the dimension that fits file_dim. Returns
 * false with a sentence in `why` if the file's vectors do not fit. */
bool vector_plan_make(struct vector_plan *plan, mn_dtype dtype, uint32_t dim,
                      enum format_dtype file, uint32_t file_dim, char *why, size_t why_size);

/* Would the library take this vector? NULL, or what is wrong with it. */
const char *vector_check(const struct vector_plan *plan, const struct format_record *rec);

/* Writes plan->bytes to `out`. NULL, or what is wrong. */
const char *vector_take(const struct vector_plan *plan, const struct format_record *rec, void *out);

/* All zeros, as the collection would hold it. */
bool vector_is_zero(const struct vector_plan *plan, const struct format_record *rec);

/* The dtype that suits a file: its own if collections have it, else f32. */
mn_dtype vector_dtype_for(enum format_dtype file);

/* [dim] elements of any dtype as f32; bits as 0 and 1. */
void vector_to_f32(mn_dtype dtype, uint32_t dim, const void *vector, float *out);

/* "[0.1, 0.2]" or "0.1,0.2" with exactly dim numbers into out [dim]. NULL, or what is wrong. */
const char *vector_parse(const char *text, uint32_t dim, float *out, char *why, size_t why_size);

/* A value as JSON (blobs as {"$blob": base64}), and as a person likes to read it. */
void value_json(struct text *t, const mn_value *v);
void value_show(struct text *t, const mn_value *v);
void value_csv(struct text *t, const mn_value *v);

#endif
