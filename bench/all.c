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
    const char *json, *work, *peers_dir, *only;
    uint64_t threads;
    bool quick, full;
};

/* One run. n is that of --full; words in `args` after expansion: {base} {queries} of a synthetic
 * set n x dim (made for the run), {n}. */
struct step {
    const char *label; /* names the JSON file */
    uint64_t n, dim;   /* dim 0: no set is needed */
    const char *peers; /* those of them that are built */
    const char *args[20];
};

static const struct step steps[] = {
    {"exact-128",
     1000000,
     128,
     "faiss,usearch",
     {"exact", "--base", "{base}", "--queries", "{queries}", "--cases", "single,batch,fresh",
      "--single-queries", "20", "--batch-queries", "200", "--passes", "7", "--fresh-passes", "5"}},
    {"exact-384",
     100000,
     384,
     "sqlite-vec",
     {"exact", "--base", "{base}", "--queries", "{queries}", "--cases", "single",
      "--single-queries", "50", "--passes", "7"}},
    {"exact-768",
     100000,
     768,
     "faiss,usearch",
     {"exact", "--base", "{base}", "--queries", "{queries}", "--cases", "batch", "--batch-queries",
      "200", "--passes", "7"}},
    {"put-128", 1000000, 0, NULL, {"put", "--n", "{n}", "--dim", "128", "--passes", "3"}},
    {"put-128-text", 1000000, 0, NULL, {"put", "--n", "{n}", "--dim", "128", "--text-ids"}},
    {"put-768", 100000, 0, NULL, {"put", "--n", "{n}", "--dim", "768"}},
    {"put-1536", 100000, 0, NULL, {"put", "--n", "{n}", "--dim", "1536"}},
    {"put-single", 4000, 0, NULL, {"put", "--single", "--n", "{n}", "--dim", "128"}},
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

/* Runs this program with the arguments, its output going where ours goes. 0 if it succeeded. */
static int run_self(char *const argv[])
{
    int status = 1;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
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
static void peers_present(const struct all_opts *o, const char *wanted, char *out, size_t room)
{
    static const struct {
        const char *name, *file;
    } peers[] = {{"faiss", "faiss_flat"}, {"usearch", "usearch_exact"}, {"sqlite-vec", "vec0.so"}};
    char path[PATH_ROOM];
    size_t len = 0;
    *out = 0;
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        if (!wanted || !strstr(wanted, peers[i].name))
            continue;
        if (peer_path(o->peers_dir, peers[i].file, path, sizeof path))
            len += (size_t)snprintf(out + len, room - len, "%s%s", len ? "," : "", peers[i].name);
        else
            printf("%s is not built (tools/peers): measured without it\n", peers[i].name);
    }
}

struct paths {
    char base[PATH_ROOM], queries[PATH_ROOM], json[PATH_ROOM], n[24], threads[24], peers[64];
};

static int make_set(const struct step *s, struct paths *p)
{
    char dim[24];
    snprintf(dim, sizeof dim, "%" PRIu64, s->dim);
    return run_self((char *[]){"mneme_bench", "dataset", "synthetic", "--n", p->n, "--dim", dim,
                               "--out-base", p->base, "--out-queries", p->queries, NULL});
}

static char *expand(const char *word, struct paths *p)
{
    if (strcmp(word, "{base}") == 0)
        return p->base;
    if (strcmp(word, "{queries}") == 0)
        return p->queries;
    if (strcmp(word, "{n}") == 0)
        return p->n;
    return (char *)word;
}

static int step_run(const struct all_opts *o, const struct step *s, const char *dir)
{
    struct paths p;
    char *argv[MAX_ARGS] = {"mneme_bench"};
    size_t n = 1;
    bool exact = strcmp(s->args[0], "exact") == 0, kernels = strcmp(s->args[0], "kernels") == 0;
    int rc;
    snprintf(p.base, sizeof p.base, "%.4000s/base.fbin", dir);
    snprintf(p.queries, sizeof p.queries, "%.4000s/queries.fbin", dir);
    snprintf(p.json, sizeof p.json, "%.4000s/%s.json", o->json, s->label);
    snprintf(p.n, sizeof p.n, "%" PRIu64, o->quick ? s->n / 20 : s->n);
    snprintf(p.threads, sizeof p.threads, "%" PRIu64, o->threads);
    printf("\n== %s\n", s->label);
    if (s->dim && make_set(s, &p) != 0)
        return 1;
    for (size_t i = 0; i < sizeof s->args / sizeof *s->args && s->args[i]; i++)
        argv[n++] = expand(s->args[i], &p);
    if (exact) {
        peers_present(o, s->peers, p.peers, sizeof p.peers);
        char *more[] = {"--peers", p.peers, "--threads", p.threads};
        memcpy(argv + n, more, sizeof more);
        n += 4;
        if (o->peers_dir) {
            argv[n++] = "--peers-dir";
            argv[n++] = (char *)o->peers_dir;
        }
    }
    if (!kernels) {
        argv[n++] = "--label";
        argv[n++] = (char *)s->label;
        argv[n++] = "--work";
        argv[n++] = (char *)dir;
    }
    argv[n++] = "--json";
    argv[n++] = p.json;
    rc = run_self(argv);
    unlink(p.base);
    unlink(p.queries);
    return rc;
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
    struct all_opts o = {.threads = 1};
    char dir[PATH_ROOM] = "", about[1024];
    size_t len, failed = 0;
    const struct opt opts[] = {
        {"--json", OPT_TEXT, &o.json, 0, 0, "DIR!", "takes one file for each run"},
        {"--quick", OPT_FLAG, &o.quick, 0, 0, NULL, "a twentieth of the sizes: a minute or two"},
        {"--full", OPT_FLAG, &o.full, 0, 0, NULL, "the table's sizes: about ten minutes"},
        {"--only", OPT_TEXT, &o.only, 0, 0, "LIST", "some of the runs"},
        {"--threads", OPT_COUNT, &o.threads, 1, 256, "N", "threads of a search"},
        {"--peers-dir", OPT_TEXT, &o.peers_dir, 0, 0, "DIR", "what tools/peers built"},
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
    switch (opts_parse(about, opts, sizeof opts / sizeof *opts, argc, argv)) {
    case OPTS_HELP:
        return 0;
    case OPTS_WRONG:
        return 2;
    case OPTS_GO:
        break;
    }
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
    for (size_t i = 0; i < n_steps; i++)
        if (chosen(o.only, steps[i].label) && step_run(&o, &steps[i], dir) != 0) {
            bench_fail("%s failed", steps[i].label);
            failed++;
        }
    work_close(dir);
    return failed ? 1 : 0;
}
