/* exp and log over the vocabulary.
 *
 * exp(d/T) for d <= 0, as 2**(d * c) with c = log2(e)/T held in two words, so that a temperature
 * costs neither time nor digits: z = d*c + magic rounds to n, a multiple of 2**-POW2_BITS, and
 * f = d*c - n is at most half of that.  2**n comes from n's bits, those behind the point by a table
 * in a register where the instruction set has a permutation for it; 2**f from a polynomial
 * (relative error up to 2.5e-8 for float, 1.8e-17 for double).
 * The result carries a factor 2**EXP_BIAS, which the caller's last multiplication takes out:
 * so every result down to 0 is rounded once, and subnormals cost nothing extra.
 *   range     d in [-inf, 0]; at EXP_FLOOR and below the exponent's bits are 0, and so is the result
 *             (a subnormal one would cost some processors a hundred cycles)
 *   NaN       NaN, whatever its sign and payload
 *   error     below 1.5 ULP, which tests/test_exp_log.py asserts; benchmarks/accuracy.py measures it
 * The bias also goes for d > 0 up to 2**EXP_BIAS, beyond which results mean nothing.
 */

typedef struct { vec hi, lo, floor; } vrate;

#if SF_DOUBLE
SF_INLINE vec vload_doubles(const double *p) { return vload(p); }
SF_INLINE void vstore_doubles(double *p, vec a) { vstore(p, a); }
#endif

#if SF_DOUBLE
#define EXP_BIAS 128
#define EXP_UNBIAS 0x1p-128
#define EXP_FLOOR (-1151.0)
#define EXP_ROUNDER (0x1.8p52 / (1 << POW2_BITS))
#define EXP_MAGIC (EXP_ROUNDER + 1023 + EXP_BIAS)
#define EXP_VANISHES 0.0
#else
#define EXP_BIAS 64
#define EXP_UNBIAS 0x1p-64
#define EXP_FLOOR (-191.0)
#define EXP_ROUNDER (0x1.8p23 / (1 << POW2_BITS))
#define EXP_MAGIC (EXP_ROUNDER + 127 + EXP_BIAS)
#define EXP_VANISHES 0x1p-86 /* 2**(EXP_BIAS - 150): sums below it are 0 in float */
#endif

SF_INLINE void split_rate(sf_rate c, real *hi, real *lo, real *floor)
{
#if SF_DOUBLE && defined(SF_SPLIT_RATE)
    uint64_t bits;
    double top;
    memcpy(&bits, &c.hi, sizeof bits);
    bits &= ~(uint64_t)0x7ffffff;
    memcpy(&top, &bits, sizeof top);
#else
    real top = (real)c.hi;
#endif
    *hi = top;
    *lo = (real)((c.hi - (double)top) + c.lo);
    *floor = (real)(EXP_FLOOR / c.hi);
}

SF_INLINE vrate set_rate(sf_rate c)
{
    real hi, lo, floor;
    split_rate(c, &hi, &lo, &floor);
    vrate rate = {vset1(hi), vset1(lo), vset1(floor)};
    return rate;
}

/* 2**f = 1 + f p(f), |f| <= 2**-POW2_BITS / 2: the coefficients of p. */
#if SF_DOUBLE && POW2_BITS == 0
static const double exp_coefficient[] = {
    0x1.c063841f3a21dp-32, 0x1.e605f964b639dp-28, 0x1.b54167a1b0034p-24, 0x1.62bfd49ededd3p-20,
    0x1.ffcbee3b0a61cp-17, 0x1.43091309610fcp-13, 0x1.5d87fe7bbbe09p-10, 0x1.3b2ab6fba1e1cp-7,
    0x1.c6b08d7048f31p-5, 0x1.ebfbdff82c598p-3, 0x1.62e42fefa39f3p-1};
#elif SF_DOUBLE && POW2_BITS == 1
static const double exp_coefficient[] = {
    0x1.b4d3368ed69aep-24, 0x1.6309ece3dc5f6p-20, 0x1.ffcc1faab932cp-17, 0x1.43090b3b2fae4p-13,
    0x1.5d87fe750e50dp-10, 0x1.3b2ab6fc489a5p-7, 0x1.c6b08d704a8b1p-5, 0x1.ebfbdff82c482p-3,
    0x1.62e42fefa39efp-1};
