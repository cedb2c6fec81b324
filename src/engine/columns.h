/* Copies of attributes beside the codes of an index, so that conditions can be asked of many rows
 * at once. Made when a search first has a condition on an attribute, in memory only; the rows stay
 * the truth. The structures and their invariants stand in columns.c; selection.h asks them. */
#ifndef MN_ENGINE_COLUMNS_H
#define MN_ENGINE_COLUMNS_H

#include "src/engine/cache.h"
#include "src/engine/ivf.h"

enum {
    CODE_NULL = 0,
    CODE_UNKNOWN = 0xffff, /* ask the row */
    COLUMN_VALUES = 16384, /* most values of a dictionary */
    BUCKET_UNKNOWN = 63,   /* of rows with that code */
    COLUMN_WINDOW = 65536, /* places of a pack that are put in order by themselves */
    COLUMN_PAD = 64        /* codes of a part begin, and may be read, at multiples of this */
};

/* The dictionary of one attribute: values in SQLite's order. A row has code 2 i + 2 if it has
 * values[i], 2 i + 1 if it is between values[i - 1] and values[i]. Immutable, but for refs. */
struct column {
    struct column *next; /* of the index's core; columns.lock */
    _Atomic unsigned refs;
    char name[MN_MAX_NAME + 1];
    uint32_t n;              /* values */
    mn_value *values;        /* [n], ascending, each once */
    char *text;              /* memory of their bytes */
    uint32_t *below;         /* [2 n + 3] rows of a sample whose code, not NULL, is less */
    uint32_t nulls, sampled; /* rows of the sample: NULL; all */
    uint8_t *bucket;         /* [2 n + 2] below BUCKET_UNKNOWN, rising with the code; NULL's is 0 */
    uint64_t rows;           /* that the index had when it was made */
};

uint16_t column_code(const struct column *c, const mn_value *v);

/* The codes of a pack's rows, and its rows by their codes. Immutable. */
struct pack_column {
    struct pack_column *next; /* set before it is published */
    struct column *column;    /* counted */
    uint32_t n_parts, n_places;
    uint32_t *first;   /* [n_parts] place of each part's first row */
    uint64_t *buckets; /* [n_parts] */
    uint16_t *codes;   /* [n_places]; CODE_UNKNOWN where there is no row */
    uint16_t *order;   /* of each window of COLUMN_WINDOW places, the [ordered] that are
                          rows, by ascending code */
    uint32_t *ordered; /* [windows] */
    uint32_t *coarse;  /* [windows][column_coarse() + 1] how many in order have less than a
                          multiple of 2^shift as their code */
    uint32_t shift;
};

static inline size_t column_coarse(const struct pack_column *p)
{
    return (size_t)(CODE_UNKNOWN + 1) >> p->shift;
}

/* A pack as a version uses it. */
struct column_pack {
    const struct pack_column *column;
    const uint32_t *uses; /* [n_parts] of each part; UINT32_MAX: the version does not use it */
};

/* A version's codes of one attribute. */
struct version_column {
    struct version_column *next;
    struct column *column;
    const uint16_t **codes;    /* [n_uses][rows]; NULL: not known, the rows must be asked */
    uint64_t *buckets;         /* [n_uses, padded to 16] those that occur, as bits */
    float *each;               /* [n_uses, padded] 1 / their number; 0 without rows */
    float *live;               /* [n_uses, padded] rows that are not hidden */
    struct column_pack *packs; /* [n_packs]; NULL with all of them known to none */
    uint32_t n_packs;
    uint32_t *uses; /* memory of packs[].uses */
    bool whole;     /* every row of the version stands in packs */
};

/* Uses of a version, rounded up as its columns' arrays are. */
static inline size_t columns_padded(const struct ivf *x)
{
    return ((size_t)x->n_uses + 15) / 16 * 16;
}

struct columns;                            /* what an index has of attributes; with its core */
struct columns *columns_create(mn_db *db); /* NULL when memory runs out */
void columns_destroy(mn_db *db, struct columns *c);

/* The codes that meet CONTAINS, which takes a look into every text of the dictionary: those of the
 * last one asked are kept. `set` [words] takes them. False: they are not those of that value. */
bool columns_kept(struct columns *all, const struct column *c, const mn_value *v, uint64_t *set,
                  size_t words);
void columns_keep(mn_db *db, struct columns *all, struct column *c, const mn_value *v,
                  const uint64_t *set, size_t words);

void pack_columns_destroy(mn_db *db, struct ivf_pack *p);
void version_columns_destroy(mn_db *db, struct ivf *x);

/* The copy of attribute `attr` in the view's index, made now if it is not there. *out NULL: there
 * is none, as memory is short or another connection is at it. On the connection's thread, inside
 * its scope. Fails with what reading rows met, MN_INTERRUPTED, MN_DEADLINE. */
mn_status columns_get(mn_conn *conn, struct coll *c, const struct view *v, size_t attr,
                      const struct version_column **out, mn_error *err);

/* For whoever made version `x` of `old`, in the same snapshot, before others see it: it gets what
 * old has, so that the next search need not. Codes of rows that only moved are taken over, changed
 * rows are read; nothing happens where they are many, or memory is short. Fails only if the scope
 * has ended with it, or with MN_INTERRUPTED, MN_DEADLINE. */
mn_status columns_follow(mn_conn *conn, struct coll *c, const struct ivf *old, struct ivf *x,
                         mn_error *err);

#endif
