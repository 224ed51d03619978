/* The kernels in plain C, for every machine. */
#include "shared.h"
#define SF_ISA generic
#define SF_STREAM_FENCE() ((void)0)
#include "simd_generic.h"
#include "instances.inc"

const sf_tables sf_tables_generic = {"generic", &kernels_f32, &kernels_f64};
