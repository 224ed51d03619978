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

/* share: sum a_c, product: sum a_c (x_c - m).  A class with a_c = 0 adds nothing, whatever its logit. */
static SF_NOINLINE void weighted_sums(const real *a, const real *x, ptrdiff_t n, real m, double *share,
                                      double *product)
{
    wide shares = wide_zero(), products = wide_zero();
    vec vm = vset1(m);
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        int whole = i + LANES <= n;
        vec va = whole ? vload(a + i) : vload_first(a + i, n - i, 0);
        vec vx = whole ? vload(x + i) : vload_first(x + i, n - i, m);
        shares = wide_add(shares, va);
        products = wide_add(products, vzero_where_zero(va, vmul(va, vsub(vx, vm))));
    }
    double lanes[LANES];
    wide_store(lanes, shares);
    *share = sf_lanes_total(lanes, LANES);
    wide_store(lanes, products);
    *product = sf_lanes_total(lanes, LANES);
    if (*product != *product) {
        /* Compensation turns an infinite sum into NaN: tell the two apart. */
        *product = 0.0;
        for (ptrdiff_t i = 0; i < n; i++)
            if (a[i] != 0)
                *product += (double)a[i] * ((double)x[i] - (double)m);
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
    SF_ALIGNED(64) real a[BLOCK];
    weighted_target(call, row, begin, n, a);
    weighted_sums(a, x, n, (real)m, share, product);
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

/* The same of a short row, the product divided by T also where x - m overflows. */
static SF_NOINLINE void row_weighted_sums(const sf_call *call, ptrdiff_t row, double m, double *share,
                                          double *quotient)
{
    SF_ALIGNED(64) double a[SF_SHORT_ROW];
    SF_ALIGNED(64) real x_buffer[SF_SHORT_ROW];
    ptrdiff_t n = call->n_classes, offset = sf_input_offset(call, &call->x, row);
    const real *x = fetch(&call->x, offset, n, x_buffer);
    double temperature = sf_temperature_of(call, row);
    weigh_entries(call, row, 0, n, x, m, share, quotient);
    *quotient /= temperature;
    if (isinf(*quotient)) {
        sf_sum sum = {0, 0};
        weighted_target_in_double(call, row, 0, n, a);
        for (ptrdiff_t c = 0; c < n; c++)
            if (a[c] != 0)
                sf_sum_add(&sum, 2.0 * a[c] * ((0.5 * x[c] - 0.5 * m) / temperature));
        *quotient = sf_sum_value(sum);
    }
}

/* Statistics and weighted sums of blocks; the logits may be overwritten by the exponentials, which
 * wait in out with keep.  Of a hard label, its logit is the product. */
SF_INLINE void loss_blocks_of(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count, const int keep)
{
    SF_ALIGNED(64) real x_buffer[BLOCK], e_buffer[BLOCK];
    SF_ALIGNED(64) double a[BLOCK];
    const sf_call *call = r->call;
    const int hard = sf_is_hard_label(call->targets);
    const ptrdiff_t stride = call->out.class_stride;
    const ptrdiff_t y = hard ? (ptrdiff_t)sf_label(call->targets, r->row) : 0;
    real *out = keep ? out_at(call, r->row) : NULL;
    for (ptrdiff_t b = first; b < first + count; b++) {
        ptrdiff_t n = block_length(call, b), begin = b * BLOCK;
        const real *x = block_at(call, r->row, b, x_buffer);
        real *home = keep && stride == 1 ? out + begin : NULL;
        real *e = !keep ? NULL : hard && home ? home : e_buffer;
        double *max = &r->blocks.max[b], *rest = &r->blocks.rest[b];
        next_lines next = next_of(call, x, x == x_buffer ? 0 : BLOCK, e, e == e_buffer ? 0 : BLOCK);
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

/* ---- the loss ---------------------------------------------------------------------------------------- */

/* A loss that is already times its class weight. */
SF_INLINE void add_row_loss(const sf_call *call, ptrdiff_t row, double loss, sf_result *result)
{
    const sf_targets *targets = call->targets;
    double v = sf_sample_weight(targets, row);
    if (targets->row_losses)
        ((real *)targets->row_losses)[row] = (real)(loss * v);
    sf_sum_add(&result->loss, loss * v);
    sf_sum_add(&result->weight, v * sf_label_weight(targets, row));
}

SF_INLINE void leave_row_out(const sf_call *call, ptrdiff_t row)
{
    if (call->targets->row_losses)
        ((real *)call->targets->row_losses)[row] = 0;
}

/* Rows that do not count are none of finish's: it looks at the label again, to note a bad one. */
SF_INLINE int row_counts(const sf_call *call, ptrdiff_t row)
{
    sf_result ignored = sf_no_result();
    return sf_row_counts(call->targets, row, call->n_classes, &ignored);
}

static void loss_tile(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count, int width,
                      sf_batch *batch, ptrdiff_t at)
{
    summarize_tile(tile, call, first, count, width, batch, at);
    for (ptrdiff_t i = 0; !sf_is_hard_label(call->targets) && i < count; i++)
        if (row_counts(call, first + i))
            row_weighted_sums(call, first + i, batch->max[at + i], &batch->share[at + i],
                              &batch->quotient[at + i]);
}

static void loss_row(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch, ptrdiff_t at)
{
    summarize_row(room, call, row, batch, at);
    if (!sf_is_hard_label(call->targets) && row_counts(call, row))
        row_weighted_sums(call, row, batch->max[at], &batch->share[at], &batch->quotient[at]);
}

static void loss_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    loss_blocks_of(r, first, count, 0);
}

/* Whether all rows weigh the same and only their sum is asked for, and the logits lie as they are
 * computed with. */
SF_INLINE int is_unweighted_loss(const sf_call *call)
{
    const sf_targets *targets = call->targets;
    return sf_is_hard_label(targets) && !targets->class_weight && !targets->sample_weight
        && !targets->row_losses && !call->temperature_step && is_native(&call->x);
}

/* The sums of loss_finish in the same order. */
static SF_NOINLINE void unweighted_loss_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                               const double *row_max, const double *log_sum,
                                               sf_result *result)
{
    const sf_targets *targets = call->targets;
    const ptrdiff_t n = call->n_classes, stride = call->x.class_stride, step = call->x.row_stride;
    const real *x = (const real *)call->x.data + sf_input_offset(call, &call->x, first);
    const int32_t *labels32 = targets->labels32;
    const int64_t *labels64 = targets->labels64, skipped = targets->ignore_index;
    const double temperature = call->temperature[0];
    sf_sum loss = result->loss;
    ptrdiff_t counted = 0;
    for (ptrdiff_t i = 0; i < count; i++, x += step) {
        int64_t label = labels32 ? labels32[first + i] : labels64[first + i];
        if ((label == skipped || (uint64_t)label >= (uint64_t)n)
            && !sf_row_counts(targets, first + i, n, result))
            continue;
        counted++;
        sf_sum_add(&loss, log_sum[i] - sf_quotient(x[label * stride], row_max[i], temperature));
    }
    result->loss = loss;
    sf_sum_add(&result->weight, (double)counted);
}

static void loss_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                        ptrdiff_t at, sf_result *result)
{
    const sf_targets *targets = call->targets;
    const int hard = sf_is_hard_label(targets);
    const ptrdiff_t n = call->n_classes, stride = call->x.class_stride;
    const double *row_max = batch->max + at, *log_sum = batch->log_sum + at;
    if (is_unweighted_loss(call)) {
        unweighted_loss_finish(call, first, count, row_max, log_sum, result);
        return;
    }
    ptrdiff_t offset = sf_input_offset(call, &call->x, first);
    sf_result r = *result; /* sums in registers */
    for (ptrdiff_t i = 0; i < count; i++, offset += call->x.row_stride) {
        ptrdiff_t row = first + i;
        double loss;
        if (!sf_row_counts(targets, row, n, &r)) {
            leave_row_out(call, row);
            continue;
        }
        if (hard) {
            double x = (double)fetch_one(&call->x, offset + (ptrdiff_t)sf_label(targets, row) * stride);
            loss = log_sum[i] - sf_quotient(x, row_max[i], sf_temperature_of(call, row));
            loss *= sf_label_weight(targets, row);
        } else {
            loss = batch->share[at + i] * log_sum[i] - batch->quotient[at + i];
        }
        add_row_loss(call, row, loss, &r);
    }
    *result = r;
}

