/* What the linker sees carries the instruction set in its name; all else is static. */
#define SF_PASTE_(a, b) a##_##b
#define SF_PASTE(a, b) SF_PASTE_(a, b)
#define SF_STRINGIFY_(a) #a
#define SF_STRINGIFY(a) SF_STRINGIFY_(a)

#if SF_DOUBLE
#define SF_KERNELS SF_PASTE(SF_PASTE(sf_kernels, SF_ISA), f64)
#else
#define SF_KERNELS SF_PASTE(SF_PASTE(sf_kernels, SF_ISA), f32)
#endif

extern const sf_kernels SF_KERNELS;

/* Rows of float are finished in double, by functions of the unit for double. */
#define change_doubles SF_PASTE(sf_change_doubles, SF_ISA)
#define exp_doubles SF_PASTE(sf_exp_doubles, SF_ISA)
#define log1p_doubles SF_PASTE(sf_log1p_doubles, SF_ISA)
#define minus_logs SF_PASTE(sf_minus_logs, SF_ISA)
#define add_to_lanes SF_PASTE(sf_add_to_lanes, SF_ISA)
#define sum_of_doubles SF_PASTE(sf_sum_of_doubles, SF_ISA)
#define sums_of_doubles SF_PASTE(sf_sums_of_doubles, SF_ISA)

/* exp(x/T) for x <= 0, and log(1 + x) for x >= 0; in place or not. */
void exp_doubles(const double *x, double *out, ptrdiff_t n, sf_rate c);

/* q - p to q, t being log q - log p, with the digits of a small t. */
void change_doubles(const double *t, const double *p, double *q, ptrdiff_t n);
void log1p_doubles(const double *x, double *out, ptrdiff_t n);
/* -log(p) as log1p((1 - p)/p), which keeps the digits next to p = 1; where the quotient would
 * overflow, p is scaled by 2**200.  p and out are different arrays. */
void minus_logs(const double *p, double *out, ptrdiff_t n);
/* The sum in an order that n alone decides: four by four, and those compensated.  Of addends >= 0 it is
 * off by its epsilon at most. */
sf_sum sum_of_doubles(const double *x, ptrdiff_t n);
/* Adds x[i] to the lane of i, for n a multiple of SF_SUM_LANES. */
void add_to_lanes(sf_lanes *lanes, const double *x, ptrdiff_t n);
/* Sums of x and, unless squares is NULL, of x x as if that were not rounded: compensated, so that they are
 * the same in any order to some 2^-100 of the sums of |x| and x x. */
void sums_of_doubles(const double *x, ptrdiff_t n, sf_sum *sum, sf_sum *squares);
