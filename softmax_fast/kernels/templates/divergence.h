/* Kullback-Leibler divergence of q = softmax(x/T) from p = softmax(a/T), a the base: the sum of p h(t),
 * where h(t) = expm1(t) - t and t = log q - log p = ((x - a) - D)/T, D/T being the log-sum of x less that
 * of a.  What follows holds for any D next to it.
 *
 * Digits.  No term is negative, and next to 0 h is t*t/2: all hangs on the relative error of t.  x - a
 * is the rounded difference and what it has lost (Knuth), D is two words, so that what remains of both is
 * rounded by its own size, however large the logits and D are.  D itself needs no digits: if
 * it is off, u stands for t, w = sum p expm1(u) is not 0, and the divergence is
 *     sum p h(u) - (w - log1p(w)),
 * exactly; w is as large as the error of log-sums, 1e-7 in float, and counts by its square.  So sums
 * and exponentials of float are good for divergences down to 1e-13, and those of double to 1e-30.  Up to
 * |t| = 1 h is t*t times a polynomial (relative error 1.8e-8 for float, 3.2e-17 for double), beyond it
 * is q - p - p t, which loses a digit at most.
 *
 * Of a long row every block's distributions are compared with each other, and the masses of the blocks
 * as if each were an entry: the divergence is that of the masses plus the mass of p in each block times
 * the divergence there, none of them negative.  So blocks are read once.  The gradient, K (q - p) with
 * K as that of the losses, is p expm1(t) up to |t| = 1 and reads blocks again.
 *
 * Blocks of float do without exponentials of x where they can: D is the mean of x - a under p, and from
 * |u| = 1 up to 3 h is another polynomial times u u (relative error 5.5e-9); both are taken in (x - a) - D,
 * with coefficients that hold 1/T.  Then the mass of q is that of p times 1 + w, in units of
 * exp((m + D)/T), m the base's maximum. */

#if SF_DOUBLE
#define DIVERGENCE_FLOOR (-1074.0)
#define DIVERGENCE_VANISHES 0x1p-945 /* 2**(EXP_BIAS + floor + 1) */
#define SHIFT_MOST 0x1p1022
#define LOST_MOST 0x1p971
static const double h_coefficient[] = {
    -0x1.b41232cf9950fp-41, 0x1.99848a67700e4p-37, -0x1.611cb330c1fe8p-33, 0x1.1ee5640e638a2p-29,
    -0x1.ae6460fae3728p-26, 0x1.27e5069de9344p-22, -0x1.71de3a4e14f40p-19, 0x1.a01a01907b7eep-16,
    -0x1.a01a01a01ee70p-13, 0x1.6c16c16c212c0p-10, -0x1.11111111110fdp-7, 0x1.5555555555502p-5,
    -0x1.5555555555555p-3, 0x1p-1};
#else
#define DIVERGENCE_FLOOR (-150.0)
#define DIVERGENCE_VANISHES 0x1p-85
#define SHIFT_MOST 0x1p126
#define LOST_MOST 0x1p104f
static const float h_coefficient[] = {
    -0x1.78a70ep-19f, 0x1.a971fcp-16f, -0x1.a009p-13f, 0x1.6bff52p-10f,
    -0x1.11111ep-7f, 0x1.55557ap-5f, -0x1.555556p-3f, 0x1p-1f};
#endif
#define RATIO_MOST 1000

/* Exponentials no smaller than the least number of their type, so that their products with small ratios
 * are no subnormals. */
#define RAISE_FLOOR ((real)(DIVERGENCE_FLOOR / EXP_FLOOR))

/* A row's shift D in two words, 1/T, and the sum of the base's exponentials over that of the row's. */
typedef struct { vec hi, lo, inverse, ratio; } vshift;

SF_INLINE sf_sum shift_of(double max, double log_sum, double base_max, double base_log_sum,
                          double temperature)
{
    sf_sum shift = {max, 0.0};
    sf_sum_add(&shift, -base_max);
    sf_sum_add(&shift, temperature * (log_sum - base_log_sum));
    return shift;
}

SF_INLINE int shift_fits(double shift) { return fabs(shift) < SHIFT_MOST; }

/* Whether two words hold a shift with the digits that matter in units of T. */
SF_INLINE int shift_is_exact(double shift, double temperature)
{
    return shift_fits(shift) && fabs(shift) * (SF_DOUBLE ? 0x1p-50 : 0x1p-21) <= temperature;
}

SF_INLINE void split_shift(sf_sum shift, real *hi, real *lo)
{
    const int fits = shift_fits(shift.sum);
    *hi = fits ? (real)shift.sum : 0;
    *lo = fits ? (real)((shift.sum - (double)*hi) + shift.lost) : 0;
}

SF_INLINE vshift one_shift(real hi, real lo, const sf_temperature *t, double base_sum, double sum)
{
    vshift s = {vset1(hi), vset1(lo), vset1(t->inverse), vset1((real)(base_sum / sum))};
    return s;
}

