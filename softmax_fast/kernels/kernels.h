/* The kernels as the rest of the library sees them: one constant table of functions for each
 * instruction set and dtype.  Every function trusts its arguments, allocates nothing, calls no
 * Python and raises nothing; what can be wrong with the data comes back in an sf_result. */
#ifndef SF_KERNELS_H
#define SF_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <math.h>
#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* How the entries of an input are stored.  Halves are widened to float as they are loaded. */
enum { SF_F32 = 0, SF_F64 = 1, SF_F16 = 2, SF_BF16 = 3 };

/* Rows of equal length.  Row r begins at (r / inner) * outer_stride + (r % inner) * row_stride, its
 * next entries follow class_stride apart; all strides count elements. */
typedef struct {
    const void *data;
    ptrdiff_t outer_stride, row_stride, class_stride;
    int kind;
} sf_input;

typedef struct {
    void *data; /* float for SF_F32, SF_F16 and SF_BF16 inputs, double for SF_F64 */
    ptrdiff_t outer_stride, row_stride, class_stride;
} sf_output;

typedef struct {
    sf_input x;
    sf_output out;
    ptrdiff_t inner;            /* rows in one outer step; a call stays within one step */
    ptrdiff_t n_classes;        /* >= 1 */
    const double *temperature;  /* one for all rows, or one a row */
    ptrdiff_t temperature_step; /* 0 or 1 */
    int stream;                 /* write out past the caches, which it would not fit */
    int far;                    /* the rows do not lie in a cache next to the core: fetch ahead */
} sf_rows;

/* What a loss compares with: labels of 32 or 64 bits, else class probabilities. */
typedef struct {
    const int32_t *labels32;
    const int64_t *labels64;
    sf_input probabilities;
    const double *class_weight;  /* n_classes entries, or NULL */
    const double *sample_weight; /* one a row, or NULL */
    int64_t ignore_index;
    int has_ignore_index;
    double label_smoothing;
    void *row_losses;            /* one a row, in the type of the output, or NULL */
    double gradient_scale;
} sf_targets;

/* Binary losses of contiguous values: probabilities, or logits before the temperature. */
typedef struct {
    sf_input x;
    const void *targets;         /* in the type of the result */
    const double *temperature, *pos_weight, *sample_weight; /* the last may be NULL */
    ptrdiff_t temperature_step, pos_weight_step;            /* 0: one for all, 1: one each */
    int of_logits;
    void *losses;                /* in the type of the result, or NULL */
} sf_binary;

/* The kernels count on rounding to nearest, on subnormals and on masked traps.  A caller who set
 * otherwise gets the same results, and finds everything as it was: enter before a run of kernels in
 * every thread, leave after it. */
#if defined(__SSE2__) || defined(_M_X64)
typedef unsigned sf_environment;
static inline sf_environment sf_enter(void)
{
    unsigned found = _mm_getcsr();
    if ((found & 0xffc0u) != 0x1f80u)
        _mm_setcsr(0x1f80u);
    return found;
}
static inline void sf_leave(sf_environment found)
{
    if ((found & 0xffc0u) != 0x1f80u)
        _mm_setcsr(found);
}
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
typedef uint64_t sf_environment;
static inline sf_environment sf_enter(void)
{
    uint64_t found, usual = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(found));
    if (found)
        __asm__ volatile("msr fpcr, %0" : : "r"(usual));
    return found;
}
static inline void sf_leave(sf_environment found)
{
    if (found)
        __asm__ volatile("msr fpcr, %0" : : "r"(found));
}
#else
typedef unsigned sf_environment;
static inline sf_environment sf_enter(void) { return 0; }
static inline void sf_leave(sf_environment found) { (void)found; }
#endif

/* A sum in double with what its roundings lost: the value is sum + lost. */
typedef struct { double sum, lost; } sf_sum;

/* Knuth's two-sum: exact, whichever addend is larger. */
static inline void sf_sum_add(sf_sum *total, double value)
{
    double sum = total->sum + value, added = sum - total->sum;
    total->lost += (total->sum - (sum - added)) + (value - added);
    total->sum = sum;
}

static inline void sf_sum_merge(sf_sum *total, sf_sum part)
{
    sf_sum_add(total, part.sum);
    total->lost += part.lost;
}

/* Infinite and NaN sums have lost nothing that means anything. */
static inline double sf_sum_value(sf_sum total)
{
    return isfinite(total.sum) ? total.sum + total.lost : total.sum;
}

typedef struct {
    sf_sum loss, weight;
    ptrdiff_t bad_label_row, bad_value_row; /* the first row at fault, or -1 */
} sf_result;

/* Numbers of each block of a long row: its maximum m, its sum of exp((x - m)/T) less one, and for
 * gradients the sums of the targets' shares a and of a (x - m); for a plain label, x there. */
typedef struct { double *max, *rest, *share, *product; } sf_blocks;

/* A row's gradient is scale (p share - a): scale holds the caller's, the row's weight and 1/T. */
typedef struct {
    double scale, share;
    double probability; /* turns biased exponentials into p; then underflow is p's own */
    double weight;      /* scale * share */
    double at_label;    /* of a plain label, without cancellation */
} sf_gradient;

