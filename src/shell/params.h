/* Values for :name, @name, $name and ?1 in statements, as .param keeps them. */
#ifndef MN_SHELL_PARAMS_H
#define MN_SHELL_PARAMS_H

#include "src/shell/cells.h"

struct param {
    char *name; /* with its sign */
    sqlite3_value *value;
};

struct params {
    struct param *items; /* [n] */
    size_t n;
};

/* Takes a copy of the value. */
void params_set(struct params *p, const char *name, const sqlite3_value *value);
bool params_unset(struct params *p, const char *name); /* false: it was not set */
void params_clear(struct params *p);

/* Binds what the statement asks for. NULL, or the name of one that is not set. */
const char *params_bind(const struct params *p, sqlite3_stmt *stmt);

/* The same, into `to` from its parameter `first` on. */
const char *params_bind_into(const struct params *p, sqlite3_stmt *stmt, sqlite3_stmt *to,
                             int first);

#endif