/* ---- the gradient: K (p_c sum a - a_c), K = gradient_scale * sample weight / T ------------------------ */

/* What finish needs of short rows beside their statistics; e: their biased exponentials, of which row i
 * begins at e + i and has entries step apart. */
static SF_NOINLINE void weigh_gradients(const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                        const real *e, ptrdiff_t step, sf_batch *batch, ptrdiff_t at)
{
    const sf_targets *targets = call->targets;
    ptrdiff_t offset = sf_input_offset(call, &call->x, first);
    for (ptrdiff_t i = 0; i < count; i++, offset += call->x.row_stride) {
        if (!sf_is_hard_label(targets)) {
            if (row_counts(call, first + i))
                row_weighted_sums(call, first + i, batch->max[at + i], &batch->share[at + i],
                                  &batch->quotient[at + i]);
            continue;
        }
        int64_t y = sf_label(targets, first + i);
        if (y < 0 || y >= call->n_classes)
            continue;
        double x = (double)fetch_one(&call->x, offset + (ptrdiff_t)y * call->x.class_stride);
        batch->share[at + i] = sf_label_weight(targets, first + i);
        batch->quotient[at + i] =
            sf_quotient(x, batch->max[at + i], sf_temperature_of(call, first + i));
        batch->at_label[at + i] = (double)e[i + (ptrdiff_t)y * step] * EXP_UNBIAS;
    }
}

