/* Which instruction sets this build holds and this CPU runs, and which is in use. */
#ifndef SF_DISPATCH_H
#define SF_DISPATCH_H

#include "kernels.h"

/* The pair of tables of an instruction set: float (also for halves) and double. */
typedef struct {
    const char *isa;
    const sf_kernels *f32, *f64;
    int (*runs_here)(void);
} sf_tables;

const sf_tables *sf_tables_named(const char *isa); /* NULL: not built, or the CPU lacks it */
const sf_tables *sf_tables_best(void);
const sf_tables *sf_tables_in_use(void); /* the best, or that of SOFTMAX_FAST_ISA, or the chosen */
void sf_use_tables(const sf_tables *tables);
const char *sf_isa_built(int i);         /* best first; NULL past the end */

#endif
