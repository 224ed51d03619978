/* The kernels for float with AVX-512 (F, BW, DQ, VL). */
#define SF_DOUBLE 0
#include "../templates/begin.h"
#ifdef SF_BUILD_AVX512
#include "../simd/avx512.h"
#include "../templates/kernels.h"
SF_TARGET_END
#endif
