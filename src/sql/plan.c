/*
 * xBestIndex: which constraints a query takes over, written into idxStr.
 *
 *   "m1 k e3 L4: nearest by embedding, k, lang =, year <="
 *
 * Before the colon one word a constraint, in the order of xFilter's arguments: a letter (enum step)
 * and, where it is about one, the column's number. Behind it the same for people: it is what
 * EXPLAIN QUERY PLAN shows.
 *
 * With a MATCH the rows come by distance. What is taken over is honoured before rows are counted,
 * so that `k = 10` gives min(10, matches); what SQLite keeps for itself it checks on the rows that
 * come, of which there are enough if it asked for them by LIMIT. A constraint on an own column that
 * cannot be taken over (LIKE, a foreign collation) would make `k` under-return: that is an error.
 */
#include <string.h>

#include "src/sql/table.h"
#include "storage/base/error.h"

enum { OP_CONTAINS = SQLITE_INDEX_CONSTRAINT_FUNCTION };

/* Where `k` stands, the order of a join must not depend on what SQLite thinks of the tables' sizes:
 * the k nearest are counted before the conditions that join them with others,
 *
 *     WITH near AS (SELECT id FROM docs WHERE embedding MATCH :q AND k = 10)
 *     SELECT * FROM near JOIN authors USING (id)
 *
 * and not once for every author. SQLite does not say which conditions those are, but it asks for
 * plans without them too: with this cost for the plan that has them all, it takes another one if
 * there is any. If there is none, the query vector comes from such a table, and what else comes
 * from there is a parameter like the vector. */
static const double SEARCH_COST = 1e6;

struct planner {
    struct table *t;
    sqlite3_index_info *info;
    sqlite3_str *steps, *words;
    int args;
    bool near, bounded;
    bool given[HIDDENS]; /* = a value, once */
    bool nothing;        /* the first word was not written yet */
};

static const char *column_name(const struct planner *p, int column)
{
    static const char *const hidden[HIDDENS] = {"command", "k", "distance", "recall", "exact"};
    size_t i = (size_t)column, n = p->t->d.n;
    if (column >= 0 && i == n + HIDDEN_TEXT && p->t->d.text)
        return p->t->d.text;
    return column < 0 ? p->t->d.columns[0].name : i < n ? p->t->d.columns[i].name : hidden[i - n];
}

static const struct column *declared(const struct planner *p, int column)
{
    size_t i = column < 0 ? 0 : (size_t)column;
    return i < p->t->d.n ? &p->t->d.columns[i] : NULL;
}

static bool is_hidden(const struct planner *p, int column, enum hidden which)
{
    return column >= 0 && (size_t)column == p->t->d.n + (size_t)which;
}

/* Takes constraint i over. `omit`: SQLite need not check it again. */
static void take(struct planner *p, int i, enum step step, int column, const char *word, bool omit)
{
    p->info->aConstraintUsage[i].argvIndex = ++p->args;
    p->info->aConstraintUsage[i].omit = omit;
    sqlite3_str_appendf(p->steps, "%s%c", p->args > 1 ? " " : "", (char)step);
    if (column >= 0)
        sqlite3_str_appendf(p->steps, "%d", column);
    sqlite3_str_appendf(p->words, "%s%s", p->nothing ? "" : ", ", word ? word : "");
    p->nothing = false;
}

static void take_named(struct planner *p, int i, enum step step, int column, const char *op,
                       bool omit)
{
    take(p, i, step, column < 0 ? 0 : column, NULL, omit);
    sqlite3_str_appendf(p->words, "%s %s", column_name(p, column), op);
}

