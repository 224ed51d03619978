/* The kernels for double in plain C, for every machine. */
#define SF_DOUBLE 1
#include "../templates/begin.h"
#include "../simd/generic.h"
#include "../templates/kernels.h"