/* -t.  Of x = -inf alone inf, of a = -inf the least, which p = 0 takes away. */
SF_INLINE vec minus_ratio(vec a, vec x, vshift s)
{
    vec d = vsub(a, x), part = vsub(d, a);
    vec lost = vsub(vsub(a, vsub(d, part)), vadd(x, part));
    lost = vmax(lost, vset1((real)-LOST_MOST)); /* not NaN */
    return vmax(vmul(vadd(vadd(d, s.hi), vadd(lost, s.lo)), s.inverse), vset1((real)-RATIO_MOST));
}

/* 0 where a biased exponential is no more than the floor. */
SF_INLINE vec without_floor(vec e)
{
    return vwhere_less(e, vset1((real)DIVERGENCE_VANISHES), vset1(0), e);
}

/* h(t)/(t t) of v = -t, up to |t| = 1. */
SF_INLINE vec near_h(vec v)
{
    enum { degree = sizeof h_coefficient / sizeof *h_coefficient };
    vec h = vset1(h_coefficient[0]);
    for (int i = 1; i < degree; i++)
        h = vfma(h, v, vset1(h_coefficient[i]));
    return h;
}

/* p h(t) and p expm1(t) = q - p, times the base's sum: p and q are biased exponentials. */
SF_INLINE vec divergence_term(vec a, vec x, vec p, vec q, vshift s, vec *difference)
{
    p = without_floor(p); /* t may be large */
    q = without_floor(q);
    const vec v = minus_ratio(a, x, s), square = vmul(v, v), pv = vmul(p, v);
    const vec h = vmul(vmul(pv, v), near_h(v));
    const vec far = vsub(vmul(q, s.ratio), p), one = vset1(1);
    *difference = vwhere_less(square, one, vsub(h, pv), far);
    return vwhere_less(square, one, h, vadd(far, pv));
}

/* Adds the terms of count <= 4 vectors. */
SF_INLINE void add_divergence(wide *h, wide *w, const vec *terms, const vec *differences)
{
    *h = wide_add(*h, vadd(vadd(terms[0], terms[1]), vadd(terms[2], terms[3])));
    *w = wide_add(*w, vadd(vadd(differences[0], differences[1]),
                           vadd(differences[2], differences[3])));
}

/* From the sums of h and w, divided by the base's: the divergence, and in *lacks what the shift does,
 * in units of T. */
SF_INLINE double corrected(double h, double w, double *lacks)
{
    const double excess = sf_log1p_excess(w), divergence = h - excess;
    *lacks = w - excess;
    return divergence < 0.0 ? 0.0 : divergence;
}

/* Whether a row's divergence has to be computed by sf_divergence: it is infinite, or out of reach. */
SF_INLINE int has_no_divergence(const sf_batch *batch, ptrdiff_t at)
{
    return !(batch->quotient[at] < INFINITY) && isfinite(batch->max[at])
        && isfinite(batch->base_max[at]) && batch->rest[at] == batch->rest[at]
        && batch->base_rest[at] == batch->base_rest[at];
}

/* A row's divergence where it has one. */
SF_INLINE double found_divergence(const sf_batch *batch, ptrdiff_t at)
{
    return isfinite(batch->max[at]) && isfinite(batch->base_max[at]) ? batch->quotient[at] : NAN;
}

/* What turns the terms' p into probabilities. */
SF_INLINE real base_factor(const sf_batch *batch, ptrdiff_t at)
{
    return isfinite(batch->max[at]) && isfinite(batch->base_max[at])
        ? (real)(EXP_UNBIAS / (1.0 + batch->base_rest[at])) + (real)(batch->rest[at] * 0) : (real)NAN;
}

/* ---- short rows ----------------------------------------------------------------------------------------- */

/* Biased exponentials of a vector of rows in e, and their sum. */
SF_INLINE wide exponentials_of_lanes(const real *x, ptrdiff_t n, ptrdiff_t lanes, vec m, vrate c, real *e)
{
    wide w = wide_zero();
    for (ptrdiff_t begin = 0; begin < n; begin += 4) {
        const int some = (int)SF_MIN(4, n - begin);
        vec group[4];
        for (int j = 0; j < 4; j++)
            group[j] = vset1(0);
        for (int j = 0; j < some; j++)
            group[j] = vsub(vload(x + (begin + j) * lanes), m);
        if (some == 4) {
            for (int j = 0; j < 4; j += EXP_INTERLEAVE)
                exp_steps(group + j, EXP_INTERLEAVE, c);
        } else {
            for (int j = 0; j < some; j++)
                group[j] = vexp(group[j], c);
        }
        for (int j = 0; j < some; j++)
            vstore(e + (begin + j) * lanes, group[j]);
        w = wide_add(w, vadd(vadd(group[0], group[1]), vadd(group[2], group[3])));
    }
    return w;
}

SF_INLINE sf_call base_of(const sf_call *call)
{
    sf_call base = *call;
    base.x = call->targets->probabilities;
    return base;
}

/* What a tile leaves for a second look beside the base, which is in the place of targets: biased
 * exponentials, and the rows' shifts, which lack nothing, and ratios of sums. */
