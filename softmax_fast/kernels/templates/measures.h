/* How far q = softmax(x/T) is from p = softmax(a/T), a the base, by the other measures.  With the row's
 * divergence its shift is known to the last digits, so a second look at the row, or at the tile, finds
 * t = log q - log p and d = q - p with the digits of small ones, and of each class
 *     q h(-t)              to KL(q || p): |t| <= 1: d t - p h(t), else p - q + q t
 *     (p + q) F(z) / 4     to the Jensen-Shannon divergence: z = |d|/(p + q), F(z) =
 *                          (1 + z) log(1 + z) + (1 - z) log(1 - z), z = tanh(|t|/2): |t| <= 1:
 *                          z z times a polynomial of z z, else 2 log(1 + z) - (1 - z) |t|, log by another
 *                          (relative errors 1.0e-9 and 5.8e-9 for float, 7e-19 and 4e-18 for double)
 *     |d|                  half of it to the total variation
 * none of them negative.  Rows with p = 0 < q, or with ratios beyond RATIO_MOST, are left to
 * sf_put_measures.
 *
 * d is of the first order in t, and so is the error of the words of D: of float, rows with a large D are
 * left to sf_put_measures too where it could be seen. */

#if SF_DOUBLE
#define LEAST_MASS 0x1p-1000
static const double near_coefficient[] = {
    0x1.708f04e04d739p-7, -0x1.5180232df613ep-9, 0x1.bcc703b63efeap-8, 0x1.316a32aab834fp-8,
    0x1.b2bec33e9fde2p-8, 0x1.10b6f748a3f3ep-7, 0x1.681d3a0b4ee43p-7, 0x1.f07bc9860df71p-7,
    0x1.6c16c2c7afa33p-6, 0x1.249249214c3e8p-5, 0x1.111111111527dp-4, 0x1.5555555555535p-3, 0x1p0};
static const double far_coefficient[] = { /* log(1.73 + c) */
    -0x1.2b27a4b408d8p-15, 0x1.18d9946290f3ap-14, -0x1.e559beca160b4p-14, 0x1.c9bcc2de8f42dp-13,
    -0x1.b4aa8efc0ac28p-12, 0x1.a3b0d418e19d6p-11, -0x1.986545f90ea8ep-10, 0x1.93ba682de5c33p-9,
    -0x1.976dda89d9d78p-8, 0x1.a6e952ff6b6e6p-7, -0x1.c945e1b56c022p-6, 0x1.07b1af62a2eefp-4,
    -0x1.5624a05cca08ap-3, 0x1.27f4296efb8fap-1, 0x1.18a35e8792b89p-1};
#else
#define LEAST_MASS 0x1p-120f
static const float near_coefficient[] = {
    0x1.9a183ap-6f, 0x1.4117fap-6f, 0x1.2711p-5f, 0x1.1100aep-4f, 0x1.55557cp-3f, 0x1p0f};
static const float far_coefficient[] = {
    -0x1.a31d3ap-8f, 0x1.b3fa24p-7f, -0x1.c93p-6f, 0x1.07a27ap-4f, -0x1.5624a4p-3f, 0x1.27f42ep-1f,
    0x1.18a35ep-1f};
#endif

/* Sums over the classes, times the base's sum: of q h(-t), of (p + q) F, and of |d|; the largest |d|;
 * and the largest x of which p is 0, or next to it. */
typedef struct { wide reverse, shared, variation; vec largest, beyond; } measures;

SF_INLINE measures no_measures(void)
{
    measures none = {wide_zero(), wide_zero(), wide_zero(), vset1(0), vset1((real)-INFINITY)};
    return none;
}

SF_INLINE vec vleast(vec a, vec b) { return vwhere_less(a, b, a, b); }

/* p and q are biased exponentials. */
SF_INLINE void add_measures(measures *to, vec a, vec x, vec p, vec q, vshift s)
{
    enum { near_terms = sizeof near_coefficient / sizeof *near_coefficient,
           far_terms = sizeof far_coefficient / sizeof *far_coefficient };
    const vec zero = vset1(0), one = vset1(1);
    vec d;
    const vec h = divergence_term(a, x, p, q, s, &d), v = minus_ratio(a, x, s), square = vmul(v, v);
    p = without_floor(p);
    q = vmul(without_floor(q), s.ratio);
    const vec w = vleast(v, vset1(RATIO_MOST)), sum = vadd(p, q), size = vmax(d, vsub(zero, d));
    const vec back = vwhere_less(square, one, vadd(vmul(d, v), h), vadd(vmul(q, w), d));
    const vec z = vdiv(size, vmax(sum, vset1(LEAST_MASS))), y = vmul(z, z);
    vec near = vset1(near_coefficient[0]), log = vset1(far_coefficient[0]);
    for (int i = 1; i < near_terms; i++)
        near = vfma(near, y, vset1(near_coefficient[i]));
    const vec c = vsub(z, vset1((real)0.73));
    for (int i = 1; i < far_terms; i++)
        log = vfma(log, c, vset1(far_coefficient[i]));
    near = vmul(vmul(size, z), near);
    vec far = vsub(vmul(sum, log), vmul(vleast(p, q), vmax(w, vsub(zero, w))));
    far = vadd(far, far);
    to->reverse = wide_add(to->reverse, vsub(zero, back));
    to->shared = wide_add(to->shared, vwhere_less(square, one, near, vmax(far, zero)));
    to->variation = wide_add(to->variation, size);
    to->largest = vmax(size, to->largest);
    to->beyond = vmax(vwhere_less(v, vset1((real)(1 - RATIO_MOST)), x, to->beyond), to->beyond);
}

