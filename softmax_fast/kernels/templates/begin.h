/* What comes before the vocabulary in every unit.  Wants SF_DOUBLE. */
#include "../environment.h"
#include "../evaluation.h"
#include "../kernels.h"
#include "../linear.h"
#include "../scalars.h"
#include "../target.h"

#if SF_DOUBLE
typedef double real;
#else
typedef float real;
#endif

enum { REAL_BYTES = sizeof(real) };
