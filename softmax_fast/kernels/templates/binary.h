/* Binary losses of entries, which are rows of one class.  With q = log(1 + exp(-|z|)), z = x/T:
 * -log sigmoid(z) = q + max(-z, 0), -log(1 - sigmoid(z)) = q + max(z, 0). */

enum { CHUNK = 256 }; /* entries that are worked on together */

SF_INLINE double pos_weight_of(const sf_targets *targets, ptrdiff_t i)
{
    return targets->pos_weight ? targets->pos_weight[i * targets->pos_weight_step] : 1.0;
}

/* weight * value, where a weight of 0 leaves nothing of an infinity. */
SF_INLINE double weighted(double weight, double value) { return weight == 0.0 ? 0.0 : weight * value; }

/* In double, n <= CHUNK losses from the entry first on, before the weights of samples. */
static SF_NOINLINE void binary_losses_in_double(const sf_call *call, ptrdiff_t first, ptrdiff_t n,
                                            const real *values, const double *t, const int of_logits,
                                            double *losses)
{
    SF_ALIGNED(64) double x[CHUNK];
    SF_ALIGNED(64) double positive[CHUNK]; /* the loss of a target 1 */
    SF_ALIGNED(64) double negative[CHUNK]; /* the loss of a target 0 */
    SF_ASSUME(n > 0);
    for (ptrdiff_t i = 0; i < n; i++)
        x[i] = values[i];
    if (of_logits) {
        for (ptrdiff_t i = 0; i < n; i++)
            x[i] /= sf_temperature_of(call, first + i);
        for (ptrdiff_t i = 0; i < n; i++)
            positive[i] = -fabs(x[i]);
        exp_doubles(positive, positive, n, sf_make_rate(1.0));
        log1p_doubles(positive, positive, n);
        for (ptrdiff_t i = 0; i < n; i++) {
            negative[i] = positive[i] + (x[i] > 0 ? x[i] : 0.0);
            positive[i] += x[i] < 0 ? -x[i] : 0.0;
        }
        for (ptrdiff_t i = 0; call->targets->pos_weight && i < n; i++)
            positive[i] = weighted(pos_weight_of(call->targets, first + i), positive[i]);
    } else {
        minus_logs(x, positive, n);
        for (ptrdiff_t i = 0; i < n; i++)
            negative[i] = x[i] / (1.0 - x[i]);
        log1p_doubles(negative, negative, n);
    }
    for (ptrdiff_t i = 0; i < n; i++)
        losses[i] = x[i] != x[i] ? x[i] : weighted(t[i], positive[i]) + weighted(1.0 - t[i], negative[i]);
}

#if !SF_DOUBLE

/* A temperature and a weight of the positive term with which float keeps the digits. */
SF_INLINE int is_within_float(double temperature, double weight)
{
    return temperature >= SF_FLOAT_TEMPERATURE_MIN && temperature <= SF_FLOAT_TEMPERATURE_MAX
        && (weight == 0.0 || (weight >= 0x1p-64 && weight <= 0x1p64));
}

/* Of each entry; where they do not vary the first are those of all. */
typedef struct { const float *hi, *lo, *floor, *inverse, *weight; } binary_options;

enum { BINARY_INTERLEAVE = EXP_INTERLEAVE < 2 ? 1 : 2 };

/* count vectors of logits, from the entry at on, become losses: s q + |z| r, s = w t + (1 - t), of which
 * r is the term that goes with the sign of x.  Where a loss is not finite, neither is what comes. */