#if SF_DOUBLE
void change_doubles(const double *t, const double *p, double *q, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        const int whole = i + LANES <= n;
        const vec log_ratio = whole ? vload(t + i) : vload_first(t + i, n - i, 0);
        const vec of_base = whole ? vload(p + i) : vload_first(p + i, n - i, 0);
        const vec of_row = whole ? vload(q + i) : vload_first(q + i, n - i, 0);
        const vec v = vsub(vset1(0), log_ratio), square = vmul(v, v), far = vsub(of_row, of_base);
        const vec near = vmul(of_base, vsub(vmul(square, near_h(v)), v));
        const vec change = vwhere_less(square, vset1(1), near, far);
        if (whole)
            vstore(q + i, change);
        else
            vstore_first(q + i, change, n - i);
    }
}
#endif

/* ---- short rows ----------------------------------------------------------------------------------------- */

static SF_NOINLINE void measures_of_tile(const divergence_room *room, const sf_tile *tile, ptrdiff_t n,
                                         ptrdiff_t count, int width, sf_batch *batch, ptrdiff_t at)
{
    const ptrdiff_t lanes = width * LANES;
    SF_ALIGNED(64) double reverse[2 * LANES], shared[2 * LANES], variation[2 * LANES];
    SF_ALIGNED(64) real largest[2 * LANES], beyond[2 * LANES];
    for (ptrdiff_t to = 0; to < lanes; to += LANES) {
        const vshift s = shift_of_lanes(room, tile, to);
        measures m = no_measures();
        for (ptrdiff_t c = to; c < n * lanes; c += lanes)
            add_measures(&m, vload(tile->a + c), vload(tile->x + c), vload(room->e_a + c),
                         vload(room->e_x + c), s);
        wide_store(reverse + to, m.reverse);
        wide_store(shared + to, m.shared);
        wide_store(variation + to, m.variation);
        vstore(largest + to, m.largest);
        vstore(beyond + to, m.beyond);
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        const double factor = EXP_UNBIAS / (1.0 + batch->base_rest[at + i]);
        batch->first_moment[at + i] = beyond[i] > (real)-INFINITY ? NAN : reverse[i] * factor;
        batch->second_moment[at + i] = shared[i] * factor;
        batch->squares[at + i] = variation[i] * factor;
        batch->top[at + i] = (double)largest[i] * factor;
    }
}

static void measures_tile(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                          int width, sf_batch *batch, ptrdiff_t at)
{
    divergence_room room;
    divergence_of_tile(&room, tile, call, first, count, width, batch, at);
    measures_of_tile(&room, tile, call->n_classes, count, width, batch, at);
}

static void measures_row(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch, ptrdiff_t at)
{
    tile_temperatures(room, call, row, 1);
    measures_tile(room, call, row, 1, 1, batch, at);
}

/* ---- long rows ------------------------------------------------------------------------------------------ */

static void measures_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    SF_ALIGNED(64) real x_buffer[BLOCK], a_buffer[BLOCK];
    const sf_call *call = r->call, base = base_of(call);
    const real max = (real)r->batch->max[r->at], base_max = (real)r->batch->base_max[r->at];
    sf_temperature t;
    const vshift s = shift_of_row(r, &t);
    const vec vm = vset1(max), va = vset1(base_max);
    const vrate c = vector_rate(&t);
    for (ptrdiff_t b = first; b < first + count; b++) {
        const ptrdiff_t n = block_length(call, b);
        const real *x = block_at(call, r->row, b, x_buffer), *a = block_at(&base, r->row, b, a_buffer);
        measures m = no_measures();
        for (ptrdiff_t i = 0; i < n; i += LANES) {
            const int whole = i + LANES <= n;
            const vec vx = whole ? vload(x + i) : vload_first(x + i, n - i, (real)-INFINITY);
            const vec v = whole ? vload(a + i) : vload_first(a + i, n - i, (real)-INFINITY);
            add_measures(&m, v, vx, vexp(vsub(v, va), c), vexp(vsub(vx, vm), c), s);
        }
        r->blocks.share[b] = wide_total(m.reverse);
        r->blocks.product[b] = wide_total(m.shared);
        r->blocks.scaled[b] = wide_total(m.variation);
        r->blocks.top[b] = (double)vhmax(m.largest);
        r->blocks.above[b] = (double)vhmax(m.beyond);
    }
}

