/* Losses of logits and their gradients, from the rows' statistics.  A row loss is
 * sum_c a_c (log s - (x_c - m)/T), with a the weighted target: 1 at a hard label, in general
 * a_c = ((1 - smoothing) t_c + smoothing/C) weight_c. */

/* a of classes [begin, begin + n). */
#define WEIGHTED_TARGET(name, type)                                                                 \
    static SF_NOINLINE void name(const sf_call *call, ptrdiff_t row, ptrdiff_t begin, ptrdiff_t n,  \
                                 type *a)                                                           \
    {                                                                                               \
        const sf_targets *targets = call->targets;                                                  \
        const double uniform = targets->label_smoothing / (double)call->n_classes;                  \
        const double kept = 1.0 - targets->label_smoothing;                                         \
        const double *weight = targets->class_weight ? targets->class_weight + begin : NULL;        \
        if (sf_has_labels(targets)) {                                                               \
            ptrdiff_t y = (ptrdiff_t)sf_label(targets, row) - begin;                                \
            for (ptrdiff_t c = 0; c < n; c++)                                                       \
                a[c] = (type)(weight ? uniform * weight[c] : uniform);                              \
            if (y >= 0 && y < n)                                                                    \
                a[y] = (type)((kept + uniform) * (weight ? weight[y] : 1.0));                       \
            return;                                                                                 \
        }                                                                                           \
        SF_ALIGNED(64) real buffer[BLOCK];                                                          \
        const sf_input *in = &targets->probabilities;                                               \
        const real *t = fetch(in, sf_input_offset(call, in, row) + begin * in->class_stride, n,     \
                              buffer);                                                              \
        for (ptrdiff_t c = 0; c < n; c++) {                                                         \
            double target = targets->label_smoothing == 0.0 ? t[c] : kept * t[c] + uniform;         \
            a[c] = (type)(weight ? target * weight[c] : target);                                    \
        }                                                                                           \
    }
WEIGHTED_TARGET(weighted_target, real)
WEIGHTED_TARGET(weighted_target_in_double, double)
#undef WEIGHTED_TARGET

/* The same where it lies, or in buffer. */
SF_INLINE const real *weighted_target_of(const sf_call *call, ptrdiff_t row, ptrdiff_t begin, ptrdiff_t n,
                                         real *buffer)
{
    const sf_targets *targets = call->targets;
    const sf_input *in = &targets->probabilities;
    if (!sf_has_labels(targets) && targets->label_smoothing == 0.0 && !targets->class_weight)
        return fetch(in, sf_input_offset(call, in, row) + begin * in->class_stride, n, buffer);
    weighted_target(call, row, begin, n, buffer);
    return buffer;
}

/* share: sum a_c, product: sum a_c (x_c - m).  A class with a_c = 0 adds nothing, whatever its logit. */
static SF_NOINLINE void weighted_sums(const real *a, const real *x, ptrdiff_t n, real m, double *share,
                                      double *product)
{
    wide shares = wide_zero(), products = wide_zero();
    const vec vm = vset1(m), zero = vset1(0);
    vec a4[4], p4[4];
    for (ptrdiff_t i = 0; i < n; i += 4 * LANES) {
        const int whole = i + 4 * LANES <= n;
        for (int k = 0; k < 4; k++) {
            const ptrdiff_t c = i + k * LANES, some = n - c;
            a4[k] = p4[k] = zero;
            if (!whole && some <= 0)
                continue;
            vec x4 = whole || some >= LANES ? vload(x + c) : vload_first(x + c, some, m);
            a4[k] = whole || some >= LANES ? vload(a + c) : vload_first(a + c, some, 0);
            p4[k] = vzero_where_zero(a4[k], vmul(a4[k], vsub(x4, vm)));
        }
        shares = wide_add(shares, vadd(vadd(a4[0], a4[1]), vadd(a4[2], a4[3])));
        products = wide_add(products, vadd(vadd(p4[0], p4[1]), vadd(p4[2], p4[3])));
    }
    *share = wide_total(shares);
    *product = wide_total(products);
    if (*product != *product) {
        /* Compensation turns an infinite sum into NaN: tell the two apart. */
        *product = 0.0;
        for (ptrdiff_t i = 0; i < n; i++)
            if (a[i] != 0)
                *product += (double)a[i] * ((double)x[i] - (double)m);
    }
}

/* The same of a smoothed label y (from begin on, where it may not be) without class weights: their uniform
 * part is a constant. */
