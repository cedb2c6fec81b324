/* Files and names of a simulated disk: pages of 4 KiB that contents share until one writes. */
#include "tests/sim/disk.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *sim_alloc(size_t size)
{
    void *p = calloc(1, size ? size : 1);
    if (!p) {
        fprintf(stderr, "sim: out of memory\n");
        abort();
    }
    return p;
}

/* Arrays hold a power of two of elements. */
void *sim_grow(void *array, size_t n, size_t each)
{
    if (n & (n - 1))
        return array;
    void *grown = realloc(array, (n ? 2 * n : 1) * each);
    if (!grown) {
        fprintf(stderr, "sim: out of memory\n");
        abort();
    }
    return grown;
}

/* ---- Pages --------------------------------------------------------------------------------- */

static void page_give(struct page *p)
{
    if (p && --p->refs == 0)
        free(p);
}

/* The page at index i, ours to write. */
static struct page *page_own(struct content *c, size_t i)
{
    struct page *old = c->pages[i];
    if (!old || old->refs > 1) {
        struct page *p = sim_alloc(sizeof *p);
        if (old)
            memcpy(p->data, old->data, SIM_PAGE);
        p->refs = 1;
        page_give(old);
        c->pages[i] = p;
    }
    c->pages[i]->hashed = false;
    return c->pages[i];
}

static uint64_t page_hash(struct page *p)
{
    static const unsigned char zeros[SIM_PAGE];
    static uint64_t zero_hash;
    if (p && p->hashed)
        return p->hash;
    if (!p && zero_hash)
        return zero_hash;
    const unsigned char *data = p ? p->data : zeros;
    uint64_t h[4] = {1, 2, 3, 4}, w[4];
    for (size_t i = 0; i < SIM_PAGE; i += sizeof w) {
        memcpy(w, data + i, sizeof w);
        for (int j = 0; j < 4; j++) {
            h[j] = (h[j] ^ w[j]) * 0x9e3779b97f4a7c15u;
            h[j] ^= h[j] >> 29;
        }
    }
    uint64_t all = sim_mix(sim_mix(sim_mix(sim_mix(h[0]) ^ h[1]) ^ h[2]) ^ h[3]);
    if (!p)
        return zero_hash = all;
    p->hash = all;
    p->hashed = true;
    return all;
}

/* ---- Content ------------------------------------------------------------------------------- */

void content_read(const struct content *c, unsigned char *buf, size_t len, uint64_t off)
{
    for (size_t done = 0; done < len;) {
        size_t i = (size_t)((off + done) / SIM_PAGE), at = (size_t)((off + done) % SIM_PAGE);
        size_t n = len - done < SIM_PAGE - at ? len - done : SIM_PAGE - at;
        if (i < c->n_pages && c->pages[i])
            memcpy(buf + done, c->pages[i]->data + at, n);
        else
            memset(buf + done, 0, n);
        done += n;
    }
}

void content_write(struct content *c, const unsigned char *buf, size_t len, uint64_t off)
{
    if (len == 0)
        return;
    size_t need = (size_t)((off + len + SIM_PAGE - 1) / SIM_PAGE);
    if (need > c->n_pages) {
        size_t n = need + c->n_pages / 2;
        struct page **grown = sim_alloc(n * sizeof *grown);
        if (c->n_pages)
            memcpy(grown, c->pages, c->n_pages * sizeof *grown);
        free(c->pages);
        c->pages = grown;
        c->n_pages = n;
    }
    for (size_t done = 0; done < len;) {
        size_t i = (size_t)((off + done) / SIM_PAGE), at = (size_t)((off + done) % SIM_PAGE);
        size_t n = len - done < SIM_PAGE - at ? len - done : SIM_PAGE - at;
        memcpy(page_own(c, i)->data + at, buf + done, n);
        done += n;
    }
    if (off + len > c->size)
        c->size = off + len;
}

void content_resize(struct content *c, uint64_t size)
{
    if (size < c->size) {
        size_t keep = (size_t)((size + SIM_PAGE - 1) / SIM_PAGE), at = (size_t)(size % SIM_PAGE);
        for (size_t i = keep; i < c->n_pages; i++) {
            page_give(c->pages[i]);
            c->pages[i] = NULL;
        }
        if (at && keep <= c->n_pages && c->pages[keep - 1])
            memset(page_own(c, keep - 1)->data + at, 0, SIM_PAGE - at);
    }
    c->size = size;
}

struct content content_share(const struct content *c)
{
    size_t n = (size_t)((c->size + SIM_PAGE - 1) / SIM_PAGE);
    if (n > c->n_pages)
        n = c->n_pages;
    struct content copy = {c->size, n, n ? sim_alloc(n * sizeof *copy.pages) : NULL};
    for (size_t i = 0; i < n; i++) {
        copy.pages[i] = c->pages[i];
        if (copy.pages[i])
            copy.pages[i]->refs++;
    }
    return copy;
}

void content_fini(struct content *c)
{
    for (size_t i = 0; i < c->n_pages; i++)
        page_give(c->pages[i]);
    free(c->pages);
    *c = (struct content){0};
}

uint64_t content_hash(struct content *c)
{
    uint64_t h = sim_mix(c->size);
    for (size_t i = 0; i * SIM_PAGE < c->size; i++)
        h = (h ^ page_hash(i < c->n_pages ? c->pages[i] : NULL)) * 0x9e3779b97f4a7c15u;
    return sim_mix(h);
}

/* ---- Trees --------------------------------------------------------------------------------- */

int tree_find(const struct tree *t, const char *path)
{
    for (size_t i = 0; i < t->n_names; i++)
        if (strcmp(t->names[i].path, path) == 0)
            return (int)i;
    return -1;
}

void tree_link(struct tree *t, const char *path, unsigned file)
{
    int i = tree_find(t, path);
    if (i < 0) {
        t->names = sim_grow(t->names, t->n_names, sizeof *t->names);
        i = (int)t->n_names++;
        snprintf(t->names[i].path, SIM_PATH, "%s", path);
    }
    t->names[i].file = file;
}

void tree_drop(struct tree *t, size_t name)
{
    t->names[name] = t->names[--t->n_names];
}

unsigned tree_add_file(struct tree *t)
{
    t->files = sim_grow(t->files, t->n_files, sizeof *t->files);
    t->files[t->n_files] = (struct content){0};
    return t->n_files++;
}

void tree_fini(struct tree *t)
{
    for (unsigned i = 0; i < t->n_files; i++)
        content_fini(&t->files[i]);
    free(t->files);
    free(t->names);
    *t = (struct tree){0};
}

bool same_folder(const char *a, const char *b)
{
    const char *x = strrchr(a, '/'), *y = strrchr(b, '/');
    size_t n = x ? (size_t)(x - a) : 0, m = y ? (size_t)(y - b) : 0;
    return n == m && strncmp(a, b, n) == 0;
}
