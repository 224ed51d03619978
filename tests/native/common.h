/* What the C programs of the tests share: the instruction sets that run here, failures, memory, random
 * numbers, and entries of the four kinds. */
#ifndef SF_TESTS_COMMON_H
#define SF_TESTS_COMMON_H

#include "drive.h"
#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- the instruction sets, and what failed --------------------------------------------------- */

enum { MOST_SHOWN = 20, MOST_ISAS = 8 };

static struct { const sf_tables *tables; long failures; } isas[MOST_ISAS + 1], *now;
static const sf_tables *tables; /* of the instruction set being checked */
static char context[400] = "start";
static long failures;
static int failure_aborts;

/* Those named, or all that run here.  The first name of one that does not, or NULL. */
static inline const char *find_isas(int n_names, char **names)
{
    int n = 0;
    for (int i = 0; n < MOST_ISAS && (n_names ? i < n_names : sf_isa_built(i) != NULL); i++) {
        const char *name = n_names ? names[i] : sf_isa_built(i);
        if ((isas[n].tables = sf_tables_named(name)))
            n++;
        else if (n_names)
            return name;
    }
    isas[n].tables = NULL;
    return NULL;
}

/* for (int i = 0; choose(i); i++) ... goes through them. */
static inline int choose(int i)
{
    now = &isas[i];
    tables = now->tables;
    if (tables)
        sf_use_tables(tables);
    return tables != NULL;
}

static inline const sf_kernels *kernels_of(int kind)
{
    return kind == SF_F64 ? tables->f64 : tables->f32;
}

static inline void set_context(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
}

static inline void fail(const char *format, ...)
{
    va_list arguments;
    if (now)
        now->failures++;
    if (++failures > MOST_SHOWN)
        return;
    printf("FAILED %s: %s: ", tables ? tables->isa : "oracle", context);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    if (failure_aborts) {
        fflush(stdout);
        abort();
    }
}

/* ---- operations ------------------------------------------------------------------------------ */

static const char *const operation_names[SF_N_OPERATIONS] = {
    [SF_SOFTMAX] = "softmax", [SF_LOG_SOFTMAX] = "log_softmax", [SF_LOGSUMEXP] = "logsumexp",
    [SF_SOFTMAX_LOSS] = "softmax_loss", [SF_SOFTMAX_LOSS_GRAD] = "softmax_loss_grad",
    [SF_CROSS_ENTROPY] = "cross_entropy", [SF_SELECTED_LOG_PROBS] = "selected_log_probs",
    [SF_MAXIMUM_AND_REST] = "maximum and rest",
    [SF_ROW_STATISTICS] = "row_statistics", [SF_EXPONENTIALS] = "exponentials",
    [SF_BINARY_CROSS_ENTROPY] = "binary_cross_entropy",
    [SF_BINARY_CROSS_ENTROPY_WITH_LOGITS] = "binary_cross_entropy_with_logits",
    [SF_KL_DIVERGENCE] = "kl_divergence", [SF_KL_DIVERGENCE_GRAD] = "kl_divergence_grad",
    [SF_MEASURES] = "measures"};

/* Whether it puts out an entry a class. */
static inline int writes_classes(int operation)
{
    return operation == SF_SOFTMAX || operation == SF_LOG_SOFTMAX || operation == SF_EXPONENTIALS
        || operation == SF_SOFTMAX_LOSS_GRAD || operation == SF_KL_DIVERGENCE_GRAD;
}

/* Whether what it compares with are logits. */
static inline int is_divergence(int operation)
{
    return operation == SF_KL_DIVERGENCE || operation == SF_KL_DIVERGENCE_GRAD
        || operation == SF_MEASURES;
}

static inline int is_binary(int operation)
{
    return operation == SF_BINARY_CROSS_ENTROPY
        || operation == SF_BINARY_CROSS_ENTROPY_WITH_LOGITS;
}

/* Pieces in backward order, to any worker: a parallel loop for what must not depend on it. */
static inline void backwards(sf_body *body, void *context, ptrdiff_t n_pieces, int n_workers)
{
    for (ptrdiff_t piece = n_pieces - 1; piece >= 0; piece--)
        body(context, piece, (int)(piece * 5 % n_workers));
}