typedef struct {
    SF_ALIGNED(64) real e_x[SF_SHORT_ROW * LANES], e_a[SF_SHORT_ROW * LANES];
    SF_ALIGNED(64) real hi[2 * LANES], lo[2 * LANES], ratio[2 * LANES];
} divergence_room;

SF_INLINE vshift shift_of_lanes(const divergence_room *room, const sf_tile *tile, ptrdiff_t to)
{
    vshift s = {vload(room->hi + to), vload(room->lo + to), vload(tile->inverse + to),
                vload(room->ratio + to)};
    return s;
}

SF_INLINE void divergence_tile_of(divergence_room *room, sf_tile *tile, const sf_call *call,
                                  ptrdiff_t first, ptrdiff_t count, const int width, sf_batch *batch,
                                  ptrdiff_t at)
{
    const ptrdiff_t n = call->n_classes, lanes = width * LANES;
    real *base = tile->a;
    real *e_x = room->e_x, *e_a = room->e_a, *hi = room->hi, *lo = room->lo, *ratio = room->ratio;
    SF_ALIGNED(64) real max[2 * LANES], base_max[2 * LANES];
    SF_ALIGNED(64) double sum[2 * LANES], base_sum[2 * LANES], logs[2 * LANES], base_logs[2 * LANES];
    SF_ALIGNED(64) double terms[2 * LANES], differences[2 * LANES];
    read_labels(call, first, count, batch, at);
    load_tile(tile, call, first, count, width, max);
    load_lanes(base, &call->targets->probabilities, call, first, count, width, e_x, base_max);
    if (call->temperature_step)
        tile_temperatures(tile, call, first, count);
    for (int k = 0; k < width; k++) {
        const ptrdiff_t to = k * LANES;
        const vrate c = {vload(tile->hi + to), vload(tile->lo + to),
                         vmul(vload(tile->floor + to), vset1(RAISE_FLOOR))};
        wide_store(sum + to, exponentials_of_lanes(tile->x + to, n, lanes, vload(max + to), c, e_x + to));
        wide_store(base_sum + to,
                   exponentials_of_lanes(base + to, n, lanes, vload(base_max + to), c, e_a + to));
    }
    for (ptrdiff_t i = 0; i < lanes; i++) { /* NaN where a row has no probabilities */
        sum[i] = sum[i] * EXP_UNBIAS - 1.0;
        base_sum[i] = base_sum[i] * EXP_UNBIAS - 1.0;
    }
    SF_ASSUME(lanes > 0);
    log1p_doubles(sum, logs, lanes);
    log1p_doubles(base_sum, base_logs, lanes);
    for (ptrdiff_t i = 0; i < lanes; i++) {
        const ptrdiff_t row = first + SF_MIN(i, count - 1);
        const sf_sum shift =
            shift_of(max[i], logs[i], base_max[i], base_logs[i], sf_temperature_of(call, row));
        split_shift(shift, &hi[i], &lo[i]);
        ratio[i] = (real)((1.0 + base_sum[i]) / (1.0 + sum[i]));
        if (i >= count)
            continue;
        batch->max[at + i] = max[i];
        batch->rest[at + i] = sum[i];
        batch->base_max[at + i] = base_max[i];
        batch->base_rest[at + i] = base_sum[i];
        batch->shift[at + i] = shift.sum;
        batch->shift_lost[at + i] = shift.lost;
    }
    for (int k = 0; k < width; k++) {
        const ptrdiff_t to = k * LANES;
        const vshift s = shift_of_lanes(room, tile, to);
        wide h = wide_zero(), w = wide_zero();
        for (ptrdiff_t begin = 0; begin < n; begin += 4) {
            vec t[4], d[4];
            for (int j = 0; j < 4; j++)
                t[j] = d[j] = vset1(0);
            for (int j = 0; j < 4 && begin + j < n; j++) {
                const ptrdiff_t c = (begin + j) * lanes + to;
                t[j] = divergence_term(vload(base + c), vload(tile->x + c), vload(e_a + c),
                                       vload(e_x + c), s, &d[j]);
            }
            add_divergence(&h, &w, t, d);
        }
        wide_store(terms + to, h);
        wide_store(differences + to, w);
    }
    for (ptrdiff_t i = 0; i < lanes; i++) {
        const double factor = EXP_UNBIAS / (1.0 + base_sum[i]);
        double lacks, divergence = corrected(terms[i] * factor, differences[i] * factor, &lacks);
        if (i < count) {
            const double temperature = sf_temperature_of(call, first + i);
            if (!shift_is_exact(batch->shift[at + i], temperature))
                divergence = NAN;
            const sf_sum shift = {hi[i], (double)lo[i] + temperature * lacks};
            batch->quotient[at + i] = divergence;
            batch->shift_lost[at + i] = (shift.sum - batch->shift[at + i]) + shift.lost;
            split_shift(shift, &hi[i], &lo[i]);
        }
    }
}

static SF_NOINLINE void divergence_of_tile(divergence_room *room, sf_tile *tile, const sf_call *call,
                                           ptrdiff_t first, ptrdiff_t count, int width,
                                           sf_batch *batch, ptrdiff_t at)
{
    if (width == 2)
        divergence_tile_of(room, tile, call, first, count, 2, batch, at);
    else
        divergence_tile_of(room, tile, call, first, count, 1, batch, at);
}

