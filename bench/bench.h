/* What the bench's subcommands share: options, figures, JSON lines, worker processes. One thread
 * unless a comment says otherwise. */
#ifndef MN_BENCH_BENCH_H
#define MN_BENCH_BENCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "mneme.h"

/* ---- Options ----------------------------------------------------------------------------- */

enum opt_kind {
    OPT_COUNT, /* uint64_t, min .. max */
    OPT_SIZE,  /* uint64_t in bytes: 64MB, 1GiB, 4096 */
    OPT_TEXT,  /* const char *, borrowed from argv */
    OPT_FLAG,  /* bool, takes no value */
    OPT_METRIC,
    OPT_DTYPE
};

struct opt {
    const char *name; /* "--rows" */
    enum opt_kind kind;
    void *out; /* holds the default before */
    uint64_t min, max;
    const char *value; /* what the help calls the value; NULL: none. A required one ends in "!" */
    const char *help;  /* NULL: not shown, used between processes */
};

/* Reads argv[1..]. OPTS_GO: go on; OPTS_HELP: the help was printed, exit 0; OPTS_WRONG: a sentence
 * was printed, exit 2. `about` is the help's head: usage, then what it does. */
enum opts_result { OPTS_GO, OPTS_HELP, OPTS_WRONG };
/* The exit status of a subcommand that does not go on. */
static inline int opts_exit(enum opts_result r)
{
    return r == OPTS_HELP ? 0 : 2;
}
enum opts_result opts_parse(const char *about, const struct opt *opts, size_t n, int argc,
                            char **argv);

/* "512MB" = 512,000,000, "1GiB" = 2^30, "4096". */
bool size_parse(const char *text, uint64_t *out);

/* "a,b,c" has "b". list NULL has nothing. */
bool list_has(const char *list, const char *word);

/* All words of the list are among `words`, which a NULL ends; else false after a sentence. */
bool list_checked(const char *option, const char *list, const char *const *words);

/* Prints "mneme_bench: ..." to stderr and returns 1. */
__attribute__((format(printf, 1, 2))) int bench_fail(const char *format, ...);

/* ---- Figures ----------------------------------------------------------------------------- */

#define MAX_PASSES 64

/* A figure measured in several passes. */
struct figure {
    double values[MAX_PASSES];
    size_t n;
};

void figure_add(struct figure *f, double value);
double figure_median(const struct figure *f);
double figure_min(const struct figure *f);
double figure_max(const struct figure *f);

/* Puts "name": median, "name_min", "name_max" into the object. */
void json_put_figure(json_t *object, const char *name, const struct figure *f);

/* Puts a number with about five digits. */
void json_put_number(json_t *object, const char *name, double value);

double median_of(double *values, size_t n); /* sorts them */

/* ---- Results ----------------------------------------------------------------------------- */

/* Where a subcommand's lines go: a JSON file of one object a line. Zeroed before results_open. */
struct results {
    const char *label;  /* NULL, or the row of the target table that this run is for; --label */
    const char *data;   /* NULL, or where the vectors come from; --data */
    const char *path;   /* NULL: no file */
    char command[1024]; /* without options that only name places */
    void *file;
};

/* path NULL: nothing is written. 0, or 1 after a sentence on stderr. */
int results_open(struct results *r, const char *path, const char *label, int argc, char **argv);

/* Adds machine, compiler, commit, time and command to the line, writes it, and drops it. */
int results_line(struct results *r, json_t *line);
int results_close(struct results *r);

/* ---- Files --------------------------------------------------------------------------------- */

/* A folder of this run's own under `parent` (NULL: $TMPDIR or /var/tmp), on the disk that is to be
 * measured. Exits the process's business with 1 and a sentence if it cannot be made. */
int work_open(const char *parent, char *out, size_t room);
void work_close(const char *dir); /* removes it with all that is in it */

uint64_t file_bytes(const char *path); /* 0: not there */
const char *filesystem_name(const char *path);

/* Vectors in memory. */
struct vectors {
    float *rows; /* [n][dim], aligned to 64 */
    size_t n;
    uint32_t dim;
};

/* Reads a file of any format. 0, or 1 and a sentence; vectors_fini in both cases. */
int vectors_read(struct vectors *v, const char *path);
int vectors_normalise(struct vectors *v, const char *path); /* to length 1; path for the sentence */
void vectors_fini(struct vectors *v);

/* Writes n x dim f32 as fbin. 0, or 1 and a sentence. */
int fbin_write(const char *path, const float *rows, size_t n, uint32_t dim);

/* ---- True neighbours ------------------------------------------------------------------------ */

