/* mneme create and mneme drop: collections. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/shell/indexing.h"
#include "src/shell/print.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"

struct create_options {
    struct common common;
    uint64_t dim;
    int metric, dtype, ids;
    struct option_list attribute;
    const char *beside, *table, *column;
    int rerank;
    uint64_t bits;
    struct option_real recall;
};

#define FIELD(name) offsetof(struct create_options, name)
static const struct option create_options[] = {
    {"dim", 0, OPTION_COUNT, FIELD(dim), "N", "Elements of a vector; always needed.", NULL, 1,
     MN_MAX_DIM},
    {"metric", 'm', OPTION_CHOICE, FIELD(metric), NULL, "Default l2; hamming for bits.",
     "l2|ip|cosine|hamming", 0, 0},
    {"dtype", 'd', OPTION_CHOICE, FIELD(dtype), NULL, "Element type. Default f32.",
     "f32|f16|bf16|i8|bit", 0, 0},
    {"ids", 0, OPTION_CHOICE, FIELD(ids), NULL, "Kind of ids. Default integer.", "integer|text", 0,
     0},
    {"attribute", 'a', OPTION_LIST, FIELD(attribute), "NAME",
     "An attribute of the rows. May be given many times; import adds what a file brings.", NULL, 0,
     0},
    {"beside", 0, OPTION_TEXT, FIELD(beside), "COLLECTION",
     "A further vector for the rows of this collection, whose ids, attributes and payloads it "
     "shares.",
     NULL, 0, 0},
    {"table", 0, OPTION_TEXT, FIELD(table), "TABLE",
     "Index this table, which is there already and goes on belonging to whoever made it. It needs "
     "an INTEGER PRIMARY KEY; --attribute names columns of it.",
     NULL, 0, 0},
    {"vector-column", 0, OPTION_TEXT, FIELD(column), "C",
     "Its column with the vectors: blobs, or JSON arrays of numbers.", NULL, 0, 0},
    RERANK_OPTION(FIELD(rerank)),
    BITS_OPTION(FIELD(bits)),
    RECALL_OPTION(FIELD(recall)),
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

static int create(struct session *db, const struct create_options *o, const char *name)
{
    mn_error err = {0};
    bool bits = o->dtype == MN_BIT + 1 || o->metric == MN_HAMMING + 1;
    mn_collection_opts opts = {
        .dim = (uint32_t)o->dim,
        .dtype = o->dtype ? (mn_dtype)(o->dtype - 1)
                 : bits   ? MN_BIT
                          : MN_F32,
        .metric = o->metric ? (mn_metric)(o->metric - 1)
                  : bits    ? MN_HAMMING
                            : MN_L2,
        .id_kind = o->ids ? (mn_id_kind)(o->ids - 1) : MN_ID_INTEGER,
        .attributes = o->attribute.items,
        .n_attributes = o->attribute.n,
        .beside = o->beside,
        .table = o->table,
        .column = o->column,
        .rerank = o->rerank ? (mn_rerank)(o->rerank - 1) : MN_RERANK_COPY,
        .bits = (uint32_t)o->bits,
        .recall = o->recall.value,
    };
    if (mn_create(db->conn, name, &opts, &err))
        return library_error(&err);
    if (!o->common.quiet)
        out_printf("created '%s': %u x %s, %s%s%s\n", name, (unsigned)opts.dim,
                   mn_dtype_name(opts.dtype), mn_metric_name(opts.metric),
                   o->beside                    ? ", beside "
                   : o->table                   ? ", over table "
                   : opts.id_kind == MN_ID_TEXT ? ", text ids"
                                                : "",
                   o->beside  ? o->beside
                   : o->table ? o->table
                              : "");
    return 0;
}

static int run_create(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    (void)n;
    const struct create_options *o = given;
    if (!o->dim)
        return usage_error("create: how many elements has a vector? give --dim N");
    if (!o->table != !o->column)
        return usage_error("create: a table that is there is indexed with both --table TABLE and "
                           "--vector-column C");
    struct session db;
    int code = session_open(&db, &o->common, args[0], 0);
    if (!code)
        code = create(&db, o, args[1]);
    int closed = session_close(&db);
    return code ? code : closed;
}

const struct command cmd_create = {
    .name = "create",
    .arguments = "DB COLLECTION",
    .summary = "make an empty collection",
    .about =
        "Makes an empty collection, and the database if it is missing. `mneme import` does it\n"
        "by itself from what a file holds. With --table it makes a collection over the rows of a\n"
        "table that is there; any SQLite client may go on writing to that.",
    .examples = "  mneme create app.db docs --dim 384 --metric cosine\n"
                "  mneme create app.db words --dim 100 --dtype f16 --ids text\n"
                "  mneme create app.db docs --dim 384 --attribute lang --attribute year\n"
                "  mneme create app.db titles --dim 64 --beside docs\n"
                "  mneme create app.db notes --table notes --vector-column embedding --dim 384\n"
                "  mneme create app.db big --dim 768 --rerank rows --recall 0.9\n",
    .options = create_options,
    .size = sizeof(struct create_options),
    .run = run_create,
};

/* ---- drop ----------------------------------------------------------------------------------- */