/* The gradient, without its factors, takes the place of the logits. */
static SF_NOINLINE void gradient_of_tile(const divergence_room *room, sf_tile *tile, ptrdiff_t n,
                                         int width)
{
    const ptrdiff_t lanes = width * LANES;
    for (ptrdiff_t to = 0; to < lanes; to += LANES) {
        const vshift s = shift_of_lanes(room, tile, to);
        for (ptrdiff_t c = to; c < n * lanes; c += lanes) {
            vec d;
            (void)divergence_term(vload(tile->a + c), vload(tile->x + c), vload(room->e_a + c),
                                  vload(room->e_x + c), s, &d);
            vstore(tile->x + c, d);
        }
    }
}

static void divergence_tile(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                            int width, sf_batch *batch, ptrdiff_t at)
{
    divergence_room room;
    divergence_of_tile(&room, tile, call, first, count, width, batch, at);
}

static void divergence_and_gradient_tile(sf_tile *tile, const sf_call *call, ptrdiff_t first,
                                         ptrdiff_t count, int width, sf_batch *batch, ptrdiff_t at)
{
    divergence_room room;
    divergence_of_tile(&room, tile, call, first, count, width, batch, at);
    gradient_of_tile(&room, tile, call->n_classes, width);
}

static void divergence_row(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch,
                           ptrdiff_t at)
{
    tile_temperatures(room, call, row, 1);
    divergence_tile(room, call, row, 1, 1, batch, at);
}

static void divergence_and_gradient_row(sf_tile *room, const sf_call *call, ptrdiff_t row,
                                        sf_batch *batch, ptrdiff_t at)
{
    tile_temperatures(room, call, row, 1);
    divergence_and_gradient_tile(room, call, row, 1, 1, batch, at);
}

static void divergence_tile_out(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                int width, sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real probability[2 * LANES], factor[2 * LANES];
    const ptrdiff_t n = call->n_classes, lanes = width * LANES;
    for (ptrdiff_t i = 0; i < lanes; i++) {
        probability[i] = factor[i] = 1;
        if (i >= count)
            continue;
        if (batch->y[at + i] < 0) {
            for (ptrdiff_t c = 0; c < n; c++)
                tile->x[c * lanes + i] = 0;
        } else if (!shift_is_exact(batch->shift[at + i], sf_temperature_of(call, first + i))) {
            sf_divergence(call, first + i, tile->x + i, lanes, NULL);
        } else {
            probability[i] = base_factor(batch, at + i);
            factor[i] = (real)batch->scale[at + i];
        }
    }
    const last_step step = {TWO_FACTORS, probability, factor, factor};
    store_tile(tile, call, first, count, width, &step);
}

static void divergence_row_out(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch,
                               ptrdiff_t at)
{
    divergence_tile_out(room, call, row, 1, 1, batch, at);
}

/* ---- long rows ------------------------------------------------------------------------------------------ */

/* The terms of n contiguous entries and their exponentials; the sums of differences in *w. */
static SF_NOINLINE double divergence_of_entries(const real *a, const real *x, const real *e_a,
                                                const real *e_x, ptrdiff_t n, vshift s, double *w)
{
    wide terms = wide_zero(), differences = terms;
    vec t[4], d[4];
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        for (int k = 0; k < 4; k++) {
            const ptrdiff_t c = i + k * LANES;
            t[k] = divergence_term(vload(a + c), vload(x + c), vload(e_a + c), vload(e_x + c), s, &d[k]);
        }
        add_divergence(&terms, &differences, t, d);
    }
    for (int k = 0; k < 4; k++, i += LANES) {
        t[k] = d[k] = vset1(0);
        if (i + LANES <= n)
            t[k] = divergence_term(vload(a + i), vload(x + i), vload(e_a + i), vload(e_x + i), s, &d[k]);
        else if (i < n)
            t[k] = divergence_term(vload_first(a + i, n - i, 0), vload_first(x + i, n - i, 0),
                                   vload_first(e_a + i, n - i, 0), vload_first(e_x + i, n - i, 0), s,
                                   &d[k]);
    }
    add_divergence(&terms, &differences, t, d);
    *w = wide_total(differences);
    return wide_total(terms);
}

#if !SF_DOUBLE
#define NEAR_RATIO 3
#define LEAST_INVERSE 0x1p-7
static const float near_coefficient_h[] = { /* relative error 5.5e-9 */
    0x1.6f411ep-33f, 0x1.4a9092p-29f, 0x1.b0eedcp-26f, 0x1.248dc6p-22f, 0x1.7192e6p-19f,
    0x1.a054c6p-16f, 0x1.a01f64p-13f, 0x1.6c14fap-10f, 0x1.1110ecp-7f, 0x1.55556p-5f, 0x1.555556p-3f,
    0x1p-1f};

/* A block by exponentials of the base alone: e, biased, and d = x - a - from.  Both are whole groups of
 * four vectors, of which the last is computed from the tails. */
