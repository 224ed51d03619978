/* The kernels for float with AVX2, FMA and F16C. */
#define SF_DOUBLE 0
#include "../templates/begin.h"
#ifdef SF_BUILD_AVX2
#include "../simd/avx2.h"
#include "../templates/kernels.h"
SF_TARGET_END
#endif
