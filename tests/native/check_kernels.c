/* The kernels against an oracle, without Python: every instruction set that runs here, both dtypes.
 *
 *   cd softmax_fast/kernels
 *   cc -std=c11 -O2 -ffp-contract=off -I. ../../tests/native/check_kernels.c [b-d]*.c units/[a-n]*.c \
 *      -o check_kernels -lm
 *   ./check_kernels [instruction set ...]
 *
 * Prints a line for each instruction set with the worst errors, as shares of their bounds; exits 1
 * and says what failed when something did, 2 when an instruction set does not run here.  The
 * oracle computes in pairs of doubles, some 100 bits, and so gives the same answer wherever it
 * runs.  Where there is mmap, the rows lie against pages that may not be touched. */
#if defined(__linux__)
#define _DEFAULT_SOURCE
#endif
#include <fenv.h>
#include <signal.h>
#if defined(__linux__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif
#define HAVE_GUARD_PAGES 1
#endif
#include "common.h"
#include "environment.h"

/* ---- what failed ----------------------------------------------------------------------------- */

/* What is compared with the oracle throughout: the first of the operations. */
enum { N_FUNCTIONS = SF_SOFTMAX_LOSS_GRAD + 1 };

static struct {
    double worst[N_FUNCTIONS];      /* errors as shares of their bounds */
    double exp_ulp[2], log1p_ulp;   /* exp in float and in double */
    long compared;
} measured_of[MOST_ISAS], *measured;

static int choose_and_measure(int i)
{
    measured = &measured_of[i];
    return choose(i);
}

static void out_of_bounds(int number)
{
    (void)number;
    printf("FAILED %s: %s: signal %d: memory outside the rows was touched\n",
           tables ? tables->isa : "oracle", context, number);
    fflush(stdout);
    _Exit(1);
}

/* ---- numbers of some 100 bits: hi + lo, |lo| at most half a unit of hi ----------------------- */

typedef struct { double hi, lo; } pair;

static pair exact_sum(double a, double b)
{
    double hi = a + b, added = hi - a;
    pair r = {hi, (a - (hi - added)) + (b - added)};
    return r;
}

static pair exact_product(double a, double b)
{
    const double splitter = 134217729.0; /* 2^27 + 1 */
    double ta = splitter * a, a1 = ta - (ta - a), a2 = a - a1;
    double tb = splitter * b, b1 = tb - (tb - b), b2 = b - b1, hi = a * b;
    pair r = {hi, ((a1 * b1 - hi) + a1 * b2 + a2 * b1) + a2 * b2};
    return r;
}

static pair of(double a)
{
    pair r = {a, 0};
    return r;
}

static pair add(pair a, pair b)
{
    pair s = exact_sum(a.hi, b.hi), t = exact_sum(a.lo, b.lo);
    s = exact_sum(s.hi, s.lo + t.hi);
    return exact_sum(s.hi, s.lo + t.lo);
}

static pair negated(pair a)
{
    pair r = {-a.hi, -a.lo};
    return r;
}

static pair sub(pair a, pair b) { return add(a, negated(b)); }