typedef struct {
    const real *a, *x;
    ptrdiff_t n;
    real base_max, max, from, mean, ratio; /* u = (d - mean)/T, q = exp((x - max)/T) ratio */
    vrate c;
    vec inverse;
    next_lines next;
    SF_ALIGNED(64) real e[BLOCK], d[BLOCK], a_tail[4 * LANES], x_tail[4 * LANES];
} lone_block;

/* The sums of e and e d, and the maximum of x. */
static SF_NOINLINE void base_and_differences(lone_block *to, double sums[2])
{
    const vec m = vset1(to->base_max), from = vset1(to->from), lowest = vset1(-LARGEST);
    const vrate c = to->c;
    const ptrdiff_t n = to->n;
    const char *next = to->next.in;
    wide sum = wide_zero(), first = sum;
    vec x_max = lowest;
    for (ptrdiff_t i = 0; i < n; i += 4 * LANES) {
        const real *a = to->a + i, *x = to->x + i;
        if (i + 4 * LANES > n) {
            a = to->a_tail;
            x = to->x_tail;
        }
        for (int b = 0; next && b < 4 * LANES * (int)REAL_BYTES; b += 64)
            SF_PREFETCH(next + i * REAL_BYTES + b);
        vec e[4], d[4];
        for (int k = 0; k < 4; k++) { /* 0 where both are -inf */
            const vec va = vload(a + k * LANES), vx = vmax(lowest, vload(x + k * LANES));
            const vec least = vmax(lowest, va), rounded = vsub(vx, least), part = vsub(rounded, vx);
            const vec lost = vsub(vsub(vx, vsub(rounded, part)), vadd(least, part));
            d[k] = vadd(vsub(rounded, from), lost);
            x_max = vmax(vx, x_max);
            vstore(to->d + i + k * LANES, d[k]);
            e[k] = vsub(va, m);
        }
        for (int k = 0; k < 4; k += EXP_INTERLEAVE)
            exp_steps(e + k, EXP_INTERLEAVE, c);
        for (int k = 0; k < 4; k++) {
            vstore(to->e + i + k * LANES, e[k]);
            first.sum = vfma(e[k], d[k], first.sum);
        }
        sum = wide_add(sum, vadd(vadd(e[0], e[1]), vadd(e[2], e[3])));
    }
    sums[0] = wide_total(sum);
    sums[1] = wide_total(first);
    to->max = vhmax(x_max);
}

/* Adds p h(u) and p u of n groups beyond NEAR_RATIO.  Returns 0 where these cannot tell, for ratios
 * beyond RATIO_MOST. */
static SF_NOINLINE int add_far_terms(const lone_block *block, const short *groups, ptrdiff_t n,
                                     wide *terms, wide *products)
{
    const vec one = vset1(1), inverse = block->inverse, mean = vset1(block->mean);
    const vec x_max = vset1(block->max), ratio = vset1(block->ratio), zero = vset1(0);
    const vrate c = block->c;
    const char *next = block->next.out;
    vec beyond = zero;
    for (ptrdiff_t g = 0; g < n; g++) {
        const ptrdiff_t i = groups[g] * 4 * LANES;
        const real *x = i + 4 * LANES > block->n ? block->x_tail : block->x + i;
        for (int b = 0; next && b < 4 * LANES * (int)REAL_BYTES; b += 64)
            SF_PREFETCH(next + i * REAL_BYTES + b);
        vec h[4], u[4];
        for (int k = 0; k < 4; k++) {
            const vec p = without_floor(vload(block->e + i + k * LANES));
            const vec q = vmul(without_floor(vexp(vsub(vload(x + k * LANES), x_max), c)), ratio);
            const vec d = vsub(mean, vload(block->d + i + k * LANES));
            const vec v = vmax(vmul(d, inverse), vset1((real)-RATIO_MOST));
            const vec square = vmul(v, v), pv = vmul(p, v), far = vadd(vsub(q, p), pv);
            h[k] = vwhere_less(square, one, vmul(vmul(pv, v), near_h(v)), far);
            u[k] = vsub(zero, pv);
            beyond = vmax(v, beyond);
        }
        add_divergence(terms, products, h, u);
    }
    return !(vhmax(beyond) > (real)RATIO_MOST);
}

/* Adds p d d c(d) and p d of four vectors, c a polynomial. */
SF_INLINE void add_near_terms(const lone_block *block, ptrdiff_t i, const vec *d, const vec *squares,
                              const real *coefficient, const int degree, wide *terms, wide *products)
{
    vec h[4], u[4];
    for (int k = 0; k < 4; k++)
        h[k] = vset1(coefficient[0]);
    for (int j = 1; j < degree; j++)
        for (int k = 0; k < 4; k++)
            h[k] = vfma(h[k], d[k], vset1(coefficient[j]));
    for (int k = 0; k < 4; k++) {
        const vec p = vload(block->e + i + k * LANES);
        h[k] = vmul(h[k], vmul(p, squares[k]));
        u[k] = vmul(p, d[k]);
    }
    add_divergence(terms, products, h, u);
}

