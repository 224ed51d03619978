/* The kernels for float with NEON, which every 64-bit Arm has. */
#define SF_DOUBLE 0
#include "../templates/begin.h"
#ifdef SF_BUILD_NEON
#include "../simd/neon.h"
#include "../templates/kernels.h"
#endif
