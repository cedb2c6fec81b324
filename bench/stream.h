/* The rate at which this machine's memory can be read: a sum over memory, in as many threads as
 * asked for, by the fastest of the loops that the processor runs. */
#ifndef MN_BENCH_STREAM_H
#define MN_BENCH_STREAM_H

#include <stddef.h>
#include <stdint.h>

/* Loops that this processor runs: 0 .. stream_loops() - 1. */
size_t stream_loops(void);
const char *stream_loop_name(size_t loop);

/* Sum of `bytes` (a multiple of 64 x threads) from memory aligned to 64. */
uint64_t stream_sum(size_t loop, const void *memory, size_t bytes, unsigned threads);

#endif