/* Every function works on rows [first, first + count).  scratch has sf_scratch_bytes. */
typedef void sf_rows_function(const sf_rows *rows, ptrdiff_t first, ptrdiff_t count, void *scratch);
typedef void sf_loss_function(const sf_rows *rows, const sf_targets *targets, ptrdiff_t first,
                              ptrdiff_t count, sf_result *result, void *scratch);

typedef struct {
    const char *isa;
    ptrdiff_t item_size;
    ptrdiff_t block;     /* entries of a long row that are reduced together */
    ptrdiff_t tile_rows; /* rows in flight together when rows are short */

    sf_rows_function *softmax, *log_softmax, *logsumexp;
    sf_loss_function *softmax_loss, *softmax_loss_grad, *cross_entropy;

    /* row_max m and row_rest = sum exp((x - m)/T) - 1: log sum exp(x/T) = m/T + log1p(row_rest)
     * keeps the digits of a small rest. */
    void (*row_stats)(const sf_rows *rows, ptrdiff_t first, ptrdiff_t count, double *row_max,
                      double *row_rest, void *scratch);

    /* The same steps on one long row by blocks, for several threads: the statistics of blocks
     * [first, first + count), with exp((x - its maximum)/T) left in out unless out.data is NULL; the
     * merge of all blocks, which turns rest into each block's factor; and the last pass. */
    void (*block_stats)(const sf_rows *rows, ptrdiff_t row, ptrdiff_t first, ptrdiff_t count,
                        const sf_blocks *blocks);
    void (*merge_blocks)(const sf_rows *rows, ptrdiff_t row, ptrdiff_t n_blocks,
                         const sf_blocks *blocks, double *row_max, double *row_rest);
    void (*softmax_blocks)(const sf_rows *rows, ptrdiff_t row, ptrdiff_t first, ptrdiff_t count,
                           const sf_blocks *blocks, double row_max, double row_rest);
    void (*log_softmax_blocks)(const sf_rows *rows, ptrdiff_t row, ptrdiff_t first,
                               ptrdiff_t count, double row_max, double row_rest);
    void (*gradient_stats)(const sf_rows *rows, const sf_targets *targets, ptrdiff_t row,
                           ptrdiff_t first, ptrdiff_t count, const sf_blocks *blocks);
    sf_gradient (*gradient_merge)(const sf_rows *rows, const sf_targets *targets, ptrdiff_t row,
                                  const sf_blocks *blocks, sf_result *result);
    void (*gradient_blocks)(const sf_rows *rows, const sf_targets *targets, ptrdiff_t row,
                            ptrdiff_t first, ptrdiff_t count, const sf_blocks *blocks,
                            const sf_gradient *gradient);
    void (*finish_logsumexp)(const sf_rows *rows, ptrdiff_t first, ptrdiff_t count,
                             const double *row_max, double *row_rest);
    void (*finish_loss)(const sf_rows *rows, const sf_targets *targets, ptrdiff_t first,
                        ptrdiff_t count, const double *row_max, double *row_rest,
                        sf_result *result);

    /* out = scale[r] * exp((x - shift[r])/T), shift no less than the row maximum. */
    void (*exponentials)(const sf_rows *rows, const double *shift, const double *scale,
                         ptrdiff_t first, ptrdiff_t count);

    /* out: a contiguous array of n_indices entries a row. */
    void (*selected_log_probs)(const sf_rows *rows, const int64_t *indices, ptrdiff_t n_indices,
                               const sf_targets *targets, ptrdiff_t first, ptrdiff_t count,
                               sf_result *result, void *scratch);
    void (*binary_loss)(const sf_binary *job, ptrdiff_t first, ptrdiff_t count, sf_result *result);

    /* The vector functions on contiguous arrays: exp for x <= 0, log1p for x >= 0 (double only). */
    void (*exp_array)(const void *x, void *out, ptrdiff_t n);
    void (*log1p_array)(const double *x, double *out, ptrdiff_t n);
} sf_kernels;

/* The pair of tables in use: float (also for halves) and double. */
typedef struct { const char *isa; const sf_kernels *f32, *f64; } sf_tables;

extern const sf_tables sf_tables_generic, sf_tables_avx2, sf_tables_avx512, sf_tables_neon;

/* dispatch.c */
const sf_tables *sf_tables_named(const char *isa); /* NULL: not built, or the CPU lacks it */
const sf_tables *sf_tables_best(void);
const sf_tables *sf_tables_in_use(void); /* the best, or that of SOFTMAX_FAST_ISA, or the chosen */
void sf_use_tables(const sf_tables *tables);
const char *sf_isa_built(int i);                    /* best first; NULL past the end */
ptrdiff_t sf_cache_size(int level);                /* bytes of data cache, 0: unknown */
ptrdiff_t sf_cached(int level);                     /* the same, read once; where unknown, usual */
size_t sf_scratch_bytes(const sf_rows *rows, ptrdiff_t item_size);


#ifdef __cplusplus
}
#endif

#endif