static SF_NOINLINE void smoothed_label_sums(const sf_call *call, const real *x, ptrdiff_t n, ptrdiff_t y,
                                            double m, double *share, double *product)
{
    const double smoothing = call->targets->label_smoothing, kept = 1.0 - smoothing;
    const double uniform = smoothing / (double)call->n_classes;
    wide differences = wide_zero();
    const vec vm = vset1((real)m);
    vec d[4];
    for (ptrdiff_t i = 0; i < n; i += 4 * LANES) {
        const int whole = i + 4 * LANES <= n;
        for (int k = 0; k < 4; k++) {
            const ptrdiff_t c = i + k * LANES, some = n - c;
            d[k] = vset1(0);
            if (whole || some >= LANES)
                d[k] = vsub(vload(x + c), vm);
            else if (some > 0)
                d[k] = vsub(vload_first(x + c, some, (real)m), vm);
        }
        differences = wide_add(differences, vadd(vadd(d[0], d[1]), vadd(d[2], d[3])));
    }
    double sum = wide_total(differences);
    if (sum != sum) { /* as in weighted_sums */
        sum = 0.0;
        for (ptrdiff_t i = 0; i < n; i++)
            sum += (double)x[i] - m;
    }
    *share = uniform * (double)n;
    *product = uniform * sum;
    if (y >= 0 && y < n && kept != 0.0) {
        *share += kept;
        *product += kept * ((double)x[y] - m);
    }
}

/* Whether sums of a in this type keep its digits; they neither overflow nor vanish then. */
SF_INLINE int is_fit(double share)
{
    return SF_DOUBLE || (fabs(share) >= 0x1p-64 && fabs(share) <= 0x1p64);
}

/* The two sums of classes [begin, begin + n <= BLOCK), x their logits; in double where float is unfit. */
static SF_NOINLINE void weigh_entries(const sf_call *call, ptrdiff_t row, ptrdiff_t begin, ptrdiff_t n,
                                      const real *x, double m, double *share, double *product)
{
    SF_ALIGNED(64) real buffer[BLOCK];
    if (sf_has_labels(call->targets) && !call->targets->class_weight) {
        smoothed_label_sums(call, x, n, (ptrdiff_t)sf_label(call->targets, row) - begin, m, share, product);
        return;
    }
    weighted_sums(weighted_target_of(call, row, begin, n, buffer), x, n, (real)m, share, product);
    if (is_fit(*share))
        return;
    SF_ALIGNED(64) double wide_a[BLOCK];
    sf_sum shares = {0, 0}, products = {0, 0};
    weighted_target_in_double(call, row, begin, n, wide_a);
    for (ptrdiff_t c = 0; c < n; c++) {
        sf_sum_add(&shares, wide_a[c]);
        if (wide_a[c] != 0)
            sf_sum_add(&products, wide_a[c] * ((double)x[c] - m));
    }
    *share = sf_sum_value(shares);
    *product = sf_sum_value(products);
}

/* Statistics and weighted sums of blocks.  With keep the exponentials go where they wait, which may be over
 * the logits.  Of a hard label, its logit is the product. */
SF_INLINE void loss_blocks_of(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count, const int keep)
{
    SF_ALIGNED(64) real x_buffer[BLOCK], e_buffer[BLOCK];
    SF_ALIGNED(64) double a[BLOCK];
    const sf_call *call = r->call;
    const int hard = sf_is_hard_label(call->targets);
    const ptrdiff_t stride = call->out.class_stride;
    const ptrdiff_t y = hard ? (ptrdiff_t)sf_label(call->targets, r->row) : 0;
    real *e_row = keep ? (real *)r->exponentials : NULL;
    real *out = keep && !e_row ? out_at(call, r->row) : NULL;
    for (ptrdiff_t b = first; b < first + count; b++) {
        ptrdiff_t n = block_length(call, b), begin = b * BLOCK;
        const real *x = block_at(call, r->row, b, x_buffer);
        real *home = e_row ? e_row + begin : keep && stride == 1 ? out + begin : NULL;
        real *e = !keep ? NULL : home && (hard || e_row) ? home : e_buffer;
        double *max = &r->blocks.max[b], *rest = &r->blocks.rest[b];
        next_lines next = next_of(call, x, x == x_buffer ? 0 : BLOCK, e,
                                  e_row || e == e_buffer ? 0 : BLOCK);
        if (hard && b == y / BLOCK)
            r->blocks.product[b] = x[y - begin];
        if (keep)
            summarize_and_exponentiate_block(x, n, r->temperature, e, next, max, rest);
        else
            summarize_block(x, n, r->temperature, next, max, rest);
        if (!hard) {
            double m = isfinite(*max) ? *max : 0.0, *product = &r->blocks.product[b];
            weigh_entries(call, r->row, begin, n, x, m, &r->blocks.share[b], product);
            r->blocks.scaled[b] = 0x1p-128 * *product;
            if (isinf(*product)) {
                sf_sum sum = {0, 0};
                weighted_target_in_double(call, r->row, begin, n, a);
                for (ptrdiff_t c = 0; c < n; c++)
                    if (a[c] != 0)
                        sf_sum_add(&sum, 0x1p-127 * (0.5 * x[c] - 0.5 * m) * a[c]);
                r->blocks.scaled[b] = sf_sum_value(sum);
            }
        }
        if (keep && !home)
            scatter(out + begin * stride, stride, e, n);
        else if (keep && e != home)
            memcpy(home, e, (size_t)(n * REAL_BYTES));
    }
}