static void merge_measures(const sf_long_row *r)
{
    sf_batch *batch = r->batch;
    const ptrdiff_t at = r->at;
    const double factor = EXP_UNBIAS / (1.0 + batch->base_rest[at]);
    sf_sum reverse = {0, 0}, shared = {0, 0}, variation = {0, 0};
    double largest = 0.0;
    for (ptrdiff_t b = 0; b < r->n_blocks; b++) {
        sf_sum_add(&reverse, r->blocks.above[b] > -INFINITY ? NAN : r->blocks.share[b]);
        sf_sum_add(&shared, r->blocks.product[b]);
        sf_sum_add(&variation, r->blocks.scaled[b]);
        largest = SF_MAX(largest, r->blocks.top[b]);
    }
    batch->first_moment[at] = sf_sum_value(reverse) * factor;
    batch->second_moment[at] = sf_sum_value(shared) * factor;
    batch->squares[at] = sf_sum_value(variation) * factor;
    batch->top[at] = largest * factor;
}

/* ---- results -------------------------------------------------------------------------------------------- */

/* Whether a variation might be lost in the error of a row's shift.  One of 0 is exact: no t is not. */
SF_INLINE int hides_variation(const sf_batch *batch, ptrdiff_t at, double variation, double temperature)
{
    const double shift = fabs(batch->shift[at]) / temperature;
    return !SF_DOUBLE && shift > 16.0 && variation != 0.0 && variation < 0x1p-29 * shift;
}

/* What the measures have at the labels. */
static SF_NOINLINE void put_changes(const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                    const sf_batch *batch, ptrdiff_t at)
{
    const sf_measures *to = call->measures;
    const ptrdiff_t put = call->first_row + first;
    double t[SF_BATCH], p[SF_BATCH], q[SF_BATCH];
    int has_label[SF_BATCH];
    SF_ASSUME(count > 0);
    for (ptrdiff_t i = 0; i < count; i++) {
        const double temperature = sf_temperature_of(call, first + i);
        const sf_sum shift = {batch->shift[at + i], batch->shift_lost[at + i]};
        double x, a;
        t[i] = p[i] = q[i] = 0.0;
        has_label[i] = sf_at_label(call, first + i, &x, &a);
        if (!has_label[i])
            continue;
        t[i] = sf_log_ratio(x, a, shift, temperature);
        p[i] = sf_quotient(a, batch->base_max[at + i], temperature);
        q[i] = sf_quotient(x, batch->max[at + i], temperature);
    }
    exp_doubles(p, p, count, sf_make_rate(1.0));
    exp_doubles(q, q, count, sf_make_rate(1.0));
    for (ptrdiff_t i = 0; i < count; i++) {
        const double nan = found_divergence(batch, at + i) * 0.0;
        p[i] /= 1.0 + batch->base_rest[at + i];
        q[i] = q[i] / (1.0 + batch->rest[at + i]) + nan;
        t[i] += nan;
    }
    change_doubles(t, p, q, count);
    for (ptrdiff_t i = 0; i < count; i++) {
        to->log_ratio[put + i] = has_label[i] ? t[i] : 0.0;
        to->change[put + i] = has_label[i] ? q[i] : 0.0;
    }
}

static void measures_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                            ptrdiff_t at, sf_result *result)
{
    const sf_measures *to = call->measures;
    (void)result;
    if (to->labels)
        put_changes(call, first, count, batch, at);
    for (ptrdiff_t i = at; i < at + count; i++) {
        const ptrdiff_t row = first + i - at, put = call->first_row + row;
        const double divergence = found_divergence(batch, i), nan = divergence * 0.0;
        const double variation = batch->squares[i] / 2.0;
        if (has_no_divergence(batch, i)
            || (divergence == divergence && (batch->first_moment[i] != batch->first_moment[i]
                || hides_variation(batch, i, variation, sf_temperature_of(call, row))))) {
            sf_put_measures(call, row);
            if (!has_no_divergence(batch, i))
                to->kl[put] = divergence;
            continue;
        }
        to->kl[put] = divergence;
        to->reverse[put] = SF_MAX(batch->first_moment[i], 0.0) + nan;
        to->js[put] = batch->second_moment[i] / 4.0 + nan;
        to->total_variation[put] = variation + nan;
        to->largest[put] = batch->top[i] + nan;
    }
}