/* What answers are checked against: the k-th least distance of each checked query. An id is right
 * if its distance, computed here in double precision, is not beyond it. */
struct truth {
    const struct vectors *base, *queries;
    size_t k; /* hits a query; recall is of min(k, rows) */
    mn_metric metric;
    double *kth; /* [n] */
    size_t n;    /* queries from the first on that are checked */
};

/* Computes t->kth of the first n queries (or all) by plain loops: for few queries. */
int truth_compute(struct truth *t, size_t n);

/* Takes t->kth from the neighbours' ids, int64 [n][per_query], per_query >= min(k, rows). */
int truth_from_ids(struct truth *t, const int64_t *ids, size_t n, size_t per_query);

/* Reads ivecs. 0, or 1 after a sentence; the caller frees *ids. */
int truth_read(const char *path, int64_t **ids, size_t *n, size_t *per_query);
int truth_write(const char *path, const int64_t *ids, size_t n, size_t per_query);

/* Share of right answers of queries first .. first + n; ids is [n][k], -1: none. */
double truth_recall(const struct truth *t, const int64_t *ids, size_t first, size_t n);

/* The same of the file that an `answers` or `measure` command wrote, for all t->n queries. */
int truth_recall_of_file(const struct truth *t, const char *name, const char *path, double *recall);
void truth_fini(struct truth *t);

/* Distance in double precision, as the public API tells it. */
double truth_distance(const float *a, const float *b, uint32_t dim, mn_metric metric);

/* ---- Worker processes ---------------------------------------------------------------------- */

/* A process that answers lines: see bench/peers/driver.h. */
struct worker {
    pid_t pid; /* 0: none */
    int to, from;
    char name[32];
    char *line; /* an unfinished answer */
    size_t len, room;
};

extern uint64_t worker_timeout_s; /* for one answer; then the worker is killed */

/* Starts argv[0]; argv[0] NULL in place of a program: this program. 0, or 1 and a sentence. */
int worker_start(struct worker *w, const char *name, uint64_t threads, char *const argv[]);

/* Sends a line (NULL: none) and waits for the answer, which the caller drops. NULL and a sentence
 * if the worker fails, says an error, or takes too long. */
__attribute__((format(printf, 2, 3))) json_t *worker_ask(struct worker *w, const char *format, ...);
json_t *worker_answer(struct worker *w);

/* Says quit; *rss_peak_kb (may be NULL) takes its answer. Waits for the end. 0 if all was well. */
int worker_stop(struct worker *w, uint64_t *rss_peak_kb);
void worker_kill(struct worker *w);

/* Starts a worker, takes its only answer and waits for its end. NULL and a sentence on failure. */
json_t *worker_once(const char *name, char *const argv[]);

/* Path of a peer's product, or false if it was not built. */
bool peer_path(const char *peers_dir, const char *file, char *out, size_t room);

/* ---- Random numbers ------------------------------------------------------------------------ */

/* SplitMix64 (Steele, Lea, Flood 2014): a counter, so that any row's numbers can be had apart. */
struct bench_rng {
    uint64_t state;
};
uint64_t bench_rand(struct bench_rng *r);

/* Nearly normal, mean 0, deviation 65536: sum of 12 numbers of 16 bits. Integers only, so that
 * each machine and compiler gives the same; no value beyond 6 deviations. */
int32_t bench_normal(struct bench_rng *r);

/* ---- Subcommands: argv[0] is the subcommand's name. The process's exit status. --------------- */

int bench_dataset(int argc, char **argv);
int bench_centroids(int argc, char **argv);
int bench_exact(int argc, char **argv);
int bench_put(int argc, char **argv);
int bench_ann(int argc, char **argv);
int bench_filter(int argc, char **argv);
int bench_io(int argc, char **argv);
int bench_churn(int argc, char **argv);
int bench_live(int argc, char **argv);
int bench_sql(int argc, char **argv);
int bench_all(int argc, char **argv);
int bench_worker(int argc, char **argv); /* hidden: what the others start */

/* Parts of bench_dataset and bench_worker. */
int dataset_glove(int argc, char **argv);
int worker_put(int argc, char **argv);
int worker_single(int argc, char **argv);
int worker_open(int argc, char **argv);
int worker_under_cap(int argc, char **argv);
int worker_ann(int argc, char **argv);
int worker_fold(int argc, char **argv);
int worker_truth(int argc, char **argv);
int worker_filter(int argc, char **argv);
int worker_filter_build(int argc, char **argv);
int worker_churn(int argc, char **argv);
int worker_live(int argc, char **argv);
int worker_reopen(int argc, char **argv);

#endif