/* The step of an operator on an attribute or the id; 0: none. */
static enum step step_of(int op, const char **word)
{
    static const struct {
        int op;
        enum step step;
        const char *word;
    } steps[] = {{SQLITE_INDEX_CONSTRAINT_EQ, STEP_EQ, "="},
                 {SQLITE_INDEX_CONSTRAINT_NE, STEP_NE, "<>"},
                 {SQLITE_INDEX_CONSTRAINT_LT, STEP_LT, "<"},
                 {SQLITE_INDEX_CONSTRAINT_LE, STEP_LE, "<="},
                 {SQLITE_INDEX_CONSTRAINT_GT, STEP_GT, ">"},
                 {SQLITE_INDEX_CONSTRAINT_GE, STEP_GE, ">="},
                 {SQLITE_INDEX_CONSTRAINT_ISNULL, STEP_NULL, "IS NULL"},
                 {SQLITE_INDEX_CONSTRAINT_ISNOTNULL, STEP_NOT_NULL, "IS NOT NULL"},
                 {SQLITE_INDEX_CONSTRAINT_IS, STEP_IS, "IS"},
                 {OP_CONTAINS, STEP_CONTAINS, "contains"}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (steps[i].op == op) {
            *word = steps[i].word;
            return steps[i].step;
        }
    }
    return 0;
}

static bool binary_collation(sqlite3_index_info *info, int i)
{
    const char *name = sqlite3_vtab_collation(info, i);
    return !name || sqlite3_stricmp(name, "BINARY") == 0;
}

static bool is_text(const struct planner *p, int column)
{
    return p->t->d.text && column == (int)p->t->d.n + HIDDEN_TEXT;
}

/* A condition on a declared column. False: it is SQLite's to check. */
static bool plan_condition(struct planner *p, int i)
{
    const struct sqlite3_index_constraint *c = &p->info->aConstraint[i];
    if (is_text(p, c->iColumn) && c->op == SQLITE_INDEX_CONSTRAINT_MATCH) {
        take(p, i, STEP_TEXT, -1, NULL, true);
        sqlite3_str_appendf(p->words, "%s MATCH", p->t->d.text);
        return true;
    }
    const struct column *column = declared(p, c->iColumn);
    const char *word = NULL;
    if (!column || column->kind == COLUMN_VECTOR || (p->near && column->kind == COLUMN_AUXILIARY))
        return false;
    enum step step = step_of(c->op, &word);
    if (!step || (column->kind == COLUMN_AUXILIARY && step == STEP_CONTAINS))
        return false;
    if (step != STEP_NULL && step != STEP_NOT_NULL && step != STEP_CONTAINS &&
        !binary_collation(p->info, i))
        return false;
    if (step == STEP_EQ && sqlite3_vtab_in(p->info, i, -1)) {
        /* Without a MATCH one look-up a value is what an index is for. */
        if (p->near) {
            sqlite3_vtab_in(p->info, i, 1);
            take_named(p, i, STEP_IN, c->iColumn, "IN", true);
            return true;
        }
    }
    take_named(p, i, step, c->iColumn, word, p->near);
    return true;
}

static int refuse(struct planner *p, const char *format, const char *name)
{
    sqlite3_free(p->t->base.zErrMsg);
    p->t->base.zErrMsg = sqlite3_mprintf(format, p->t->name, name);
    return SQLITE_ERROR;
}

static bool is_argument(const struct planner *p, int column)
{
    return is_hidden(p, column, HIDDEN_K) || is_hidden(p, column, HIDDEN_RECALL) ||
           is_hidden(p, column, HIDDEN_EXACT);
}

/* The distance's bounds: *ok false if the operator is none. */
static bool plan_distance(struct planner *p, int i)
{
    int op = p->info->aConstraint[i].op;
    enum step step = op == SQLITE_INDEX_CONSTRAINT_LT   ? STEP_NEARER
                     : op == SQLITE_INDEX_CONSTRAINT_LE ? STEP_NEARER_EQ
                     : op == SQLITE_INDEX_CONSTRAINT_GT ? STEP_FARTHER
                     : op == SQLITE_INDEX_CONSTRAINT_GE ? STEP_FARTHER_EQ
                                                        : 0;
    const char *word = NULL;
    if (!step)
        return false;
    step_of(op, &word);
    take(p, i, step, -1, NULL, true);
    sqlite3_str_appendf(p->words, "distance %s", word);
    p->bounded = p->bounded || step == STEP_NEARER || step == STEP_NEARER_EQ;
    return true;
}

