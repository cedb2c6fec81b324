/* Conditions of --where: "year>=1990", "lang=en". Rows must meet all of them. */
#ifndef MN_SHELL_WHERE_H
#define MN_SHELL_WHERE_H

#include "src/shell/rows.h"

enum where_op { WHERE_EQ, WHERE_NE, WHERE_LT, WHERE_LE, WHERE_GT, WHERE_GE };

struct where_term {
    char name[MN_MAX_NAME + 1];
    enum where_op op;
    const char *text; /* borrowed from the command line, quotes taken off */
    size_t text_len;
    bool is_number;
    double number;
};

struct where {
    struct where_term *terms; /* [n] */
    size_t n;
};

/* The attribute must be one of `names`. 0 or the exit code. */
int where_parse(struct where *w, const struct option_list *given, const struct names *names);
void where_free(struct where *w);

/* An mn_filter_fn over a struct where. NULL attributes meet no condition. Numbers are compared with
 * numbers, texts by their bytes. */
bool where_match(void *w, const mn_row *row);

#endif