static pair mul(pair a, pair b)
{
    pair p = exact_product(a.hi, b.hi);
    return exact_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

static pair divided(pair a, pair b)
{
    double q = a.hi / b.hi;
    pair rest = sub(a, mul(b, of(q)));
    double q2 = rest.hi / b.hi;
    rest = sub(rest, mul(b, of(q2)));
    return add(exact_sum(q, q2), of(rest.hi / b.hi));
}

static pair times_power(pair a, int k)
{
    pair r = {ldexp(a.hi, k), ldexp(a.lo, k)};
    return r;
}

/* exp(x) = result * 2**k, for |x| < 10**4; -inf gives 0. */
static pair exponential(pair x, int *k)
{
    enum { terms = 16, halvings = 4, in_pairs = 8 }; /* the later terms are below 2**-60 */
    static pair inverse_factorial[terms];
    *k = 0;
    if (x.hi == -INFINITY)
        return of(0);
    if (inverse_factorial[0].hi == 0) {
        inverse_factorial[0] = of(1);
        for (int i = 1; i < terms; i++)
            inverse_factorial[i] = divided(inverse_factorial[i - 1], of(i));
    }
    *k = (int)floor(x.hi * 1.4426950408889634 + 0.5);
    /* log(2) in three parts, of which the first two times k are exact */
    const pair third = {0x1.93c7673007e5fp-65, -0x1.50bf0cbcd98d6p-120};
    pair f = sub(x, of(*k * 0x1.62e42feep-1));
    f = sub(sub(f, of(*k * 0x1.a39ef356p-33)), mul(third, of(*k)));
    f = times_power(f, -halvings);
    double tail = 0;
    for (int i = terms - 1; i >= in_pairs; i--)
        tail = tail * f.hi + inverse_factorial[i].hi;
    pair sum = of(tail);
    for (int i = in_pairs - 1; i >= 0; i--)
        sum = add(mul(sum, f), inverse_factorial[i]);
    for (int i = 0; i < halvings; i++)
        sum = mul(sum, sum);
    return sum;
}

/* log(1 + r) for r >= 0 */
static pair logarithm_1p(pair r)
{
    if (r.hi < 0x1p-9) {
        pair sum = of(0);
        for (int i = 13; i > 0; i--)
            sum = mul(r, sub(divided(of(1), of(i)), sum));
        return sum;
    }
    pair u = add(of(1), r);
    double y = log(u.hi);
    int k;
    pair e = exponential(of(-y), &k);
    pair rest = sub(mul(u, times_power(e, k)), of(1)); /* u exp(-y) - 1, below 1e-15 */
    return add(of(y), sub(rest, mul(mul(rest, rest), of(0.5))));
}

#if LDBL_MANT_DIG > DBL_MANT_DIG
static void check_oracle(void)
{
    const long double most = 8 * LDBL_EPSILON + 0x1p-90L;
    for (int i = 0; i < 400; i++) {
        int k;
        double x = -0.37 * i * sqrt(i) / 4, r = ldexp(1 + i / 401.0, i - 200);
        if (x < -700)
            break;
        pair e = exponential(of(x), &k), l = logarithm_1p(of(r));
        long double exact = expl(x);
        if (fabsl(ldexpl((long double)e.hi + e.lo, k) / exact - 1) > most)
            fail("exp(%g) differs from the C library's", x);
        exact = log1pl(r);
        if (fabsl(((long double)l.hi + l.lo) / exact - 1) > most)
            fail("log1p(%g) differs from the C library's", r);
    }
}
#else
static void check_oracle(void) {}
#endif

/* ---- entries ---------------------------------------------------------------------------------- */

static double bell(void)
{
    return uniform() + uniform() + uniform() + uniform() + uniform() + uniform() - 3;
}

/* NaNs of both signs, quiet and signalling. */
static void put_nan(void *base, ptrdiff_t i, int kind, int variety)
{
    uint64_t sign = (uint64_t)(variety & 1) << 63, quiet = variety & 2 ? (uint64_t)1 << 51 : 0;
    uint64_t bits = sign | 0x7ff0000000000000u | quiet | ((uint64_t)1 << 45);
    uint32_t bits32 = (uint32_t)(sign >> 32) | 0x7f800000u | (uint32_t)(quiet >> 29) | 0x10000u;
    uint16_t bits16 = (uint16_t)((sign >> 48) | (quiet >> 42) | (kind == SF_F16 ? 0x7c01 : 0x7f81));
    if (kind == SF_F64)
        memcpy((double *)base + i, &bits, sizeof bits);
    else if (kind == SF_F32)
        memcpy((float *)base + i, &bits32, sizeof bits32);
    else
        memcpy((uint16_t *)base + i, &bits16, sizeof bits16);
}

/* ---- memory with pages around it that nobody may touch --------------------------------------- */

typedef struct { unsigned char *bytes; size_t size; } region;

static region new_region(size_t size)
{
    region r;
#if HAVE_GUARD_PAGES
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    r.size = (size + page - 1) / page * page;
    r.bytes = mmap(NULL, r.size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r.bytes == MAP_FAILED || mprotect(r.bytes + page, r.size, PROT_READ | PROT_WRITE)) {
        printf("FAILED: no memory\n");
        exit(1);
    }
    r.bytes += page;
#else
    r.size = size;
    if (!(r.bytes = malloc(size))) {
        printf("FAILED: no memory\n");
        exit(1);
    }
#endif
    return r;
}

/* size bytes flush with the end of the region, or with its beginning. */
static unsigned char *placed(region r, size_t size, int at_end)
{
    return at_end ? r.bytes + r.size - size : r.bytes;
}

static region memory_x, memory_out, memory_again;

/* ---- rows and their exact results ------------------------------------------------------------ */

/* Enough rows for two of the longest vectors and some more, where they go side by side. */
enum { N_DISTINCT = 5, MOST_CLASSES = 4100, MOST_ROWS = 38, MANY_ROWS_UP_TO = 256 };
enum { MOST_ENTRIES = MOST_ROWS * MOST_CLASSES };

typedef struct {
    double temperature, max;
    pair sum, log_sum;
    pair d[MOST_CLASSES]; /* (x - max)/T */
    pair q[MOST_CLASSES]; /* the probability is q * 2**k */
    int k[MOST_CLASSES];
    pair a[MOST_CLASSES]; /* the target's shares, without the row's own weight */
    pair share;           /* their sum */
    pair loss;
    double loss_weight;
    int label;            /* -1: probabilities, or smoothed */
} exact_row;

/* Rows r, r + distinct, ... are equal. */
typedef struct {
    int kind;
    ptrdiff_t n, rows, distinct;
    double temperature[MOST_ROWS], sample_weight[MOST_ROWS];
    int32_t labels32[MOST_ROWS];
    int64_t labels64[MOST_ROWS];
    double class_weight[MOST_CLASSES];
    float *probabilities32;
    double *probabilities64;
    unsigned char *x;
    exact_row *exact; /* of the distinct rows */
    sf_call call;
    sf_targets targets;
} problem;

static problem p;

/* Kinds of rows: bell-shaped; so wide that probabilities underflow; close together far from 0; many
 * ties, of which the largest; with -inf among them. */
static double entry(int which, int kind, ptrdiff_t i)
{
    int half = kind == SF_F16 || kind == SF_BF16;
    switch (which) {
    case 0: return 3 * bell();
    case 1: return -uniform() * (kind == SF_F64 ? 770 : 112);
    case 2: return (half ? 1000 : kind == SF_F64 ? 1e9 : 30000) + 8 * uniform();
    case 3: return floor(4 * uniform());
    default: return i % 3 == 1 && i != 4 ? -INFINITY : 2 * bell();
    }
}

enum { PLAIN, LABELS32, SMOOTH_WEIGHTED, PROBABILITIES, N_TARGETS };

static void set_exact_row(ptrdiff_t r)
{
    exact_row *row = &p.exact[r];
    double t = p.temperature[r], m = -INFINITY;
    ptrdiff_t n = p.n;
    for (ptrdiff_t c = 0; c < n; c++)
        m = fmax(m, get(p.x, r * n + c, p.kind));
    row->temperature = t;
    row->max = m;
    row->sum = of(0);
    for (ptrdiff_t c = 0; c < n; c++) {
        double x = get(p.x, r * n + c, p.kind);
        row->d[c] = of(x == -INFINITY ? x : 0);
        if (x > -INFINITY)
            row->d[c] = t == 1 ? exact_sum(x, -m) : divided(exact_sum(x, -m), of(t));
        row->q[c] = exponential(row->d[c], &row->k[c]);
        if (row->k[c] > -1000)
            row->sum = add(row->sum, times_power(row->q[c], row->k[c]));
    }
    pair inverse = divided(of(1), row->sum);
    for (ptrdiff_t c = 0; c < n; c++)
        row->q[c] = mul(row->q[c], inverse);
    row->log_sum = logarithm_1p(sub(row->sum, of(1)));
}

static void set_exact_targets(ptrdiff_t r, int form)
{
    exact_row *row = &p.exact[r];
    const double smoothing = p.targets.label_smoothing;
    const pair uniform_share = divided(of(smoothing), of((double)p.n));
    row->share = of(0);
    row->loss_weight = p.targets.sample_weight ? p.sample_weight[r] : 1;
    row->label = form == PROBABILITIES || smoothing != 0 ? -1 : (int)p.labels64[r];
    for (ptrdiff_t c = 0; c < p.n; c++) {
        double t = c == p.labels64[r];
        if (form == PROBABILITIES)
            t = p.kind == SF_F64 ? p.probabilities64[r * p.n + c] : p.probabilities32[r * p.n + c];
        pair a = add(exact_product(1 - smoothing, t), uniform_share); /* 1 - smoothing is exact */
        row->a[c] = mul(a, of(p.targets.class_weight ? p.class_weight[c] : 1));
        row->share = add(row->share, row->a[c]);
    }
    pair sum = of(0);
    for (ptrdiff_t c = 0; c < p.n; c++) {
        if (row->a[c].hi != 0 && row->d[c].hi == -INFINITY) {
            row->loss = of(INFINITY);
            return;
        }
        if (row->a[c].hi != 0)
            sum = add(sum, mul(row->a[c], sub(row->log_sum, row->d[c])));
    }
    row->loss = mul(sum, of(row->loss_weight));
}

static void set_targets(int form)
{
    sf_targets none = {0};
    p.targets = none;
    p.targets.gradient_scale = 0.75;
    p.targets.ignore_index = -100;
    p.targets.has_ignore_index = 1;
    if (form == LABELS32)
        p.targets.labels32 = p.labels32;
    else if (form != PROBABILITIES)
        p.targets.labels64 = p.labels64;
    if (form == SMOOTH_WEIGHTED) {
        p.targets.label_smoothing = 0.125;
        p.targets.class_weight = p.class_weight;
        p.targets.sample_weight = p.sample_weight;
    }
    if (form == PROBABILITIES) {
        sf_input t = {p.kind == SF_F64 ? (void *)p.probabilities64 : (void *)p.probabilities32, 0,
                      p.n, 1, result_kind(p.kind)};
        p.targets.probabilities = t;
        p.targets.sample_weight = p.sample_weight;
    }
    for (ptrdiff_t r = 0; r < p.distinct; r++)
        set_exact_targets(r, form);
}

/* varied: a temperature of its own for each of the distinct rows. */
static void set_problem(int kind, ptrdiff_t n, ptrdiff_t rows, ptrdiff_t distinct, int varied)
{
    static const double temperatures[N_DISTINCT] = {0.7, 3.0, 1.0, 0.05, 12.5};
    size_t size = item_size(kind), bytes = (size_t)(rows * n) * size;
    random_state = (uint64_t)(n * 16 + kind * 2 + varied);
    p.kind = kind;
    p.n = n;
    p.rows = rows;
    p.distinct = distinct;
    p.x = placed(memory_x, bytes, 1);
    for (ptrdiff_t r = 0; r < rows; r++) {
        ptrdiff_t first = r % distinct;
        int which = (int)((first + n) % N_DISTINCT);
        if (r >= distinct) {
            memcpy(p.x + (size_t)(r * n) * size, p.x + (size_t)(first * n) * size,
                   (size_t)n * size);
        } else {
            for (ptrdiff_t c = 0; c < n; c++)
                put(p.x, r * n + c, kind, entry(which, kind, c));
            if (n == 1 || which == 0) /* never a row of -inf alone */
                put(p.x, r * n, kind, 1.5);
        }
        p.temperature[r] = varied ? temperatures[first] : 1.0;
        p.sample_weight[r] = 0.5 + (double)first;
        ptrdiff_t label = first == 0 ? n - 1 : first == 1 ? 0 : first == 2 ? n / 2 : 4 % n;
        if (get(p.x, first * n + label, kind) == -INFINITY)
            label = 0;
        p.labels32[r] = (int32_t)(p.labels64[r] = label);
        for (ptrdiff_t c = 0; c < n; c++) {
            double t = p.probabilities64[first * n + c];
            if (r == first)
                t = get(p.x, r * n + c, kind) == -INFINITY || (c + first) % 7 == 6
                  ? 0 : (double)(1 + (c * 5 + first) % 8) / 64;
            p.probabilities32[r * n + c] = (float)t;
            p.probabilities64[r * n + c] = t;
        }
    }
    for (ptrdiff_t c = 0; c < n; c++)
        p.class_weight[c] = (double)(c % 4) / 2 + 0.25;
    sf_call call = {.x = {p.x, 0, n, 1, kind}, .out = {NULL, 0, n, 1}, .inner = PTRDIFF_MAX,
                    .n_rows = rows, .n_classes = n, .temperature = p.temperature,
                    .temperature_step = varied, .targets = &p.targets, .prefetch = varied};
    p.call = call;
    for (ptrdiff_t r = 0; r < distinct; r++)
        set_exact_row(r);
    set_targets(PLAIN);
}

/* ---- running a function ---------------------------------------------------------------------- */

/* By the kernels of the instruction set, in loop where one is given. */
static sf_result run_in(sf_parallel_for *loop, int operation, const sf_call *call, ptrdiff_t first,
                        ptrdiff_t count)
{
    const sf_kernels *k = kernels_of(call->x.kind);
    sf_call own = *call;
    sf_result result = sf_no_result();
    sf_sink sink = {&result, first, 0, NULL};
    own.kernels = k;
    own.doubles = tables->f64;
    void *scratch = allocated(sf_scratch_bytes(&own, k->item_size));
    k->walk(&own, &k->operations[operation], first, count, sink, scratch, loop, loop ? 3 : 1);
    free(scratch);
    return result;
}

static sf_result run(int operation, const sf_call *call, ptrdiff_t first, ptrdiff_t count)
{
    return run_in(NULL, operation, call, first, count);
}

/* Entries of the output of one row. */
static ptrdiff_t width(int function)
{
    return function == SF_LOGSUMEXP || function == SF_SOFTMAX_LOSS ? 1 : p.n;
}

/* Rows [first, first + count) of p into out, where row r begins at entry r * width; the row losses
 * of a gradient into losses. */
static sf_result run_into(int function, ptrdiff_t first, ptrdiff_t count, unsigned char *out,
                          void *losses)
{
    sf_call call = p.call;
    sf_targets targets = p.targets;
    call.out.data = function == SF_SOFTMAX_LOSS ? NULL : out;
    call.out.row_stride = width(function);
    call.targets = &targets;
    targets.row_losses = function == SF_SOFTMAX_LOSS ? (void *)out : losses;
    return run(function, &call, first, count);
}

/* ---- comparing with the exact results -------------------------------------------------------- */

static double epsilon(void) { return p.kind == SF_F64 ? DBL_EPSILON : FLT_EPSILON; }
static double smallest_normal(void) { return p.kind == SF_F64 ? DBL_MIN : FLT_MIN; }
static double smallest_step(void) { return p.kind == SF_F64 ? 0x1p-1074 : 0x1p-149; }

static void compare(int function, ptrdiff_t r, ptrdiff_t c, double got, double exact, double error,
                    double bound)
{
    double share = error == 0 ? 0 : fabs(error) / bound;
    measured->compared++;
    if (share > measured->worst[function])
        measured->worst[function] = share;
    if (!(fabs(error) <= bound))
        fail("%s, row %ld, entry %ld: %.17g instead of %.17g, %.2f times the bound",
             operation_names[function], (long)r, (long)c, got, exact, share);
}

static double probability_slope(const exact_row *row)
{
    return row->temperature == 1 ? 0.5 : 1.5;
}

/* In units of 2**k, so that it does not underflow. */
static void compare_probability(const exact_row *row, ptrdiff_t r, ptrdiff_t c, double got)
{
    int k = row->k[c];
    pair exact = row->q[c];
    if (exact.hi == 0 || k < -1150) {
        compare(SF_SOFTMAX, r, c, got, 0, got, exact.hi == 0 ? 0 : 2 * smallest_step());
        return;
    }
    double bound = (4 + probability_slope(row) * fabs(row->d[c].hi)) * epsilon() * exact.hi;
    if (ldexp(exact.hi, k) < smallest_normal())
        bound = fmax(bound, ldexp(2 * smallest_step(), -k));
    compare(SF_SOFTMAX, r, c, got, ldexp(exact.hi, k), (ldexp(got, -k) - exact.hi) - exact.lo, bound);
}

static void compare_with(int function, ptrdiff_t r, ptrdiff_t c, double got, pair exact,
                         double bound)
{
    double error = got == exact.hi ? exact.lo : (got - exact.hi) - exact.lo;
    compare(function, r, c, got, exact.hi, error, bound);
}

static void compare_log_probability(const exact_row *row, ptrdiff_t r, ptrdiff_t c, double got)
{
    if (row->d[c].hi == -INFINITY) {
        if (got != -INFINITY)
            fail("log_softmax, row %ld, entry %ld: %g instead of -inf", (long)r, (long)c, got);
        return;
    }
    pair exact = sub(row->d[c], row->log_sum);
    compare_with(SF_LOG_SOFTMAX, r, c, got, exact, 4 * epsilon() * fmax(1, fabs(exact.hi)));
}

static void compare_logsumexp(const exact_row *row, ptrdiff_t r, double got)
{
    pair scaled = divided(of(row->max), of(row->temperature)), exact = add(scaled, row->log_sum);
    compare_with(SF_LOGSUMEXP, r, 0, got, exact,
                 4 * epsilon() * fmax(1, fmax(fabs(scaled.hi), fabs(exact.hi))));
}

static double loss_bound(const exact_row *row)
{
    return 4 * epsilon() * fmax(row->loss_weight * row->share.hi, fabs(row->loss.hi));
}

static void compare_loss(const exact_row *row, ptrdiff_t r, double got)
{
    compare_with(SF_SOFTMAX_LOSS, r, 0, got, row->loss, loss_bound(row));
}

/* The gradient is scale (p sum a - a). */
static void compare_gradient(const exact_row *row, ptrdiff_t r, ptrdiff_t c, double got)
{
    pair scale = divided(of(p.targets.gradient_scale * row->loss_weight), of(row->temperature));
    pair q = times_power(row->q[c], row->k[c]);
    pair exact = mul(scale, sub(mul(q, row->share), row->a[c]));
    double relative = 4 + (row->q[c].hi == 0 ? 0 : probability_slope(row) * fabs(row->d[c].hi));
    double slack = q.hi == 0 ? 0 : relative * epsilon() * q.hi;
    if (q.hi < smallest_normal())
        slack = fmax(slack, 2 * smallest_step());
    double bound = scale.hi * (slack * row->share.hi
                               + 4 * epsilon() * (q.hi * row->share.hi + row->a[c].hi));
    if (row->label == c && row->d[c].hi == 0) {
        /* The label's own entry does not cancel: it is as good as the sum of the others. */
        double least = 0;
        for (ptrdiff_t i = 0; i < p.n; i++)
            if (row->q[i].hi != 0)
                least = fmin(least, row->d[i].hi);
        double of_sum = 8 + probability_slope(row) * fabs(least);
        bound = fmin(bound, of_sum * epsilon() * fabs(exact.hi));
    }
    bound = fmax(bound, 2 * smallest_step() * scale.hi * row->share.hi) + smallest_step();
    compare_with(SF_SOFTMAX_LOSS_GRAD, r, c, got, exact, bound);
}

static void compare_row(int function, ptrdiff_t r, const unsigned char *out)
{
    const exact_row *row = &p.exact[r];
    int kind = result_kind(p.kind);
    for (ptrdiff_t c = 0; c < width(function); c++) {
        double got = get(out, r * width(function) + c, kind);
        switch (function) {
        case SF_SOFTMAX: compare_probability(row, r, c, got); break;
        case SF_LOG_SOFTMAX: compare_log_probability(row, r, c, got); break;
        case SF_LOGSUMEXP: compare_logsumexp(row, r, got); break;
        case SF_SOFTMAX_LOSS: compare_loss(row, r, got); break;
        default: compare_gradient(row, r, c, got);
        }
    }
}

static void compare_bits(int function, const void *got, const void *expected, size_t bytes,
                         const char *what)
{
    if (memcmp(got, expected, bytes) != 0)
        fail("%s: other bits %s", operation_names[function], what);
}

/* The sums a loss returns are those of its rows, which are rounded only where they are stored. */
static void compare_sums(int function, sf_result result)
{
    pair loss = of(0), weight = of(0);
    double bound = 0;
    for (ptrdiff_t r = 0; r < p.rows; r++) {
        const exact_row *row = &p.exact[r % p.distinct];
        double w = row->loss_weight;
        if (p.targets.class_weight && !p.targets.probabilities.data)
            w *= p.class_weight[p.labels64[r]];
        loss = isinf(loss.hi) || isinf(row->loss.hi) ? of(INFINITY) : add(loss, row->loss);
        weight = add(weight, of(w));
        bound += loss_bound(row);
    }
    compare_with(function, -1, 0, sf_sum_value(result.loss), loss, bound);
    if (fabs(sf_sum_value(result.weight) - weight.hi) > 4 * DBL_EPSILON * weight.hi)
        fail("%s: weights sum to %.17g instead of %.17g", operation_names[function],
             sf_sum_value(result.weight), weight.hi);
}

/* ---- the checks ------------------------------------------------------------------------------ */

/* A batch against the exact results; its rows alone, and a few of them, against the batch. */
static void check_batch(int function)
{
    size_t item = result_size(p.kind), row_bytes = (size_t)width(function) * item;
    size_t bytes = (size_t)p.rows * row_bytes;
    unsigned char *out = placed(memory_out, bytes, 1), *again = placed(memory_again, bytes, 0);
    double losses[MOST_ROWS];
    memset(out, 0x5a, bytes);
    sf_result result = run_into(function, 0, p.rows, out, losses);
    if (result.bad_label_row != -1)
        fail("%s: a bad label in row %ld", operation_names[function], (long)result.bad_label_row);
    if (function == SF_SOFTMAX_LOSS || function == SF_SOFTMAX_LOSS_GRAD)
        compare_sums(function, result);
    for (ptrdiff_t r = 0; r < p.rows; r++) {
        if (r < p.distinct)
            compare_row(function, r, out);
        else
            compare_bits(function, out + (size_t)r * row_bytes,
                         out + (size_t)(r % p.distinct) * row_bytes, row_bytes,
                         "in an equal row of the batch");
        if (r < p.distinct && function == SF_SOFTMAX_LOSS_GRAD)
            compare_loss(&p.exact[r], r, get(losses, r, result_kind(p.kind)));
    }
    for (ptrdiff_t r = 0; r < p.distinct; r++) {
        run_into(function, r, 1, again, losses);
        compare_bits(function, again + (size_t)r * row_bytes, out + (size_t)r * row_bytes,
                     row_bytes, "for the row alone");
    }
    ptrdiff_t some = 1 + p.n % (p.rows - 1);
    run_into(function, 1, some, again, losses);
    compare_bits(function, again + row_bytes, out + row_bytes, (size_t)some * row_bytes,
                 "for a few rows of the batch");
}

/* A long row in pieces, the last first, gives the bits of one call. */
static void check_pieces(void)
{
    const size_t item = result_size(p.kind);
    unsigned char *out = placed(memory_out, (size_t)p.n * item, 1);
    unsigned char *again = placed(memory_again, (size_t)p.n * item, 1);
    set_context("%s, %ld classes, in pieces", kind_name(p.kind), (long)p.n);
    for (int f = 0; f < N_FUNCTIONS; f++) {
        double losses[2] = {0, 0};
        sf_result results[2];
        for (int pieces = 0; pieces < 2; pieces++) {
            sf_call call = p.call;
            sf_targets targets = p.targets;
            call.out.data = f == SF_SOFTMAX_LOSS ? NULL : pieces ? out : again;
            call.out.row_stride = 0; /* row 1 is written where row 0 would be */
            targets.row_losses = &losses[pieces];
            targets.sample_weight = NULL;
            targets.labels64++;
            call.temperature++;
            call.x.data = (const char *)p.x + (size_t)p.n * item_size(p.kind);
            call.targets = &targets;
            results[pieces] = run_in(pieces ? backwards : NULL, f, &call, 0, 1);
        }
        if (f != SF_SOFTMAX_LOSS)
            compare_bits(f, out, again, (size_t)width(f) * item, "in pieces");
        compare_bits(f, &losses[1], &losses[0], sizeof *losses, "of the loss in pieces");
        if (sf_sum_value(results[0].loss) != sf_sum_value(results[1].loss))
            fail("%s: another sum in pieces", operation_names[f]);
    }
}

static void check_temperatures(void)
{
    unsigned char *out = placed(memory_out, MOST_ENTRIES * sizeof(double), 1);
    unsigned char *again = placed(memory_again, MOST_ENTRIES * sizeof(double), 1);
    double losses[MOST_ROWS];
    problem kept = p;
    for (int f = 0; f < N_FUNCTIONS; f++) {
        size_t bytes = (size_t)(p.rows * width(f)) * result_size(p.kind);
        for (ptrdiff_t r = 0; r < p.rows; r++)
            p.temperature[r] = 0.7;
        p.call.temperature_step = 1;
        run_into(f, 0, p.rows, out, losses);
        p.call.temperature_step = 0;
        run_into(f, 0, p.rows, again, losses);
        compare_bits(f, again, out, bytes, "for one temperature and for the same in each row");
    }
    p = kept;
}

/* The operations that take more than rows. */
static void check_others(void)
{
    size_t item = result_size(p.kind), bytes = (size_t)(p.rows * p.n) * item;
    unsigned char *out = placed(memory_out, bytes, 1);
    int kind = result_kind(p.kind);
    double row_max[MOST_ROWS], row_rest[MOST_ROWS];
    int64_t *indices = allocated((size_t)(p.rows * p.n) * sizeof *indices);
    sf_call call = p.call;
    call.out.data = out;
    call.row_max = row_max;
    call.row_rest = row_rest;
    run(SF_MAXIMUM_AND_REST, &call, 0, p.rows);
    for (ptrdiff_t r = 0; r < p.rows; r++) {
        const exact_row *row = &p.exact[r % p.distinct];
        if (row_max[r] != row->max)
            fail("row_stats, row %ld: the maximum %g instead of %g", (long)r, row_max[r], row->max);
        if (r < p.distinct)
            compare_logsumexp(row, r, row->max / row->temperature + log1p(row_rest[r]));
        row_rest[r] = 1 / row->sum.hi;
        for (ptrdiff_t c = 0; c < p.n; c++)
            indices[r * p.n + c] = p.n - 1 - c;
    }
    run(SF_EXPONENTIALS, &call, 0, p.rows);
    for (ptrdiff_t r = 0; r < p.distinct; r++)
        compare_row(SF_SOFTMAX, r, out);
    call.indices = indices;
    call.n_indices = p.n;
    run(SF_SELECTED_LOG_PROBS, &call, 0, p.rows);
    for (ptrdiff_t r = 0; r < p.distinct; r++)
        for (ptrdiff_t c = 0; c < p.n; c++)
            compare_log_probability(&p.exact[r], r, c,
                                    get(out, r * p.n + p.n - 1 - c, kind));
    free(indices);
}

static void check_lengths(int kind, int varied)
{
    static const int longer[] = {131,  160,  191,  192,  193,  255,  256,  257,  999,  1000,
                                 1001, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097};
    const int n_longer = (int)(sizeof longer / sizeof *longer);
    for (int i = 1; i <= 130 + n_longer; i++) {
        ptrdiff_t n = i <= 130 ? i : longer[i - 131];
        if ((kind == SF_F16 || kind == SF_BF16) && n > 1000 && n != 2049)
            continue;
        if (varied && n % 2 == 0 && n != 256 && n != 4096)
            continue;
        int many = n <= MANY_ROWS_UP_TO;
        set_problem(kind, n, many ? MOST_ROWS : 7, many ? N_DISTINCT : 3, varied);
        for (int isa = 0; choose_and_measure(isa); isa++) {
            set_context("%s, %ld classes, %s", kind_name(kind), (long)n,
                        varied ? "a temperature for each row" : "temperature 1");
            for (int f = 0; f < N_FUNCTIONS; f++)
                check_batch(f);
            if (n % 7 == 3 || n > 2000)
                check_others();
            if (n > kernels_of(kind)->block)
                check_pieces();
            if (n % 13 == 5 || n > 4090)
                check_temperatures();
        }
        if (n % 9 == 1)
            for (int form = LABELS32; form < N_TARGETS; form++) {
                set_targets(form);
                for (int isa = 0; choose_and_measure(isa); isa++) {
                    set_context("%s, %ld classes, targets of form %d", kind_name(kind), (long)n,
                                form);
                    check_batch(SF_SOFTMAX_LOSS);
                    check_batch(SF_SOFTMAX_LOSS_GRAD);
                }
            }
    }
}

/* ---- NaN and infinities ---------------------------------------------------------------------- */

enum { NAN_INSIDE, INF_INSIDE, NAN_AND_INF, NOTHING, NOTHING_BUT_NAN, NOTHING_BUT_ONE,
       NOTHING_BUT_INF, INF_ALONE, N_SPECIAL };

static void set_special(int special, ptrdiff_t r, ptrdiff_t at, int variety)
{
    ptrdiff_t row = r * p.n;
    for (ptrdiff_t c = 0; special >= NOTHING && c < p.n; c++)
        put(p.x, row + c, p.kind, special == INF_ALONE ? INFINITY : -INFINITY);
    if (special == NAN_AND_INF)
        put(p.x, row + (at + p.n / 2) % p.n, p.kind, INFINITY);
    if (special == NAN_INSIDE || special == NAN_AND_INF || special == NOTHING_BUT_NAN)
        put_nan(p.x, row + at, p.kind, variety);
    else if (special == INF_INSIDE || special == NOTHING_BUT_INF)
        put(p.x, row + at, p.kind, INFINITY);
    else if (special == NOTHING_BUT_ONE)
        put(p.x, row + at, p.kind, -2.5);
}

static double special_result(int function, int special, ptrdiff_t r, ptrdiff_t at, ptrdiff_t c)
{
    int here = c == at, label = c == p.labels64[r];
    double t = p.temperature[r];
    if (special == NOTHING_BUT_ONE)
        switch (function) {
        case SF_SOFTMAX: return here;
        case SF_LOG_SOFTMAX: return here ? 0 : -INFINITY;
        case SF_LOGSUMEXP: return -2.5 / t;
        case SF_SOFTMAX_LOSS: return at == p.labels64[r] ? 0 : INFINITY;
        default: return 0.75 / t * (here - label);
        }
    if (function == SF_LOGSUMEXP && special != NAN_INSIDE && special != NAN_AND_INF
        && special != NOTHING_BUT_NAN)
        return special == NOTHING ? -INFINITY : INFINITY;
    return NAN;
}

static void compare_special(int function, int special, ptrdiff_t r, ptrdiff_t at,
                            const unsigned char *out)
{
    int kind = result_kind(p.kind);
    for (ptrdiff_t c = 0; c < width(function); c++) {
        double got = get(out, r * width(function) + c, kind);
        double expected = special_result(function, special, r, at, c);
        int same = expected != expected ? got != got
                 : got == expected || fabs(got - expected) <= 4 * epsilon() * fabs(expected);
        if (!same)
            fail("%s, row %ld, entry %ld: %g instead of %g", operation_names[function], (long)r,
                 (long)c, got, expected);
    }
}

static void check_specials(int kind, ptrdiff_t n, int varied)
{
    ptrdiff_t rows = n <= 33 ? MOST_ROWS : n <= MANY_ROWS_UP_TO ? 20 : 5, special_row = rows - 3;
    const ptrdiff_t positions[] = {0, n / 2, n - 1, n - n % 4 - 1, 16};
    size_t item = result_size(kind), row_bytes = (size_t)n * item_size(kind);
    set_problem(kind, n, rows, 1, varied);
    unsigned char *kept = allocated(row_bytes), *row = p.x + (size_t)special_row * row_bytes;
    unsigned char *usual[N_FUNCTIONS];
    double losses[MOST_ROWS];
    memcpy(kept, row, row_bytes);
    for (int f = 0; f < N_FUNCTIONS; f++)
        usual[f] = allocated((size_t)(rows * width(f)) * item);
    for (int isa = 0; choose_and_measure(isa); isa++)
        for (int f = 0; f < N_FUNCTIONS; f++) {
            size_t one = (size_t)width(f) * item, before = (size_t)special_row * one;
            unsigned char *out = placed(memory_out, (size_t)rows * one, 1);
            run_into(f, 0, rows, usual[f], losses);
            for (int i = 0; i < 5 * N_SPECIAL; i++) {
                ptrdiff_t at = positions[i / N_SPECIAL];
                if (at < 0 || at >= n)
                    continue;
                set_context("%s, %ld classes, special case %d at %ld", kind_name(kind), (long)n,
                            i % N_SPECIAL, (long)at);
                memcpy(row, kept, row_bytes);
                set_special(i % N_SPECIAL, special_row, at, i / N_SPECIAL);
                run_into(f, 0, rows, out, losses);
                compare_special(f, i % N_SPECIAL, special_row, at, out);
                compare_bits(f, out, usual[f], before, "before a row with a special entry");
                compare_bits(f, out + before + one, usual[f] + before + one,
                             (size_t)rows * one - before - one, "after a row with a special entry");
                run_into(f, special_row, 1, out, losses);
                compare_special(f, i % N_SPECIAL, special_row, at, out);
            }
            memcpy(row, kept, row_bytes);
        }

    /* An ignored row counts for nothing, whatever it holds; a bad label is reported. */
    for (int isa = 0; choose_and_measure(isa); isa++)
        for (int f = SF_SOFTMAX_LOSS; f <= SF_SOFTMAX_LOSS_GRAD; f++) {
            size_t one = (size_t)width(f) * item, before = (size_t)special_row * one;
            unsigned char *out = placed(memory_out, (size_t)rows * one, 1);
            set_context("%s, %ld classes, labels", kind_name(kind), (long)n);
            run_into(f, 0, rows, usual[f], losses);
            for (int form = PLAIN; form <= LABELS32; form++) {
                const int64_t label = p.labels64[special_row], bad[] = {n, -1, 2147483647};
                set_targets(form);
                put_nan(p.x, special_row * n + n / 2, kind, 2);
                p.labels64[special_row] = p.labels32[special_row] = -100;
                sf_result result = run_into(f, 0, rows, out, losses);
                memset(usual[f] + before, 0, one);
                compare_bits(f, out, usual[f], (size_t)rows * one, "with an ignored row");
                if (sf_sum_value(result.weight) != (double)(rows - 1) || result.bad_label_row != -1)
                    fail("%s: an ignored row counted", operation_names[f]);
                memcpy(row, kept, row_bytes);
                for (int i = 0; i < 3; i++) {
                    p.labels64[special_row] = bad[i];
                    p.labels32[special_row] = (int32_t)bad[i];
                    result = run_into(f, 0, rows, out, losses);
                    if (result.bad_label_row != special_row)
                        fail("%s: the bad label %ld is not reported", operation_names[f],
                             (long)bad[i]);
                }
                p.labels64[special_row] = label;
                p.labels32[special_row] = (int32_t)label;
            }
            set_targets(PLAIN);
        }
    for (int f = 0; f < N_FUNCTIONS; f++)
        free(usual[f]);
    free(kept);
}

/* ---- strides --------------------------------------------------------------------------------- */

typedef struct { ptrdiff_t outer, row, class, base, extent; } layout;

enum { CONTIGUOUS, ROW_GAPS, TRANSPOSED, TRANSPOSED_GAPS, REVERSED_CLASSES, REVERSED_ROWS,
       EVERY_OTHER, TWO_STEPS, MIDDLE_AXIS, ONE_ROW, N_LAYOUTS };

/* Rows in two outer steps of rows/2. */
static layout layout_of(int which, ptrdiff_t rows, ptrdiff_t n)
{
    ptrdiff_t half = rows / 2;
    layout l = {half * n, n, 1, 0, 0};
    switch (which) {
    case ROW_GAPS: l.row = n + 3; l.outer = half * l.row; break;
    case TRANSPOSED: l.row = 1; l.class = rows; l.outer = half; break;
    case TRANSPOSED_GAPS: l.row = 1; l.class = rows + 2; l.outer = half; break;
    case REVERSED_CLASSES: l.class = -1; l.base = n - 1; break;
    case REVERSED_ROWS: l.row = -n; l.outer = -half * n; l.base = (rows - 1) * n; break;
    case EVERY_OTHER: l.class = 2; l.row = 2 * n + 1; l.outer = half * l.row; break;
    case TWO_STEPS: l.outer = half * n + 5; break;
    case MIDDLE_AXIS: l.row = 1; l.class = half; break;
    case ONE_ROW: l.row = 0; l.outer = 0; break;
    }
    l.extent = l.base + 1;
    if (l.outer > 0)
        l.extent += l.outer;
    if (l.row > 0)
        l.extent += (half - 1) * l.row;
    if (l.class > 0)
        l.extent += (n - 1) * l.class;
    return l;
}

static ptrdiff_t place(const layout *l, ptrdiff_t half, ptrdiff_t r, ptrdiff_t c)
{
    return l->base + r / half * l->outer + r % half * l->row + c * l->class;
}

/* Entries of size bytes, contiguous in from, at their places in to. */
static void spread(unsigned char *to, const layout *l, const unsigned char *from, size_t size,
                   ptrdiff_t rows, ptrdiff_t n)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        unsigned char *home = to + (size_t)place(l, rows / 2, r, 0) * size;
        ptrdiff_t step = l->class * (ptrdiff_t)size;
        for (ptrdiff_t c = 0; c < n; c++, home += step, from += size)
            if (size == 8)
                memcpy(home, from, 8);
            else if (size == 4)
                memcpy(home, from, 4);
            else
                memcpy(home, from, 2);
    }
}

