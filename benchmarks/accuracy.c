/* Errors of exp and log1p against the long double functions of libm, in units in the last place.
   Compiled by native.py for accuracy.py; no part of the package. */

#include <float.h>
#include <math.h>
#include <stddef.h>

enum function { EXP, LOG1P };

/* Exponents, as frexp gives them, of the results of exp of x <= 0 and of log1p of x <= 10^20. */
#define LOWEST_EXPONENT DBL_MIN_EXP
#define HIGHEST_EXPONENT 8
#define BLOCK ((size_t)1 << 16)
#define MOST_RESULTS 16

int accuracy_long_double_digits(void) { return LDBL_MANT_DIG; }

/* `lowest`: where every result of the type is 0, and expl would only be slow. */
static inline long double exact(int function, long double x, long double lowest)
{
    if (function == LOG1P)
        return log1pl(x);
    return x < lowest ? 0 : expl(x);
}

/* One over the distance of the floating-point numbers of a type, for every exponent. */
static void fill_reciprocals(long double *reciprocals, int digits, int min_exponent)
{
    for (int e = LOWEST_EXPONENT; e <= HIGHEST_EXPONENT; e++)
        reciprocals[e - LOWEST_EXPONENT] = ldexpl(1, digits - (e < min_exponent ? min_exponent : e));
}

static inline long double reciprocal_unit(const long double *reciprocals, long double value)
{
    int e;
    frexp((double)value, &e);
    if (value == 0 || e < LOWEST_EXPONENT)
        e = LOWEST_EXPONENT;
    return reciprocals[e - LOWEST_EXPONENT];
}

/* For each of the k results ys[j] of n inputs: the largest error, the index where it stands, the sum of all.
   A NaN or an infinity counts as infinite, since no exact result is one. */
#define ERRORS(name, T, DIGITS, MIN_EXPONENT, LOWEST)                                              \
    void name(int function, const T *x, const T *const *ys, int k, size_t n, double *largest,      \
              size_t *where, double *sums)                                                         \
    {                                                                                              \
        long double reciprocals[HIGHEST_EXPONENT - LOWEST_EXPONENT + 1];                           \
        fill_reciprocals(reciprocals, DIGITS, MIN_EXPONENT);                                       \
        for (int j = 0; j < k; j++) {                                                              \
            largest[j] = -1;                                                                       \
            where[j] = 0;                                                                          \
            sums[j] = 0;                                                                           \
        }                                                                                          \
        _Pragma("omp parallel for schedule(dynamic)")                                              \
        for (size_t begin = 0; begin < n; begin += BLOCK) {                                        \
            size_t end = n - begin < BLOCK ? n : begin + BLOCK;                                    \
            double most[MOST_RESULTS], sum[MOST_RESULTS];                                          \
            size_t at[MOST_RESULTS];                                                               \
            for (int j = 0; j < k; j++) {                                                          \
                most[j] = -1;                                                                      \
                sum[j] = 0;                                                                        \
                at[j] = begin;                                                                     \
            }                                                                                      \
            for (size_t i = begin; i < end; i++) {                                                 \
                long double want = exact(function, x[i], LOWEST);                                  \
                long double reciprocal = reciprocal_unit(reciprocals, want);                       \
                for (int j = 0; j < k; j++) {                                                      \
                    double error = (double)(fabsl(ys[j][i] - want) * reciprocal);                  \
                    if (!(error <= DBL_MAX))                                                       \
                        error = INFINITY;                                                          \
                    sum[j] += error;                                                               \
                    if (error > most[j]) {                                                         \
                        most[j] = error;                                                           \
                        at[j] = i;                                                                 \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
            _Pragma("omp critical")                                                                \
            for (int j = 0; j < k; j++) {                                                          \
                sums[j] += sum[j];                                                                 \
                if (most[j] > largest[j]) {                                                        \
                    largest[j] = most[j];                                                          \
                    where[j] = at[j];                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

ERRORS(accuracy_errors_f32, float, FLT_MANT_DIG, FLT_MIN_EXP, -110)
ERRORS(accuracy_errors_f64, double, DBL_MANT_DIG, DBL_MIN_EXP, -760)