#elif SF_DOUBLE && POW2_BITS == 4
static const double exp_coefficient[] = {
    0x1.430818c6a9584p-13, 0x1.5d89bdcd2e703p-10, 0x1.3b2ab6fe2708bp-7, 0x1.c6b08d6e8ba03p-5,
    0x1.ebfbdff82c553p-3, 0x1.62e42fefa39fdp-1};
#elif POW2_BITS == 0
static const float exp_coefficient[] = {
    0x1.470b48p-13f, 0x1.5f7276p-10f, 0x1.3b270ep-7f, 0x1.c6ae72p-5f, 0x1.ebfbe2p-3f, 0x1.62e432p-1f};
#elif POW2_BITS == 3
static const float exp_coefficient[] = {0x1.c6a004p-5f, 0x1.ec0c32p-3f, 0x1.62e432p-1f};
#else
static const float exp_coefficient[] = {0x1.c6ac6ap-5f, 0x1.ebfff4p-3f, 0x1.62e43p-1f};
#endif

/* exp of EXP_INTERLEAVE vectors in place, step by step, or of one; none is below the floor.  Unless log2 is
 * NULL, the binary logarithms of what comes go there. */
SF_INLINE void exp_and_log2(vec *d, vec *log2, const int count, vrate c)
{
    enum { degree = sizeof exp_coefficient / sizeof *exp_coefficient };
    const vec magic = vset1((real)EXP_MAGIC);
    vec z[4], f[4], p[4];
    for (int k = 0; k < count; k++)
        z[k] = vfma(d[k], c.hi, magic);
    for (int k = 0; k < count; k++) {
        const vec n = vsub(z[k], magic);
        f[k] = vfraction(d[k], c.hi, c.lo, n);
        if (log2)
            log2[k] = vadd(n, f[k]);
        p[k] = vset1(exp_coefficient[0]);
    }
    int i = 1;
    if (EXP_INTERLEAVE == 1) { /* in pairs, by powers of f*f: a chain half as long */
        vec square = vmul(f[0], f[0]);
        if (degree % 2)
            p[0] = vfma(p[0], f[0], vset1(exp_coefficient[i++]));
        for (; i < degree - 1; i += 2) {
            vec pair = vfma(vset1(exp_coefficient[i]), f[0],
                              vset1(exp_coefficient[i + 1]));
            p[0] = vfma(p[0], square, pair);
        }
    }
    for (; i < degree; i++)
        for (int k = 0; k < count; k++)
            p[k] = vfma(p[k], f[k], vset1(exp_coefficient[i]));
    for (int k = 0; k < count; k++) {
        vec power = vpow2(z[k]);
        d[k] = vfma(vmul(power, f[k]), p[k], power);
    }
}

SF_INLINE void exp_steps_above_floor(vec *d, const int count, vrate c) { exp_and_log2(d, NULL, count, c); }

SF_INLINE void exp_steps(vec *d, const int count, vrate c)
{
    for (int k = 0; k < count; k++)
        d[k] = vmax(c.floor, d[k]);
    exp_steps_above_floor(d, count, c);
}

SF_INLINE vec vexp(vec d, vrate c)
{
    exp_steps(&d, 1, c);
    return d;
}

/* Running sums of each lane with what their roundings lost (Kahan): the error of the true sum,
 * sum - lost, does not grow with the number of addends. */
typedef struct { vec sum, lost; } wide;

SF_INLINE wide wide_zero(void)
{
    wide w = {vset1(0), vset1(0)};
    return w;
}

SF_INLINE wide wide_add(wide w, vec a)
{
    vec y = vsub(a, w.lost), total = vadd(w.sum, y);
    w.lost = vsub(vsub(total, w.sum), y);
    w.sum = total;
    return w;
}

SF_INLINE void wide_store(double *p, wide w)
{
    real sum[LANES], lost[LANES];
    vstore(sum, w.sum);
    vstore(lost, w.lost);
    for (int i = 0; i < LANES; i++)
        p[i] = (double)sum[i] - (double)lost[i];
}

SF_INLINE double wide_total(wide w) { return vtotal(w.sum, w.lost); }

#if !SF_DOUBLE

/* log(1 + q) for 0 <= q <= 1, as 2 atanh(t/2) with t = q/(1 + q/2), by a polynomial in t*t (relative
 * error 9e-10). */
