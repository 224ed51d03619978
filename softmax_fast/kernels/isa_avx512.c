/* The kernels with AVX-512 (F, BW, DQ, VL). */
#include "shared.h"
#ifdef SF_BUILD_AVX512
#include <immintrin.h>
#define SF_ISA avx512
#define SF_STREAM_FENCE() _mm_sfence()
SF_TARGET_BEGIN_AVX512
#include "simd_avx512.h"
#include "instances.inc"
SF_TARGET_END

const sf_tables sf_tables_avx512 = {"avx512", &kernels_f32, &kernels_f64};
#else
typedef int sf_no_avx512;
#endif