static void gradient_tile(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count, int width,
                          sf_batch *batch, ptrdiff_t at)
{
    exponentiate_and_summarize_tile(tile, call, first, count, width, batch, at);
    weigh_gradients(call, first, count, tile->x, width * LANES, batch, at);
}

static void gradient_row(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch, ptrdiff_t at)
{
    reduce_row(room, call, row, 1, batch, at);
    weigh_gradients(call, row, 1, room->x, 1, batch, at);
}

static void gradient_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    loss_blocks_of(r, first, count, 1);
}

static void merge_gradient(const sf_long_row *r)
{
    merge_loss(r);
    if (sf_is_hard_label(r->call->targets)) {
        ptrdiff_t y = (ptrdiff_t)sf_label(r->call->targets, r->row);
        real e = out_at(r->call, r->row)[y * r->call->out.class_stride];
        r->batch->at_label[r->at] = (double)e * r->blocks.rest[y / BLOCK] * EXP_UNBIAS;
    }
}

static void gradient_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                            ptrdiff_t at, sf_result *result)
{
    const sf_targets *targets = call->targets;
    const int hard = sf_is_hard_label(targets);
    const int same_scale = !targets->sample_weight && !call->temperature_step;
    const int unweighted = hard && same_scale && !targets->class_weight && !targets->row_losses;
    const double one_scale = targets->gradient_scale / sf_temperature_of(call, first);
    const double *log_sum = batch->log_sum, *share = batch->share, *quotient = batch->quotient;
    sf_result r = *result; /* sums in registers */
    for (ptrdiff_t i = at; i < at + count; i++) {
        ptrdiff_t row = first + i - at;
        batch->counts[i] = (unsigned char)sf_row_counts(targets, row, call->n_classes, &r);
        batch->scale[i] = one_scale;
        if (!batch->counts[i]) {
            leave_row_out(call, row);
            batch->share[i] = batch->at_label[i] = 0.0;
            continue;
        }
        if (unweighted) {
            sf_sum_add(&r.loss, log_sum[i] - quotient[i]);
            r.weight.sum += 1.0;
            continue;
        }
        add_row_loss(call, row,
                     hard ? share[i] * (log_sum[i] - quotient[i]) : share[i] * log_sum[i] - quotient[i],
                     &r);
        if (!same_scale)
            batch->scale[i] = targets->gradient_scale * sf_sample_weight(targets, row)
                            / sf_temperature_of(call, row);
    }
    *result = r;
    /* At the label K sum a (p_y - 1), where 1 - p_y = ((1 - e_y) + rest)/(1 + rest) does not cancel;
     * NaN where the maximum is infinite. */
    for (ptrdiff_t i = at; hard && i < at + count; i++)
        batch->at_label[i] = -(batch->scale[i] * batch->share[i])
                           * ((1.0 - batch->at_label[i]) + batch->rest[i]) / (1.0 + batch->rest[i])
                           + (batch->max[i] - batch->max[i]);
}

