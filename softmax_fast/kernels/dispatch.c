#include "dispatch.h"
#include "atomic.h"
#include "cpu.h"
#include "target.h"

#include <stdlib.h>
#include <string.h>

extern const sf_kernels sf_kernels_generic_f32, sf_kernels_generic_f64;
extern const sf_kernels sf_kernels_avx2_f32, sf_kernels_avx2_f64;
extern const sf_kernels sf_kernels_avx512_f32, sf_kernels_avx512_f64;
extern const sf_kernels sf_kernels_neon_f32, sf_kernels_neon_f64;

static const sf_tables best_first[] = {
#ifdef SF_BUILD_AVX512
    {"avx512", &sf_kernels_avx512_f32, &sf_kernels_avx512_f64, sf_cpu_runs_avx512},
#endif
#ifdef SF_BUILD_AVX2
    {"avx2", &sf_kernels_avx2_f32, &sf_kernels_avx2_f64, sf_cpu_runs_avx2},
#endif
#ifdef SF_BUILD_NEON
    {"neon", &sf_kernels_neon_f32, &sf_kernels_neon_f64, sf_cpu_runs_anything},
#endif
    {"generic", &sf_kernels_generic_f32, &sf_kernels_generic_f64, sf_cpu_runs_anything},
};

enum { N_TABLES = sizeof best_first / sizeof *best_first };

const sf_tables *sf_tables_named(const char *isa)
{
    for (int i = 0; i < N_TABLES; i++)
        if (!strcmp(best_first[i].isa, isa) && best_first[i].runs_here())
            return &best_first[i];
    return NULL;
}

const sf_tables *sf_tables_best(void)
{
    const sf_tables *tables = best_first;
    while (!tables->runs_here())
        tables++;
    return tables;
}

static const sf_tables *in_use;

void sf_use_tables(const sf_tables *tables) { SF_STORE(in_use, tables); }

const sf_tables *sf_tables_in_use(void)
{
    const sf_tables *tables = SF_LOAD(in_use);
    if (!tables) {
        const char *wanted = getenv("SOFTMAX_FAST_ISA");
        tables = wanted ? sf_tables_named(wanted) : NULL;
        if (!tables)
            tables = sf_tables_best();
        sf_use_tables(tables);
    }
    return tables;
}

const char *sf_isa_built(int i) { return i < N_TABLES ? best_first[i].isa : NULL; }
