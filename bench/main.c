/* mneme_bench: measures Mneme, alone and beside others. docs/bench.md has examples. */
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/kernels.h"

struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help; /* NULL: not for people */
};

static const struct subcommand subcommands[] = {
    {"dataset", bench_dataset, "make vectors: clustered synthetic ones, or GloVe's words"},
    {"kernels", bench_kernels, "distance kernels in GB/s beside the memory's limit"},
    {"centroids", bench_centroids, "the graph over centroids beside their flat scan"},
    {"exact", bench_exact, "exact search, beside FAISS, usearch and sqlite-vec"},
    {"ann", bench_ann, "search by recall target, beside hnswlib, FAISS, usearch, zvec, LanceDB"},
    {"filter", bench_filter, "search under conditions on attributes, beside zvec and LanceDB"},
    {"churn", bench_churn, "content replaced under search: recall, cost, bytes written"},
    {"live", bench_live,
     "search beside a writer, puts beside a fold, the first answer after opening"},
    {"io", bench_io, "the disk's own limit: random reads at several queue depths"},
    {"put", bench_put, "import, single puts, bytes on disk, open time, memory"},
    {"sql", bench_sql, "SQL beside the C API: searches, and inserts into an indexed table"},
    {"all", bench_all, "the whole table of targets, into a folder of JSON files"},
    {"worker", bench_worker, NULL},
};

static const size_t n_subcommands = sizeof subcommands / sizeof *subcommands;

static void usage(FILE *out)
{
    fprintf(out, "usage: mneme_bench SUBCOMMAND [OPTION]...\n\n");
    for (size_t i = 0; i < n_subcommands; i++)
        if (subcommands[i].help)
            fprintf(out, "  %-9s %s\n", subcommands[i].name, subcommands[i].help);
    fprintf(out,
            "\nmneme_bench SUBCOMMAND --help tells its options. Results are printed, and with\n"
            "--json FILE written as one JSON object a line, each with machine and commit.\n"
            "tools/peers builds the systems to compare with.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("mneme_bench %s\n", mn_version());
        return 0;
    }
    for (size_t i = 0; i < n_subcommands; i++)
        if (strcmp(argv[1], subcommands[i].name) == 0)
            return subcommands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "mneme_bench: no subcommand '%s'; --help lists them\n", argv[1]);
    return 2;
}