/* Finds the MATCH: *at its constraint, -1 if there is none. */
static int find_match(struct planner *p, int *at)
{
    *at = -1;
    bool elsewhere = false;
    for (int i = 0; i < p->info->nConstraint; i++) {
        const struct sqlite3_index_constraint *c = &p->info->aConstraint[i];
        if (is_text(p, c->iColumn)) {
            if (c->op == SQLITE_INDEX_CONSTRAINT_LIMIT || c->op == SQLITE_INDEX_CONSTRAINT_OFFSET)
                continue;
            if (c->op != SQLITE_INDEX_CONSTRAINT_MATCH)
                return refuse(p, "%s.%s is full text: it takes MATCH, and nothing else",
                              p->t->d.text);
            if (!c->usable)
                return SQLITE_CONSTRAINT;
            continue;
        }
        if (c->op != SQLITE_INDEX_CONSTRAINT_MATCH)
            continue;
        const struct column *column = declared(p, c->iColumn);
        if (!column || column->kind != COLUMN_VECTOR)
            return refuse(p, "%s.%s is no vector and no full-text column: MATCH takes one",
                          column_name(p, c->iColumn));
        if (*at >= 0 || (elsewhere && c->usable))
            return refuse(p,
                          "%s: two MATCHes in one query, the second on %s; search by one and "
                          "join the other",
                          column_name(p, c->iColumn));
        if (c->usable)
            *at = i;
        else
            elsewhere = true;
    }
    /* Its query comes from a table that SQLite means to read later: not in this order. */
    return *at < 0 && elsewhere ? SQLITE_CONSTRAINT : SQLITE_OK;
}

/* k, recall and exact, each once: whatever else is said of them nobody could check. */
static bool plan_argument(struct planner *p, int i)
{
    static const enum step steps[HIDDENS] = {
        [HIDDEN_K] = STEP_K, [HIDDEN_RECALL] = STEP_RECALL, [HIDDEN_EXACT] = STEP_EXACT};
    const struct sqlite3_index_constraint *c = &p->info->aConstraint[i];
    enum hidden which = (enum hidden)((size_t)c->iColumn - p->t->d.n);
    if (c->op != SQLITE_INDEX_CONSTRAINT_EQ || p->given[which]) {
        refuse(p, "%s: a query takes one value of %s, by =, and no other comparison of it",
               column_name(p, c->iColumn));
        return false;
    }
    take(p, i, steps[which], -1, column_name(p, c->iColumn), true);
    p->given[which] = true;
    return true;
}

static int plan_near(struct planner *p, int match)
{
    sqlite3_index_info *info = p->info;
    int unchecked = -1;
    bool later = false; /* a condition depends on a table that is read later */
    take(p, match, STEP_MATCH, info->aConstraint[match].iColumn, NULL, true);
    sqlite3_str_appendf(p->words, "nearest by %s",
                        column_name(p, info->aConstraint[match].iColumn));
    for (int i = 0; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *c = &info->aConstraint[i];
        if (i == match)
            continue;
        bool limit =
            c->op == SQLITE_INDEX_CONSTRAINT_LIMIT || c->op == SQLITE_INDEX_CONSTRAINT_OFFSET;
        if (!c->usable && !limit && is_argument(p, c->iColumn))
            return SQLITE_CONSTRAINT; /* nobody but us can make sense of it */
        if (!c->usable) {
            later = later || !limit;
            continue;
        }
        if (limit) {
            take(p, i, c->op == SQLITE_INDEX_CONSTRAINT_LIMIT ? STEP_LIMIT : STEP_OFFSET, -1,
                 c->op == SQLITE_INDEX_CONSTRAINT_LIMIT ? "LIMIT" : "OFFSET", false);
        } else if (is_argument(p, c->iColumn)) {
            if (!plan_argument(p, i))
                return SQLITE_ERROR;
        } else if (is_hidden(p, c->iColumn, HIDDEN_DISTANCE)) {
            if (!plan_distance(p, i))
                unchecked = i;
        } else if (!plan_condition(p, i)) {
            unchecked = i;
        }
    }
    if (p->given[HIDDEN_K] && unchecked >= 0)
        return refuse(p,
                      "%s: a condition on %s cannot be checked inside the search, so that k = "
                      "would give too few rows; use ORDER BY distance LIMIT instead of k",
                      column_name(p, info->aConstraint[unchecked].iColumn));
    info->orderByConsumed = info->nOrderBy == 1 && !info->aOrderBy[0].desc &&
                            is_hidden(p, info->aOrderBy[0].iColumn, HIDDEN_DISTANCE);
    /* Without k nothing may be cheaper, sorting included: SQLite might try an OR branch by branch,
     * and then it leaves the MATCH out. */
    bool sorted = info->nOrderBy > 0 && !info->orderByConsumed;
    info->estimatedCost = p->given[HIDDEN_K] && !later ? SEARCH_COST : 1;
    info->estimatedRows = p->given[HIDDEN_K] ? 10 : sorted ? 1 : 25;
    return SQLITE_OK;
}