SF_INLINE vec log1p_unit(vec q)
{
    static const float coefficient[5] = {0x1.dba26p-14f, 0x1.bc8cf8p-12f, 0x1.24c926p-9f,
                                         0x1.9998d4p-7f, 0x1.555556p-4f};
    vec t = vdiv(q, vfma(q, vset1(0.5f), vset1(1.0f)));
    vec w = vmul(t, t), p = vset1(coefficient[0]);
    for (int i = 1; i < 5; i++)
        p = vfma(p, w, vset1(coefficient[i]));
    return vfma(vmul(t, w), p, t);
}

#endif

#if SF_DOUBLE
#define LOG_2_HIGH 0x1.62e42fefa3800p-1 /* times an exponent exact */
#define LOG_2_LOW 0x1.ef35793c76730p-45
#define LARGEST 0x1.fffffffffffffp1023
static const double log_coefficient[7] = { /* relative error 1.2e-18 */
    0x1.2f056395f5a67p-3, 0x1.39a1bab2e7e3cp-3, 0x1.74663ee8bc916p-3, 0x1.c71c52095abb5p-3,
    0x1.24924941f1295p-2, 0x1.999999997fdb7p-2, 0x1.5555555555592p-1};
#else
#define LOG_2_HIGH 0x1.62e4p-1f
#define LOG_2_LOW 0x1.7f7d1cp-20f
#define LARGEST 0x1.fffffep127f
static const float log_coefficient[4] = { /* relative error 2e-9 */
    0x1.c71c72p-3f, 0x1.24924ap-2f, 0x1.99999ap-2f, 0x1.555556p-1f};
#endif

/* log(1 + r) for r >= 0: u + e = 1 + r exactly, u = m * 2**k with m in [sqrt(1/2), sqrt(2)), and
 * f = m - 1 + e * 2**-k: log(1 + r) = k log(2) + log(1 + f).
 *   NaN, inf  themselves      error  tests/test_exp_log.py asserts 1.5 ULP */
SF_INLINE vec log1p_of(vec r)
{
    const vec one = vset1(1), half = vset1((real)0.5);
    vec u = vadd(one, r), added = vsub(u, one), mantissa, scale;
    vec e = vadd(vsub(one, vsub(u, added)), vsub(r, added));
    vec k = vsplit(u, &mantissa, &scale);
    vec f = vadd(vsub(mantissa, one), vmul(e, vmul(scale, half)));
    /* log(1 + f) = 2 atanh(s), s = f/(2 + f), by a polynomial in s*s */
    vec s = vdiv(f, vadd(f, vset1(2)));
    vec z = vmul(s, s), p = vset1(log_coefficient[0]);
    for (int i = 1; i < (int)(sizeof log_coefficient / sizeof *log_coefficient); i++)
        p = vfma(p, z, vset1(log_coefficient[i]));
    p = vmul(p, z);
    /* log(1 + f) = f - (f*f/2 - s*(f*f/2 + p)) */
    vec half_square = vmul(vmul(f, f), half);
    vec tail = vfma(k, vset1(LOG_2_LOW), vmul(s, vadd(half_square, p)));
    vec result = vfma(k, vset1(LOG_2_HIGH), vsub(f, vsub(half_square, tail)));
    return vmax(result, vsub(r, vset1(LARGEST))); /* the latter is above 0 for infinity alone */
}

static SF_NOINLINE void log1p_array(const real *x, real *out, ptrdiff_t n)
{
    for (; n >= LANES; n -= LANES, x += LANES, out += LANES)
        vstore(out, log1p_of(vload(x)));
    if (n)
        vstore_first(out, log1p_of(vload_first(x, n, 0)), n);
}

#if SF_DOUBLE

void log1p_doubles(const double *x, double *out, ptrdiff_t n) { log1p_array(x, out, n); }

void minus_logs(const double *p, double *out, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        double scaled = (p[i] < 0x1p-1000 ? p[i] * 0x1p200 : p[i]) + 0.0; /* -0 becomes 0 */
        out[i] = (1.0 - scaled) / scaled;
    }
    log1p_doubles(out, out, n);
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] += p[i] < 0x1p-1000 ? 138.62943611198906 : 0.0;
}

void add_to_lanes(sf_lanes *lanes, const double *x, ptrdiff_t n)
{
    for (int k = 0; k < SF_SUM_LANES; k += LANES) {
        vec sum = vload(lanes->sum + k), lost = vload(lanes->lost + k);
        for (ptrdiff_t i = k; i < n; i += SF_SUM_LANES) {
            vec a = vload(x + i), total = vadd(sum, a), added = vsub(total, sum);
            lost = vadd(lost, vadd(vsub(sum, vsub(total, added)), vsub(a, added)));
            sum = total;
        }
        vstore(lanes->sum + k, sum);
        vstore(lanes->lost + k, lost);
    }
}