/* Statistics, share and quotient of the row from those of its blocks. */
static void merge_loss(const sf_long_row *r)
{
    const double temperature = sf_temperature_of(r->call, r->row);
    double m, *share = &r->batch->share[r->at], *quotient = &r->batch->quotient[r->at];
    merge_statistics(r);
    m = r->batch->max[r->at];
    if (sf_is_hard_label(r->call->targets)) {
        ptrdiff_t y = (ptrdiff_t)sf_label(r->call->targets, r->row);
        *share = sf_label_weight(r->call->targets, r->row);
        *quotient = sf_quotient(r->blocks.product[y / BLOCK], m, temperature);
        return;
    }
    if (r->n_blocks == 1) {
        *share = r->blocks.share[0];
        *quotient = r->blocks.product[0] / temperature;
        if (isinf(*quotient))
            *quotient = r->blocks.scaled[0] / temperature * 0x1p128;
        return;
    }
    sf_sum shares = {0, 0}, products = {0, 0}, scaled = {0, 0};
    for (ptrdiff_t b = 0; b < r->n_blocks; b++) {
        double from = isfinite(r->blocks.max[b]) ? r->blocks.max[b] : 0.0, a = r->blocks.share[b];
        sf_sum_add(&shares, a);
        sf_sum_add(&products, r->blocks.product[b]);
        sf_sum_add(&scaled, r->blocks.scaled[b]);
        if (a != 0.0) {
            sf_sum_add(&products, a * (from - m));
            sf_sum_add(&scaled, 0x1p-127 * (0.5 * from - 0.5 * m) * a);
        }
    }
    *share = sf_sum_value(shares);
    *quotient = sf_sum_value(products) / temperature;
    if (isinf(*quotient))
        *quotient = sf_sum_value(scaled) / temperature * 0x1p128;
}

/* Share and quotient of a short row in double, also where x - m overflows. */
static SF_NOINLINE void weigh_in_double(const sf_call *call, ptrdiff_t row, double m, double *share,
                                        double *quotient)
{
    SF_ALIGNED(64) double a[SF_SHORT_ROW];
    SF_ALIGNED(64) real x_buffer[SF_SHORT_ROW];
    ptrdiff_t n = call->n_classes, offset = sf_input_offset(call, &call->x, row);
    const real *x = fetch(&call->x, offset, n, x_buffer);
    const double temperature = sf_temperature_of(call, row);
    sf_sum shares = {0, 0}, products = {0, 0}, halves = {0, 0};
    weighted_target_in_double(call, row, 0, n, a);
    for (ptrdiff_t c = 0; c < n; c++) {
        sf_sum_add(&shares, a[c]);
        if (a[c] == 0)
            continue;
        sf_sum_add(&products, a[c] * ((double)x[c] - m));
        sf_sum_add(&halves, 2.0 * a[c] * ((0.5 * x[c] - 0.5 * m) / temperature));
    }
    *share = sf_sum_value(shares);
    *quotient = sf_sum_value(products) / temperature;
    if (isinf(*quotient))
        *quotient = sf_sum_value(halves);
}

/* ---- the numbers of short rows ------------------------------------------------------------------------ */

/* Rows that do not count are none of finish's: it looks at the label again, to note a bad one. */
SF_INLINE int row_counts(const sf_call *call, ptrdiff_t row)
{
    sf_result ignored = sf_no_result();
    return sf_row_counts(call->targets, row, call->n_classes, &ignored);
}

/* The rows' labels and the weights of those. */
static SF_NOINLINE void read_labels(const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                    sf_batch *batch, ptrdiff_t at)
{
    const sf_targets *targets = call->targets;
    const int has_labels = sf_has_labels(targets);
    const uint64_t n = (uint64_t)call->n_classes;
    /* No label is negative. */
    const int64_t skipped = targets->has_ignore_index ? targets->ignore_index : -1;
    ptrdiff_t *y = batch->y + at;
    if (!has_labels && !targets->sample_weight) {
        for (ptrdiff_t i = 0; i < count; i++) {
            y[i] = 0;
            batch->share[at + i] = 1.0;
        }
        return;
    }
    if (!has_labels || targets->sample_weight || targets->class_weight) {
        for (ptrdiff_t i = 0; i < count; i++) {
            y[i] = !row_counts(call, first + i) ? -1 : has_labels ? (ptrdiff_t)sf_label(targets, first + i) : 0;
            batch->share[at + i] = y[i] < 0 ? 0.0 : sf_label_weight(targets, first + i);
        }
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++)
        batch->share[at + i] = 1.0;
    if (targets->labels32)
        for (ptrdiff_t i = 0; i < count; i++) {
            int64_t label = targets->labels32[first + i];
            y[i] = (ptrdiff_t)((uint64_t)label < n && label != skipped ? label : -1);
        }
    else
        for (ptrdiff_t i = 0; i < count; i++) {
            int64_t label = targets->labels64[first + i];
            y[i] = (ptrdiff_t)((uint64_t)label < n && label != skipped ? label : -1);
        }
}