static void check_layout(int function, int from, int to, int in_place, const unsigned char *usual)
{
    size_t in_size = item_size(p.kind), item = result_size(p.kind);
    ptrdiff_t half = p.rows / 2;
    layout x = layout_of(from, p.rows, p.n), out = layout_of(to, p.rows, width(function));
    size_t x_bytes = (size_t)x.extent * in_size, out_bytes = (size_t)out.extent * item;
    unsigned char *home = placed(memory_again, x_bytes, 1), *o = placed(memory_out, out_bytes, 1);
    unsigned char *expected = allocated(out_bytes);
    memset(home, 0xa5, x_bytes);
    spread(home, &x, p.x, in_size, p.rows, p.n);
    memset(o, 0xa5, out_bytes);
    memset(expected, 0xa5, out_bytes);
    if (in_place) {
        o = home;
        memcpy(expected, home, out_bytes);
    }
    spread(expected, &out, usual, item, p.rows, width(function));
    set_context("%s, %ld classes, layout %d to %d%s", kind_name(p.kind), (long)p.n, from, to,
                in_place ? " in place" : "");
    sf_call call = p.call;
    sf_targets targets = p.targets;
    sf_input in = {home + (size_t)x.base * in_size, x.outer, x.row, x.class, p.kind};
    sf_output where = {o + (size_t)out.base * item, out.outer, out.row, out.class};
    call.x = in;
    call.out = where;
    call.inner = half;
    call.targets = &targets;
    if (function == SF_SOFTMAX_LOSS) {
        targets.row_losses = o; /* which are contiguous */
        call.out.data = NULL;
    }
    run(function, &call, 0, half);
    run(function, &call, half, half);
    compare_bits(function, o, expected, out_bytes, "with strides");
    free(expected);
}

