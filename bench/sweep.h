/* Peers of `ann`: their builds, their knobs, and which setting is the cheapest at a recall. */
#ifndef MN_BENCH_SWEEP_H
#define MN_BENCH_SWEEP_H

#include "bench/bench.h"

enum { MAX_PROBES = 48, MAX_CURVES = 6, MAX_TARGETS = 8 };

/* One measured setting. */
struct probe {
    uint64_t knob;
    double recall, cpu_us; /* a query */
};

/* What is swept: one knob, everything else fixed. */
struct curve {
    char fixed[64]; /* "k_factor=20,nprobe=": the knob's number follows */
    struct probe probes[MAX_PROBES];
    size_t n;
};

/* One build of one peer, a process of its own. */
struct build {
    char system[24], text[64]; /* "faiss-ivfpqfs", "nlist=1024,by_residual=0" */
    struct worker worker;
    double wall_s, cpu_s;
    uint64_t db_bytes, rss_kb; /* rss_kb: at its last search */
    uint64_t knob_first, knob_most;
    struct curve curves[MAX_CURVES];
    size_t n_curves;
};

/* The cheapest setting of a peer at one recall: between two neighbouring values of the knob. */
struct choice {
    struct build *build; /* NULL: no setting reaches it */
    const struct curve *curve;
    uint64_t low, high; /* equal: even the least value is beyond the recall */
    double cpu_us;
};

/* What all sweeps of a run share. */
struct sweep {
    const struct truth *truth; /* of all queries */
    size_t queries;            /* that a probe asks */
    size_t batch;              /* queries a call */
    const char *answers;       /* scratch file */
};

/* Fills builds[0 .. return) with those of the peer for n x dim rows; they are not started. 0: no
 * such peer. `room` >= 16. */
size_t builds_of(const char *peer, size_t n, uint32_t dim, struct build *builds, size_t room);

/* The program of a peer, in tools/peers' folder; its name for tools/peers. */
const char *peer_file(const char *peer);
const char *const *peer_names(void); /* NULL ends them */

/* Sweeps a started build; choices[t] becomes its cheapest setting at recalls[t] where that beats
 * what stands there. 0, or 1 after a sentence. */
int sweep_build(const struct sweep *s, struct build *b, const double *recalls, size_t n,
                struct choice *choices);

/* Sets the build's knob: "set FIXED KNOB". */
int build_set(struct build *b, const struct curve *c, uint64_t knob);

/* Cost at `recall` on the line through two points, in the logarithm of the cost. */
double interpolate(double recall0, double cost0, double recall1, double cost1, double recall);

#endif
