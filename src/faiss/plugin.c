/* The plugin itself: the table of plugin.h over FAISS's C API. This file alone includes FAISS's
 * headers; FAISS's C functions catch C++'s exceptions and return a code. */
#include "src/faiss/plugin.h"

#include <faiss/c_api/Clustering_c.h>
#include <faiss/c_api/IndexFlat_c.h>
#include <faiss/c_api/Index_c.h>
#include <faiss/c_api/MetaIndexes_c.h>
#include <faiss/c_api/error_c.h>
#include <faiss/c_api/index_io_c.h>
#include <faiss/c_api/utils/distances_c.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROUNDS = 10, /* of Lloyd's algorithm; docs/decisions.md has what 5 and 25 cost and give */
    BLAS_THRESHOLD = 20 /* FAISS's own: so many queries and more go through norms and BLAS */
};

struct faiss_flat {
    FaissIndex *index;    /* the whole, which owns the rest */
    FaissIndexIDMap *map; /* the same, or NULL: without ids */
    FaissIndexFlat *flat;
};

/* Of gomp and OpenBLAS. gomp's header is the compiler's own and clang brings none. */
void omp_set_num_threads(int n);
void openblas_set_num_threads(int n);

/* ---- Errors --------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static mn_status fail(mn_error *err, mn_status code,
                                                            const char *format, ...)
{
    if (!err)
        return code;
    va_list args;
    va_start(args, format);
    *err = (mn_error){.code = code};
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return code;
}

/* A FAISS function returned `code`, not 0. Its sentence names functions and lines of FAISS. */
static mn_status fail_faiss(mn_error *err, int code, const char *what)
{
    const char *why = faiss_get_last_error();
    bool memory = why && strstr(why, "bad_alloc");
    if (memory)
        return fail(err, MN_NOMEM, "FAISS: %s: no memory", what);
    return fail(err, MN_INVALID, "FAISS: %s: %.300s (code %d)", what, why ? why : "no reason",
                code);
}

/* ---- k-means -------------------------------------------------------------------------------- */

/* One round a call, so that the caller can be asked between them; FAISS goes on from the centroids
 * of the round before. */
static mn_status train_rounds(FaissClustering *c, FaissIndex *assigner, const mn_training *t,
                              mn_error *err)
{
    for (int round = 0; round < ROUNDS; round++) {
        if (!t->go_on(t->go_on_ctx))
            return fail(err, MN_INTERRUPTED, "k-means was stopped after %d rounds", round);
        int rc = faiss_Clustering_train(c, (idx_t)t->n, t->vectors, assigner);
        if (rc)
            return fail_faiss(err, rc, "k-means");
    }
    float *centroids = NULL;
    size_t size = 0;
    faiss_Clustering_centroids(c, &centroids, &size);
    if (size != (size_t)t->k * t->dim)
        return fail(err, MN_INVALID,
                    "FAISS: k-means gave %zu numbers, %u centroids of %u elements "
                    "were asked for",
                    size, t->k, t->dim);
    memcpy(t->centroids, centroids, size * sizeof *centroids);
    return MN_OK;
}

static mn_status train(void *ctx, const mn_training *t, mn_error *err)
{
    (void)ctx;
    FaissClusteringParameters p;
    FaissClustering *c = NULL;
    FaissIndexFlatL2 *assigner = NULL;
    if (t->k > INT_MAX || t->dim > INT_MAX || t->n / t->k >= INT_MAX)
        return fail(err, MN_INVALID, "FAISS: k-means of %zu rows into %u clusters is too large",
                    t->n, t->k);
    faiss_ClusteringParameters_init(&p);
    p.niter = 1;
    p.min_points_per_centroid = 1;                      /* fewer would print a warning */
    p.max_points_per_centroid = (int)(t->n / t->k) + 1; /* the sample was drawn already */
    faiss_set_distance_compute_blas_threshold(BLAS_THRESHOLD);
    int rc = faiss_Clustering_new_with_params(&c, (int)t->dim, (int)t->k, &p);
    if (!rc)
        rc = faiss_IndexFlatL2_new_with(&assigner, (idx_t)t->dim);
    mn_status st = rc ? fail_faiss(err, rc, "k-means") : train_rounds(c, assigner, t, err);
    if (assigner)
        faiss_IndexFlatL2_free(assigner);
    if (c)
        faiss_Clustering_free(c);
    return st;
}

/* ---- Flat indexes --------------------------------------------------------------------------- */

static void destroy(struct faiss_flat *f)
{
    if (f && f->index)
        faiss_Index_free(f->index);
    free(f);
}