/* The statement looks at the column, wherever. */
static bool uses_hidden(const struct planner *p, enum hidden which)
{
    size_t i = p->t->d.n + (size_t)which;
    return p->info->colUsed & ((sqlite3_uint64)1 << (i < 63 ? i : 63));
}

/* A constraint is on a hidden column. */
static bool has_hidden(const struct planner *p)
{
    for (int i = 0; i < p->info->nConstraint; i++)
        for (int which = HIDDEN_K; which < HIDDENS; which++)
            if (is_hidden(p, p->info->aConstraint[i].iColumn, (enum hidden)which))
                return true;
    return false;
}

/* Without a MATCH: SQLite reads the rows table. */
static int plan_rows(struct planner *p)
{
    sqlite3_index_info *info = p->info;
    double cost = 1e9;
    bool one = false;
    /* One branch of an OR: the MATCH beside it is out of sight. (UPDATE reads all columns.) */
    if (uses_hidden(p, HIDDEN_K) && !uses_hidden(p, HIDDEN_COMMAND) && info->nConstraint > 0 &&
        !has_hidden(p))
        return SQLITE_CONSTRAINT;
    for (int i = 0; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *c = &info->aConstraint[i];
        const struct column *column = declared(p, c->iColumn);
        if (c->iColumn >= 0 && !column && c->op != SQLITE_INDEX_CONSTRAINT_LIMIT &&
            c->op != SQLITE_INDEX_CONSTRAINT_OFFSET && !is_hidden(p, c->iColumn, HIDDEN_COMMAND) &&
            !is_text(p, c->iColumn)) {
            return refuse(p, "%s: a condition on %s needs a MATCH on a vector column",
                          column_name(p, c->iColumn));
        }
        if (!c->usable || !plan_condition(p, i))
            continue;
        if (column && column->kind == COLUMN_ID && c->op == SQLITE_INDEX_CONSTRAINT_EQ)
            one = true;
        else if (is_text(p, c->iColumn))
            cost /= 1e4;
        else
            cost /= column && (column->unique || column->partition) ? 1e4 : 4;
    }
    if (one)
        info->idxFlags |= SQLITE_INDEX_SCAN_UNIQUE;
    info->estimatedCost = one ? 1 : cost;
    info->estimatedRows = one ? 1 : 1000000;
    if (p->nothing)
        sqlite3_str_appendall(p->words, "all rows");
    return SQLITE_OK;
}

static bool wants_vectors(const struct planner *p)
{
    for (size_t i = 0; i < p->t->d.n; i++)
        if (p->t->d.columns[i].kind == COLUMN_VECTOR &&
            (p->info->colUsed & ((sqlite3_uint64)1 << (i < 63 ? i : 63))))
            return true;
    return false;
}

int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    struct planner p = {.t = (struct table *)base, .info = info, .nothing = true};
    int match = -1;
    int rc = find_match(&p, &match);
    if (rc != SQLITE_OK)
        return rc;
    p.near = match >= 0;
    p.steps = sqlite3_str_new(session_sql(p.t->s));
    p.words = sqlite3_str_new(session_sql(p.t->s));
    rc = p.near ? plan_near(&p, match) : plan_rows(&p);
    info->idxNum = wants_vectors(&p) ? PLAN_VECTORS : 0;
    char *steps = sqlite3_str_finish(p.steps), *words = sqlite3_str_finish(p.words);
    if (rc == SQLITE_OK) {
        info->idxStr = sqlite3_mprintf("%s: %s", steps ? steps : "", words ? words : "");
        info->needToFreeIdxStr = 1;
        rc = info->idxStr ? SQLITE_OK : SQLITE_NOMEM;
    }
    sqlite3_free(steps);
    sqlite3_free(words);
    return rc;
}