static void check_strides(int kind, ptrdiff_t n, int varied)
{
    ptrdiff_t rows = n <= 200 ? MOST_ROWS : 6; /* more than a panel of rows, and fewer */
    set_problem(kind, n, rows, N_DISTINCT, varied);
    for (int isa = 0; choose_and_measure(isa); isa++)
        for (int f = 0; f < N_FUNCTIONS; f++) {
            unsigned char *usual = allocated((size_t)(rows * width(f)) * result_size(kind));
            double losses[MOST_ROWS];
            run_into(f, 0, rows, usual, losses);
            for (int to = ROW_GAPS; f == SF_LOGSUMEXP && to < ONE_ROW; to++)
                check_layout(f, CONTIGUOUS, to, 0, usual);
            for (int from = 0; from < N_LAYOUTS; from++) {
                if (from == ONE_ROW) { /* every row is the last */
                    double t = p.temperature[0];
                    problem kept = p;
                    for (ptrdiff_t r = 0; r < rows; r++) {
                        p.temperature[r] = t;
                        p.labels64[r] = p.labels64[0];
                    }
                    p.call.x.row_stride = 0;
                    p.call.x.data = p.x + (size_t)((rows - 1) * n) * item_size(kind);
                    run_into(f, 0, rows, usual, losses);
                    check_layout(f, from, CONTIGUOUS, 0, usual);
                    p = kept;
                    continue;
                }
                check_layout(f, from, CONTIGUOUS, 0, usual);
                if (width(f) != n || f == SF_SOFTMAX_LOSS)
                    continue;
                check_layout(f, from, from, 0, usual);
                check_layout(f, CONTIGUOUS, from, 0, usual);
                if (kind == SF_F32 || kind == SF_F64)
                    check_layout(f, from, from, 1, usual);
            }
            free(usual);
        }
}