/* quotient: (x_y - m)/T, x the labels' logits. */
static SF_NOINLINE void take_quotients(const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                       const double *x, sf_batch *batch, ptrdiff_t at)
{
    const double *m = batch->max + at, *temperature = call->temperature + first * call->temperature_step;
    double *quotient = batch->quotient + at;
    for (ptrdiff_t i = 0; i < count; i++)
        quotient[i] = x[i] - m[i];
    if (call->temperature_step)
        for (ptrdiff_t i = 0; i < count; i++)
            quotient[i] /= temperature[i];
    else if (*temperature != 1.0)
        for (ptrdiff_t i = 0; i < count; i++)
            quotient[i] /= *temperature;
    int infinite = 0;
    for (ptrdiff_t i = 0; SF_DOUBLE && i < count; i++)
        infinite |= quotient[i] < -1.7976931348623157e308;
    for (ptrdiff_t i = 0; infinite && i < count; i++)
        if (isinf(quotient[i]))
            quotient[i] = sf_quotient(x[i], m[i], sf_temperature_of(call, first + i));
}

/* What a walk needs of class weights and smoothing. */
static SF_NOINLINE void mix_targets(sf_tile *tile, const sf_call *call)
{
    const sf_targets *targets = call->targets;
    const double *weight = targets->class_weight;
    const double uniform = targets->label_smoothing / (double)call->n_classes;
    const double kept = 1.0 - targets->label_smoothing;
    tile->is_mixed = weight || targets->label_smoothing != 0.0;
    tile->uniform_share = weight ? 0.0 : targets->label_smoothing;
    for (ptrdiff_t c = 0; tile->is_mixed && c < call->n_classes; c++) {
        double w = weight ? weight[c] : 1.0;
        tile->kept[c] = (real)(kept * w);
        tile->uniform[c] = (real)(uniform * w);
        tile->uniform_share += weight ? uniform * w : 0.0;
    }
}

/* Share and quotient of soft targets.  Of labels, product is that of the other classes' shares, and x the
 * labels' logits. */
static SF_NOINLINE void settle_weights(const sf_tile *tile, const sf_call *call, ptrdiff_t first,
                                       ptrdiff_t count, const double *x, double *product,
                                       sf_batch *batch, ptrdiff_t at)
{
    const double *m = batch->max + at, *temperature = call->temperature + first * call->temperature_step;
    const double kept = 1.0 - call->targets->label_smoothing;
    double *share = batch->share + at, *quotient = batch->quotient + at;
    if (x)
        for (ptrdiff_t i = 0; i < count; i++) {
            double a = kept * share[i], d = x[i] - m[i];
            product[i] += a == 0.0 ? 0.0 : a * d;
            share[i] = tile->uniform_share + a;
        }
    int64_t odd[SF_BATCH], any = 0;
    if (call->temperature_step)
        for (ptrdiff_t i = 0; i < count; i++)
            quotient[i] = product[i] / temperature[i];
    else if (*temperature != 1.0)
        for (ptrdiff_t i = 0; i < count; i++)
            quotient[i] = product[i] / *temperature;
    else
        memcpy(quotient, product, (size_t)count * sizeof *product);
    for (ptrdiff_t i = 0; i < count; i++)
        odd[i] = quotient[i] - quotient[i] == 0.0 ? 0 : 1;
    for (ptrdiff_t i = 0; !SF_DOUBLE && i < count; i++)
        odd[i] |= fabs(share[i]) >= 0x1p-64 ? 0 : 1;
    for (ptrdiff_t i = 0; !SF_DOUBLE && i < count; i++)
        odd[i] |= fabs(share[i]) <= 0x1p64 ? 0 : 1;
    for (ptrdiff_t i = 0; i < count; i++)
        any |= odd[i];
    for (ptrdiff_t i = 0; any && i < count; i++)
        if ((!is_fit(share[i]) || !(fabs(quotient[i]) <= 1.7976931348623157e308)) && batch->y[at + i] >= 0)
            weigh_in_double(call, first + i, m[i], &share[i], &quotient[i]);
}

/* The labels' entries of n for each lane; of rows without one any. */
SF_INLINE void label_entries(const real *entries, ptrdiff_t lanes, const ptrdiff_t *y, ptrdiff_t count,
                             double *x)
{
    for (ptrdiff_t i = 0; i < count; i++)
        x[i] = entries[SF_MAX(y[i], 0) * lanes + i];
}

static SF_NOINLINE void load_tile_targets(sf_tile *tile, const sf_call *call, ptrdiff_t first,
                                          ptrdiff_t count, int width)
{
    SF_ALIGNED(64) real spare[SF_SHORT_ROW * LANES];
    SF_ALIGNED(64) real ignored[2 * LANES];
    load_lanes(tile->a, &call->targets->probabilities, call, first, count, width, spare, ignored);
}

/* The sums of soft targets, and of labels the sum of the uniform part; the weighted probabilities stay
 * in a. */
