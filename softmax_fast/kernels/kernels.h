/* The interface between the driver and the kernels: a call, the operations, and one constant table for
 * each instruction set and dtype.  Kernels trust their arguments, allocate nothing, call no Python and
 * raise nothing; what can be wrong with the data comes back in an sf_result. */
#ifndef SF_KERNELS_H
#define SF_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "sums.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- what is computed ------------------------------------------------------------------------------ */

enum {
    SF_SOFTMAX,
    SF_LOG_SOFTMAX,
    SF_LOGSUMEXP,
    SF_SOFTMAX_LOSS,
    SF_SOFTMAX_LOSS_GRAD,
    SF_CROSS_ENTROPY,
    SF_SELECTED_LOG_PROBS, /* out: a contiguous array of n_indices entries a row */
    SF_MAXIMUM_AND_REST,          /* row_max m and row_rest = sum exp((x - m)/T) - 1: log sum exp(x/T)
                            * = m/T + log1p(row_rest) keeps the digits of a small rest */
    SF_ROW_STATISTICS,     /* the columns */
    SF_EXPONENTIALS,       /* out = row_rest exp((x - row_max)/T), row_max no less than the maximum */
    SF_BINARY_CROSS_ENTROPY, /* of entries: rows of one class; out or NULL; targets->probabilities */
    SF_BINARY_CROSS_ENTROPY_WITH_LOGITS,
    SF_KL_DIVERGENCE,      /* of rows from those of targets->probabilities, which are logits here */
    SF_KL_DIVERGENCE_GRAD, /* with respect to x */
    SF_MEASURES,           /* the measures of rows and those of targets->probabilities */
    SF_N_OPERATIONS
};

/* How the entries of an input are stored.  Halves are widened to float as they are loaded.  Integers,
 * signed or not, are targets of binary losses: 0 and 1; what else there is is large without its sign.
 * So are bools, of which any byte but 0 is true. */
enum { SF_F32, SF_F64, SF_F16, SF_BF16, SF_I8, SF_I16, SF_I32, SF_I64, SF_BOOL };

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

/* What a loss compares with: labels of 32 or 64 bits, else class probabilities. */
typedef struct {
    const int32_t *labels32;
    const int64_t *labels64;
    sf_input probabilities;
    const double *class_weight;  /* n_classes entries, or NULL */
    const double *sample_weight; /* one a row, or NULL */
    const double *pos_weight;    /* of binary losses of logits */
    ptrdiff_t pos_weight_step;   /* 0: one for all, 1: one each */
    int64_t ignore_index;
    int has_ignore_index;
    double label_smoothing;
    void *row_losses;            /* one a row, in the type of the output, or NULL */
    double gradient_scale;
    double loss_scale;           /* of divergences */
} sf_targets;

/* What one look at the rows tells, an entry a row in each; NULL for what is not wanted, but that with
 * labels loss, slope, curvature and rank are.  Of a row without probabilities prediction is -1, rank
 * n_classes, and all but logsumexp NaN; of an ignored row rank is -1 and what else is of labels 0.  With
 * neither prediction nor brier rank tells that alone. */
typedef struct {
    double *logsumexp, *confidence, *uncertainty, *entropy; /* uncertainty: 1 - confidence */
    int64_t *prediction;
    double *loss, *brier;
    double *slope, *curvature; /* of the loss in 1/T: E_p[x] - x_y and Var_p[x] */
    int64_t *rank;             /* entries above the label's, and equal ones before it */
} sf_columns;

/* How far the distributions q of rows are from those of the base p, an entry a row in each: KL(p || q), to
 * the last bit that of SF_KL_DIVERGENCE, KL(q || p), the Jensen-Shannon divergence, and half the sum and
 * the largest of |p - q|; with labels, which are those of the first entries, log q - log p and q - p at
 * the label, 0 in a row that does not count. */
typedef struct {
    double *kl, *reverse, *js, *total_variation, *largest;
    const sf_targets *labels; /* or NULL */
    double *log_ratio, *change;
} sf_measures;

typedef struct sf_kernels sf_kernels;

