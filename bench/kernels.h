/* mneme_bench kernels: the rate of each kernel of each instruction set beside the memory's. */
#ifndef MN_BENCH_KERNELS_H
#define MN_BENCH_KERNELS_H

int bench_kernels(int argc, char **argv); /* argv[0] is "kernels"; the process's exit status */

#endif
