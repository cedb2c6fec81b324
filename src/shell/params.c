#include "src/shell/params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/shell/shell.h"

static struct param *find(const struct params *p, const char *name)
{
    for (size_t i = 0; i < p->n; i++)
        if (strcmp(p->items[i].name, name) == 0)
            return &p->items[i];
    return NULL;
}

void params_set(struct params *p, const char *name, const sqlite3_value *value)
{
    struct param *item = find(p, name);
    if (item) {
        sqlite3_value_free(item->value);
    } else {
        p->items = need(realloc(p->items, (p->n + 1) * sizeof *p->items));
        item = &p->items[p->n++];
        item->name = need(strdup(name));
    }
    item->value = need(sqlite3_value_dup(value));
}

bool params_unset(struct params *p, const char *name)
{
    struct param *item = find(p, name);
    if (!item)
        return false;
    free(item->name);
    sqlite3_value_free(item->value);
    *item = p->items[--p->n];
    return true;
}

void params_clear(struct params *p)
{
    while (p->n)
        (void)params_unset(p, p->items[p->n - 1].name);
    free(p->items);
    *p = (struct params){0};
}

const char *params_bind(const struct params *p, sqlite3_stmt *stmt)
{
    return params_bind_into(p, stmt, stmt, 1);
}

const char *params_bind_into(const struct params *p, sqlite3_stmt *stmt, sqlite3_stmt *to,
                             int first)
{
    static char number[16];
    int n = sqlite3_bind_parameter_count(stmt);
    for (int i = 1; i <= n; i++) {
        const char *name = sqlite3_bind_parameter_name(stmt, i);
        if (!name) {
            snprintf(number, sizeof number, "?%d", i);
            name = number;
        }
        const struct param *item = find(p, name);
        if (!item)
            return name;
        sqlite3_bind_value(to, first + i - 1, item->value);
    }
    return NULL;
}
