/* The processes that `ann` starts for Mneme: the fold that builds the index, exact search for the
 * true neighbours, and search by recall target. Each opens the committed database anew and uses
 * the public header alone. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/peers/driver.h"
#include "src/faiss/truth.h"

#define COLLECTION "bench"
#define TRUTH_BATCH 256u
#define PAGE_BYTES 4096u /* of mn_search_stats.reads */

struct ann_worker_opts {
    const char *db, *queries, *out;
    bool by_faiss;
    uint64_t k, threads, memory;
    bool cold, no_background;
};

static bool parse(struct ann_worker_opts *o, int argc, char **argv)
{
    *o = (struct ann_worker_opts){.k = 10, .threads = 1};
    const struct opt opts[] = {
        {"--db", OPT_TEXT, &o->db, 0, 0, "F!", "database"},
        {"--queries", OPT_TEXT, &o->queries, 0, 0, "F", "queries, fbin"},
        {"--out", OPT_TEXT, &o->out, 0, 0, "F", "takes ivecs"},
        {"--by-faiss", OPT_FLAG, &o->by_faiss, 0, 0, NULL, "FAISS finds the true neighbours"},
        {"--k", OPT_COUNT, &o->k, 1, MN_MAX_K, "K", "hits"},
        {"--threads", OPT_COUNT, &o->threads, 1, 256, "N", "threads"},
        {"--memory", OPT_SIZE, &o->memory, 0, INT64_MAX, "SIZE", "cap"},
        {"--cold", OPT_FLAG, &o->cold, 0, 0, NULL, "vectors must come from the disk"},
        {"--no-background", OPT_FLAG, &o->no_background, 0, 0, NULL, "no thread folds"},
    };
    return opts_parse("a worker of mneme_bench", opts, sizeof opts / sizeof *opts, argc, argv) ==
           OPTS_GO;
}

struct system {
    mn_db *db;
    mn_conn *conn;
    mn_hit *hits; /* [room][k] */
    uint32_t *found;
    size_t room;
    double recall;
};

static int system_open(struct system *s, const struct ann_worker_opts *o, mn_error *err)
{
    mn_open_opts opts = {.flags =
                             MN_OPEN_MUST_EXIST | (o->no_background ? MN_OPEN_NO_BACKGROUND : 0),
                         .memory_bytes = o->memory,
                         .threads = (uint32_t)o->threads};
    return mn_open(o->db, &opts, &s->db, err) != MN_OK || mn_connect(s->db, &s->conn, err) != MN_OK;
}

static int system_close(struct system *s, mn_error *err)
{
    mn_disconnect(s->conn);
    s->conn = NULL;
    mn_status st = mn_close(s->db, err);
    s->db = NULL;
    free(s->hits);
    free(s->found);
    s->hits = NULL;
    s->found = NULL;
    return st != MN_OK;
}

static int search(struct driver *d, const float *queries, size_t nq, int64_t *ids)
{
    struct system *s = d->ctx;
    mn_search_stats stats = {.reads = 0};
    mn_search_opts opts = {.recall = s->recall, .stats = &stats};
    mn_error err;
    if (nq > s->room) {
        free(s->hits);
        free(s->found);
        s->hits = calloc(nq * d->k, sizeof *s->hits);
        s->found = calloc(nq, sizeof *s->found);
        s->room = s->hits && s->found ? nq : 0;
        if (!s->room) {
            snprintf(d->message, sizeof d->message, "no memory for %zu queries", nq);
            return 1;
        }
    }
    if (mn_search(s->conn, COLLECTION, queries, nq, d->k, &opts, s->hits, s->found, &err) !=
        MN_OK) {
        snprintf(d->message, sizeof d->message, "%.399s", err.message);
        return 1;
    }
    d->reads += stats.reads + stats.parts_read;
    d->bytes += stats.reads * PAGE_BYTES + stats.part_bytes;
    for (size_t q = 0; q < nq; q++)
        for (uint32_t i = 0; i < d->k; i++)
            ids[q * d->k + i] = i < s->found[q] ? s->hits[q * d->k + i].id : -1;
    return 0;
}

/* "recall=0.95" */
static int set(struct driver *d, const char *text)
{
    struct system *s = d->ctx;
    char *end;
    if (strncmp(text, "recall=", 7) == 0) {
        s->recall = strtod(text + 7, &end);
        if (*end == 0 && s->recall >= 0.5 && s->recall <= 1) {
            snprintf(d->setting, sizeof d->setting, "%.100s", text);
            return 0;
        }
    }
    snprintf(d->message, sizeof d->message, "'%.100s' is no setting; recall=0.5 to 1 is", text);
    return 1;
}

/* The index must be there, and when cold the vectors must not be in memory. */
static int check_index(struct system *s, const struct ann_worker_opts *o, char *message,
                       size_t room)
{
    mn_index_info info;
    mn_error err;
    if (mn_index_stats(s->conn, COLLECTION, &info, &err) != MN_OK) {
        snprintf(message, room, "%.399s", err.message);
        return 1;
    }
    if (o->cold && info.exists && info.vectors_in_memory) {
        snprintf(message, room, "--cold: all vectors fit into --memory; give less");
        return 1;
    }
    return 0;
}

