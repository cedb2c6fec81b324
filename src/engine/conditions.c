#include "src/engine/conditions.h"

#include <stdlib.h>
#include <string.h>

#include "storage/base/json_member.h"
#include "storage/base/value.h"

static int by_value(const void *a, const void *b)
{
    return value_compare(a, b);
}

/* ---- Taking ---------------------------------------------------------------------------------- */

static mn_status check_values(const mn_condition *c, size_t i, mn_error *err)
{
    bool none = c->op == MN_OP_IS_NULL || c->op == MN_OP_NOT_NULL;
    if (c->op < MN_OP_EQ || c->op > MN_OP_CONTAINS)
        return mn_fail(err, MN_INVALID, "search: condition %zu: %d is no operator", i, (int)c->op);
    if (c->op != MN_OP_IN && c->n_values != !none)
        return mn_fail(err, MN_INVALID, "search: condition %zu on '%s' has %zu values, not %d", i,
                       c->attribute ? c->attribute : "(null)", c->n_values, !none);
    if (c->n_values && !c->values)
        return mn_fail(err, MN_INVALID, "search: condition %zu on '%s': %zu values at NULL", i,
                       c->attribute ? c->attribute : "(null)", c->n_values);
    for (size_t j = 0; j < c->n_values; j++) {
        const mn_value *v = &c->values[j];
        if ((int)v->type < MN_NULL || v->type > MN_BLOB)
            return mn_fail(err, MN_INVALID, "search: condition %zu on '%s': value %zu has type %d",
                           i, c->attribute ? c->attribute : "(null)", j, (int)v->type);
        if ((v->type == MN_TEXT || v->type == MN_BLOB) && v->len && !v->data)
            return mn_fail(err, MN_INVALID,
                           "search: condition %zu on '%s': value %zu has %zu bytes at NULL", i,
                           c->attribute ? c->attribute : "(null)", j, v->len);
    }
    return MN_OK;
}

static mn_status find_column(const struct coll *c, const char *name, int *out, mn_error *err)
{
    size_t at = 0;
    if (name && coll_attr(c, name, &at, NULL) == MN_OK) {
        *out = (int)at;
        return MN_OK;
    }
    if (name && sqlite3_stricmp(name, "id") == 0) {
        *out = CONDITION_ID;
        return MN_OK;
    }
    if (name && c->entry.id_kind == MN_ID_TEXT && sqlite3_stricmp(name, "text_id") == 0) {
        *out = CONDITION_TEXT_ID;
        return MN_OK;
    }
    return mn_fail(err, MN_NOTFOUND, "search: a condition is on '%s', but collection '%s' has no "
                   "such attribute; mn_attributes lists them",
                   name ? name : "(null)", c->entry.name);
}

mn_status conditions_take(mn_conn *conn, const struct coll *c, const mn_condition *given, size_t n,
                          struct conditions *out, mn_error *err)
{
    struct mn_alloc *a = conn->db->alloc;
    size_t n_values = 0, used = 0;
    mn_status st = MN_OK;
    *out = (struct conditions){0};
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        st = check_values(&given[i], i, err);
        n_values += given[i].n_values;
    }
    if (st)
        return st;
    out->all = mn_alloc_array(a, n, sizeof *out->all, MN_TAG_SEARCH);
    out->sorted = mn_alloc_array(a, n_values, sizeof *out->sorted, MN_TAG_SEARCH);
    if (!out->all || !out->sorted)
        return mn_fail(err, MN_NOMEM, "search: out of memory under the cap for %zu conditions", n);
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        struct condition *to = &out->all[out->n++];
        *to = (struct condition){.op = given[i].op, .values = out->sorted + used};
        st = find_column(c, given[i].attribute, &to->column, err);
        for (size_t j = 0; j < given[i].n_values; j++)
            if (!value_is_null(&given[i].values[j]))
                out->sorted[used + to->n++] = given[i].values[j];
        if (to->op == MN_OP_IN)
            qsort(out->sorted + used, to->n, sizeof *out->sorted, by_value);
        used += to->n;
        out->never |= to->n == 0 && to->op != MN_OP_IS_NULL && to->op != MN_OP_NOT_NULL;
    }
    return st;
}

void conditions_fini(struct mn_alloc *a, struct conditions *cs)
{
    mn_free(a, cs->all);
    mn_free(a, cs->sorted);
    *cs = (struct conditions){0};
}

/* ---- Holding --------------------------------------------------------------------------------- */

bool condition_holds(const struct condition *c, const mn_value *v)
{
    bool null = value_is_null(v);
    if (c->op == MN_OP_IS_NULL || c->op == MN_OP_NOT_NULL)
        return null == (c->op == MN_OP_IS_NULL);
    if (null || c->n == 0)
        return false;
    if (c->op == MN_OP_IN)
        return bsearch(v, c->values, c->n, sizeof *v, by_value) != NULL;
    if (c->op == MN_OP_CONTAINS)
        return v->type == MN_TEXT && json_member(v->data, v->len, c->values);
    int order = value_compare(v, c->values);
    switch (c->op) {
    case MN_OP_EQ:
        return order == 0;
    case MN_OP_NE:
        return order != 0;
    case MN_OP_LT:
        return order < 0;
    case MN_OP_LE:
        return order <= 0;
    case MN_OP_GT:
        return order > 0;
    default:
        return order >= 0;
    }
}

bool conditions_hold(const struct conditions *cs, const mn_row *row)
{
    for (size_t i = 0; i < cs->n; i++) {
        const struct condition *c = &cs->all[i];
        mn_value id = {.type = MN_INTEGER, .integer = row->id};
        if (c->column == CONDITION_TEXT_ID)
            id = (mn_value){.type = row->text_id ? MN_TEXT : MN_NULL,
                            .data = row->text_id,
                            .len = row->text_id ? strlen(row->text_id) : 0};
        if (!condition_holds(c, c->column < 0 ? &id : &row->attrs[c->column].value))
            return false;
    }
    return true;
}
