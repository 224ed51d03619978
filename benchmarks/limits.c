/* What the machine can do at best: a copy, a read, and a bare exp loop that never leaves L1.
   Compiled by native.py when a benchmark first needs it; no part of the package. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The compiler unrolls these loops of four. */
#define EACH for (int k = 0; k < 4; k++)

enum isa { GENERIC, AVX2, AVX512 };

/* Plain C. On AArch64 the compiler turns these loops into NEON by itself. */
static inline float scaled_f32(float p, float t)
{
    uint32_t bits, n;
    memcpy(&bits, &p, 4);
    memcpy(&n, &t, 4);
    bits += n << 23;
    memcpy(&p, &bits, 4);
    return p;
}

static inline double scaled_f64(double p, double t)
{
    uint64_t bits, n;
    memcpy(&bits, &p, 8);
    memcpy(&n, &t, 8);
    bits += n << 52;
    memcpy(&p, &bits, 8);
    return p;
}

static inline uint64_t load_u64(const char *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

#define F(name) name##_generic
#define TARGET
#define V32 float
#define LANES32 1
#define LOAD_32(p) (*(p))
#define STORE_32(p, v) (*(p) = (v))
#define SET1_32(c) (c)
#define SUB_32(a, b) ((a) - (b))
#define V64 double
#define LANES64 1
#define LOAD_64(p) (*(p))
#define STORE_64(p, v) (*(p) = (v))
#define SET1_64(c) (c)
#define SUB_64(a, b) ((a) - (b))
#if defined(__aarch64__)
#define FMA_32(a, b, c) __builtin_fmaf(a, b, c)
#define FMA_64(a, b, c) __builtin_fma(a, b, c)
#else
#define FMA_32(a, b, c) ((a) * (b) + (c))
#define FMA_64(a, b, c) ((a) * (b) + (c))
#endif
#define TIMES_POW2_32(p, t) scaled_f32(p, t)
#define TIMES_POW2_64(p, t) scaled_f64(p, t)
#define VB uint64_t
#define LOADB(p) load_u64(p)
#if defined(__clang__)
#define STREAMB(p, v) __builtin_nontemporal_store(v, (uint64_t *)(p))
#elif defined(__x86_64__)
#define STREAMB(p, v) _mm_stream_si64((long long *)(p), (long long)(v))
#else
#define STREAMB(p, v) memcpy(p, &(v), 8)
#endif
/* Two 32-bit sums side by side. */
#define ADDB(a, b) \
    ((((a) & 0xffffffff00000000u) + ((b) & 0xffffffff00000000u)) \
     | (uint32_t)((uint32_t)(a) + (uint32_t)(b)))
#define ZEROB() 0
#if defined(__x86_64__)
#define FENCE() _mm_sfence()
#else
#define FENCE() ((void)0)
#endif
#include "limits_loops.inc"

#if defined(__x86_64__)

/* Entry i: the bits of 2^(i/8), less those of 1 and less i in eighths of an exponent. Twice. */
static const uint32_t eighths[16] = {
    0x00000000, 0xfffb95c2, 0xfff837f0, 0xfff5fed7, 0xfff504f3, 0xfff5672a, 0xfff744fd, 0xfffac0c7,
    0x00000000, 0xfffb95c2, 0xfff837f0, 0xfff5fed7, 0xfff504f3, 0xfff5672a, 0xfff744fd, 0xfffac0c7};

#define F(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define V32 __m256
#define LANES32 8
#define LOAD_32(p) _mm256_loadu_ps(p)
#define STORE_32(p, v) _mm256_storeu_ps(p, v)
#define SET1_32(c) _mm256_set1_ps(c)
#define SUB_32(a, b) _mm256_sub_ps(a, b)
#define FMA_32(a, b, c) _mm256_fmadd_ps(a, b, c)
#define TIMES_POW2_32(p, t) \
    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), \
                                         _mm256_slli_epi32(_mm256_castps_si256(t), 23)))
#define EIGHTHS_32(t) \
    _mm256_castsi256_ps(_mm256_add_epi32( \
        _mm256_slli_epi32(_mm256_castps_si256(t), 20), \
        _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i *)eighths), \
                                    _mm256_castps_si256(t))))
#define V64 __m256d
#define LANES64 4
#define LOAD_64(p) _mm256_loadu_pd(p)
#define STORE_64(p, v) _mm256_storeu_pd(p, v)
#define SET1_64(c) _mm256_set1_pd(c)
#define SUB_64(a, b) _mm256_sub_pd(a, b)
#define FMA_64(a, b, c) _mm256_fmadd_pd(a, b, c)
#define TIMES_POW2_64(p, t) \
    _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(p), \
                                         _mm256_slli_epi64(_mm256_castpd_si256(t), 52)))
#define VB __m256i
#define LOADB(p) _mm256_loadu_si256((const __m256i *)(p))
#define STREAMB(p, v) _mm256_stream_si256((__m256i *)(p), v)
#define ADDB(a, b) _mm256_add_epi32(a, b)
#define ZEROB() _mm256_setzero_si256()
#define FENCE() _mm_sfence()
#include "limits_loops.inc"

#define F(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define V32 __m512
#define LANES32 16
#define LOAD_32(p) _mm512_loadu_ps(p)
#define STORE_32(p, v) _mm512_storeu_ps(p, v)
#define SET1_32(c) _mm512_set1_ps(c)
#define SUB_32(a, b) _mm512_sub_ps(a, b)
#define FMA_32(a, b, c) _mm512_fmadd_ps(a, b, c)
#define TIMES_POW2_32(p, t) \
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), \
                                         _mm512_slli_epi32(_mm512_castps_si512(t), 23)))