/* The coefficients, in d, of a polynomial in d times rate. */
SF_INLINE void scale_coefficients(const float *coefficient, int n, double rate, real *out)
{
    double power = 1.0;
    for (int i = n - 1; i >= 0; i--, power *= rate)
        out[i] = (real)(coefficient[i] * power);
}

/* The sums of p h(u) and of p u.  Returns what add_far_terms does. */
static SF_NOINLINE int terms_of_differences(const lone_block *block, double inverse, double *h_sum,
                                            double *u_sum)
{
    enum { degree = sizeof near_coefficient_h / sizeof *near_coefficient_h,
           least = sizeof h_coefficient / sizeof *h_coefficient };
    short far[BLOCK / (4 * LANES)];
    real coefficients[degree], of_least[least];
    ptrdiff_t n_far = 0;
    const real unit = (real)(1.0 / (inverse * inverse));
    const vec limit = vset1(NEAR_RATIO * NEAR_RATIO * unit), one = vset1(unit), mean = vset1(block->mean);
    const ptrdiff_t n = block->n;
    const char *next = block->next.out;
    wide terms = wide_zero(), products = terms, far_terms = terms, far_products = terms;
    scale_coefficients(near_coefficient_h, degree, inverse, coefficients);
    scale_coefficients(h_coefficient, least, -inverse, of_least);
    for (ptrdiff_t i = 0; i < n; i += 4 * LANES) {
        vec d[4], square[4];
        for (int k = 0; k < 4; k++) {
            d[k] = vsub(vload(block->d + i + k * LANES), mean);
            square[k] = vmul(d[k], d[k]);
        }
        const vec most = vmax(vmax(vmax(square[0], square[1]), vmax(square[2], square[3])), one);
        const int is_least = vequal_mask(most, one) == (1u << LANES) - 1;
        if (!is_least && vequal_mask(vmax(most, limit), limit) != (1u << LANES) - 1) {
            far[n_far++] = (short)(i / (4 * LANES));
            continue;
        }
        for (int b = 0; next && b < 4 * LANES * (int)REAL_BYTES; b += 64)
            SF_PREFETCH(next + i * REAL_BYTES + b);
        if (is_least)
            add_near_terms(block, i, d, square, of_least, least, &terms, &products);
        else
            add_near_terms(block, i, d, square, coefficients, degree, &terms, &products);
    }
    if (n_far && !add_far_terms(block, far, n_far, &far_terms, &far_products))
        return 0;
    *h_sum = wide_total(terms) * inverse * inverse + wide_total(far_terms);
    *u_sum = wide_total(products) * inverse + wide_total(far_products);
    return 1;
}

/* Returns 0 where this does not do: infinite divergences, NaN, logits too large. */
static SF_NOINLINE int divergence_of_block(lone_block *block, const sf_temperature *t,
                                           double temperature, sf_blocks to)
{
    const ptrdiff_t n = block->n, tail = n % (4 * LANES);
    ptrdiff_t place;
    const real m = maximum_and_place(block->a, n, &place);
    if (!isfinite(m) || !isfinite(block->x[place]))
        return 0;
    for (ptrdiff_t i = 0; i < (tail ? 4 * LANES : 0); i++) {
        block->a_tail[i] = i < tail ? block->a[n - tail + i] : (real)-INFINITY;
        block->x_tail[i] = i < tail ? block->x[n - tail + i] : (real)-INFINITY;
    }
    block->base_max = m;
    block->from = block->x[place] - m;
    const double inverse = t->inverse;
    if (!(inverse >= LEAST_INVERSE && inverse <= 1.0 / LEAST_INVERSE))
        return 0;
    double sums[2], mean, unit, h, u;
    sf_sum shift;
    for (int again = 0;; again = 1) { /* next to the mean where d has digits for it alone */
        base_and_differences(block, sums);
        mean = sums[1] / sums[0];
        if (!(fabs(mean) <= LOST_MOST) || !shift_is_exact(block->from, temperature))
            return 0;
        block->mean = (real)mean;
        shift.sum = (double)block->from;
        shift.lost = 0.0;
        sf_sum top = {(double)m, 0.0};
        sf_sum_add(&shift, (double)block->mean);
        sf_sum_add(&top, shift.sum);
        sf_sum_add(&top, -(double)block->max);
        const double above = sf_sum_value(top) + shift.lost;
        if (!(fabs(above) <= EXP_BIAS / 2 * temperature))
            return 0;
        exp_doubles(&above, &unit, 1, t->rate);
        block->ratio = (real)(1.0 / unit);
        if (!terms_of_differences(block, inverse, &h, &u))
            return 0;
        mean *= inverse;
        if (again || !(mean * mean * sums[0] > 128.0 * h))
            break;
        block->from = (real)(block->from + block->mean);
    }
    const double sum = sums[0] * EXP_UNBIAS;
    h /= sums[0];
    u /= sums[0];
    const double w = h + u, excess = sf_log1p_excess(w), log = w > 0.25 ? log1p(w) : w - excess;
    const double divergence = w > 0.25 ? log - u : h - excess; /* whichever cancels less */
    if (!(divergence < INFINITY) || !(sum < INFINITY))
        return 0;
    sf_sum_add(&shift, temperature * log);
    *to.share = m;
    *to.product = sum - 1.0;
    *to.max = (double)block->max;
    *to.rest = sum * (1.0 + w) * unit - 1.0;
    *to.scaled = SF_MAX(divergence, 0.0);
    *to.top = shift.sum;
    *to.above = shift.lost;
    return 1;
}
#endif