SF_INLINE void weigh_tile(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                          const int width, const real *m, double *share, double *product)
{
    const int has_labels = sf_has_labels(call->targets);
    const ptrdiff_t n = call->n_classes, lanes = width * LANES;
    if (!has_labels)
        load_tile_targets(tile, call, first, count, width);
    for (int k = 0; k < width; k++) {
        const vec maximum = vload(m + k * LANES);
        wide shares = wide_zero(), products = wide_zero();
        for (ptrdiff_t c = 0; c < n; c += 4) {
            vec a[4], p[4];
            for (int j = 0; j < 4; j++)
                a[j] = p[j] = vset1(0);
            for (int j = 0; j < 4 && c + j < n; j++) {
                const ptrdiff_t at = (c + j) * lanes + k * LANES;
                if (has_labels) {
                    a[j] = vset1(tile->uniform[c + j]);
                } else {
                    a[j] = vload(tile->a + at);
                    if (tile->is_mixed) {
                        a[j] = vfma(vset1(tile->kept[c + j]), a[j], vset1(tile->uniform[c + j]));
                        vstore(tile->a + at, a[j]);
                    }
                }
                p[j] = vzero_where_zero(a[j], vmul(a[j], vsub(vload(tile->x + at), maximum)));
            }
            if (!has_labels)
                shares = wide_add(shares, vadd(vadd(a[0], a[1]), vadd(a[2], a[3])));
            products = wide_add(products, vadd(vadd(p[0], p[1]), vadd(p[2], p[3])));
        }
        wide_store(product + k * LANES, products);
        if (!has_labels)
            wide_store(share + k * LANES, shares);
    }
}

/* The same of one row. */
SF_INLINE void weigh_row(sf_tile *room, const sf_call *call, ptrdiff_t row, const real *x, real m,
                         double *share, double *product)
{
    SF_ALIGNED(64) real p[SF_SHORT_ROW + LANES + 3];
    const int has_labels = sf_has_labels(call->targets);
    const ptrdiff_t n = call->n_classes;
    const sf_input *in = &call->targets->probabilities;
    const vec maximum = vset1(m);
    const real *t = has_labels ? room->uniform
                               : fetch(in, sf_input_offset(call, in, row), n, room->a);
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        const ptrdiff_t some = SF_MIN(LANES, n - i);
        vec a = some == LANES ? vload(t + i) : vload_first(t + i, some, 0);
        vec v = some == LANES ? vload(x + i) : vload_first(x + i, some, m);
        if (!has_labels && room->is_mixed) {
            vec kept = some == LANES ? vload(room->kept + i) : vload_first(room->kept + i, some, 0);
            vec uniform =
                some == LANES ? vload(room->uniform + i) : vload_first(room->uniform + i, some, 0);
            a = vfma(kept, a, uniform);
        }
        vstore(p + i, vzero_where_zero(a, vmul(a, vsub(v, maximum))));
        if (!has_labels)
            vstore(room->a + i, a);
    }
    *product = sum_as_lane(p, n);
    if (!has_labels)
        *share = sum_as_lane(room->a, n);
}

/* Statistics, labels, share and quotient of rows; keep: the biased exponentials, and the label's. */
SF_INLINE void weigh_and_reduce_tile(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                     const int width, const int keep, sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real m[2 * LANES];
    SF_ALIGNED(64) real ties[2 * LANES];
    SF_ALIGNED(64) double sum[2 * LANES];
    double x[2 * LANES], product[2 * LANES];
    const int hard = sf_is_hard_label(call->targets), has_labels = sf_has_labels(call->targets);
    if (call->temperature_step)
        tile_temperatures(tile, call, first, count);
    load_tile(tile, call, first, count, width, m);
    read_labels(call, first, count, batch, at);
    if (has_labels)
        label_entries(tile->x, width * LANES, batch->y + at, count, x);
    if (!hard)
        weigh_tile(tile, call, first, count, width, m, batch->share + at, product);
    exponentiate_tile(tile, call->n_classes, width, m, keep, 1, tile_next(call, first, count, tile, keep),
                      sum, ties);
    tile_stats(call, first, count, width, m, sum, ties, batch->max + at, batch->rest + at);
    if (hard)
        take_quotients(call, first, count, x, batch, at);
    else
        settle_weights(tile, call, first, count, has_labels ? x : NULL, product, batch, at);
    if (keep && has_labels)
        label_entries(tile->x, width * LANES, batch->y + at, count, batch->at_label + at);
}

/* The same of one row, whose exponentials stay in the room. */
static SF_NOINLINE void weigh_and_reduce_row(sf_tile *room, const sf_call *call, ptrdiff_t row,
                                             sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real x_buffer[SF_SHORT_ROW];
    const sf_temperature t = row_temperature(call, row);
    const ptrdiff_t n = call->n_classes;
    const int hard = sf_is_hard_label(call->targets), has_labels = sf_has_labels(call->targets);
    const real *entries = fetch(&call->x, sf_input_offset(call, &call->x, row), n, x_buffer);
    double x, product;
    read_labels(call, row, 1, batch, at);
    exponentiate_row(entries, n, &t, room->x, 1, &batch->max[at], &batch->rest[at]);
    if (has_labels) {
        label_entries(entries, 1, batch->y + at, 1, &x);
        label_entries(room->x, 1, batch->y + at, 1, batch->at_label + at);
    }
    if (hard) {
        take_quotients(call, row, 1, &x, batch, at);
        return;
    }
    weigh_row(room, call, row, entries, (real)batch->max[at], &batch->share[at], &product);
    settle_weights(room, call, row, 1, has_labels ? &x : NULL, &product, batch, at);
}

/* ---- the loss ---------------------------------------------------------------------------------------- */