/* Of a soft target, entries [begin, begin + n): e become their gradients. */
SF_INLINE void soft_gradient(const sf_call *call, ptrdiff_t row, ptrdiff_t begin, ptrdiff_t n, real *e,
                             ptrdiff_t step, real block_factor, const sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real a[BLOCK];
    const real probability = softmax_factor(batch->max[at], batch->rest[at]);
    const double scale = batch->scale[at], share = batch->share[at];
    if (!is_fit(share)) {
        SF_ALIGNED(64) double wide_a[BLOCK];
        weighted_target_in_double(call, row, begin, n, wide_a);
        for (ptrdiff_t c = 0; c < n; c++)
            e[c * step] = (real)(scale * ((double)e[c * step] * block_factor * probability * share
                                          - wide_a[c]));
        return;
    }
    weighted_target(call, row, begin, n, a);
    for (ptrdiff_t c = 0; c < n; c++) {
        real p = e[c * step] * block_factor;
        p *= probability;
        e[c * step] = (real)(scale * ((double)p * share - a[c]));
    }
}

SF_INLINE void gradient_tile_of(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                const int width, const sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real probability[2 * LANES];
    SF_ALIGNED(64) real factor[2 * LANES];
    const ptrdiff_t n = call->n_classes, lanes = width * LANES, stride = call->out.class_stride;
    const int hard = sf_is_hard_label(call->targets);
    for (ptrdiff_t i = 0; i < lanes; i++) {
        probability[i] = factor[i] = 1;
        if (i >= count)
            continue;
        if (!batch->counts[at + i]) {
            for (ptrdiff_t c = 0; c < n; c++)
                tile->x[c * lanes + i] = 0;
        } else if (hard) {
            probability[i] = softmax_factor(batch->max[at + i], batch->rest[at + i]);
            factor[i] = (real)(batch->scale[at + i] * batch->share[at + i]);
        } else {
            soft_gradient(call, first + i, 0, n, tile->x + i, lanes, 1, batch, at + i);
        }
    }
    store_tile(tile, call, first, count, width, probability, factor);
    real *out = out_at(call, first);
    for (ptrdiff_t i = 0; hard && i < count; i++, out += call->out.row_stride)
        if (batch->counts[at + i])
            out[sf_label(call->targets, first + i) * stride] = (real)batch->at_label[at + i];
}
FOR_BOTH_WIDTHS(gradient_tile_out, gradient_tile_of)

static void gradient_row_out(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch,
                             ptrdiff_t at)
{
    const int hard = sf_is_hard_label(call->targets);
    real probability = 1, factor = 1;
    if (!batch->counts[at]) {
        memset(room->x, 0, (size_t)(call->n_classes * REAL_BYTES));
    } else if (hard) {
        probability = softmax_factor(batch->max[at], batch->rest[at]);
        factor = (real)(batch->scale[at] * batch->share[at]);
    } else {
        soft_gradient(call, row, 0, call->n_classes, room->x, 1, 1, batch, at);
    }
    store_row(room, call, row, probability, factor);
    if (hard && batch->counts[at])
        out_at(call, row)[sf_label(call->targets, row) * call->out.class_stride] =
            (real)batch->at_label[at];
}

static void gradient_blocks_out(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    const sf_call *call = r->call;
    const sf_batch *batch = r->batch;
    ptrdiff_t at = r->at, stride = call->out.class_stride;
    real *out = out_at(call, r->row);
    if (sf_is_hard_label(call->targets)) {
        ptrdiff_t y = (ptrdiff_t)sf_label(call->targets, r->row), b = y / BLOCK;
        multiply_blocks(r, first, count, softmax_factor(batch->max[at], batch->rest[at]),
                     (real)(batch->scale[at] * batch->share[at]));
        if (first <= b && b < first + count)
            out[y * stride] = (real)batch->at_label[at];
        return;
    }
    for (ptrdiff_t b = first; b < first + count; b++)
        soft_gradient(call, r->row, b * BLOCK, block_length(call, b), out + b * BLOCK * stride, stride,
                      (real)r->blocks.rest[b], batch, at);
}