typedef struct {
    const sf_kernels *kernels;  /* of the dtype of x */
    const sf_kernels *doubles;  /* of double, for rows beyond the reach of those */
    sf_input x;
    sf_output out;              /* data may be NULL where an operation reduces */
    ptrdiff_t n_rows;           /* >= 1 */
    ptrdiff_t inner;            /* rows in one outer step; a kernel stays within one step */
    ptrdiff_t n_classes;        /* >= 1 */
    const double *temperature;  /* one for all rows, or one a row */
    ptrdiff_t temperature_step; /* 0 or 1 */
    const sf_targets *targets;  /* of losses; of selected_log_probs for its ignore_index */
    const int64_t *indices;
    ptrdiff_t n_indices;
    double *row_max, *row_rest;
    const sf_columns *columns;
    const sf_measures *measures;
    ptrdiff_t first_row;        /* of the call, in the columns and measures */
    int n_threads;              /* at most; the loop is not entered for one */
    int prefetch;               /* the rows do not lie in a cache next to the core */
    int stream;                 /* write out past the caches */
} sf_call;

/* ---- how it is computed ---------------------------------------------------------------------------- */

enum { SF_BATCH = 64 }; /* rows whose logarithms are taken together */

/* Numbers of some rows, from the steps that read to finish and to the steps that write. */
typedef struct {
    double max[SF_BATCH], rest[SF_BATCH]; /* as row_max and row_rest */
    double log_sum[SF_BATCH];             /* log1p(rest), NaN for rows without probabilities */
    double share[SF_BATCH];               /* sum of a, the weighted target */
    double quotient[SF_BATCH];            /* sum of a (x - m)/T; of a label, without its weight */
    double scale[SF_BATCH];               /* of the gradient: the caller's, the row's weight and 1/T */
    double inverse[SF_BATCH];             /* of a gradient: 1/(1 + rest), NaN for rows without probabilities */
    double at_label[SF_BATCH];            /* exp((x - m)/T) there; then the gradient */
    ptrdiff_t y[SF_BATCH];                /* the label, of probability targets 0; -1: does not count */
    sf_row_sums *sums;                    /* of short rows; longer ones are added one by one */
    double first_moment[SF_BATCH], second_moment[SF_BATCH]; /* sums of e s and e s s, s = (x - m)/T */
    double squares[SF_BATCH];             /* sum of e e but for one maximum */
    double top[SF_BATCH];                 /* the first index of the maximum */
    double above[SF_BATCH];               /* entries above the label's, and equal ones before it */
    double base_max[SF_BATCH], base_rest[SF_BATCH]; /* of divergences: as max and rest, of the base; */
    double shift[SF_BATCH], shift_lost[SF_BATCH]; /* T times the log-sum less that of the base */
} sf_batch;

/* Numbers of each block of a long row: its maximum, its rest; of the weighted target a the sums of a
 * and of a (x - maximum), and the latter times 2^-128, which does not overflow.  Of row statistics,
 * these three are the moments and the squares.  Of divergences, share and product are the base's
 * maximum and rest, scaled is the divergence within the block, top the shift and above what it lacks. */
typedef struct { double *max, *rest, *share, *product, *scaled, *top, *above; } sf_blocks;

typedef struct sf_tile sf_tile;               /* short rows, one to a lane; the kernels' own */
typedef struct sf_temperature sf_temperature; /* a temperature in the kernels' form */

typedef struct {
    const sf_call *call;
    const sf_temperature *temperature;
    ptrdiff_t row, n_blocks;
    sf_blocks blocks;
    void *exponentials; /* where they wait for a write past the caches, or NULL: in out */
    sf_batch *batch;
    ptrdiff_t at;       /* the row's place in the batch */
} sf_long_row;

typedef void sf_tile_step(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                          int width, sf_batch *batch, ptrdiff_t at);
typedef void sf_row_step(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch,
                         ptrdiff_t at);
typedef void sf_block_step(const sf_long_row *row, ptrdiff_t first, ptrdiff_t count);
typedef void sf_merge(const sf_long_row *row);
typedef void sf_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                       ptrdiff_t at, sf_result *result);
typedef void sf_entries(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_result *result);

enum {
    SF_TAKES_LOGS = 1,    /* finish wants log_sum */
    SF_READS_TARGETS = 2, /* rows that do not count are left out */
    SF_STREAMS = 4,       /* may write past the caches */
    SF_WAITS_IN_OUT = 8   /* between reading and writing a row nothing else may come: exponentials wait
                           * where they will be written, and the numbers of its blocks with them */
};

/* One operation.  Steps that read leave their numbers in a batch, finish makes results of them, and
 * steps that write, where there are any, put out an entry a class. */
