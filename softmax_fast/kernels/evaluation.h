/* Sums over rows of what row statistics tell of them, made while the numbers of some rows are near. */
#ifndef SF_EVALUATION_H
#define SF_EVALUATION_H

#include <string.h>

#include "kernels.h"

/* Cells are 32 to the octave of the confidence below 1/2, down to 2^-32, and of 1 - confidence above,
 * down to 2^-53; the last holds confidence 1.  They are (lo, hi], in ascending order of confidence. */
enum {
    SF_CELL_SHIFT = 52 - 5,
    SF_CELLS_LOWEST = (1023 - 32) << 5,  /* the first bits of 2^-32, ... */
    SF_CELLS_NEAREST = (1023 - 53) << 5, /* ... of 2^-53, ... */
    SF_CELLS_HALF = (1023 - 1) << 5,     /* ... and of 1/2 */
    SF_CELLS = 2 * SF_CELLS_HALF - SF_CELLS_LOWEST - SF_CELLS_NEAREST + 1
};

/* The cell of a confidence in [0, 1], and how many units of the last place it, or 1 - confidence, is
 * above the lower end of the cell. */
static inline int32_t sf_cell_of(double confidence, int64_t *units)
{
    const double doubt = 1.0 - confidence, above = 0.5 - confidence; /* the former exact above 1/2 */
    int64_t bits, of_doubt, of_above;
    memcpy(&bits, &confidence, sizeof bits);
    memcpy(&of_doubt, &doubt, sizeof of_doubt);
    memcpy(&of_above, &above, sizeof of_above);
    const int64_t mask = (int64_t)((uint64_t)of_above >> 63) - 1; /* no branch: either is as likely */
    bits = ((bits & mask) | (of_doubt & ~mask)) + mask;
    *units = (bits & (((int64_t)1 << SF_CELL_SHIFT) - 1)) - mask;
    const int32_t of_bits = (int32_t)((uint64_t)bits >> 32) >> (SF_CELL_SHIFT - 32), up = (int32_t)mask;
    const int32_t cell = ((of_bits - SF_CELLS_LOWEST) & up)
                       | ((SF_CELLS - 2 + SF_CELLS_NEAREST - of_bits) & ~up);
    const int32_t at_least = cell > 0 ? cell : 0;
    return at_least < SF_CELLS - 1 ? at_least : SF_CELLS - 1;
}

/* The bin of a confidence: (lo, hi] of i / n_bins, correctly rounded, and 0 in the first. */
static inline ptrdiff_t sf_bin_of(double confidence, ptrdiff_t n_bins)
{
    /* The product is no less than i where confidence is above i / n_bins. */
    int32_t at = (int32_t)(confidence * (double)n_bins);
    at = at < (int32_t)n_bins - 1 ? at : (int32_t)n_bins - 1;
    return at - ((at > 0) & (confidence <= (double)at / (double)n_bins));
}

/* A loss from here on goes, times 2^-SF_FAR_EXPONENT, to sums of its own: neither its square nor that of
 * another leaves double. */
#define SF_FAR_LOSS 0x1p256
enum { SF_FAR_EXPONENT = 640 };

/* What an evaluation adds to, in the orders of _evaluation_state.py. */
typedef struct {
    const double *weights;       /* one a row, or NULL */
    const int64_t *top_k;
    ptrdiff_t n_top;
    ptrdiff_t n_bins;
    int64_t *counts;
    double *sums[2];             /* and what they lost */
    int64_t *slots;              /* of rows without weights */
    double *bin_sums[2], *cell_sums[2]; /* of rows with weights */
    int64_t *bin_counts, *cell_counts;
    ptrdiff_t first[2];          /* the first row without probabilities, and of infinite loss; -1 */
} sf_evaluation;

/* What a pass of a fit adds up, in the order of _temperature.py; first is the first row whose loss is
 * no number, or infinite for its label's logit. */
enum { SF_PASS_SUMS = 7 };
typedef struct {
    const double *weights;
    int64_t n;
    double sums[2][SF_PASS_SUMS];
    ptrdiff_t first;
} sf_pass;

enum { SF_MOST_SUMMED = 65536 }; /* rows of one call */

/* Add the rows of a call with labels that have been checked.  Columns of the call that are not NULL
 * are written as well; of rows with weights, an evaluation wants rank, prediction and confidence.  Of a
 * call without data the columns that an evaluation adds are there already.
 * Return SF_OK or SF_NO_MEMORY. */
int sf_add_to_evaluation(const sf_call *call, sf_evaluation *to);
int sf_add_to_pass(const sf_call *call, sf_pass *to);

/* Add v x, v v x, v v x x and v x x of finite x to four sums and what they lost, the products as if they
 * were not rounded; v is 1 without weights. */
void sf_add_moments(const double *x, const double *weights, ptrdiff_t n, double *hi, double *lo);

#endif