static void divergence_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    SF_ALIGNED(64) real x_buffer[BLOCK], a_buffer[BLOCK], e_x[BLOCK], e_a[BLOCK];
    const sf_call *call = r->call, base = base_of(call);
    const double temperature = sf_temperature_of(call, r->row);
    const int alone = r->n_blocks == 1; /* followed by the next row */
    sf_temperature t = *r->temperature;
    t.floor *= RAISE_FLOOR;
#if !SF_DOUBLE
    lone_block block;
    block.c = vector_rate(&t);
    block.inverse = vset1(t.inverse);
#endif
    for (ptrdiff_t b = first; b < first + count; b++) {
        const ptrdiff_t n = block_length(call, b);
        const real *x = block_at(call, r->row, b, x_buffer), *a = block_at(&base, r->row, b, a_buffer);
        const sf_blocks to = {r->blocks.max + b, r->blocks.rest + b, r->blocks.share + b,
                              r->blocks.product + b, r->blocks.scaled + b, r->blocks.top + b,
                              r->blocks.above + b};
        const ptrdiff_t a_step = a == a_buffer ? 0 : alone ? base.x.row_stride : BLOCK;
        const ptrdiff_t x_step = x == x_buffer ? 0 : alone ? call->x.row_stride : BLOCK;
#if !SF_DOUBLE
        block.a = a;
        block.x = x;
        block.n = n;
        block.next = next_of(call, a, a_step, NULL, 0);
        if (call->prefetch)
            block.next.out = (char *)(x + x_step);
        if (divergence_of_block(&block, &t, temperature, to))
            continue;
#endif
        next_lines next = next_of(call, a, a_step, e_a, 0);
        exponentiate_block(a, n, &t, e_a, next, to.share, to.product);
        next = next_of(call, x, x_step, e_x, 0);
        exponentiate_block(x, n, &t, e_x, next, to.max, to.rest);
        const double max = *to.max, base_max = *to.share;
        *to.top = max - base_max;
        *to.above = 0.0;
        if (!isfinite(max) || !isfinite(base_max)) {
            *to.scaled = isfinite(base_max) ? INFINITY : 0.0; /* without mass no divergence */
            continue;
        }
        const double rests[2] = {*to.rest, *to.product};
        double logs[2], w;
        log1p_doubles(rests, logs, 2);
        const sf_sum shift = shift_of(max, logs[0], base_max, logs[1], temperature);
        const double factor = EXP_UNBIAS / (1.0 + rests[1]);
        real hi, lo;
        split_shift(shift, &hi, &lo);
        const vshift s = one_shift(hi, lo, &t, 1.0 + rests[1], 1.0 + rests[0]);
        const double h = divergence_of_entries(a, x, e_a, e_x, n, s, &w);
        *to.scaled = corrected(h * factor, w * factor, &w);
        *to.top = (double)hi;
        *to.above = (double)lo + temperature * w;
        if (!shift_is_exact(shift.sum, temperature))
            *to.scaled = NAN;
    }
}

/* Rests of blocks become masses, in units of the exponential of the row's maximum; returns their sum. */
static SF_NOINLINE double masses_of_blocks(const sf_long_row *r, const double *max, double *rest,
                                           double *row_max)
{
    double m = -INFINITY, d[64], factor[64];
    sf_sum sum = {0, 0};
    for (ptrdiff_t b = 0; b < r->n_blocks; b++)
        m = max[b] > m ? max[b] : m;
    *row_max = m;
    for (ptrdiff_t start = 0; start < r->n_blocks; start += 64) {
        const ptrdiff_t n = SF_MIN(64, r->n_blocks - start);
        SF_ASSUME(n > 0);
        for (ptrdiff_t i = 0; i < n; i++)
            d[i] = max[start + i] - m;
        exp_doubles(d, factor, n, r->temperature->rate);
        for (ptrdiff_t i = 0; i < n; i++) {
            rest[start + i] = (1.0 + rest[start + i]) * factor[i];
            sf_sum_add(&sum, rest[start + i]);
        }
    }
    return sf_sum_value(sum);
}

