#include "storage/base/value.h"

#include <math.h>
#include <string.h>

bool value_is_null(const mn_value *v)
{
    return v->type == MN_NULL || (v->type == MN_REAL && isnan(v->real));
}

static int rank(const mn_value *v)
{
    if (value_is_null(v))
        return 0;
    return v->type == MN_TEXT ? 2 : v->type == MN_BLOB ? 3 : 1;
}

/* Without rounding the integer: beyond 2^53 a double does not hold all of them. */
static int compare_mixed(int64_t i, double r)
{
    if (r < -9223372036854775808.0)
        return 1;
    if (r >= 9223372036854775808.0)
        return -1;
    int64_t whole = (int64_t)r;
    if (i != whole)
        return i < whole ? -1 : 1;
    double rest = r - (double)whole; /* exact: either is below 2^53, or r has no fraction */
    return (rest < 0) - (rest > 0);
}

static int compare_numbers(const mn_value *a, const mn_value *b)
{
    if (a->type == MN_INTEGER && b->type == MN_INTEGER)
        return (a->integer > b->integer) - (a->integer < b->integer);
    if (a->type == MN_REAL && b->type == MN_REAL)
        return (a->real > b->real) - (a->real < b->real);
    return a->type == MN_INTEGER ? compare_mixed(a->integer, b->real)
                                 : -compare_mixed(b->integer, a->real);
}

int value_compare(const mn_value *a, const mn_value *b)
{
    int x = rank(a), y = rank(b);
    if (x != y || x == 0)
        return x - y;
    if (x == 1)
        return compare_numbers(a, b);
    size_t n = a->len < b->len ? a->len : b->len;
    int order = n ? memcmp(a->data, b->data, n) : 0;
    return order ? order : (a->len > b->len) - (a->len < b->len);
}
