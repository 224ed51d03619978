/* Target regions: what stands between SF_TARGET_BEGIN_x and SF_TARGET_END may use that instruction
 * set; nothing outside does, so one binary runs on every CPU of the architecture.  Include libc and
 * intrinsics headers before a region opens. */
#ifndef SF_TARGET_H
#define SF_TARGET_H

#if defined(__FAST_MATH__) || defined(_M_FP_FAST) \
    || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "softmax_fast relies on NaN, infinities, subnormals and the order of operations: build it without fast-math"
#endif

#if defined(__x86_64__) || (defined(_M_X64) && !defined(_M_ARM64EC))
#define SF_X86_64 1
#endif

/* MSVC compiles every intrinsic everywhere and needs no region; AVX-512 is left off there. */
#if defined(SF_X86_64) && (defined(__GNUC__) || defined(__clang__) || defined(_MSC_VER))
#define SF_BUILD_AVX2 1
#if defined(__GNUC__) || defined(__clang__)
#define SF_BUILD_AVX512 1
#endif
#endif

#if defined(__clang__)
#define SF_TARGET_BEGIN_AVX2 \
    _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,f16c\"))), apply_to = function)")
#define SF_TARGET_BEGIN_AVX512 \
    _Pragma("clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c\"))), apply_to = function)")
#define SF_TARGET_END _Pragma("clang attribute pop")
#elif defined(__GNUC__)
#define SF_TARGET_BEGIN_AVX2 \
    _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c\")")
#define SF_TARGET_BEGIN_AVX512 \
    _Pragma("GCC push_options") \
    _Pragma("GCC target(\"avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512\")")
#define SF_TARGET_END _Pragma("GCC pop_options")
#else
#define SF_TARGET_BEGIN_AVX2
#define SF_TARGET_BEGIN_AVX512
#define SF_TARGET_END
#endif

#if defined(__GNUC__) || defined(__clang__)
#define SF_INLINE static inline __attribute__((always_inline))
#define SF_NOINLINE __attribute__((noinline))
#define SF_PREFETCH(address) __builtin_prefetch((address), 0, 3)
#define SF_ALIGNED(bytes) __attribute__((aligned(bytes)))
#else
#define SF_INLINE static __forceinline
#define SF_NOINLINE __declspec(noinline)
#define SF_PREFETCH(address) ((void)(address))
#define SF_ALIGNED(bytes) __declspec(align(bytes))
#endif

#endif
