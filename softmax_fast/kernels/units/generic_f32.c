/* The kernels for float in plain C, for every machine. */
#define SF_DOUBLE 0
#include "../templates/begin.h"
#include "../simd/generic.h"
#include "../templates/kernels.h"