static void merge_divergence(const sf_long_row *r)
{
    sf_batch *batch = r->batch;
    const ptrdiff_t at = r->at;
    const double temperature = sf_temperature_of(r->call, r->row);
    double *q = r->blocks.rest, *p = r->blocks.product, logs[2], lacks;
    const double sum = masses_of_blocks(r, r->blocks.max, q, &batch->max[at]);
    const double base_sum = masses_of_blocks(r, r->blocks.share, p, &batch->base_max[at]);
    const double rests[2] = {sum - 1.0, base_sum - 1.0};
    log1p_doubles(rests, logs, 2);
    const sf_sum shift = shift_of(batch->max[at], logs[0], batch->base_max[at], logs[1], temperature);
    sf_sum terms = {0, 0}, differences = {0, 0};
    for (ptrdiff_t b = 0; b < r->n_blocks; b++) {
        const double mass = p[b] / base_sum, other = q[b] / sum;
        const double u =
            ((r->blocks.top[b] - shift.sum) + (r->blocks.above[b] - shift.lost)) / temperature;
        if (mass == 0.0) {
            sf_sum_add(&terms, other);
            sf_sum_add(&differences, other);
            continue;
        }
        double difference = other - mass, h = difference - mass * u;
        if (fabs(u) < 1.0) {
            h = mass * sf_expm1_excess(u);
            difference = h + mass * u;
        }
        sf_sum_add(&terms, h);
        sf_sum_add(&terms, mass * r->blocks.scaled[b]);
        sf_sum_add(&differences, difference);
    }
    batch->rest[at] = rests[0];
    batch->base_rest[at] = rests[1];
    batch->quotient[at] = corrected(sf_sum_value(terms), sf_sum_value(differences), &lacks);
    batch->shift[at] = shift.sum;
    batch->shift_lost[at] = shift.lost + temperature * lacks;
    if (!shift_is_exact(shift.sum, temperature))
        batch->quotient[at] = NAN;
}

/* The shift of a row whose blocks have been merged, and its temperature with the raised floor. */
static SF_NOINLINE vshift shift_of_row(const sf_long_row *r, sf_temperature *t)
{
    const sf_batch *batch = r->batch;
    const sf_sum shift = {batch->shift[r->at], batch->shift_lost[r->at]};
    real hi, lo;
    *t = *r->temperature;
    t->floor *= RAISE_FLOOR;
    split_shift(shift, &hi, &lo);
    return one_shift(hi, lo, t, 1.0 + batch->base_rest[r->at], 1.0 + batch->rest[r->at]);
}

/* Entries out = K (q - p), of n contiguous ones. */
static SF_NOINLINE void divergence_gradient(const real *a, const real *x, ptrdiff_t n, real base_max,
                                            real max, const sf_temperature *t, vshift s, real factor,
                                            real scale, real *out)
{
    const vec vm = vset1(max), va = vset1(base_max), f = vset1(factor), g = vset1(scale);
    const vrate c = vector_rate(t);
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        const int whole = i + LANES <= n;
        const vec vx = whole ? vload(x + i) : vload_first(x + i, n - i, max);
        const vec v = whole ? vload(a + i) : vload_first(a + i, n - i, base_max);
        vec d;
        (void)divergence_term(v, vx, vexp(vsub(v, va), c), vexp(vsub(vx, vm), c), s, &d);
        d = vmul(vmul(d, f), g);
        if (whole)
            vstore(out + i, d);
        else
            vstore_first(out + i, d, n - i);
    }
}

static void divergence_blocks_out(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    SF_ALIGNED(64) real x_buffer[BLOCK], a_buffer[BLOCK], out_buffer[BLOCK];
    const sf_call *call = r->call, base = base_of(call);
    const sf_batch *batch = r->batch;
    const ptrdiff_t at = r->at, stride = call->out.class_stride;
    real *out = out_at(call, r->row);
    sf_temperature t;
    if (!shift_is_exact(batch->shift[at], sf_temperature_of(call, r->row))) {
        if (first == 0)
            sf_divergence(call, r->row, out, stride, NULL);
        return;
    }
    const vshift s = shift_of_row(r, &t);
    for (ptrdiff_t b = first; b < first + count; b++) {
        const ptrdiff_t n = block_length(call, b), begin = b * BLOCK;
        real *home = stride == 1 ? out + begin : out_buffer;
        divergence_gradient(block_at(&base, r->row, b, a_buffer), block_at(call, r->row, b, x_buffer), n,
                            (real)batch->base_max[at], (real)batch->max[at], &t, s,
                            base_factor(batch, at), (real)batch->scale[at], home);
        if (home == out_buffer)
            scatter(out + begin * stride, stride, home, n);
    }
}

/* ---- results -------------------------------------------------------------------------------------------- */

static void divergence_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                              ptrdiff_t at, sf_result *result)
{
    const sf_targets *targets = call->targets;
    for (ptrdiff_t i = at; i < at + count; i++) {
        const ptrdiff_t row = first + i - at;
        double divergence = found_divergence(batch, i);
        if (batch->y[i] < 0)
            divergence = 0.0;
        else if (has_no_divergence(batch, i))
            divergence = sf_divergence(call, row, NULL, 0, NULL);
        batch->log_sum[i] = divergence * targets->loss_scale;
        batch->quotient[i] = 0.0;
        batch->share[i] = 1.0;
        batch->scale[i] = targets->gradient_scale * sf_sample_weight(targets, row)
                        / sf_temperature_of(call, row);
    }
    loss_finish(call, first, count, batch, at, result);
}
