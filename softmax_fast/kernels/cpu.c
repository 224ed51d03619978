#include "cpu.h"
#include "atomic.h"
#include "target.h"

#if defined(SF_X86_64)
#if defined(SF_MSVC)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif
#if defined(__linux__) || defined(__APPLE__)
#include <stdio.h>
#include <string.h>
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

int sf_cpu_runs_anything(void) { return 1; }

#if defined(SF_X86_64)
int sf_cpu_runs_avx2(void) { return x86_level() >= 1; }
int sf_cpu_runs_avx512(void) { return x86_level() >= 2; }
#else
int sf_cpu_runs_avx2(void) { return 0; }
int sf_cpu_runs_avx512(void) { return 0; }
#endif

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

static ptrdiff_t cache_bytes[3];

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