struct drop_options {
    struct common common;
    bool yes;
};

static const struct option drop_options[] = {
    {"yes", 'y', OPTION_FLAG, offsetof(struct drop_options, yes), NULL,
     "Do not ask. Needed where nobody can be asked: in scripts.", NULL, 0, 0},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

/* Asks on the terminal. */
static bool confirmed(const mn_collection_info *info, uint64_t rows)
{
    char n[UNITS_TEXT], answer[16] = "";
    if (info->foreign)
        fprintf(stderr, "drop '%s'? table '%s' stays as it is [y/N] ", info->name, info->table);
    else
        fprintf(stderr, "drop '%s' with its %s vectors? [y/N] ", info->name, count_format(n, rows));
    fflush(stderr);
    if (!fgets(answer, sizeof answer, stdin))
        fputc('\n', stderr);
    return answer[0] == 'y' || answer[0] == 'Y';
}

static int drop(struct session *db, const struct drop_options *o, const char *name)
{
    mn_error err = {0};
    mn_collection_info info;
    mn_collection_stats stats;
    if (!o->yes) {
        int code = session_collection(db, name, &info);
        if (code)
            return code;
        if (mn_collection_stats_get(db->conn, name, &stats, &err))
            return library_error(&err);
        if (!confirmed(&info, stats.vectors)) {
            if (interrupted())
                return EXIT_INTERRUPTED;
            (void)error_exit("'%s' stays", name);
            return EXIT_FOUND;
        }
    }
    mn_status st = mn_drop(db->conn, name, &err);
    if (st == MN_NOTFOUND)
        return session_collection(db, name, &info); /* says more of it */
    if (st)
        return library_error(&err);
    if (!o->common.quiet)
        out_printf("dropped '%s'\n", name);
    return 0;
}

static int run_drop(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    (void)n;
    const struct drop_options *o = given;
    if (!o->yes && !isatty(STDIN_FILENO))
        return usage_error("drop: removes '%s' for good; add --yes to do so without being asked",
                           args[1]);
    struct session db;
    int code = session_open(&db, &o->common, args[0], MN_OPEN_MUST_EXIST);
    if (!code)
        code = drop(&db, o, args[1]);
    int closed = session_close(&db);
    return code ? code : closed;
}

const struct command cmd_drop = {
    .name = "drop",
    .arguments = "DB COLLECTION",
    .summary = "remove a collection with its vectors",
    .about =
        "Removes a collection and its vectors; the rows go with the last collection over them. A\n"
        "table that was there before the collection stays as it is. Asks before it does.",
    .examples = "  mneme drop app.db words\n"
                "  mneme drop app.db words --yes\n",
    .options = drop_options,
    .size = sizeof(struct drop_options),
    .run = run_drop,
};