sf_sum sum_of_doubles(const double *x, ptrdiff_t n)
{
    sf_sum result = {0.0, 0.0};
    ptrdiff_t i = 0;
    if (n >= 4 * LANES) {
        vec sum = vset1(0.0), lost = sum;
        double sums[LANES], losts[LANES];
        for (; i + 4 * LANES <= n; i += 4 * LANES) {
            vec a = vadd(vadd(vload(x + i), vload(x + i + LANES)),
                         vadd(vload(x + i + 2 * LANES), vload(x + i + 3 * LANES)));
            vec total = vadd(sum, a), added = vsub(total, sum);
            lost = vadd(lost, vadd(vsub(sum, vsub(total, added)), vsub(a, added)));
            sum = total;
        }
        vstore(sums, sum);
        vstore(losts, lost);
        for (int k = 0; k < LANES; k++) {
            sf_sum part = {sums[k], losts[k]};
            sf_sum_merge(&result, part);
        }
    }
    for (; i < n; i++)
        sf_sum_add(&result, x[i]);
    return result;
}

/* Sums of each lane with what their roundings lost (Knuth's two-sum). */
typedef struct { vec sum, lost; } pair;

SF_INLINE void pair_add(pair *p, vec a)
{
    vec total = vadd(p->sum, a), added = vsub(total, p->sum);
    p->lost = vadd(p->lost, vadd(vsub(p->sum, vsub(total, added)), vsub(a, added)));
    p->sum = total;
}

SF_INLINE sf_sum pair_total(pair p)
{
    double sums[LANES], losts[LANES];
    sf_sum result = {0.0, 0.0};
    vstore(sums, p.sum);
    vstore(losts, p.lost);
    for (int k = 0; k < LANES; k++) {
        sf_sum part = {sums[k], losts[k]};
        sf_sum_merge(&result, part);
    }
    return result;
}

/* a a, and what its rounding lost. */
SF_INLINE vec exact_square(vec a, vec *lost)
{
    const vec square = vmul(a, a);
#if defined(SF_SPLIT_RATE) /* without a fused multiply-add: Veltkamp, Dekker */
    vec c = vmul(a, vset1(134217729.0)), high = vsub(c, vsub(c, a)), low = vsub(a, high);
    vec cross = vmul(high, low);
    *lost = vadd(vadd(vsub(vmul(high, high), square), vadd(cross, cross)), vmul(low, low));
#else
    *lost = vfma(a, a, vsub(vset1(-0.0), square));
#endif
    return square;
}

void sums_of_doubles(const double *x, ptrdiff_t n, sf_sum *sum, sf_sum *squares)
{
    const pair none = {vset1(0.0), vset1(0.0)};
    pair sums[2] = {none, none}, squared[2] = {none, none};
    for (ptrdiff_t i = 0; i < n; i += 2 * LANES)
        for (int k = 0; k < 2; k++) {
            const ptrdiff_t at = i + k * LANES, some = n - at;
            if (some <= 0)
                break;
            vec a = some >= LANES ? vload(x + at) : vload_first(x + at, some, 0.0), lost;
            pair_add(&sums[k], a);
            if (squares) {
                pair_add(&squared[k], exact_square(a, &lost));
                squared[k].lost = vadd(squared[k].lost, lost);
            }
        }
    *sum = pair_total(sums[0]);
    sf_sum_merge(sum, pair_total(sums[1]));
    if (squares) {
        *squares = pair_total(squared[0]);
        sf_sum_merge(squares, pair_total(squared[1]));
    }
}

#endif

/* Without the bias. */
static SF_NOINLINE void exp_array(const real *x, real *out, ptrdiff_t n, sf_rate c)
{
    vrate rate = set_rate(c);
    vec unbias = vset1((real)EXP_UNBIAS);
    for (; n >= LANES; n -= LANES, x += LANES, out += LANES)
        vstore(out, vmul(vexp(vload(x), rate), unbias));
    if (n)
        vstore_first(out, vmul(vexp(vload_first(x, n, 0), rate), unbias), n);
}

#if SF_DOUBLE
void exp_doubles(const double *x, double *out, ptrdiff_t n, sf_rate c) { exp_array(x, out, n, c); }
#endif
