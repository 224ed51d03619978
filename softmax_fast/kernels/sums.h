/* Compensated sums in double, and what a call of losses sums up. */
#ifndef SF_SUMS_H
#define SF_SUMS_H

#include <math.h>
#include <stddef.h>

/* A sum with what its roundings lost: the value is sum + lost. */
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

/* The same of sums in arrays, whose two words lie apart. */
static inline void sf_put(double *sum, double *lost, double value)
{
    sf_sum total = {*sum, *lost};
    sf_sum_add(&total, value);
    *sum = total.sum;
    *lost = total.lost;
}

static inline void sf_put_sum(double *sum, double *lost, sf_sum part)
{
    sf_put(sum, lost, part.sum);
    *lost += part.lost;
}

/* Infinite and NaN sums have lost nothing that means anything. */
static inline double sf_sum_value(sf_sum total)
{
    return isfinite(total.sum) ? total.sum + total.lost : total.sum;
}

/* Sums over rows of which each adds to the lane of its number: in whatever pieces they come, each lane's
 * are in order. */
enum { SF_SUM_LANES = 8 };
typedef struct { double sum[SF_SUM_LANES], lost[SF_SUM_LANES]; } sf_lanes;
typedef struct { sf_lanes loss, weight; } sf_row_sums;

typedef struct {
    sf_sum loss, weight;
    ptrdiff_t bad_label_row, bad_value_row; /* the first row at fault, or -1 */
} sf_result;

static inline sf_result sf_no_result(void)
{
    sf_result result = {{0.0, 0.0}, {0.0, 0.0}, -1, -1};
    return result;
}

/* Of the first n_rows rows; lanes that have none are 0. */
static inline void sf_fold_row_sums(sf_result *result, const sf_row_sums *sums, ptrdiff_t n_rows)
{
    for (int i = 0; i < SF_SUM_LANES && i < n_rows; i++) {
        sf_sum loss = {sums->loss.sum[i], sums->loss.lost[i]};
        sf_sum weight = {sums->weight.sum[i], sums->weight.lost[i]};
        sf_sum_merge(&result->loss, loss);
        sf_sum_merge(&result->weight, weight);
    }
}

#endif
