/* Cross-entropy of probabilities: -sum_c a_c log p_c.  In the batch and the blocks, of a row: max is
 * not 0 if an entry is outside [0, 1], rest is NaN if one is NaN (which is not outside); for a hard
 * label quotient is its probability, else the loss.  The loss of a row with such an entry is NaN. */

/* Flags of contiguous entries: bit 0 if one is outside [0, 1], where v (v - 1) > 0, bit 1 if one is NaN. */
SF_INLINE int interval_flags(const real *p, ptrdiff_t n)
{
    const vec zero = vset1(0), one = vset1(1);
    vec high[2] = {zero, zero}, nan[2] = {zero, zero};
    for (ptrdiff_t i = 0; i < n; i += 2 * LANES)
        for (int k = 0; k < 2; k++) {
            const ptrdiff_t c = i + k * LANES;
            if (c >= n)
                break;
            vec v = c + LANES <= n ? vload(p + c) : vload_first(p + c, n - c, 0);
            v = vmul(v, vsub(v, one));
            high[k] = vmax(v, high[k]); /* drops NaN, which the other keeps */
            nan[k] = vadd(nan[k], v);
        }
    nan[0] = vadd(nan[0], nan[1]);
    return (vhmax(vmax(high[0], high[1])) > 0)
         | (vequal_mask(nan[0], nan[0]) != (1u << LANES) - 1) << 1;
}

/* An infinity, which is outside, may make NaN too: whoever sees both flags heeds the first. */
SF_INLINE void put_flags(int flags, double *outside, double *nan)
{
    *outside = flags & 1;
    *nan = flags & 2 ? NAN : 0.0;
}

static SF_NOINLINE ptrdiff_t first_outside(const real *p, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    while (i < n && !(p[i] < 0 || p[i] > 1))
        i++;
    return i;
}

/* Of entries [begin, begin + n) of a row with a soft target, step apart in x. */
static SF_NOINLINE double soft_cross_entropy(const sf_call *call, ptrdiff_t row, ptrdiff_t begin,
                                             ptrdiff_t n, const real *x, ptrdiff_t step)
{
    enum { chunk = 256 };
    SF_ALIGNED(64) double a[chunk], p[chunk], logs[chunk];
    sf_sum sum = {0, 0};
    for (ptrdiff_t start = 0; start < n; start += chunk) {
        ptrdiff_t length = SF_MIN(chunk, n - start);
        SF_ASSUME(length > 0);
        for (ptrdiff_t c = 0; c < length; c++)
            p[c] = x[(start + c) * step];
        minus_logs(p, logs, length);
        weighted_target_in_double(call, row, begin + start, length, a);
        for (ptrdiff_t c = 0; c < length; c++)
            logs[c] = a[c] == 0 ? 0.0 : a[c] * logs[c];
        sf_sum_merge(&sum, sum_of_doubles(logs, length));
    }
    return sf_sum_value(sum);
}

/* What finish needs of a row that counts, but for the flags; x: its entries, step apart. */
SF_INLINE void weigh_probabilities(const sf_call *call, ptrdiff_t row, const real *x, ptrdiff_t step,
                                   sf_batch *batch, ptrdiff_t at)
{
    if (sf_is_hard_label(call->targets)) {
        batch->quotient[at] = x[(ptrdiff_t)sf_label(call->targets, row) * step];
        return;
    }
    batch->quotient[at] = soft_cross_entropy(call, row, 0, call->n_classes, x, step);
}

/* The same of contiguous rows and hard labels. */
static SF_NOINLINE void take_probabilities(const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                           sf_batch *batch, ptrdiff_t at)
{
    const real *x = (const real *)call->x.data + sf_input_offset(call, &call->x, first);
    const ptrdiff_t n = call->n_classes, step = call->x.row_stride, *y = batch->y + at;
    const int flags = step == n ? interval_flags(x, count * n) : 1;
    for (ptrdiff_t i = 0; i < count; i++)
        batch->max[at + i] = batch->rest[at + i] = 0.0;
    for (ptrdiff_t i = 0; flags && i < count; i++)
        put_flags(interval_flags(x + i * step, n), &batch->max[at + i], &batch->rest[at + i]);
    for (ptrdiff_t i = 0; i < count; i++)
        batch->quotient[at + i] = y[i] < 0 ? 1.0 : (double)x[i * step + y[i]];
}