typedef struct {
    sf_tile_step *tile, *tile_out;    /* short rows side by side */
    sf_row_step *row, *row_out;       /* one short row */
    sf_block_step *block, *block_out; /* blocks of a long row, by one thread or several */
    sf_merge *merge;                  /* of all its blocks */
    sf_block_step *again;             /* a second look at them, which may be NULL, */
    sf_merge *merge_again;            /* and what comes of it */
    sf_finish *finish;
    sf_entries *entries;              /* instead of all these: entries that know of no rows */
    unsigned flags;
} sf_operation;

/* Calls body(context, piece, worker) once for every piece in [0, n_pieces), on at most n_workers
 * threads; no two calls at a time have the same worker in [0, n_workers). */
typedef void sf_body(void *context, ptrdiff_t piece, int worker);
typedef void sf_parallel_for(sf_body *body, void *context, ptrdiff_t n_pieces, int n_workers);

/* Where the results of rows go: to one, or to one for each row from the first on.  Sums of short rows
 * that are walked through in several pieces are kept in sums, which the caller adds to the result. */
typedef struct { sf_result *results; ptrdiff_t first; int each_row; sf_row_sums *sums; } sf_sink;

/* Rows [first, first + count) of a call.  scratch has sf_scratch_bytes.  With a loop, every row is
 * shared by that many threads. */
typedef void sf_walk(const sf_call *call, const sf_operation *operation, ptrdiff_t first,
                     ptrdiff_t count, sf_sink sink, void *scratch, sf_parallel_for *loop,
                     int n_threads);

/* Sums of the columns of an evaluation, of some rows at a time. */
enum { SF_MOST_ADDED = 256 };
typedef struct {
    sf_lanes loss, loss_squares, brier, brier_squares, slope, curvature, entropy, reciprocal_rank;
} sf_column_sums;

struct sf_kernels {
    const char *isa;
    ptrdiff_t item_size;
    ptrdiff_t block;     /* entries of a long row that are reduced together */
    sf_walk *walk;
    sf_operation operations[SF_N_OPERATIONS];
    const struct sf_linear *linear; /* of linear.h; NULL: BLAS is faster */

    /* The vector functions on contiguous arrays: exp for x <= 0, log1p for x >= 0, and sums of x and its
     * squares, which may be NULL (double only). */
    void (*exp_array)(const void *x, void *out, ptrdiff_t n);
    void (*log1p_array)(const void *x, void *out, ptrdiff_t n);
    void (*sums_of_array)(const double *x, ptrdiff_t n, sf_sum *sum, sf_sum *squares);

    /* Of evaluations (double only): cell + bin of each confidence, of NaN those of 0, and its units; and
     * what n <= SF_MOST_ADDED rows add up to, if all count and have probabilities and no far loss, else
     * nothing and 0.  Then counts has for each k how many ranks are below. */
    void (*slots_of)(const double *confidence, ptrdiff_t n, ptrdiff_t n_bins, int32_t *slot, int64_t *units);
    int (*add_columns)(const sf_columns *rows, ptrdiff_t n, ptrdiff_t n_classes, const int64_t *k,
                       ptrdiff_t n_k, int64_t *counts, sf_column_sums *sums);
};

size_t sf_scratch_bytes(const sf_call *call, ptrdiff_t item_size);

/* Slope and curvature of a row whose (x - m)/T underflow when they are squared, one entry after another
 * in double. */
void sf_put_moments(const sf_call *call, ptrdiff_t row, double m);

/* The divergence of a row, one entry after another in double, whatever its entries and temperature are;
 * its gradient goes to gradient, step apart, unless that is NULL.  It may overwrite x.  Unless more is
 * NULL, the other measures go there in their order, and log q - log p, p and q at the label. */
double sf_divergence(const sf_call *call, ptrdiff_t row, void *gradient, ptrdiff_t step, double *more);

/* All measures of a row, by sf_divergence. */
void sf_put_measures(const sf_call *call, ptrdiff_t row);

/* Whether the measures have a label for a row; then its logit and that of the base. */
int sf_at_label(const sf_call *call, ptrdiff_t row, double *x, double *a);

/* ((x - a) - shift)/temperature */
double sf_log_ratio(double x, double a, sf_sum shift, double temperature);

/* What the measures have at the label. */
void sf_put_change(const sf_call *call, ptrdiff_t row, double log_ratio, double p, double q);

/* The rows from first on, as a call of their own: they lie in one outer step, with what is given for
 * each; *targets becomes theirs. */
sf_call sf_rows_from(const sf_call *call, ptrdiff_t first, sf_targets *targets);

#ifdef __cplusplus
}
#endif

#endif