SF_INLINE void binary_vectors(vec *x, const vec *target, const int count, const binary_options *o,
                              const ptrdiff_t at, const int varied)
{
    const vec zero = vset1(0.0f), one = vset1(1.0f);
    vec size[BINARY_INTERLEAVE], e[BINARY_INTERLEAVE];
    for (int k = 0; k < count; k++) {
        size[k] = vmax(x[k], vsub(zero, x[k]));
        e[k] = vsub(zero, size[k]);
    }
    if (varied)
        for (int k = 0; k < count; k++) {
            const ptrdiff_t i = at + k * LANES;
            e[k] = vexp(e[k], (vrate){vload(o->hi + i), vload(o->lo + i), vload(o->floor + i)});
        }
    else
        exp_steps(e, count, (vrate){vset1(o->hi[0]), vset1(o->lo[0]), vset1(o->floor[0])});
    for (int k = 0; k < count; k++) {
        const ptrdiff_t i = at + k * LANES;
        const vec factor = varied ? vload(o->inverse + i) : vset1(o->inverse[0]);
        const vec w = varied ? vload(o->weight + i) : vset1(o->weight[0]);
        const vec q = log1p_unit(vmul(e[k], vset1((float)EXP_UNBIAS)));
        const vec share = vmul(target[k], w), rest = vsub(one, target[k]);
        const vec sided = vwhere_less(x[k], zero, share, rest);
        x[k] = vfma(vmul(size[k], factor), sided, vmul(vadd(share, rest), q));
    }
}

/* Those of n entries, to l; whether all are finite. */
SF_INLINE int binary_floats(const float *values, const float *t, ptrdiff_t n, const binary_options *o,
                            float *l, const int varied)
{
    const vec zero = vset1(0.0f);
    vec zeros = zero;
    ptrdiff_t i = 0;
    for (; i + BINARY_INTERLEAVE * LANES <= n; i += BINARY_INTERLEAVE * LANES) {
        vec x[BINARY_INTERLEAVE], target[BINARY_INTERLEAVE];
        for (int k = 0; k < BINARY_INTERLEAVE; k++) {
            x[k] = vload(values + i + k * LANES);
            target[k] = vload(t + i + k * LANES);
        }
        binary_vectors(x, target, BINARY_INTERLEAVE, o, i, varied);
        for (int k = 0; k < BINARY_INTERLEAVE; k++) {
            vstore(l + i + k * LANES, x[k]);
            zeros = vadd(zeros, vsub(x[k], x[k]));
        }
    }
    for (; i < n; i += LANES) {
        vec x = i + LANES <= n ? vload(values + i) : vload_first(values + i, n - i, 0.0f);
        vec target = i + LANES <= n ? vload(t + i) : vload_first(t + i, n - i, 0.0f);
        binary_vectors(&x, &target, 1, o, i, varied);
        vstore(l + i, x);
        zeros = vadd(zeros, vsub(x, x));
    }
    return vequal_mask(zeros, zero) == (1u << LANES) - 1;
}

/* The same of logits, in float: a loss is a sum of terms >= 0, so that nothing cancels.  Entries with
 * other temperatures or weights than the above, and what is not finite, are worked out in double. */
static SF_NOINLINE void binary_losses_of_logits(const sf_call *call, ptrdiff_t first, ptrdiff_t n,
                                                const float *values, const float *t, double *losses)
{
    const sf_targets *targets = call->targets;
    const int varied = call->temperature_step || targets->pos_weight_step;
    SF_ALIGNED(64) float hi[CHUNK], lo[CHUNK], floor[CHUNK], inverse[CHUNK], weight[CHUNK];
    SF_ALIGNED(64) float l[CHUNK];
    unsigned char within[CHUNK];
    for (ptrdiff_t i = 0; i < (varied ? n : 1); i++) {
        double temperature = sf_temperature_of(call, first + i), q = pos_weight_of(targets, first + i);
        within[i] = (unsigned char)is_within_float(temperature, q);
        sf_rate rate = sf_make_rate(within[i] ? temperature : 1.0);
        split_rate(rate, &hi[i], &lo[i], &floor[i]);
        inverse[i] = (float)rate.inverse;
        weight[i] = within[i] ? (float)q : 1.0f;
    }
    for (ptrdiff_t i = n; varied && i % LANES; i++) { /* lanes without an entry */
        hi[i] = lo[i] = floor[i] = inverse[i] = 0.0f;
        weight[i] = 1.0f;
    }
    const binary_options o = {hi, lo, floor, inverse, weight};
    const int finite = varied ? binary_floats(values, t, n, &o, l, 1)
                              : binary_floats(values, t, n, &o, l, 0);
    for (ptrdiff_t i = 0; i < n; i++)
        losses[i] = l[i];
    for (ptrdiff_t i = 0; (varied || !within[0] || !finite) && i < n; i++)
        if (!isfinite(l[i]) || !within[varied ? i : 0]) {
            double target = t[i];
            binary_losses_in_double(call, first + i, 1, values + i, &target, 1, &losses[i]);
        }
}

