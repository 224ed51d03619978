/* Sums over rows of how far they are from those of a base, and order statistics. */
#ifndef SF_COMPARISON_H
#define SF_COMPARISON_H

#include "drive.h"

/* What there are sums of, in the order of _comparison_state.py; without labels none from the losses on.
 * Each has those of sf_add_moments, of the rows in which it is finite, and the same of numbers from
 * SF_FAR_LOSS on, times 2^-SF_FAR_EXPONENT. */
enum {
    SF_OF_ONE, SF_OF_KL, SF_OF_REVERSE, SF_OF_JS, SF_OF_VARIATION, SF_OF_SAME_TOP, SF_OF_BASE_LOSS,
    SF_OF_LOSS, SF_OF_DIFFERENCE, SF_OF_CHANGE, SF_OF_SQUARE, SF_COMPARED,
    SF_COMPARED_SUMS = 2 * 4 * SF_COMPARED
};
enum { SF_JOINT_SUMS = 6 }; /* of v x, v y, v x x, v y y, v x y and v; x, y: losses less points */
enum { SF_COMPARED_GOOD, SF_COMPARED_IGNORED, SF_COMPARED_BAD, SF_COMPARED_NONFINITE,
       SF_COMPARED_INFINITE, SF_COMPARED_COUNTS = SF_COMPARED_INFINITE + SF_COMPARED };

/* The numbers of each row that may be wanted beside the losses. */
enum { SF_ROW_KL, SF_ROW_REVERSE, SF_ROW_JS, SF_ROW_VARIATION, SF_ROW_LARGEST, SF_ROW_SAME_TOP,
       SF_ROW_CHANGE, SF_ROW_NUMBERS };

typedef struct {
    const double *weights;     /* one a row, or NULL */
    double *sums[2];           /* and what they lost */
    double *joint[2], *points; /* points that are NaN are chosen */
    int64_t *counts;
    double largest;
    double *kl, *change;       /* of each row, for quantiles; kl NaN where there is none */
    double *base_loss, *loss;  /* of each row; these and change of rows with labels */
    double *rows[SF_ROW_NUMBERS]; /* or NULL */
    ptrdiff_t first[2];        /* the first row without probabilities, and that is not finite; -1 */
} sf_comparison;

/* Add the rows of two arrays of logits, given as calls of their statistics, of the base's and their own,
 * and of their measures, without columns; rows with labels that have been checked.
 * Returns SF_OK or SF_NO_MEMORY. */
int sf_add_to_comparison(const sf_call calls[3], sf_comparison *to);

/* Numbers that are not NaN, with weights or NULL. */
typedef struct { const double *values, *weights; ptrdiff_t n; } sf_sample;

/* For ascending masses the least number up to which, in ascending order, there is so much weight: for
 * k + 1, without weights, the one of place k.  Sums of weights are rounded once.
 * Returns SF_OK or SF_NO_MEMORY. */
int sf_at_masses(const sf_sample *sample, const double *masses, ptrdiff_t n_masses, double *out);

#endif