static mn_status create(uint32_t dim, mn_metric metric, bool ids, struct faiss_flat **out,
                        mn_error *err)
{
    *out = NULL;
    if (dim == 0 || dim > MN_MAX_DIM || (metric != MN_L2 && metric != MN_IP))
        return fail(err, MN_INVALID, "FAISS: no flat index of %u elements and metric %d", dim,
                    (int)metric);
    struct faiss_flat *f = calloc(1, sizeof *f);
    if (!f)
        return fail(err, MN_NOMEM, "FAISS: no memory for an index");
    int rc = metric == MN_L2 ? faiss_IndexFlatL2_new_with(&f->flat, dim)
                             : faiss_IndexFlatIP_new_with(&f->flat, dim);
    f->index = f->flat;
    if (!rc && ids) {
        FaissIndexIDMap2 *map = NULL;
        rc = faiss_IndexIDMap2_new(&map, f->flat);
        if (!rc) {
            faiss_IndexIDMap2_set_own_fields(map, 1);
            f->index = f->map = map;
        }
    }
    if (rc) {
        destroy(f);
        return fail_faiss(err, rc, "an index");
    }
    *out = f;
    return MN_OK;
}

static mn_status add(struct faiss_flat *f, const float *rows, const int64_t *ids, size_t n,
                     mn_error *err)
{
    if (!f->map == !!ids)
        return fail(err, MN_MISUSE, "FAISS: ids go with an index that was made for them");
    int rc = ids ? faiss_Index_add_with_ids(f->index, (idx_t)n, rows, ids)
                 : faiss_Index_add(f->index, (idx_t)n, rows);
    return rc ? fail_faiss(err, rc, "adding vectors") : MN_OK;
}

static mn_status search(struct faiss_flat *f, const float *queries, size_t nq, uint32_t k,
                        float *distances, int64_t *labels, mn_error *err)
{
    faiss_set_distance_compute_blas_threshold(INT_MAX);
    int rc = faiss_Index_search(f->index, (idx_t)nq, queries, (idx_t)k, distances, labels);
    return rc ? fail_faiss(err, rc, "search") : MN_OK;
}

static mn_status read_file(FILE *in, struct faiss_flat **out, mn_error *err)
{
    *out = NULL;
    struct faiss_flat *f = calloc(1, sizeof *f);
    if (!f)
        return fail(err, MN_NOMEM, "FAISS: no memory for an index");
    int rc = faiss_read_index(in, 0, &f->index);
    if (rc) {
        f->index = NULL;
        destroy(f);
        return fail_faiss(err, rc, "reading an index");
    }
    f->map = faiss_IndexIDMap_cast(f->index);
    f->flat = faiss_IndexFlat_cast(f->map ? faiss_IndexIDMap_sub_index(f->map) : f->index);
    if (!f->flat) {
        destroy(f);
        return fail(err, MN_INVALID, "FAISS: the index is not flat");
    }
    *out = f;
    return MN_OK;
}

static mn_status write_file(struct faiss_flat *f, FILE *out, mn_error *err)
{
    int rc = faiss_write_index(f->index, out);
    return rc ? fail_faiss(err, rc, "writing an index") : MN_OK;
}

static void content(struct faiss_flat *f, struct faiss_content *out)
{
    float *vectors = NULL;
    idx_t *ids = NULL;
    size_t size = 0, n_ids = 0;
    faiss_IndexFlat_xb(f->flat, &vectors, &size);
    uint32_t dim = (uint32_t)faiss_Index_d(f->flat);
    *out = (struct faiss_content){
        .dim = dim,
        .n = dim ? size / dim : 0,
        .metric = faiss_Index_metric_type(f->flat) == METRIC_L2 ? MN_L2 : MN_IP,
        .vectors = vectors,
    };
    if (f->map) {
        faiss_IndexIDMap_id_map(f->map, &ids, &n_ids);
        out->ids = ids;
        out->n = n_ids < out->n ? n_ids : out->n;
    }
}

static void set_threads(uint32_t n)
{
    omp_set_num_threads((int)n);
    openblas_set_num_threads((int)n);
}

/* ---- The table ------------------------------------------------------------------------------ */

__attribute__((visibility("default"))) const struct faiss_plugin *mneme_faiss_plugin(void);

const struct faiss_plugin *mneme_faiss_plugin(void)
{
    static const struct faiss_plugin table = {
        .version = FAISS_PLUGIN_VERSION,
        .set_threads = set_threads,
        .train = train,
        .create = create,
        .add = add,
        .search = search,
        .read = read_file,
        .write = write_file,
        .content = content,
        .destroy = destroy,
    };
    return &table;
}