int worker_ann(int argc, char **argv)
{
    struct ann_worker_opts o;
    struct system s = {.recall = 0.95};
    struct driver d = {.search = search, .set = set, .ctx = &s};
    mn_error err;
    int rc = 1;
    if (!parse(&o, argc, argv))
        return 2;
    d.k = (uint32_t)o.k;
    float *queries = driver_read_fbin(o.queries ? o.queries : "", &d.n_queries, &d.dim, d.message,
                                      sizeof d.message);
    if (!queries)
        return driver_error(d.message);
    d.queries = queries;
    if (system_open(&s, &o, &err) != 0)
        driver_error(err.message);
    else if (check_index(&s, &o, d.message, sizeof d.message) != 0)
        driver_error(d.message);
    else
        rc = driver_run(&d);
    system_close(&s, NULL);
    free(queries);
    return rc;
}

/* Builds the index of committed rows, or folds what is pending: all of it, the close included. */
int worker_fold(int argc, char **argv)
{
    struct ann_worker_opts o;
    struct system s = {.db = NULL};
    mn_index_info info = {.exists = false};
    mn_error err;
    double wall = driver_wall_us(), cpu = driver_cpu_us();
    if (!parse(&o, argc, argv))
        return 2;
    o.no_background = true;
    if (system_open(&s, &o, &err) != 0 || mn_fold(s.conn, COLLECTION, &err) != MN_OK ||
        mn_index_stats(s.conn, COLLECTION, &info, &err) != MN_OK) {
        system_close(&s, NULL);
        return driver_error(err.message);
    }
    if (system_close(&s, &err) != 0)
        return driver_error(err.message);
    printf("{\"wall_us\": %.0f, \"cpu_us\": %.0f, \"rss_peak_kb\": %" PRIu64 ", \"index\": %s, "
           "\"postings\": %" PRIu64 ", \"rows\": %" PRIu64 "}\n",
           driver_wall_us() - wall, driver_cpu_us() - cpu, driver_rss_peak_kb(),
           info.exists ? "true" : "false", info.postings, info.rows);
    return 0;
}

/* The true neighbours of all queries by exact search into ids [n_queries][k], 256 at once. */
static int truth_by_search(struct driver *d, const float *queries, int64_t *ids)
{
    for (size_t q = 0; q < d->n_queries; q += TRUTH_BATCH) {
        size_t nq = d->n_queries - q < TRUTH_BATCH ? d->n_queries - q : TRUTH_BATCH;
        if (search(d, queries + q * d->dim, nq, ids + q * d->k) != 0)
            return 1;
    }
    return 0;
}

/* The same by FAISS's flat index. */
static int truth_by_faiss(struct driver *d, const struct ann_worker_opts *o, const float *queries,
                          int64_t *ids)
{
    struct system *s = d->ctx;
    struct faiss_truth *t = NULL;
    struct faiss_truth_opts opts = {.threads = (uint32_t)o->threads};
    mn_hit *hits = malloc(d->n_queries * d->k * sizeof *hits);
    uint32_t *found = malloc(d->n_queries * sizeof *found);
    mn_error err = {0};
    snprintf(err.message, sizeof err.message, "no memory for the neighbours");
    bool good = hits && found &&
                faiss_truth_open(s->conn, COLLECTION, &opts, &t, &err) == MN_OK &&
                faiss_truth_search(t, queries, d->n_queries, d->k, hits, found, &err) == MN_OK;
    for (size_t q = 0; good && q < d->n_queries; q++)
        for (uint32_t i = 0; i < d->k; i++)
            ids[q * d->k + i] = i < found[q] ? hits[q * d->k + i].id : -1;
    if (!good)
        snprintf(d->message, sizeof d->message, "%.399s", err.message);
    faiss_truth_close(t);
    free(hits);
    free(found);
    return good ? 0 : 1;
}

/* The true neighbours of all queries, as ivecs. */
int worker_truth(int argc, char **argv)
{
    struct ann_worker_opts o;
    struct system s = {.recall = 1.0};
    struct driver d = {.ctx = &s};
    int64_t *ids = NULL;
    mn_error err;
    int rc = 1;
    if (!parse(&o, argc, argv))
        return 2;
    o.no_background = true;
    d.k = (uint32_t)o.k;
    float *queries = driver_read_fbin(o.queries ? o.queries : "", &d.n_queries, &d.dim, d.message,
                                      sizeof d.message);
    if (!queries)
        return driver_error(d.message);
    ids = calloc(d.n_queries * d.k, sizeof *ids);
    snprintf(d.message, sizeof d.message, "no memory for the neighbours");
    if (!ids)
        goto done;
    if (system_open(&s, &o, &err) != 0) {
        snprintf(d.message, sizeof d.message, "%.399s", err.message);
        goto done;
    }
    if ((o.by_faiss ? truth_by_faiss(&d, &o, queries, ids)
                    : truth_by_search(&d, queries, ids)) != 0)
        goto done;
    snprintf(d.message, sizeof d.message, "%s: cannot be written", o.out ? o.out : "no --out");
    if (o.out && truth_write(o.out, ids, d.n_queries, d.k) == 0)
        rc = 0;
done:
    if (rc == 0)
        printf("{\"queries\": %zu}\n", d.n_queries);
    else
        driver_error(d.message);
    system_close(&s, NULL);
    free(ids);
    free(queries);
    return rc;
}