SF_INLINE void loss_tile_of(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                            const int width, sf_batch *batch, ptrdiff_t at)
{
    weigh_and_reduce_tile(tile, call, first, count, width, 0, batch, at);
}
FOR_BOTH_WIDTHS(loss_tile, loss_tile_of)

static void loss_row(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch, ptrdiff_t at)
{
    weigh_and_reduce_row(room, call, row, batch, at);
}

static void loss_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    loss_blocks_of(r, first, count, 0);
}

/* Adds the losses share (log_sum - quotient) of labels, share log_sum - quotient of others. */
static void loss_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                        ptrdiff_t at, sf_result *result)
{
    const sf_targets *targets = call->targets;
    const int hard = sf_is_hard_label(targets);
    const double *v = targets->sample_weight ? targets->sample_weight + first : NULL;
    const int weighted = v || (targets->class_weight && sf_has_labels(targets));
    const double *log_sum = batch->log_sum + at, *share = batch->share + at;
    const double *quotient = batch->quotient + at;
    const ptrdiff_t *y = batch->y + at;
    /* What the first lanes and the last have none for is 0. */
    const ptrdiff_t before = batch->sums ? first % SF_SUM_LANES : 0;
    double losses[SF_BATCH + 2 * SF_SUM_LANES], weights[SF_BATCH + 2 * SF_SUM_LANES];
    double *loss = losses + before, *weight = weights + before;
    ptrdiff_t left_out = 0;
    if (hard)
        for (ptrdiff_t i = 0; i < count; i++)
            loss[i] = log_sum[i] - quotient[i];
    else
        for (ptrdiff_t i = 0; i < count; i++)
            loss[i] = share[i] * log_sum[i] - quotient[i];
    if (hard && targets->class_weight)
        for (ptrdiff_t i = 0; i < count; i++)
            loss[i] *= share[i];
    if (v)
        for (ptrdiff_t i = 0; i < count; i++)
            loss[i] *= v[i];
    for (ptrdiff_t i = 0; i < count; i++)
        left_out += y[i] < 0;
    for (ptrdiff_t i = 0; left_out && i < count; i++)
        if (y[i] < 0) {
            loss[i] = 0.0;
            sf_row_counts(targets, first + i, call->n_classes, result); /* notes a bad label */
        }
    if (targets->row_losses) {
        real *out = (real *)targets->row_losses + first;
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = (real)loss[i];
    }
    for (ptrdiff_t i = 0; weighted && i < count; i++)
        weight[i] = y[i] < 0 ? 0.0 : (v ? v[i] : 1.0) * sf_label_weight(targets, first + i);
    if (!weighted)
        sf_sum_add(&result->weight, (double)(count - left_out));
    if (!batch->sums) {
        for (ptrdiff_t i = 0; i < count; i++)
            sf_sum_add(&result->loss, loss[i]);
        for (ptrdiff_t i = 0; weighted && i < count; i++)
            sf_sum_add(&result->weight, weight[i]);
        return;
    }
    const ptrdiff_t end = before + count;
    const ptrdiff_t rounded = (end + SF_SUM_LANES - 1) / SF_SUM_LANES * SF_SUM_LANES;
    for (ptrdiff_t i = 0; i < before; i++)
        losses[i] = weights[i] = 0.0;
    for (ptrdiff_t i = end; i < rounded; i++)
        losses[i] = weights[i] = 0.0;
    add_to_lanes(&batch->sums->loss, losses, rounded);
    if (weighted)
        add_to_lanes(&batch->sums->weight, weights, rounded);
}

/* ---- the gradient: K (p_c sum a - a_c), K = gradient_scale * sample weight / T ------------------------ */

SF_INLINE void gradient_tile_of(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                const int width, sf_batch *batch, ptrdiff_t at)
{
    weigh_and_reduce_tile(tile, call, first, count, width, 1, batch, at);
}
FOR_BOTH_WIDTHS(gradient_tile, gradient_tile_of)

static void gradient_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    loss_blocks_of(r, first, count, 1);
}

static void merge_gradient(const sf_long_row *r)
{
    merge_loss(r);
    if (sf_is_hard_label(r->call->targets)) {
        ptrdiff_t y = (ptrdiff_t)sf_label(r->call->targets, r->row);
        const real *e_row = (const real *)r->exponentials;
        const real e = e_row ? e_row[y] : out_at(r->call, r->row)[y * r->call->out.class_stride];
        r->batch->at_label[r->at] = (double)e * r->blocks.rest[y / BLOCK];
    }
}