/* Past the caches, from every alignment of the output. */
static void check_streams(int kind, ptrdiff_t n)
{
    size_t item = result_size(kind);
    set_problem(kind, n, 5, 3, 0);
    for (int isa = 0; choose_and_measure(isa); isa++)
        for (int f = SF_SOFTMAX; f < N_FUNCTIONS; f++) {
            size_t bytes = (size_t)(p.rows * width(f)) * item;
            unsigned char *usual = placed(memory_again, bytes, 1);
            double losses[MOST_ROWS];
            if (!(kernels_of(kind)->operations[f].flags & SF_STREAMS))
                continue;
            p.call.stream = 0;
            run_into(f, 0, p.rows, usual, losses);
            for (size_t shift = 0; shift <= 17; shift++) {
                unsigned char *out = placed(memory_out, bytes + shift * item, 1);
                set_context("%s, %ld classes, streamed, %d entries from the end of a page",
                            kind_name(kind), (long)n, (int)shift);
                memset(out, 0xa5, bytes + shift * item);
                p.call.stream = 1;
                run_into(f, 0, p.rows, out, losses);
                p.call.stream = 0;
                compare_bits(f, out, usual, bytes, "when streamed");
                for (size_t i = bytes; i < bytes + shift * item; i++)
                    if (out[i] != 0xa5)
                        fail("%s: wrote past the end", operation_names[f]);
            }
        }
}

