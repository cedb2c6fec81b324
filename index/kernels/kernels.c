/* Which kernels this CPU can run, and which are chosen. The tables are constant; a database keeps
 * the pointer, so there is no global to initialise and no race. */
#include "index/kernels/kernels.h"

#include "index/kernels/tables.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const struct kernels table_scalar =
    KERNELS_TABLE(ISA_SCALAR, "scalar", scalar, scalar, kernel_hamming_scalar);

/* What the CPU has beyond the base of ISA_AVX512, and the base itself. */
struct cpu {
    enum isa isa;
    bool vnni, vpopcntdq;
};

#if defined(__x86_64__)
static const struct kernels table_avx2 =
    KERNELS_TABLE(ISA_AVX2, "avx2", avx2, avx2, kernel_hamming_avx2);
/* Skylake-X; Cascade Lake; Ice Lake, Zen 4 and later. */
static const struct kernels table_avx512 =
    KERNELS_TABLE(ISA_AVX512, "avx512", avx512, avx512, kernel_hamming_avx512);
static const struct kernels table_avx512_vnni = KERNELS_TABLE(
    ISA_AVX512, "avx512+vnni", avx512, vnni_avx512, kernel_hamming_avx512);
static const struct kernels table_avx512_full =
    KERNELS_TABLE(ISA_AVX512, "avx512+vnni+vpopcntdq", avx512, vnni_avx512,
                  kernel_hamming_vpopcntdq_avx512);

/* The register state that the operating system saves (XCR0): without it, a CPU's AVX traps. */
static uint64_t saved_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static struct cpu cpu_detect(void)
{
    enum {
        /* leaf 1, ecx */
        FMA = 1 << 12, POPCNT = 1 << 23, OSXSAVE = 1 << 27, AVX = 1 << 28, F16C = 1 << 29,
        /* leaf 7, ebx */
        AVX2 = 1 << 5, F = 1 << 16, DQ = 1 << 17, BW = 1 << 30,
        /* leaf 7, ecx */
        VNNI = 1 << 11, VPOPCNTDQ = 1 << 14,
        /* XCR0: SSE and AVX registers; mask registers and both halves of the ZMM ones */
        YMM_STATE = 0x06, ZMM_STATE = 0xe6
    };
    const uint32_t VL = 1u << 31;
    const uint32_t leaf1 = FMA | POPCNT | OSXSAVE | AVX | F16C;
    const uint32_t leaf7 = F | DQ | BW | VL;
    struct cpu cpu = {ISA_SCALAR, false, false};
    uint32_t a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & leaf1) != leaf1)
        return cpu;
    uint64_t state = saved_state();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & AVX2) || (state & YMM_STATE) != YMM_STATE)
        return cpu;
    cpu.isa = ISA_AVX2;
    if ((b & leaf7) != leaf7 || (state & ZMM_STATE) != ZMM_STATE)
        return cpu;
    cpu.isa = ISA_AVX512;
    cpu.vnni = c & VNNI;
    cpu.vpopcntdq = c & VPOPCNTDQ;
    return cpu;
}

/* The tables that `cpu` can run, the plainest first. */
static size_t runnable(struct cpu cpu, const struct kernels *out[5])
{
    size_t n = 0;
    out[n++] = &table_scalar;
    if (cpu.isa >= ISA_AVX2)
        out[n++] = &table_avx2;
    if (cpu.isa >= ISA_AVX512)
        out[n++] = &table_avx512;
    if (cpu.isa >= ISA_AVX512 && cpu.vnni)
        out[n++] = &table_avx512_vnni;
    if (cpu.isa >= ISA_AVX512 && cpu.vnni && cpu.vpopcntdq)
        out[n++] = &table_avx512_full;
    return n;
}
#else
static struct cpu cpu_detect(void)
{
    return (struct cpu){ISA_SCALAR, false, false};
}

static size_t runnable(struct cpu cpu, const struct kernels *out[5])
{
    (void)cpu;
    out[0] = &table_scalar;
    return 1;
}
#endif

enum isa kernels_detect(void)
{
    return cpu_detect().isa;
}

const struct kernels *kernels_at(size_t i)
{
    const struct kernels *list[5];
    size_t n = runnable(cpu_detect(), list);
    return i < n ? list[i] : NULL;
}

const struct kernels *kernels_select(enum isa cap)
{
    const struct kernels *list[5];
    size_t n = runnable(cpu_detect(), list);
    const char *env = getenv("MNEME_ISA");
    if (env && strcmp(env, "scalar") == 0)
        cap = ISA_SCALAR;
    if (env && strcmp(env, "avx2") == 0 && cap > ISA_AVX2)
        cap = ISA_AVX2;
    while (n > 1 && list[n - 1]->isa > cap)
        n--;
    return list[n - 1];
}

const char *kernels_isa_name(enum isa isa)
{
    static const char *const names[ISA_COUNT] = {"scalar", "avx2", "avx512"};
    return (unsigned)isa < ISA_COUNT ? names[isa] : "unknown";
}