static void gradient_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                            ptrdiff_t at, sf_result *result)
{
    const sf_targets *targets = call->targets;
    const double *v = targets->sample_weight ? targets->sample_weight + first : NULL;
    const double *temperature = call->temperature + first * call->temperature_step;
    const double one_scale = targets->gradient_scale / *temperature;
    const double *share = batch->share + at, *rest = batch->rest + at, *row_max = batch->max + at;
    double *scale = batch->scale + at, *e = batch->at_label + at, *inverse = batch->inverse + at;
    loss_finish(call, first, count, batch, at, result);
    for (ptrdiff_t i = 0; i < count; i++) {
        scale[i] = one_scale;
        inverse[i] = 1.0 / (1.0 + rest[i]) + (row_max[i] - row_max[i]);
    }
    for (ptrdiff_t i = 0; (v || call->temperature_step) && i < count; i++)
        scale[i] = targets->gradient_scale * (v ? v[i] : 1.0) / temperature[i * call->temperature_step];
    if (sf_is_hard_label(targets)) {
        /* At the label K sum a (p_y - 1), where 1 - p_y = ((1 - e_y) + rest)/(1 + rest) does not
         * cancel; NaN where the maximum is infinite. */
        for (ptrdiff_t i = 0; i < count; i++)
            e[i] = -(scale[i] * share[i]) * ((1.0 - e[i] * EXP_UNBIAS) + rest[i]) * inverse[i];
    } else if (sf_has_labels(targets) && batch->sums) {
        const double kept = 1.0 - targets->label_smoothing;
        const double uniform = targets->label_smoothing / (double)call->n_classes;
        const double a = kept + uniform; /* of the label; what rows have that do not count is not used */
        for (ptrdiff_t i = 0; i < count; i++)
            e[i] *= EXP_UNBIAS * inverse[i] * share[i];
        for (ptrdiff_t i = 0; !targets->class_weight && i < count; i++)
            e[i] = scale[i] * (e[i] - a);
        for (ptrdiff_t i = 0; targets->class_weight && i < count; i++)
            if (batch->y[at + i] >= 0)
                e[i] = scale[i] * (e[i] - a * sf_label_weight(targets, first + i));
    }
}

/* out = -scale (a - e block_factor probability share), with -scale and -share given. */
SF_INLINE void subtract_targets(const real *e, const real *a, real *out, ptrdiff_t n, real block_factor,
                                real probability, real minus_share, real minus_scale, int stream)
{
    const vec factor = vset1(block_factor), p = vset1(probability);
    const vec share = vset1(minus_share), scale = vset1(minus_scale);
    const ptrdiff_t head = stream ? before_a_vector(out, n) : 0;
    for (ptrdiff_t i = 0, some; i < n; i += some) {
        some = i < head ? head : SF_MIN(LANES, n - i);
        vec v = some == LANES ? vload(e + i) : vload_first(e + i, some, 0);
        vec t = some == LANES ? vload(a + i) : vload_first(a + i, some, 0);
        v = vmul(vfma(vmul(vmul(v, factor), p), share, t), scale);
        if (some < LANES)
            vstore_first(out + i, v, some);
        else if (stream)
            vstream(out + i, v);
        else
            vstore(out + i, v);
    }
}

/* Of a soft target whose sum is beyond this type, entries [begin, begin + n). */
static SF_NOINLINE void gradient_in_double(const sf_call *call, ptrdiff_t row, ptrdiff_t begin,
                                           ptrdiff_t n, const real *e, double factor, real *to,
                                           ptrdiff_t step, const sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) double a[BLOCK];
    const double scale = batch->scale[at], share = batch->share[at];
    weighted_target_in_double(call, row, begin, n, a);
    for (ptrdiff_t c = 0; c < n; c++)
        to[c * step] = (real)(scale * ((double)e[c] * factor * share - a[c]));
}

/* Of a soft target, entries [begin, begin + n) of a long row. */
SF_INLINE void soft_gradient(const sf_call *call, ptrdiff_t row, ptrdiff_t begin, ptrdiff_t n, const real *e,
                             real *out, real block_factor, const sf_batch *batch, ptrdiff_t at, int stream)
{
    SF_ALIGNED(64) real buffer[BLOCK];
    const real probability = softmax_factor(batch->max[at], batch->rest[at]);
    const double scale = batch->scale[at], share = batch->share[at];
    if (!is_fit(share)) {
        gradient_in_double(call, row, begin, n, e, (double)block_factor * probability, out, 1, batch,
                           at);
        return;
    }
    subtract_targets(e, weighted_target_of(call, row, begin, n, buffer), out, n, block_factor, probability,
                     (real)-share, (real)-scale, stream);
}

/* The gradient of a short row whose sum of targets is beyond this type, from its logits. */
static SF_NOINLINE void unfit_gradient(const sf_call *call, ptrdiff_t row, real *to, ptrdiff_t step,
                                       const sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real e[SF_SHORT_ROW + LANES + 3];
    real x_buffer[SF_SHORT_ROW];
    const sf_temperature t = row_temperature(call, row);
    const ptrdiff_t n = call->n_classes;
    const real *x = fetch(&call->x, sf_input_offset(call, &call->x, row), n, x_buffer);
    double m, rest;
    exponentiate_row(x, n, &t, e, 0, &m, &rest);
    gradient_in_double(call, row, 0, n, e, softmax_factor(batch->max[at], batch->rest[at]), to, step,
                       batch, at);
}

/* What turns biased exponentials of rows into probabilities. */
SF_INLINE void softmax_factors(const sf_batch *batch, ptrdiff_t at, ptrdiff_t count, real *factor)
{
    for (ptrdiff_t i = 0; i < count; i++)
        factor[i] = (real)(EXP_UNBIAS * batch->inverse[at + i]);
}