/* ---- the vector functions, and probabilities as inputs --------------------------------------- */

/* Distance from exact * 2**k in units of the last place of the result, of digits bits. */
static double ulp_error(double got, pair exact, int k, int digits, int least_exponent)
{
    int exponent;
    frexp(exact.hi, &exponent);
    if (exponent + k < least_exponent)
        exponent = least_exponent - k;
    return fabs((ldexp(got, -k) - exact.hi) - exact.lo) / ldexp(1, exponent - digits);
}

static void check_vector_functions(void)
{
    enum { count = 40000, chunk = 61, specials = 4 };
    static double x64[count], got64[count];
    static float x32[count], got32[count];
    static pair e[count], e32[count], l[count];
    static int k[count], k32[count];
    static double r[count];
    set_context("exp and log1p");
    random_state = 1;
    for (int i = 0; i < count; i++) {
        double u = uniform();
        int form = i % 4;
        x64[i] = form == 0 ? -u * 746 : form == 1 ? -ldexp(1 + u, -(i % 60))
               : form == 2 ? -floor(u * 2150) * 0.34657359027997264 : -u;
        x32[i] = (float)(form == 0 ? -u * 104 : form == 1 ? -ldexp(1 + u, -(i % 30))
                       : form == 2 ? -floor(u * 300) * 0.34657359027997264 : -u);
        r[i] = form == 0 ? ldexp(1 + u, i % 1200 - 1000) : form == 1 ? u * 4
             : form == 2 ? ldexp(1 + u, i % 60 - 30) : floor(u * 5000);
        if (i == 8)
            x64[i] = x32[i] = 0;
        e[i] = exponential(of(x64[i]), &k[i]);
        e32[i] = exponential(of(x32[i]), &k32[i]);
        l[i] = logarithm_1p(of(r[i]));
    }
    for (int isa = 0; choose_and_measure(isa); isa++) {
        for (int i = 0; i < count; i += chunk) {
            int n = count - i < chunk ? count - i : chunk;
            tables->f64->exp_array(x64 + i, got64 + i, n);
            tables->f32->exp_array(x32 + i, got32 + i, n);
        }
        for (int i = 0; i < count; i++) {
            double error = ulp_error(got64[i], e[i], k[i], 53, -1021);
            int normal = e[i].hi * ldexp(1, k[i]) >= DBL_MIN;
            if (normal)
                measured->exp_ulp[1] = fmax(measured->exp_ulp[1], error);
            if (!(error <= (normal ? 1.5 : 1)))
                fail("exp(%a) in f64: %a, %.3f ULP", x64[i], got64[i], error);
            error = ulp_error(got32[i], e32[i], k32[i], 24, -125);
            normal = e32[i].hi * ldexp(1, k32[i]) >= FLT_MIN;
            if (normal)
                measured->exp_ulp[0] = fmax(measured->exp_ulp[0], error);
            if (!(error <= (normal ? 1.5 : 1)))
                fail("exp(%a) in f32: %a, %.3f ULP", x32[i], got32[i], error);
        }
        for (int i = 0; i < count; i += chunk)
            tables->f64->log1p_array(r + i, got64 + i, count - i < chunk ? count - i : chunk);
        for (int i = 0; i < count; i++) {
            double error = ulp_error(got64[i], l[i], 0, 53, -1021);
            measured->log1p_ulp = fmax(measured->log1p_ulp, error);
            if (!(error <= 1.5))
                fail("log1p(%a): %a, %.3f ULP", r[i], got64[i], error);
        }
        double ends[specials] = {0, -INFINITY, NAN, -1e308}, results[specials];
        float ends32[specials] = {0, -INFINITY, NAN, -3e38f}, results32[specials];
        tables->f64->exp_array(ends, results, specials);
        tables->f32->exp_array(ends32, results32, specials);
        if (results[0] != 1 || results[1] != 0 || results[2] == results[2] || results[3] != 0)
            fail("exp in f64: %g %g %g %g", results[0], results[1], results[2], results[3]);
        if (results32[0] != 1 || results32[1] != 0 || results32[2] == results32[2]
            || results32[3] != 0)
            fail("exp in f32: %g %g %g %g", results32[0], results32[1], results32[2], results32[3]);
        double log_ends[specials] = {0, INFINITY, NAN, 0x1p-1074};
        tables->f64->log1p_array(log_ends, results, specials);
        if (results[0] != 0 || results[1] != INFINITY || results[2] == results[2]
            || results[3] != 0x1p-1074)
            fail("log1p: %g %g %g %g", results[0], results[1], results[2], results[3]);
    }
}