static void cross_entropy_tile(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                               int width, sf_batch *batch, ptrdiff_t at)
{
    const ptrdiff_t n = call->n_classes, lanes = width * LANES;
    read_labels(call, first, count, batch, at);
    if (sf_is_hard_label(call->targets) && is_native(&call->x) && call->x.class_stride == 1) {
        take_probabilities(call, first, count, batch, at);
        return;
    }
    SF_ALIGNED(64) real excess[2 * LANES];
    SF_ALIGNED(64) real nan[2 * LANES];
    load_tile(tile, call, first, count, width, excess);
    for (int k = 0; k < width; k++) {
        vec over = vset1(0), sum = over, one = vset1(1), zero = over;
        for (ptrdiff_t c = 0; c < n; c++) {
            vec v = vload(tile->x + c * lanes + k * LANES);
            over = vmax(vmax(vsub(zero, v), vsub(v, one)), over);
            sum = vadd(sum, vsub(v, v));
        }
        vstore(excess + k * LANES, over);
        vstore(nan + k * LANES, sum);
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        put_flags((excess[i] > 0) | (nan[i] != 0) << 1, &batch->max[at + i], &batch->rest[at + i]);
        batch->quotient[at + i] = 1.0;
        if (batch->y[at + i] >= 0)
            weigh_probabilities(call, first + i, tile->x + i, lanes, batch, at + i);
    }
}

static void cross_entropy_row(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch,
                              ptrdiff_t at)
{
    ptrdiff_t n = call->n_classes, offset = sf_input_offset(call, &call->x, row);
    const real *x = fetch(&call->x, offset, n, room->x);
    read_labels(call, row, 1, batch, at);
    put_flags(interval_flags(x, n), &batch->max[at], &batch->rest[at]);
    batch->quotient[at] = 1.0;
    if (batch->y[at] >= 0)
        weigh_probabilities(call, row, x, 1, batch, at);
}

static void cross_entropy_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    SF_ALIGNED(64) real x_buffer[BLOCK];
    for (ptrdiff_t b = first; b < first + count; b++) {
        ptrdiff_t n = block_length(r->call, b);
        const real *x = block_at(r->call, r->row, b, x_buffer);
        put_flags(interval_flags(x, n), &r->blocks.max[b], &r->blocks.rest[b]);
        if (!sf_is_hard_label(r->call->targets))
            r->blocks.product[b] = soft_cross_entropy(r->call, r->row, b * BLOCK, n, x, 1);
    }
}

static void merge_cross_entropy(const sf_long_row *r)
{
    const sf_call *call = r->call;
    sf_sum sum = {0, 0};
    double outside = 0.0, nan = 0.0;
    for (ptrdiff_t b = 0; b < r->n_blocks; b++) {
        outside += r->blocks.max[b];
        nan += r->blocks.rest[b];
        if (!sf_is_hard_label(call->targets))
            sf_sum_add(&sum, r->blocks.product[b]);
    }
    r->batch->max[r->at] = outside;
    r->batch->rest[r->at] = nan;
    r->batch->quotient[r->at] = sf_sum_value(sum);
    if (sf_is_hard_label(call->targets)) {
        ptrdiff_t y = (ptrdiff_t)sf_label(call->targets, r->row);
        r->batch->quotient[r->at] = (double)fetch_one(
            &call->x, sf_input_offset(call, &call->x, r->row) + y * call->x.class_stride);
    }
}

/* -log(p) of rows that are short: in float, as log1p((1 - p)/p), where that does not overflow. */
static SF_NOINLINE void minus_short_logs(const double *p, double *out, ptrdiff_t n)
{
#if SF_DOUBLE
    minus_logs(p, out, n);
#else
    SF_ALIGNED(64) float q[SF_BATCH];
    int tiny = 0;
    SF_ASSUME(n > 0);
    for (ptrdiff_t i = 0; i < n; i++) {
        float f = (float)p[i] + 0.0f; /* -0 becomes 0 */
        q[i] = (1.0f - f) / f;
    }
    for (ptrdiff_t i = 0; i < n; i++)
        tiny |= p[i] < 0x1p-100;
    log1p_array(q, q, n);
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = q[i];
    for (ptrdiff_t i = 0; tiny && i < n; i++)
        if (p[i] < 0x1p-100)
            minus_logs(p + i, out + i, 1);
#endif
}

static void cross_entropy_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                                 ptrdiff_t at, sf_result *result)
{
    double *loss = batch->log_sum + at, *quotient = batch->quotient + at;
    SF_ASSUME(count > 0);
    if (sf_is_hard_label(call->targets)) {
        if (call->n_classes <= SF_SHORT_ROW)
            minus_short_logs(quotient, loss, count);
        else
            minus_logs(quotient, loss, count);
    } else {
        memcpy(loss, quotient, (size_t)count * sizeof *loss);
        for (ptrdiff_t i = 0; i < count; i++)
            batch->share[at + i] = 1.0;
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        quotient[i] = 0.0;
        loss[i] += batch->rest[at + i]; /* NaN, or 0 */
    }
    int outside = 0;
    for (ptrdiff_t i = 0; i < count; i++)
        outside |= batch->max[at + i] != 0.0;
    for (ptrdiff_t i = 0; outside && i < count; i++) {
        if (batch->max[at + i] == 0.0)
            continue;
        loss[i] = NAN;
        if (result->bad_value_row < 0 && batch->y[at + i] >= 0)
            result->bad_value_row = first + i;
    }
    loss_finish(call, first, count, batch, at, result);
}
