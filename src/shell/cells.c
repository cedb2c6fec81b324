#include "src/shell/cells.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/shell/shell.h"
#include "src/shell/vectors.h"
#include "src/sql/vec_value.h"

/* Functions and tables of Mneme say by the subtype of a value that it is a vector. */
static struct shape shape_by_subtype(unsigned subtype, size_t len)
{
    static const struct {
        unsigned subtype;
        mn_dtype dtype;
        size_t bits; /* of an element */
    } of[] = {{VEC_SUBTYPE_F32, MN_F32, 32},
              {VEC_SUBTYPE_F16, MN_F16, 16},
              {VEC_SUBTYPE_BF16, MN_BF16, 16},
              {VEC_SUBTYPE_I8, MN_I8, 8},
              {VEC_SUBTYPE_BIT, MN_BIT, 1}};
    struct shape s = {0};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (of[i].subtype == subtype && len <= (size_t)MN_MAX_DIM * 4 &&
            len * 8 % of[i].bits == 0) {
            size_t dim = len * 8 / of[i].bits;
            s.known = dim > 0 && dim <= MN_MAX_DIM;
            s.dtype = of[i].dtype;
            s.dim = s.known ? (uint32_t)dim : 0;
        }
    return s;
}

struct cell cell_read(sqlite3_stmt *stmt, int i, struct shape column)
{
    struct cell c = {.type = sqlite3_column_type(stmt, i)};
    unsigned subtype;
    switch (c.type) {
    case SQLITE_INTEGER:
        c.integer = sqlite3_column_int64(stmt, i);
        break;
    case SQLITE_FLOAT:
        c.real = sqlite3_column_double(stmt, i);
        break;
    case SQLITE_TEXT:
        c.data = (const char *)sqlite3_column_text(stmt, i);
        c.len = (size_t)sqlite3_column_bytes(stmt, i);
        break;
    case SQLITE_BLOB:
        subtype = sqlite3_value_subtype(sqlite3_column_value(stmt, i));
        c.data = sqlite3_column_blob(stmt, i);
        c.len = (size_t)sqlite3_column_bytes(stmt, i);
        if (column.known && c.len == mn_vector_bytes(column.dtype, column.dim))
            c.shape = column;
        else if (subtype && c.len)
            c.shape = shape_by_subtype(subtype, c.len);
        break;
    default:
        break;
    }
    return c;
}

/* ---- Vectors -------------------------------------------------------------------------------- */

void vector_show(struct text *t, struct shape shape, const void *vector)
{
    enum { WHOLE = 4, SHORT = 3 };
    float x[WHOLE + 4]; /* bits come eight at a time */
    uint32_t shown = shape.dim <= WHOLE ? shape.dim : SHORT;
    vector_to_f32(shape.dtype, shown, vector, x);
    text_puts(t, "[");
    for (uint32_t i = 0; i < shown; i++)
        text_printf(t, "%s%.4g", i ? ", " : "", (double)x[i]);
    if (shown < shape.dim)
        text_printf(t, ", … %" PRIu32 " more", shape.dim - shown);
    text_printf(t, "] %s", mn_dtype_name(shape.dtype));
}

static void vector_array(struct text *t, struct shape shape, const void *vector)
{
    float *x = need(malloc(shape.dim * sizeof *x));
    vector_to_f32(shape.dtype, shape.dim, vector, x);
    text_puts(t, "[");
    for (uint32_t i = 0; i < shape.dim; i++) {
        text_puts(t, i ? "," : "");
        text_float(t, x[i]);
    }
    text_puts(t, "]");
    free(x);
}

/* ---- Values --------------------------------------------------------------------------------- */

/* As SQLite writes reals: 1.0 stays one, infinities are words. */
static void real_show(struct text *t, double x)
{
    if (!isfinite(x)) {
        text_puts(t, isnan(x) ? "NaN" : x > 0 ? "Inf" : "-Inf");
        return;
    }
    size_t before = t->len;
    text_real(t, x);
    if (!strpbrk(t->data + before, ".eE"))
        text_puts(t, ".0");
}

static void hex(struct text *t, const char *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    text_puts(t, "x'");
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)bytes[i];
        char two[2] = {digits[b >> 4], digits[b & 15]};
        text_add(t, two, 2);
    }
    text_puts(t, "'");
}

static void number_show(struct text *t, const struct cell *c)
{
    if (c->type == SQLITE_INTEGER)
        text_printf(t, "%" PRId64, c->integer);
    else
        real_show(t, c->real);
}

void cell_show(struct text *t, const struct cell *c, const char *null)
{
    enum { BLOB_SHOWN = 16 };
    if (c->type == SQLITE_NULL)
        text_puts(t, null);
    else if (c->type == SQLITE_TEXT)
        text_add(t, c->data, c->len);
    else if (c->type != SQLITE_BLOB)
        number_show(t, c);
    else if (c->shape.known)
        vector_show(t, c->shape, c->data);
    else if (c->len <= BLOB_SHOWN)
        hex(t, c->data, c->len);
    else {
        hex(t, c->data, BLOB_SHOWN - 4);
        t->len--; /* the quote */
        text_printf(t, "… %zu bytes'", c->len);
    }
}

void cell_data(struct text *t, const struct cell *c, const char *null)
{
    if (c->type == SQLITE_NULL)
        text_puts(t, null);
    else if (c->type == SQLITE_TEXT)
        text_add(t, c->data, c->len);
    else if (c->type != SQLITE_BLOB)
        number_show(t, c);
    else if (c->shape.known)
        vector_array(t, c->shape, c->data);
    else
        hex(t, c->data, c->len);
}

void cell_json(struct text *t, const struct cell *c)
{
    mn_value v = {.type = MN_NULL, .data = c->data, .len = c->len};
    if (c->type == SQLITE_BLOB && c->shape.known) {
        vector_array(t, c->shape, c->data);
        return;
    }
    v.type = c->type == SQLITE_INTEGER ? MN_INTEGER
             : c->type == SQLITE_FLOAT ? MN_REAL
             : c->type == SQLITE_TEXT  ? MN_TEXT
             : c->type == SQLITE_BLOB  ? MN_BLOB
                                       : MN_NULL;
    v.integer = v.type == MN_INTEGER ? c->integer : 0;
    if (v.type == MN_REAL)
        v.real = c->real;
    value_json(t, &v);
}

static void text_literal(struct text *t, const char *s, size_t n)
{
    /* SQLite's parser ends at a NUL: such a text goes as a blob that is cast. */
    if (memchr(s, 0, n)) {
        text_puts(t, "CAST(");
        hex(t, s, n);
        text_puts(t, " AS TEXT)");
        return;
    }
    text_puts(t, "'");
    for (size_t i = 0; i < n; i++)
        text_add(t, s[i] == '\'' ? "''" : s + i, s[i] == '\'' ? 2 : 1);
    text_puts(t, "'");
}

void cell_sql(struct text *t, const struct cell *c)
{
    switch (c->type) {
    case SQLITE_NULL:
        text_puts(t, "NULL");
        break;
    case SQLITE_TEXT:
        text_literal(t, c->data, c->len);
        break;
    case SQLITE_BLOB:
        hex(t, c->data, c->len);
        break;
    case SQLITE_FLOAT:
        if (!isfinite(c->real))
            text_puts(t, c->real > 0 ? "9e999" : "-9e999");
        else
            real_show(t, c->real);
        break;
    default:
        number_show(t, c);
    }
}
