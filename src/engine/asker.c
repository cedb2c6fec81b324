#include "src/engine/asker.h"

enum {
    SCRATCH_K = 128,  /* memory for searches is made for so many hits at least */
    HELPERS_SHARE = 8 /* the helpers' memory is at most this part of the cap */
};

static void asker_fini(mn_db *db, struct asker *a)
{
    ann_scratch_destroy(db->alloc, a->scratch);
    scan_destroy(a->scan);
    mn_free(db->alloc, a->wide);
    mn_free(db->alloc, a->pending);
    ivf_reader_destroy(a->reader);
    away_reader_destroy(a->away);
    *a = (struct asker){0};
}

static uint32_t room_k(const struct asker_spec *spec)
{
    return spec->scan.k > SCRATCH_K ? spec->scan.k : SCRATCH_K;
}

/* Bytes of one asker, about: index/ann.h, index/scan.h, ivf_store.c. */
static uint64_t asker_bytes(const struct asker_spec *spec)
{
    uint64_t k = room_k(spec), lists = spec->x->core->n_lists, dim = spec->scan.dim;
    uint64_t bytes = 24 * lists + 288 * k + 104 * dim + (700 << 10);
    bytes += spec->reads ? ivf_reader_bytes(spec->x->core->vector_bytes) : 0;
    return bytes + (spec->x->n_away ? away_reader_bytes(spec->x->away_most) : 0);
}

static mn_status ready_scratch(mn_db *db, struct asker *a, const struct asker_spec *spec,
                               mn_error *err)
{
    uint32_t k = room_k(spec), lists = spec->x->core->n_lists, dim = spec->scan.dim;
    if (a->scratch && a->scratch_lists >= lists && a->scratch_k >= k && a->scratch_dim == dim)
        return MN_OK;
    struct ivf_reader *reader = a->reader;
    struct away_reader *away = a->away;
    a->reader = NULL;
    a->away = NULL;
    asker_fini(db, a);
    a->reader = reader;
    a->away = away;
    a->wide = mn_alloc_array(db->alloc, dim, sizeof *a->wide, MN_TAG_SEARCH);
    a->pending = mn_alloc_array(db->alloc, k, sizeof *a->pending, MN_TAG_SEARCH);
    mn_status st = a->wide && a->pending
                       ? ann_scratch_create(db->alloc, dim, lists, k, &a->scratch, err)
                       : mn_fail(err, MN_NOMEM,
                                 "search: out of memory under the cap for %u hits", k);
    a->scratch_lists = lists;
    a->scratch_k = k;
    a->scratch_dim = dim;
    return st;
}

static mn_status ready_scan(mn_db *db, struct asker *a, const struct asker_spec *spec,
                            mn_error *err)
{
    const struct scan_spec *s = &spec->scan;
    if (a->scan && a->spec.dtype == s->dtype && a->spec.metric == s->metric &&
        a->spec.dim == s->dim && a->spec.k == s->k)
        return MN_OK;
    scan_destroy(a->scan);
    a->spec = *s;
    a->spec.queries = NULL; /* the caller's, gone after the call */
    return scan_create(db->alloc, db->kernels, s, &a->scan, err);
}

static void drop_unfit_readers(struct asker *a, const struct asker_spec *spec)
{
    if (a->reader && !ivf_reader_fits(a->reader, spec->x->core->vector_bytes)) {
        ivf_reader_destroy(a->reader);
        a->reader = NULL;
    }
    if (a->away && !away_reader_fits(a->away, spec->x->away_most)) {
        away_reader_destroy(a->away);
        a->away = NULL;
    }
}

/* s: the sidecar, if vectors or codes will be read from it. Asks SQLite nothing: after MN_NOMEM,
 * which may have ended its transaction, nobody could try again. */
static mn_status asker_ready(mn_conn *conn, struct asker *a, const struct asker_spec *spec,
                             struct sidecar *s, mn_error *err)
{
    drop_unfit_readers(a, spec);
    mn_status st = ready_scratch(conn->db, a, spec, err);
    if (st == MN_OK)
        st = ready_scan(conn->db, a, spec, err);
    if (st == MN_OK && s && spec->x->n_away && !a->away)
        st = away_reader_open(conn, s, spec->x->away_most, &a->away, err);
    if (st == MN_OK && s && spec->reads && !a->reader)
        st = ivf_reader_open(conn, s, spec->x->core->vector_bytes, &a->reader, err);
    if (st)
        asker_fini(conn->db, a);
    return st;
}

static void fini_from(mn_conn *conn, uint32_t first)
{
    for (uint32_t i = first; i < conn->n_askers; i++)
        asker_fini(conn->db, &conn->askers[i]);
}

/* So many slots at least; false when memory runs out. */
static bool grow(mn_conn *conn, uint32_t n)
{
    struct mn_alloc *a = conn->db->alloc;
    if (n <= conn->n_askers)
        return true;
    struct asker *more = mn_alloc_array(a, n, sizeof *more, MN_TAG_HANDLE);
    if (!more)
        return false;
    for (uint32_t i = 0; i < conn->n_askers; i++)
        more[i] = conn->askers[i];
    mn_free(a, conn->askers);
    conn->askers = more;
    conn->n_askers = n;
    return true;
}

/* The sidecar that will be read from, for sidecar_close; NULL: none. */
static mn_status sidecar_for(mn_conn *conn, const struct asker_spec *spec, struct sidecar **out,
                             mn_error *err)
{
    struct asker *first = &conn->askers[0];
    *out = NULL;
    if (!spec->reads && !spec->x->n_away)
        return MN_OK;
    drop_unfit_readers(first, spec);
    if ((spec->reads && !first->reader) || (spec->x->n_away && !first->away))
        return ivf_sidecar(conn, out, err);
    *out = sidecar_share(spec->reads ? ivf_reader_sidecar(first->reader)
                                     : away_reader_sidecar(first->away));
    return MN_OK;
}

mn_status askers_ready(mn_conn *conn, const struct asker_spec *spec, uint32_t wanted, uint32_t *n,
                       mn_error *err)
{
    uint64_t most = 1 + mn_alloc_cap(conn->db->alloc) / HELPERS_SHARE / asker_bytes(spec);
    struct sidecar *s;
    *n = 0;
    if (most < conn->n_askers)
        fini_from(conn, (uint32_t)most);
    wanted = wanted > most ? (uint32_t)most : wanted;
    if (!grow(conn, wanted))
        wanted = 1;
    if (!grow(conn, 1))
        return mn_fail(err, MN_NOMEM, "search: out of memory");
    mn_status st = sidecar_for(conn, spec, &s, err);
    if (st)
        return st;
    st = asker_ready(conn, &conn->askers[0], spec, s, NULL);
    if (st) { /* the helpers' memory may do, if they have any */
        fini_from(conn, 1);
        st = asker_ready(conn, &conn->askers[0], spec, s, err);
    }
    for (*n = st == MN_OK; *n && *n < wanted; ++*n)
        if (asker_ready(conn, &conn->askers[*n], spec, s, NULL))
            break;
    sidecar_close(s);
    return st;
}

void askers_destroy(mn_conn *conn)
{
    fini_from(conn, 0);
    mn_free(conn->db->alloc, conn->askers);
    conn->askers = NULL;
    conn->n_askers = 0;
}