#endif

/* The first of n entries outside [0, 1] whose weight, if any is given, is not 0; else n. */
static SF_NOINLINE ptrdiff_t first_that_matters(const real *p, ptrdiff_t n, const double *sample_weight)
{
    ptrdiff_t i = first_outside(p, n);
    while (i < n && sample_weight && sample_weight[i] == 0.0)
        i += 1 + first_outside(p + i + 1, n - i - 1);
    return i;
}

/* Doubles beside float entries, which stay so: what 1 - t is need not be anything in float. */
SF_INLINE int are_wider(const sf_input *targets) { return !SF_DOUBLE && targets->kind == SF_F64; }

#define SF_WIDEN_BITS(TYPE, SAME)                                      \
    {                                                                  \
        const TYPE *p = (const TYPE *)in->data + first;                \
        TYPE all = 0;                                                  \
        for (ptrdiff_t i = 0; i < n; i++)                              \
            all |= p[i];                                               \
        if (all < 2)                                                   \
            for (ptrdiff_t i = 0; i < n; i++)                          \
                buffer[i] = (real)(SAME)p[i];                          \
        else                                                           \
            for (ptrdiff_t i = 0; i < n; i++)                          \
                buffer[i] = p[i] < 2 ? (real)(SAME)p[i] : (real)2;     \
        return buffer;                                                 \
    }

/* n integers as 0, 1 and, for all others, 2; n bools as 0 and 1. */
static SF_NOINLINE const real *widen_bits(const sf_input *in, ptrdiff_t first, ptrdiff_t n, real *buffer)
{
    const uint8_t *bools = (const uint8_t *)in->data + first;
    switch (in->kind) {
    case SF_BOOL:
        for (ptrdiff_t i = 0; i < n; i++)
            buffer[i] = bools[i] ? (real)1 : (real)0;
        return buffer;
    case SF_I8: SF_WIDEN_BITS(uint8_t, int32_t)
    case SF_I16: SF_WIDEN_BITS(uint16_t, int32_t)
    case SF_I32: SF_WIDEN_BITS(uint32_t, int32_t)
    default: SF_WIDEN_BITS(uint64_t, int32_t)
    }
}

#undef SF_WIDEN_BITS

/* n targets that are not wider than the entries. */
SF_INLINE const real *fetch_targets(const sf_input *in, ptrdiff_t first, ptrdiff_t n, real *buffer)
{
    return in->kind < SF_I8 ? fetch(in, first, n, buffer) : widen_bits(in, first, n, buffer);
}

/* n targets as doubles. */
static SF_NOINLINE void load_targets(const sf_input *in, ptrdiff_t first, ptrdiff_t n, double *t)
{
    real buffer[CHUNK];
    const real *own = are_wider(in) ? NULL : fetch_targets(in, first, n, buffer);
    if (!own)
        memcpy(t, (const double *)in->data + first, (size_t)n * sizeof *t);
    for (ptrdiff_t i = 0; own && i < n; i++)
        t[i] = own[i];
}