/* The gradients at the labels of rows that count. */
SF_INLINE void put_at_labels(const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                             const sf_batch *batch, ptrdiff_t at)
{
    real *out = out_at(call, first);
    for (ptrdiff_t i = 0; i < count; i++, out += call->out.row_stride)
        if (batch->y[at + i] >= 0)
            out[batch->y[at + i] * call->out.class_stride] = (real)batch->at_label[at + i];
}

SF_INLINE void gradient_tile_out_of(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                    const int width, const sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real probability[2 * LANES];
    SF_ALIGNED(64) real factor[2 * LANES]; /* of soft targets minus the scale */
    SF_ALIGNED(64) real minus_share[2 * LANES];
    const ptrdiff_t n = call->n_classes, lanes = width * LANES;
    const int hard = sf_is_hard_label(call->targets), has_labels = sf_has_labels(call->targets);
    const double *scale = batch->scale + at, *share = batch->share + at;
    const ptrdiff_t *y = batch->y + at;
    ptrdiff_t odd = 0;
    for (ptrdiff_t i = count; i < lanes; i++)
        probability[i] = factor[i] = minus_share[i] = 1;
    softmax_factors(batch, at, count, probability);
    for (ptrdiff_t i = 0; i < count; i++)
        odd |= y[i]; /* < 0 if one is */
    if (hard) {
        for (ptrdiff_t i = 0; i < count; i++)
            factor[i] = (real)(scale[i] * share[i]);
    } else {
        for (ptrdiff_t i = 0; i < count; i++) {
            factor[i] = (real)-scale[i];
            minus_share[i] = (real)-share[i];
        }
        for (ptrdiff_t i = 0; !SF_DOUBLE && i < count; i++)
            odd |= is_fit(share[i]) ? 0 : -1;
    }
    last_step step = {hard ? TWO_FACTORS : has_labels ? DIFFERENCES : DIFFERENCES_FROM_A, probability,
                      hard ? factor : minus_share, factor};
    if (odd < 0) {
        take_last_steps(tile, n, width, &step);
        for (ptrdiff_t i = 0; i < count; i++) {
            if (y[i] < 0)
                for (ptrdiff_t c = 0; c < n; c++)
                    tile->x[c * lanes + i] = 0;
            else if (!hard && !is_fit(share[i]))
                unfit_gradient(call, first + i, tile->x + i, lanes, batch, at + i);
        }
        for (ptrdiff_t i = 0; i < lanes; i++)
            factor[i] = 1;
        step = (last_step){ONE_FACTOR, factor, factor, factor};
        store_tile(tile, call, first, count, width, &step);
    } else {
        store_tile(tile, call, first, count, width, &step);
    }
    if (has_labels)
        put_at_labels(call, first, count, batch, at);
}
FOR_BOTH_WIDTHS(gradient_tile_out, gradient_tile_out_of)

static void gradient_row_out(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch,
                             ptrdiff_t at)
{
    const int hard = sf_is_hard_label(call->targets), has_labels = sf_has_labels(call->targets);
    const ptrdiff_t n = call->n_classes;
    real probability = 1, factor = 1;
    if (batch->y[at] < 0) {
        memset(room->x, 0, (size_t)(n * REAL_BYTES));
    } else if (hard) {
        softmax_factors(batch, at, 1, &probability);
        factor = (real)(batch->scale[at] * batch->share[at]);
    } else if (!is_fit(batch->share[at])) {
        unfit_gradient(call, row, room->x, 1, batch, at);
    } else {
        softmax_factors(batch, at, 1, &probability);
        subtract_targets(room->x, has_labels ? room->uniform : room->a, room->x, n, 1, probability,
                         (real)-batch->share[at], (real)-batch->scale[at], 0);
        probability = 1;
    }
    store_row(room, call, row, probability, factor);
    if (has_labels)
        put_at_labels(call, row, 1, batch, at);
}

static void gradient_blocks_out(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    SF_ALIGNED(64) real buffer[BLOCK];
    const sf_call *call = r->call;
    const sf_batch *batch = r->batch;
    ptrdiff_t at = r->at, stride = call->out.class_stride;
    real *out = out_at(call, r->row), *e_row = (real *)r->exponentials;
    if (sf_is_hard_label(call->targets)) {
        multiply_blocks(r, first, count, softmax_factor(batch->max[at], batch->rest[at]),
                        (real)(batch->scale[at] * batch->share[at]), batch->y[at],
                        (real)batch->at_label[at]);
        return;
    }
    for (ptrdiff_t b = first; b < first + count; b++) {
        const ptrdiff_t n = block_length(call, b);
        real *home = out + b * BLOCK * stride, *to = stride == 1 ? home : buffer;
        for (ptrdiff_t c = 0; stride != 1 && c < n; c++)
            buffer[c] = home[c * stride];
        soft_gradient(call, r->row, b * BLOCK, n, e_row ? e_row + b * BLOCK : to, to,
                      (real)r->blocks.rest[b], batch, at, e_row != NULL);
        if (stride != 1)
            scatter(home, stride, buffer, n);
    }
}
