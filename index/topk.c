#include "index/topk.h"

#include "storage/base/error.h"

#include <assert.h>
#include <inttypes.h>

/* Lets the hit at `at` sink until no child stands behind it; [0, n) is a heap below `at`. */
static void sift_down(mn_hit *hits, size_t n, size_t at)
{
    const mn_hit moving = hits[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && hit_after(&hits[child + 1], &hits[child]))
            child++;
        if (!hit_after(&hits[child], &moving))
            break;
        hits[at] = hits[child];
    }
    hits[at] = moving;
}

static void heapify(mn_hit *hits, size_t n)
{
    for (size_t at = n / 2; at-- > 0;)
        sift_down(hits, n, at);
}

void topk_push(struct topk *t, double distance, int64_t id)
{
    assert(!isnan(distance) && topk_would_take(t, distance, id));
    const mn_hit hit = {id, distance};
    if (t->n == t->k) {
        t->hits[0] = hit;
        sift_down(t->hits, t->n, 0);
        return;
    }
    t->hits[t->n++] = hit;
    if (t->n == t->k)
        heapify(t->hits, t->n);
}

bool topk_check(const struct topk *t)
{
    if (t->k == 0 || t->n > t->k)
        return false;
    for (size_t i = 1; t->n == t->k && i < t->n; i++)
        if (hit_after(&t->hits[i], &t->hits[(i - 1) / 2]))
            return false;
    return true;
}

void collector_fini(struct collector *c, struct mn_alloc *a)
{
    mn_free(a, c->hits);
    *c = (struct collector){0};
}

mn_status collector_push(struct collector *c, struct mn_alloc *a, double distance, int64_t id,
                         mn_error *err)
{
    if (c->n >= c->max)
        return mn_fail(err, MN_FULL,
                       "more than %" PRIu64 " rows lie within the radius: choose a smaller one, "
                       "or raise max_hits",
                       c->max);
    if (c->n == c->cap) {
        size_t cap, bytes;
        mn_hit *grown = NULL;
        if (mn_mul(c->cap, 2, &cap) && mn_mul(cap ? cap : 64, sizeof *grown, &bytes))
            grown = mn_realloc(a, c->hits, bytes, MN_TAG_SEARCH);
        if (!grown)
            return mn_fail(err, MN_NOMEM,
                           "no memory for the hits of a radius search beyond %zu: raise the memory "
                           "cap or choose a smaller radius",
                           c->n);
        c->hits = grown;
        c->cap = cap ? cap : 64;
    }
    c->hits[c->n++] = (mn_hit){id, distance};
    return MN_OK;
}

void hits_sort(mn_hit *hits, size_t n)
{
    heapify(hits, n);
    for (size_t end = n; end > 1; end--) {
        const mn_hit worst = hits[0];
        hits[0] = hits[end - 1];
        hits[end - 1] = worst;
        sift_down(hits, end - 1, 0);
    }
}
