#include "src/shell/explain.h"

#include <stdarg.h>
#include <stdio.h>

#include "src/shell/print.h"
#include "src/shell/units.h"

void stats_add(mn_search_stats *sum, const mn_search_stats *one)
{
    sum->rows_scanned += one->rows_scanned;
    sum->rows_filtered += one->rows_filtered;
    sum->rows_pending += one->rows_pending;
    sum->rows_invalid += one->rows_invalid;
    sum->bytes_scanned += one->bytes_scanned;
    sum->wall_us += one->wall_us;
    sum->cpu_us += one->cpu_us;
    sum->probed += one->probed;
    sum->codes += one->codes;
    sum->reranked += one->reranked;
    sum->reads += one->reads;
    sum->parts_read += one->parts_read;
    sum->part_bytes += one->part_bytes;
    sum->from_cache = one->from_cache;
    sum->from_index = one->from_index;
}

__attribute__((format(printf, 2, 3))) static void line(const char *name, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%-9s ", name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

/* "12,345 codes, 617.2 a query" */
static void per_query(const char *name, uint64_t n, const char *what, uint64_t n_queries)
{
    char count[UNITS_TEXT];
    if (n_queries > 1)
        line(name, "%s %s, %.1f a query", count_format(count, n), what,
             (double)n / (double)n_queries);
    else
        line(name, "%s %s", count_format(count, n), what);
}

static void explain_index(const struct explained *e)
{
    const mn_search_stats *s = &e->sum;
    char a[UNITS_TEXT], b[UNITS_TEXT];
    if (e->index.exists)
        line("loaded", "%s of codes and centroids in %s", size_format(a, e->index.memory_bytes),
             duration_format(b, e->load_seconds));
    per_query("probed", s->probed, "parts of postings", e->n_queries);
    per_query("scanned", s->codes, "codes", e->n_queries);
    if (s->parts_read)
        line("fetched", "%s of these parts from the sidecar, %s", count_format(a, s->parts_read),
             size_format(b, s->part_bytes));
    if (e->rerank == MN_RERANK_NONE)
        line("reranked", "none: distances are estimates from the codes");
    else
        per_query("reranked", s->reranked,
                  s->from_cache                 ? "rows by vectors in memory"
                  : e->rerank == MN_RERANK_ROWS ? "rows by vectors of the rows"
                                                : "rows by vectors read",
                  e->n_queries);
    if (e->rerank == MN_RERANK_COPY && !s->from_cache)
        line("read", "%s pages of the sidecar, %s", count_format(a, s->reads),
             size_format(b, s->reads * SIDECAR_PAGE_BYTES));
}

void explain(const struct explained *e)
{
    const mn_search_stats *s = &e->sum;
    char a[UNITS_TEXT], b[UNITS_TEXT];
    out_flush();
    line("search", "%s quer%s, %s hit%s, %s, %s", count_format(a, e->n_queries),
         e->n_queries == 1 ? "y" : "ies", count_format(b, e->n_hits), e->n_hits == 1 ? "" : "s",
         mn_metric_name(e->metric),
         s->from_index ? "by the index" : "exact: every vector compared");
    if (s->from_index)
        explain_index(e);
    else
        line("compared", "%s vectors, %s, from %s", count_format(a, s->rows_scanned),
             size_format(b, s->bytes_scanned), s->from_cache ? "memory" : "the rows");
    if (s->rows_pending)
        per_query("pending", s->rows_pending,
                  s->from_index ? "rows changed since the last fold"
                                : "rows changed since they were cached",
                  e->n_queries);
    if (s->rows_filtered)
        per_query("filtered", s->rows_filtered, "rows shown to --where", e->n_queries);
    if (s->rows_invalid)
        per_query("invalid", s->rows_invalid,
                  "rows without a valid vector passed over: `mneme verify` names them",
                  e->n_queries);
    line("time", "%s, CPU %s", duration_format(a, (double)s->wall_us * 1e-6),
         duration_format(b, (double)s->cpu_us * 1e-6));
}
