#include "index/best.h"

#include <assert.h>

void best_select(float *keys, size_t count, size_t n)
{
    size_t low = 0, high = count - 1;
    assert(n < count);
    while (low < high) {
        float pivot = keys[low + (high - low) / 2];
        size_t i = low, j = high;
        for (;;) { /* Hoare: [low, j] <= pivot <= [j + 1, high] */
            while (keys[i] < pivot)
                i++;
            while (keys[j] > pivot)
                j--;
            if (i >= j)
                break;
            float swap = keys[i];
            keys[i++] = keys[j];
            keys[j--] = swap;
        }
        if (n <= j)
            high = j;
        else
            low = j + 1;
    }
}

void best_settle(struct best *b)
{
    if (b->k <= BEST_SORTED || b->n < b->k)
        return;
    best_select(b->keys, b->n, b->k - 1);
    b->n = b->k;
    b->limit = fminf(b->cap, b->keys[b->k - 1]);
}

void best_push(struct best *b, float key)
{
    assert(key < b->limit);
    if (b->k > BEST_SORTED) {
        b->keys[b->n++] = key;
        if (b->n == b->k || b->n == 2 * (size_t)b->k)
            best_settle(b);
        return;
    }
    uint32_t at = b->n < b->k ? b->n++ : b->k - 1;
    for (; at > 0 && b->keys[at - 1] > key; at--)
        b->keys[at] = b->keys[at - 1];
    b->keys[at] = key;
    if (b->n == b->k)
        b->limit = fminf(b->cap, b->keys[b->k - 1]);
}