/* ---- memory and random numbers --------------------------------------------------------------- */

enum { FILL = 0xb5 };

static inline void *allocated(size_t size)
{
    void *memory = malloc(size);
    if (!memory && size) {
        printf("FAILED: no memory\n");
        exit(1);
    }
    if (size)
        memset(memory, FILL, size);
    return memory;
}

/* What SF_ROW_STATISTICS writes, or in the same place SF_MEASURES. */
typedef struct {
    sf_columns columns;
    sf_measures measures;
    double *numbers;
    int64_t *places;
    size_t rows;
} statistics;

static inline statistics new_statistics(size_t rows)
{
    double *d = allocated(8 * rows * sizeof *d);
    int64_t *i = allocated(2 * rows * sizeof *i);
    statistics s = {{d, d + rows, d + 2 * rows, d + 3 * rows, i, d + 4 * rows, d + 5 * rows,
                     d + 6 * rows, d + 7 * rows, i + rows},
                    {d, d + rows, d + 2 * rows, d + 3 * rows, d + 4 * rows}, d, i, rows};
    return s;
}

static inline void free_statistics(statistics *s)
{
    free(s->numbers);
    free(s->places);
}

static inline int same_statistics(const statistics *a, const statistics *b)
{
    for (size_t i = 0; i < 8 * a->rows; i++)
        if (a->numbers[i] != b->numbers[i]
            && (a->numbers[i] == a->numbers[i] || b->numbers[i] == b->numbers[i]))
            return 0;
    return !memcmp(a->places, b->places, 2 * a->rows * sizeof *a->places);
}

static uint64_t random_state = 1;

static inline uint64_t random_bits(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline double uniform(void) { return (double)(random_bits() >> 11) * 0x1p-53; }

/* ---- entries of the four kinds --------------------------------------------------------------- */

static inline size_t item_size(int kind) { return kind == SF_F64 ? 8 : kind == SF_F32 ? 4 : 2; }
static inline int result_kind(int kind) { return kind == SF_F64 ? SF_F64 : SF_F32; }
static inline size_t result_size(int kind) { return item_size(result_kind(kind)); }

static inline const char *kind_name(int kind)
{
    static const char *const names[] = {"f32", "f64", "f16", "bf16"};
    return names[kind];
}

static inline uint16_t half_bits(double x) /* rounded towards zero */
{
    unsigned sign = signbit(x) ? 0x8000 : 0;
    int exponent;
    double f = frexp(fabs(x), &exponent);
    if (x != x)
        return (uint16_t)(sign | 0x7e00);
    if (fabs(x) >= 65536)
        return (uint16_t)(sign | (isinf(x) ? 0x7c00 : 0x7bff));
    if (exponent < -13)
        return (uint16_t)(sign | (unsigned)ldexp(fabs(x), 24));
    return (uint16_t)(sign | ((unsigned)(exponent + 14) << 10) | ((unsigned)ldexp(f, 11) & 0x3ff));
}

static inline double half_value(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
    double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                     : exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return bits & 0x8000 ? -magnitude : magnitude;
}

/* Finite numbers beyond the kind's range become its largest. */
static inline void put(void *base, ptrdiff_t i, int kind, double x)
{
    float narrow = (float)(isfinite(x) ? fmax(-FLT_MAX, fmin(x, FLT_MAX)) : x);
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    if (kind == SF_F64)
        ((double *)base)[i] = x;
    else if (kind == SF_F32)
        ((float *)base)[i] = narrow;
    else
        ((uint16_t *)base)[i] = kind == SF_F16 ? half_bits(x) : (uint16_t)(bits >> 16);
}

static inline double get(const void *base, ptrdiff_t i, int kind)
{
    if (kind == SF_F64)
        return ((const double *)base)[i];
    if (kind == SF_F32)
        return ((const float *)base)[i];
    if (kind == SF_F16)
        return half_value(((const uint16_t *)base)[i]);
    uint32_t bits = (uint32_t)((const uint16_t *)base)[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