static pair minus_log(pair probability)
{
    return logarithm_1p(divided(sub(of(1), probability), probability));
}

/* cross_entropy and the binary losses. */
static void check_probabilities(int kind)
{
    enum { n = 301 };
    static double x[n], t[n], losses[n], temperature = 0.7, pos_weight = 1.5;
    for (int isa = 0; choose_and_measure(isa); isa++) {
        p.kind = kind;
        p.n = n;
        set_context("%s, probabilities", kind_name(kind));
        for (int of_logits = 0; of_logits < 2; of_logits++) {
            random_state = 5;
            for (int i = 0; i < n; i++) {
                put(x, i, kind, of_logits ? 60 * uniform() - 30
                                : i % 5 ? uniform() : ldexp(uniform(), -(i % 100)));
                put(t, i, kind, (double)(i % 9) / 8);
            }
            sf_targets targets = sf_no_targets();
            sf_input entries = {t, 0, 1, 1, kind};
            sf_call call = {.x = {x, 0, 1, 1, kind}, .out = {losses, 0, 1, 1}, .n_rows = n,
                            .inner = n, .n_classes = 1, .temperature = &temperature,
                            .targets = &targets};
            targets.probabilities = entries;
            targets.pos_weight = &pos_weight;
            run(of_logits ? SF_BINARY_CROSS_ENTROPY_WITH_LOGITS : SF_BINARY_CROSS_ENTROPY, &call, 0,
                n);
            for (int i = 0; i < n; i++) {
                double xi = get(x, i, kind), ti = get(t, i, kind);
                pair yes, no;
                int e;
                if (of_logits) {
                    pair z = divided(of(fabs(xi)), of(temperature));
                    pair q = exponential(negated(z), &e);
                    q = logarithm_1p(times_power(q, e));
                    yes = mul(xi < 0 ? add(q, z) : q, of(pos_weight));
                    no = xi > 0 ? add(q, z) : q;
                } else {
                    yes = minus_log(of(xi));
                    no = minus_log(exact_sum(1, -xi));
                }
                pair exact = add(mul(of(ti), yes), mul(of(1 - ti), no));
                compare_with(SF_SOFTMAX_LOSS, i, 0, get(losses, i, kind), exact,
                             4 * epsilon() * fmax(1.5, fabs(exact.hi)));
            }
        }
        sf_targets targets = sf_no_targets();
        sf_call call = {.x = {x, 0, n, 1, kind}, .n_rows = 1, .inner = PTRDIFF_MAX, .n_classes = n,
                        .temperature = &temperature, .targets = &targets};
        pair exact = of(0);
        double bound = 0;
        sf_input probabilities = {t, 0, n, 1, kind};
        targets.probabilities = probabilities;
        targets.row_losses = losses;
        for (int i = 0; i < n; i++) {
            put(x, i, kind, uniform());
            exact = add(exact, mul(of(get(t, i, kind)), minus_log(of(get(x, i, kind)))));
            bound += 4 * epsilon() * get(t, i, kind);
        }
        run(SF_CROSS_ENTROPY, &call, 0, 1);
        compare_with(SF_SOFTMAX_LOSS, 0, 0, get(losses, 0, kind), exact,
                     fmax(bound, 4 * epsilon() * exact.hi));
        put(x, 7, kind, 1.25);
        if (run(SF_CROSS_ENTROPY, &call, 0, 1).bad_value_row != 0)
            fail("cross_entropy: a probability of 1.25 is not reported");
    }
}

