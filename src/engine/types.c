/* Names and sizes of types, the table of defaults, results that the caller frees. */
#include <string.h>

#include "src/engine/engine.h"

static const char *const dtype_names[] = {
    [MN_F32] = "f32", [MN_F16] = "f16", [MN_BF16] = "bf16", [MN_I8] = "i8", [MN_BIT] = "bit"};
static const char *const metric_names[] = {
    [MN_L2] = "l2", [MN_IP] = "ip", [MN_COSINE] = "cosine", [MN_HAMMING] = "hamming"};

static const char *const plan_names[] = {
    [MN_PLAN_NONE] = "none",   [MN_PLAN_SCAN] = "scan",   [MN_PLAN_IDS] = "ids",
    [MN_PLAN_INDEX] = "index", [MN_PLAN_MATCHES] = "matches", [MN_PLAN_PROBE] = "probe",
    [MN_PLAN_POST] = "post"};

static const char *name_of(const char *const *names, size_t n, size_t i)
{
    return i < n ? names[i] : NULL;
}

static bool parse(const char *const *names, size_t n, const char *word, size_t *out)
{
    for (size_t i = 0; word && i < n; i++) {
        if (strcmp(names[i], word) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

const char *mn_dtype_name(mn_dtype dtype)
{
    return name_of(dtype_names, sizeof dtype_names / sizeof *dtype_names, (size_t)dtype);
}

const char *mn_metric_name(mn_metric metric)
{
    return name_of(metric_names, sizeof metric_names / sizeof *metric_names, (size_t)metric);
}

const char *mn_plan_name(mn_plan plan)
{
    return name_of(plan_names, sizeof plan_names / sizeof *plan_names, (size_t)plan);
}

bool mn_dtype_parse(const char *word, mn_dtype *out)
{
    size_t i = 0;
    bool found = parse(dtype_names, sizeof dtype_names / sizeof *dtype_names, word, &i);
    if (found)
        *out = (mn_dtype)i;
    return found;
}

bool mn_metric_parse(const char *word, mn_metric *out)
{
    size_t i = 0;
    bool found = parse(metric_names, sizeof metric_names / sizeof *metric_names, word, &i);
    if (found)
        *out = (mn_metric)i;
    return found;
}

size_t mn_vector_bytes(mn_dtype dtype, uint32_t dim)
{
    if (dim < 1 || dim > MN_MAX_DIM)
        return 0;
    switch (dtype) {
    case MN_F32:
        return 4 * (size_t)dim;
    case MN_F16:
    case MN_BF16:
        return 2 * (size_t)dim;
    case MN_I8:
        return dim;
    case MN_BIT:
        return dim % 8 ? 0 : dim / 8;
    default:
        return 0;
    }
}

const char *mn_version(void)
{
    return "0.1.0";
}

const mn_default *mn_defaults(void)
{
    static const mn_default table[] = {
        {"metric", "l2", "distance: the root of the sum of squared differences"},
        {"dtype", "f32", "element type of a collection's vectors"},
        {"ids", "integer", "int64, given or assigned ascending"},
        {"durability", "full", "an acknowledged commit survives power loss"},
        {"memory", "256MiB", "cap over all that grows with data, in one process"},
        {"busy timeout", "5000ms", "how long a writer waits for another writer"},
        {"threads", "1", "threads that one search or build may use"},
        {"deadline", "none", "per search"},
        {"recall", "0.95", "of a search by the index; small collections are exact"},
        {"max hits", "1000000", "of a radius search; more is an error"},
        {"log", "off", "no hook; nothing is printed, ever"},
        {NULL, NULL, NULL}};
    return table;
}

/* A block of a result starts with its allocator; 64 bytes keep what follows aligned. */
enum { RESULT_HEAD = 64 };

void *result_alloc(struct mn_alloc *a, size_t n, size_t each)
{
    size_t bytes;
    if (!mn_mul(n, each, &bytes) || !mn_add(bytes, RESULT_HEAD, &bytes))
        return NULL;
    char *base = mn_alloc(a, bytes, MN_TAG_ROWS);
    if (!base)
        return NULL;
    memset(base, 0, bytes);
    memcpy(base, &a, sizeof a);
    return base + RESULT_HEAD;
}

void mn_free_result(void *memory)
{
    struct mn_alloc *a;
    if (!memory)
        return;
    char *base = (char *)memory - RESULT_HEAD;
    memcpy(&a, base, sizeof a);
    mn_free(a, base);
}