#define EIGHTHS_32(t) \
    _mm512_castsi512_ps(_mm512_add_epi32( \
        _mm512_slli_epi32(_mm512_castps_si512(t), 20), \
        _mm512_permutexvar_epi32(_mm512_castps_si512(t), _mm512_loadu_si512(eighths))))
#define V64 __m512d
#define LANES64 8
#define LOAD_64(p) _mm512_loadu_pd(p)
#define STORE_64(p, v) _mm512_storeu_pd(p, v)
#define SET1_64(c) _mm512_set1_pd(c)
#define SUB_64(a, b) _mm512_sub_pd(a, b)
#define FMA_64(a, b, c) _mm512_fmadd_pd(a, b, c)
#define TIMES_POW2_64(p, t) \
    _mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(p), \
                                         _mm512_slli_epi64(_mm512_castpd_si512(t), 52)))
#define VB __m512i
#define LOADB(p) _mm512_loadu_si512((const void *)(p))
#define STREAMB(p, v) _mm512_stream_si512((__m512i *)(p), v)
#define ADDB(a, b) _mm512_add_epi32(a, b)
#define ZEROB() _mm512_setzero_si512()
#define FENCE() _mm_sfence()
#include "limits_loops.inc"

#endif

int limits_best_isa(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return AVX2;
#endif
    return GENERIC;
}

int limits_has_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

#if defined(__x86_64__)
#define CHOOSE(isa, name) \
    ((isa) == AVX512 ? name##_avx512 : (isa) == AVX2 ? name##_avx2 : name##_generic)
#else
#define CHOOSE(isa, name) ((void)(isa), name##_generic)
#endif

/* The largest multiple of `step` in the first k of `parts` equal parts of n. */
static size_t boundary(size_t n, int k, int parts, size_t step)
{
    return k == parts ? n : n / (size_t)parts * (size_t)k / step * step;
}

static void copy_chunk(int isa, const char *src, char *dst, size_t n, int streaming)
{
    if (!streaming) {
        memcpy(dst, src, n);
        return;
    }
    size_t head = (64 - (uintptr_t)dst % 64) % 64;
    if (head > n)
        head = n;
    size_t body = (n - head) / 256 * 256;
    memcpy(dst, src, head);
    CHOOSE(isa, copy_streaming)(src + head, dst + head, body);
    memcpy(dst + head + body, src + head + body, n - head - body);
}

static uint32_t read_chunk(int isa, const char *src, size_t n)
{
    size_t body = n / 256 * 256;
    uint32_t total = CHOOSE(isa, read)(src, body);
    for (size_t i = body; i + 4 <= n; i += 4) {
        uint32_t word;
        memcpy(&word, src + i, 4);
        total += word;
    }
    return total;
}

void limits_copy(int isa, const char *src, char *dst, size_t n_bytes, int streaming, int threads)
{
    if (threads <= 1) {
        copy_chunk(isa, src, dst, n_bytes, streaming);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int k = 0; k < threads; k++) {
        size_t begin = boundary(n_bytes, k, threads, 4096);
        size_t end = boundary(n_bytes, k + 1, threads, 4096);
        copy_chunk(isa, src + begin, dst + begin, end - begin, streaming);
    }
}

/* Returns the sum of the 32-bit words, so that the read can be checked. n_bytes is a multiple of 4. */
uint32_t limits_read(int isa, const char *src, size_t n_bytes, int threads)
{
    uint32_t total = 0;
    if (threads <= 1)
        return read_chunk(isa, src, n_bytes);
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : total)
    for (int k = 0; k < threads; k++) {
        size_t begin = boundary(n_bytes, k, threads, 4096);
        size_t end = boundary(n_bytes, k + 1, threads, 4096);
        total += read_chunk(isa, src + begin, end - begin);
    }
    return total;
}

/* n exponentials, shared among the threads, each within its own 8 KiB in and 8 KiB out. */
#define L1_BYTES 8192

static void exp_chunk(int isa, int is_f64, size_t n)
{
    _Alignas(64) static _Thread_local char in[L1_BYTES], out[L1_BYTES];
    static _Thread_local int filled_for;
    size_t lanes = L1_BYTES / (is_f64 ? sizeof(double) : sizeof(float));
    if (filled_for != 1 + is_f64) {
        for (size_t i = 0; i < lanes; i++) {
            double x = -20.0 * (double)i / (double)lanes;
            if (is_f64)
                ((double *)(void *)in)[i] = x;
            else
                ((float *)(void *)in)[i] = (float)x;
        }
        filled_for = 1 + is_f64;
    }
    for (size_t done = 0; done < n; done += lanes) {
        size_t part = n - done < lanes ? (n - done + 63) / 64 * 64 : lanes;
        if (is_f64)
            CHOOSE(isa, exp_f64)((double *)(void *)in, (double *)(void *)out, part);
        else
            CHOOSE(isa, exp_f32)((float *)(void *)in, (float *)(void *)out, part);
        __asm__ volatile("" : : "r"(out) : "memory");
    }
}

void limits_exp(int isa, int is_f64, size_t n, int threads)
{
    if (threads <= 1) {
        exp_chunk(isa, is_f64, n);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int k = 0; k < threads; k++)
        exp_chunk(isa, is_f64, boundary(n, k + 1, threads, 64) - boundary(n, k, threads, 64));
}

/* The same exp on the caller's arrays (n a multiple of 64), so that it can be checked. */
void limits_exp_f32(int isa, const float *x, float *y, size_t n)
{
    CHOOSE(isa, exp_f32)(x, y, n);
}

void limits_exp_f64(int isa, const double *x, double *y, size_t n)
{
    CHOOSE(isa, exp_f64)(x, y, n);
}
