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

/* Infinite and NaN sums have lost nothing that means anything. */
static inline double sf_sum_value(sf_sum total)
{
    return isfinite(total.sum) ? total.sum + total.lost : total.sum;
}

typedef struct {
    sf_sum loss, weight;
    ptrdiff_t bad_label_row, bad_value_row; /* the first row at fault, or -1 */
} sf_result;

static inline sf_result sf_no_result(void)
{
    sf_result result = {{0.0, 0.0}, {0.0, 0.0}, -1, -1};
    return result;
}

#endif
