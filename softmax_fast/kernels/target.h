/* Target regions: what stands between SF_TARGET_BEGIN_x and SF_TARGET_END may use that instruction
 * set; nothing outside does, so one binary runs on every CPU of the architecture.  Include libc and
 * intrinsics headers before a region opens. */
#ifndef SF_TARGET_H
#define SF_TARGET_H

#if defined(__FAST_MATH__) || defined(_M_FP_FAST) || defined(__ASSOCIATIVE_MATH__) \
    || defined(__RECIPROCAL_MATH__) \
    || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "softmax_fast relies on NaN, infinities, subnormals and the order of operations: build it without fast-math"
#endif

/* The x87 rounds to neither type: with GCC, 32-bit x86 needs -msse2 -mfpmath=sse. */
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 2 || __FLT_EVAL_METHOD__ < 0)
#error "softmax_fast relies on float and double operations being rounded to their types"
#endif

/* clang-cl defines _MSC_VER too, and has what clang has. */
#if defined(_MSC_VER) && !defined(__clang__)
#define SF_MSVC 1
#endif

/* No a*b + c may become a fused operation unasked.  GCC listens to its command line alone: there,
 * -std=c11 or -ffp-contract=off says it. */
#if defined(SF_MSVC)
#pragma fp_contract(off)
#elif defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

/* ARM64EC is 64-bit Arm that defines the names of x86-64. */
#if (defined(__x86_64__) || defined(_M_X64)) && !defined(_M_ARM64EC) && !defined(__arm64ec__)
#define SF_X86_64 1
#endif

/* MSVC compiles every intrinsic everywhere and needs no region; AVX-512 is left off there and with
 * clang-cl.  GCC for Windows keeps vectors wider than 16 bytes on a stack aligned to 16 only, and
 * faults (its bug 54412): generic kernels there, unless SF_UNALIGNED_MOVES says that it makes do
 * with unaligned moves, by -Wa,-muse-unaligned-vector-move or by a patch such as Debian's. */
#if defined(_WIN32) && defined(__GNUC__) && !defined(__clang__) && !defined(SF_UNALIGNED_MOVES)
#define SF_NARROW_STACK 1
#endif
#if defined(SF_X86_64) && !defined(SF_NARROW_STACK)
#if defined(__GNUC__) || defined(__clang__) || defined(SF_MSVC)
#define SF_BUILD_AVX2 1
#endif
#if (defined(__GNUC__) || defined(__clang__)) && !defined(_MSC_VER)
#define SF_BUILD_AVX512 1
#endif
#endif

/* Part of every 64-bit Arm.  MSVC has one type for all its vectors there, which nobody has tried:
 * generic kernels. */
#if (defined(__aarch64__) || defined(_M_ARM64)) && (defined(__GNUC__) || defined(__clang__)) \
    && !defined(__ARM_BIG_ENDIAN)
#define SF_BUILD_NEON 1
#endif

#if defined(__clang__)
#define SF_TARGET_BEGIN_AVX2 \
    _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,f16c,prfchw\"))), apply_to = function)")
#define SF_TARGET_BEGIN_AVX512 \
    _Pragma("clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw\"))), apply_to = function)")
#define SF_TARGET_END _Pragma("clang attribute pop")
#elif defined(__GNUC__)
#define SF_TARGET_BEGIN_AVX2 \
    _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c,prfchw\")")
#define SF_TARGET_BEGIN_AVX512 \
    _Pragma("GCC push_options") \
    _Pragma("GCC target(\"avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw,prefer-vector-width=512\")")
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
#define SF_PREFETCH_WRITE(address) __builtin_prefetch((address), 1, 3)
#define SF_ALIGNED(bytes) __attribute__((aligned(bytes)))
#define SF_ASSUME(condition) ((condition) ? (void)0 : __builtin_unreachable())
#else
#define SF_INLINE static __forceinline
#define SF_NOINLINE __declspec(noinline)
#if defined(SF_X86_64)
#define SF_PREFETCH(address) _mm_prefetch((const char *)(address), _MM_HINT_T0)
#else
#define SF_PREFETCH(address) ((void)(address))
#endif
#define SF_PREFETCH_WRITE(address) SF_PREFETCH(address)
#define SF_ALIGNED(bytes) __declspec(align(bytes))
#define SF_ASSUME(condition) __assume(condition)
#endif

#endif