/* The first of n targets outside [0, 1], or n; of wider ones where own is NULL. */
static SF_NOINLINE ptrdiff_t first_bad_target(const sf_input *in, const real *own, ptrdiff_t first,
                                              ptrdiff_t n)
{
    const double *wider = (const double *)in->data + first;
    ptrdiff_t bad = 0;
    if (own)
        return interval_flags(own, n) & 1 ? first_outside(own, n) : n;
    while (bad < n && !(wider[bad] < 0 || wider[bad] > 1))
        bad++;
    return bad;
}

/* weight * (z + log(1 + exp(-z))), z = x/T. */
static double mended_loss(double weight, double x, double temperature)
{
    double z = x / temperature;
    return isfinite(z) ? weight * (z + log1p(exp(-z))) : weight * x / temperature;
}

/* Losses of which x/T or a weight makes more than the largest double, and another weight less again. */
static SF_NOINLINE void mend_overflow(const sf_call *call, ptrdiff_t first, ptrdiff_t n,
                                      const real *values, double *losses)
{
    double t[CHUNK];
    load_targets(&call->targets->probabilities, first, n, t);
    for (ptrdiff_t i = 0; i < n; i++) {
        const double x = values[i];
        double weight = x > 0 ? 1.0 - t[i] : t[i] * pos_weight_of(call->targets, first + i);
        weight *= sf_sample_weight(call->targets, first + i);
        if (isinf(losses[i]) && isfinite(x))
            losses[i] = mended_loss(weight, fabs(x), sf_temperature_of(call, first + i));
    }
}

SF_INLINE void binary_entries(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_result *result,
                              const int of_logits)
{
    const sf_targets *targets = call->targets;
    const sf_input *target = &targets->probabilities;
    for (ptrdiff_t end = first + count; first < end; first += CHUNK) {
        SF_ALIGNED(64) real x_buffer[CHUNK], t_buffer[CHUNK];
        SF_ALIGNED(64) double losses[CHUNK], t[CHUNK];
        const int in_float = !SF_DOUBLE && of_logits && !are_wider(target);
        const ptrdiff_t n = SF_MIN(CHUNK, end - first);
        SF_ASSUME(n > 0);
        const real *own = are_wider(target) ? NULL : fetch_targets(target, first, n, t_buffer);
        const double *v = targets->sample_weight ? targets->sample_weight + first : NULL;
        const real *values = fetch(&call->x, first, n, x_buffer);
        ptrdiff_t bad = first_bad_target(target, own, first, n);
        if (bad < n && result->bad_label_row < 0)
            result->bad_label_row = first + bad;
        if (!of_logits && (interval_flags(values, n) & 1) && result->bad_value_row < 0) {
            bad = first_that_matters(values, n, v);
            if (bad < n)
                result->bad_value_row = first + bad;
        }
        if (!in_float) {
            load_targets(target, first, n, t);
            binary_losses_in_double(call, first, n, values, t, of_logits, losses);
        }
#if !SF_DOUBLE
        if (in_float)
            binary_losses_of_logits(call, first, n, values, own, losses);
#endif
        for (ptrdiff_t i = 0; v && i < n; i++)
            losses[i] = weighted(v[i], losses[i]);
        sf_sum sum = sum_of_doubles(losses, n);
        if (of_logits && !isfinite(sum.sum)) {
            mend_overflow(call, first, n, values, losses);
            sum = sum_of_doubles(losses, n);
        }
        if (call->out.data) {
            real *out = (real *)call->out.data + first;
            for (ptrdiff_t i = 0; i < n; i++)
                out[i] = (real)losses[i];
        }
        sf_sum weight = {(double)n, 0.0};
        sf_sum_merge(&result->loss, sum);
        sf_sum_merge(&result->weight, v ? sum_of_doubles(v, n) : weight);
    }
}

static void binary_cross_entropy_entries(const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                         sf_result *result)
{
    binary_entries(call, first, count, result, 0);
}

static void binary_cross_entropy_with_logits_entries(const sf_call *call, ptrdiff_t first,
                                                     ptrdiff_t count, sf_result *result)
{
    binary_entries(call, first, count, result, 1);
}