/* ---- the caller's floating-point environment ------------------------------------------------- */

#if defined(__SSE2__) || defined(_M_X64)
static void flush_subnormals(void) { _mm_setcsr(_mm_getcsr() | 0x8040); }
static void usual_environment(void) { _mm_setcsr(0x1f80); }
#define ENVIRONMENT_IS_GUARDED 1
#elif defined(__aarch64__)
static void flush_subnormals(void)
{
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    __asm__ volatile("msr fpcr, %0" : : "r"(fpcr | (UINT64_C(1) << 24) | (UINT64_C(1) << 19)));
}
static void usual_environment(void) { __asm__ volatile("msr fpcr, %0" : : "r"(UINT64_C(0))); }
#define ENVIRONMENT_IS_GUARDED 1
#endif

#if ENVIRONMENT_IS_GUARDED
/* Volatile, result too: or the compiler moves the operation past a change of the environment. */
static int flushes(void)
{
    volatile float tiny = FLT_MIN, half = 0.5f, product = tiny * half;
    return product == 0;
}

static int rounds_up(void)
{
    volatile double one = 1, tiny = 1e-30, sum = one + tiny;
    return sum > 1;
}

static void check_environment(int kind)
{
    static const ptrdiff_t lengths[] = {3, 100, 1000};
    for (int i = 0; i < 3; i++) {
        set_problem(kind, lengths[i], 5, N_DISTINCT, 1);
        for (int isa = 0; choose_and_measure(isa); isa++)
            for (int f = 0; f < N_FUNCTIONS; f++) {
                size_t bytes = (size_t)(p.rows * width(f)) * result_size(kind);
                unsigned char *out = placed(memory_out, bytes, 1);
                unsigned char *usual = placed(memory_again, bytes, 1);
                double losses[MOST_ROWS];
                set_context("%s, %ld classes, an unusual floating-point environment",
                            kind_name(kind), (long)lengths[i]);
                run_into(f, 0, p.rows, usual, losses);
                int up_before = fesetround(FE_UPWARD) == 0 && rounds_up();
                flush_subnormals();
                int flushes_before = flushes();
                sf_environment found = sf_enter();
                int strange = rounds_up() || flushes();
                run_into(f, 0, p.rows, out, losses);
                sf_leave(found);
                int kept = rounds_up() && flushes();
                usual_environment();
                fesetround(FE_TONEAREST);
                compare_bits(f, out, usual, bytes, "in an unusual floating-point environment");
                if (!up_before || !flushes_before)
                    fail("could not set up an unusual floating-point environment");
                if (strange)
                    fail("sf_enter left an unusual floating-point environment");
                if (!kept)
                    fail("sf_leave did not put the caller's floating-point environment back");
            }
    }
}
#else
static void check_environment(int kind) { (void)kind; }
#endif

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 4096);
    signal(SIGSEGV, out_of_bounds);
#ifdef SIGBUS
    signal(SIGBUS, out_of_bounds);
#endif
    const char *missing = find_isas(argc - 1, argv + 1);
    if (missing) {
        printf("%s does not run here\n", missing);
        return 2;
    }
    check_oracle();

    memory_x = new_region(MOST_ENTRIES * sizeof(double));
    memory_out = new_region(3 * MOST_ENTRIES * sizeof(double));
    memory_again = new_region(3 * MOST_ENTRIES * sizeof(double));
    p.probabilities32 = allocated(MOST_ENTRIES * sizeof(float));
    p.probabilities64 = allocated(MOST_ENTRIES * sizeof(double));
    p.exact = allocated(N_DISTINCT * sizeof *p.exact);

    check_vector_functions();
    for (int kind = SF_F32; kind <= SF_BF16; kind++) {
        static const ptrdiff_t special_lengths[] = {1,  2,  3,   5,   8,   17,  33,   64,
                                                    65, 97, 130, 192, 256, 257, 1025, 4097};
        static const ptrdiff_t strided_lengths[] = {1,  2,  3,  4,  5,   9,    16,
                                                    33, 64, 70, 257, 1030, 2050};
        int half = kind == SF_F16 || kind == SF_BF16;
        check_lengths(kind, 0);
        if (!half)
            check_lengths(kind, 1);
        for (int i = 0; i < 16; i += 1 + 2 * half)
            check_specials(kind, special_lengths[i], i % 2);
        for (int i = 0; i < 13; i += 1 + 2 * half)
            check_strides(kind, strided_lengths[i], i % 2);
        if (!half) {
            check_streams(kind, 100);
            check_streams(kind, 203);
            check_streams(kind, 1000);
            check_streams(kind, 4097);
            check_probabilities(kind);
        }
        check_environment(kind);
    }

    for (int i = 0; choose_and_measure(i); i++) {
        printf("%s: %s, %ld results compared; exp %.3f (f32) %.3f (f64) ULP, log1p %.3f; worst "
               "shares of the bounds:", tables->isa, now->failures ? "FAILED" : "passed",
               measured->compared, measured->exp_ulp[0], measured->exp_ulp[1], measured->log1p_ulp);
        for (int f = 0; f < N_FUNCTIONS; f++)
            printf(" %s %.2f", operation_names[f], measured->worst[f]);
        printf("\n");
    }
    if (failures > MOST_SHOWN)
        printf("%ld failures in all\n", failures);
    return failures != 0;
}
