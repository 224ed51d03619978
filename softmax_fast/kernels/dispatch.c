/* Which instruction sets this build holds and this CPU runs; no vector code. */
#include "shared.h"
#include <stdlib.h>

#if defined(SF_X86_64)
#if defined(SF_MSVC)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif
#if defined(__linux__) || defined(__APPLE__)
#include <stdio.h>
#include <unistd.h>
#endif

#if defined(SF_X86_64)

static void cpuid(unsigned leaf, unsigned subleaf, unsigned r[4])
{
#if defined(SF_MSVC)
    __cpuidex((int *)r, (int)leaf, (int)subleaf);
#else
    __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
#endif
}

static unsigned long long xgetbv0(void)
{
#if defined(SF_MSVC)
    return _xgetbv(0);
#else
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((unsigned long long)high << 32) | low;
#endif
}

/* 0: neither, 1: AVX2 with FMA and F16C, 2: also AVX-512 F, BW, DQ and VL.  Both need the operating
 * system's promise, in XCR0, to keep the registers: 0x6 for YMM, 0xe6 for ZMM and masks. */
static int x86_level(void)
{
    unsigned r[4];
    cpuid(0, 0, r);
    if (r[0] < 7)
        return 0;
    cpuid(1, 0, r);
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const unsigned needed = fma | osxsave | avx | f16c;
    if ((r[2] & needed) != needed)
        return 0;
    unsigned long long saved = xgetbv0();
    cpuid(7, 0, r);
    const unsigned avx2 = 1u << 5;
    const unsigned avx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31); /* F, DQ, BW, VL */
    if ((saved & 0x6) != 0x6 || !(r[1] & avx2))
        return 0;
    return (saved & 0xe6) == 0xe6 && (r[1] & avx512) == avx512 ? 2 : 1;
}

#endif

static const sf_tables *const tables_best_first[] = {
#ifdef SF_BUILD_AVX512
    &sf_tables_avx512,
#endif
#ifdef SF_BUILD_AVX2
    &sf_tables_avx2,
#endif
#ifdef SF_BUILD_NEON
    &sf_tables_neon,
#endif
    &sf_tables_generic,
    NULL,
};

static int runs_here(const char *isa)
{
#if defined(SF_X86_64)
    int level = x86_level();
    if (!strcmp(isa, "avx512"))
        return level >= 2;
    if (!strcmp(isa, "avx2"))
        return level >= 1;
#endif
    (void)isa;
    return 1;
}

const sf_tables *sf_tables_named(const char *isa)
{
    for (const sf_tables *const *t = tables_best_first; *t; t++)
        if (!strcmp((*t)->isa, isa) && runs_here(isa))
            return *t;
    return NULL;
}

const sf_tables *sf_tables_best(void)
{
    const sf_tables *const *t = tables_best_first;
    while (!runs_here((*t)->isa))
        t++;
    return *t;
}

/* Written once, or by whoever chooses; every thread that finds it empty finds the same. */
#if defined(__GNUC__) || defined(__clang__)
#define SF_LOAD(variable) __atomic_load_n(&(variable), __ATOMIC_RELAXED)
#define SF_STORE(variable, value) __atomic_store_n(&(variable), (value), __ATOMIC_RELAXED)
#else
#define SF_LOAD(variable) (variable)
#define SF_STORE(variable, value) ((variable) = (value))
#endif

static const sf_tables *tables_in_use;
static ptrdiff_t cache_bytes[3];

void sf_use_tables(const sf_tables *tables) { SF_STORE(tables_in_use, tables); }

const sf_tables *sf_tables_in_use(void)
{
    const sf_tables *tables = SF_LOAD(tables_in_use);
    if (!tables) {
        const char *wanted = getenv("SOFTMAX_FAST_ISA");
        tables = wanted ? sf_tables_named(wanted) : NULL;
        if (!tables)
            tables = sf_tables_best();
        sf_use_tables(tables);
    }
    return tables;
}

ptrdiff_t sf_cached(int level)
{
    static const ptrdiff_t usual[3] = {32768, 524288, 33554432};
    ptrdiff_t bytes = SF_LOAD(cache_bytes[level - 1]);
    if (!bytes) {
        bytes = sf_cache_size(level);
        if (!bytes)
            bytes = usual[level - 1];
        SF_STORE(cache_bytes[level - 1], bytes);
    }
    return bytes;
}

const char *sf_isa_built(int i)
{
    const int count = (int)(sizeof tables_best_first / sizeof *tables_best_first) - 1;
    return i < count ? tables_best_first[i]->isa : NULL;
}

#if defined(__linux__)

/* sysconf multiplies the last cache of some virtual machines; what the kernel lists is right. */
static ptrdiff_t listed_cache_size(int level)
{
    for (int index = 0; index < 8; index++) {
        char path[80], type[16] = "";
        int listed = 0;
        long kibibytes = 0;
        FILE *file;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", index);
        if (!(file = fopen(path, "r")))
            break;
        if (fscanf(file, "%d", &listed) != 1)
            listed = 0;
        fclose(file);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", index);
        if ((file = fopen(path, "r"))) {
            if (fscanf(file, "%15s", type) != 1)
                type[0] = 0;
            fclose(file);
        }
        if (listed != level || !strcmp(type, "Instruction"))
            continue;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
        if ((file = fopen(path, "r"))) {
            if (fscanf(file, "%ldK", &kibibytes) != 1)
                kibibytes = 0;
            fclose(file);
        }
        return (ptrdiff_t)kibibytes * 1024;
    }
    return 0;
}

#endif

ptrdiff_t sf_cache_size(int level)
{
    long bytes = 0;
#if defined(__linux__)
    bytes = listed_cache_size(level);
#endif
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    if (bytes <= 0)
        bytes = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE
                      : level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
#endif
    (void)level;
    return bytes > 0 ? (ptrdiff_t)bytes : 0;
}

size_t sf_scratch_bytes(const sf_rows *rows, ptrdiff_t item_size)
{
    ptrdiff_t n = rows->n_classes, bytes = SF_BLOCK_SCRATCH(n, item_size);
    if (rows->x.class_stride != 1 || (rows->out.data && rows->out.class_stride != 1))
        bytes += SF_PANEL_SCRATCH(n, item_size);
    if (rows->stream && n * item_size <= SF_STREAM_ROW_BYTES)
        bytes += SF_ROUND_UP(n * item_size);
    return (size_t)bytes;
}
