/* The kernels with AVX2, FMA and F16C. */
#include "shared.h"
#ifdef SF_BUILD_AVX2
#include <immintrin.h>
#if defined(__clang__) && defined(_MSC_VER)
/* There, immintrin.h leaves out what the command line does not ask for. */
#include <pmmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
#include <fmaintrin.h>
#endif
#define SF_ISA avx2
#define SF_STREAM_FENCE() _mm_sfence()
SF_TARGET_BEGIN_AVX2
#include "simd_avx2.h"
#include "instances.inc"
SF_TARGET_END

const sf_tables sf_tables_avx2 = {"avx2", &kernels_f32, &kernels_f64};
#else
typedef int sf_no_avx2;
#endif
