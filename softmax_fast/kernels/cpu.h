/* What the processor can do, as far as the operating system lets it. */
#ifndef SF_CPU_H
#define SF_CPU_H

#include <stddef.h>

int sf_cpu_runs_anything(void);
int sf_cpu_runs_avx2(void);   /* with FMA and F16C */
int sf_cpu_runs_avx512(void); /* F, BW, DQ and VL */

ptrdiff_t sf_cache_size(int level); /* bytes of data cache, 0: unknown */
ptrdiff_t sf_cached(int level);     /* the same, read once; where unknown, usual */

#endif
