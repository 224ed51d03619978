/* The kernels with NEON, which every 64-bit Arm has: no region needs to be opened. */
#include "shared.h"
#ifdef SF_BUILD_NEON
#include <arm_neon.h>
#define SF_ISA neon
#define SF_STREAM_FENCE() ((void)0)
#include "simd_neon.h"
#include "instances.inc"

const sf_tables sf_tables_neon = {"neon", &kernels_f32, &kernels_f64};
#else
typedef int sf_no_neon;
#endif
