/* softmax, log_softmax, logsumexp, selected_log_probs, row statistics and bare exponentials. */

/* ---- softmax ---------------------------------------------------------------------------------------- */

/* The batch's rest is the whole sum, maxima included, and biased. */
SF_INLINE void softmax_tile_of(sf_tile *tile, const sf_call *call, ptrdiff_t row, ptrdiff_t count,
                               const int width, sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real m[2 * LANES];
    if (call->temperature_step)
        tile_temperatures(tile, call, row, count);
    load_tile(tile, call, row, count, width, m);
    exponentiate_tile(tile, call->n_classes, width, m, 1, 0, tile_next(call, row, count, tile, 1),
                      batch->rest + at, NULL);
}

FOR_BOTH_WIDTHS(softmax_tile, softmax_tile_of)

SF_INLINE void multiply_tile_of(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                             const int width, const sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real factor[2 * LANES];
    for (int i = 0; i < width * LANES; i++)
        factor[i] = (real)(EXP_UNBIAS / (batch->rest[at + i] * EXP_UNBIAS));
    const last_step step = {ONE_FACTOR, factor, factor, factor};
    store_tile(tile, call, first, count, width, &step);
}
FOR_BOTH_WIDTHS(softmax_tile_out, multiply_tile_of)

static void softmax_row(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch, ptrdiff_t at)
{
    reduce_row(room, call, row, 0, batch, at);
}

/* The room's exponentials times one factor after the other, to the output. */
SF_INLINE void store_row(sf_tile *room, const sf_call *call, ptrdiff_t row, real first, real second)
{
    ptrdiff_t n = call->n_classes, stride = call->out.class_stride;
    real *out = out_at(call, row);
    multiply_contiguous(room->x, stride == 1 ? out : room->x, n, (factors){1, first, second}, 0);
    if (stride != 1)
        scatter(out, stride, room->x, n);
}

static void softmax_row_out(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch,
                            ptrdiff_t at)
{
    store_row(room, call, row, 1, (real)(EXP_UNBIAS / batch->rest[at]));
}

static void softmax_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    reduce_blocks(r, first, count, 1, 0);
}

static void softmax_blocks_out(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    const sf_batch *batch = r->batch;
    multiply_blocks(r, first, count, softmax_factor(batch->max[r->at], batch->rest[r->at]), 1, -1, 0);
}

/* ---- log-softmax ------------------------------------------------------------------------------------- */

static void log_softmax_tile(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                             int width, sf_batch *batch, ptrdiff_t at)
{
    summarize_rows(tile, call, first, count, width, 1, batch, at);
}

SF_INLINE void log_softmax_tile_of(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                   const int width, const sf_batch *batch, ptrdiff_t at)
{
    const double *row_max = batch->max + at, *log_sum = batch->log_sum + at;
    SF_ALIGNED(64) real m[2 * LANES];
    SF_ALIGNED(64) real minus_log[2 * LANES];
    const ptrdiff_t n = call->n_classes, lanes = width * LANES;
    vec highest = vset1(0);
    for (int k = 0; k < width; k++) {
        const vec v = vload_doubles(row_max + k * LANES), zero = vset1(0);
        vstore(m + k * LANES, v);
        vstore(minus_log + k * LANES, vsub(zero, vload_doubles(log_sum + k * LANES)));
        highest = vmax(vmax(v, vsub(zero, v)), highest);
    }
    const int extreme = is_extreme(vhmax(highest));
    if (!extreme && n >= 4 * LANES && call->out.class_stride == 1 && call->x.class_stride == 1
        && is_native(&call->x)) {
        /* The same arithmetic along the rows, which are still near. */
        const real *x = (const real *)call->x.data + sf_input_offset(call, &call->x, first);
        real *out = out_at(call, first);
        for (ptrdiff_t i = 0; i < count; i++)
            log_softmax_contiguous(x + i * call->x.row_stride, out + i * call->out.row_stride, n, m[i],
                                   tile->inverse[i], (real)log_sum[i], 0);
        return;
    }
    last_step step = {LOGARITHMS, m, tile->inverse, minus_log};
    if (extreme) {
        SF_ALIGNED(64) real one[2 * LANES];
        take_last_steps(tile, n, width, &step);
        for (ptrdiff_t i = 0; i < lanes; i++)
            one[i] = 1;
        for (ptrdiff_t i = 0; i < count; i++)
            if (is_extreme(row_max[i])) {
                real buffer[SF_SHORT_ROW];
                const real *x =
                    fetch(&call->x, sf_input_offset(call, &call->x, first + i), n, buffer);
                for (ptrdiff_t c = 0; c < n; c++)
                    tile->x[c * lanes + i] = (real)(
                        sf_quotient(x[c], row_max[i], sf_temperature_of(call, first + i)) - log_sum[i]);
            }
        step = (last_step){ONE_FACTOR, one, one, one};
        store_tile(tile, call, first, count, width, &step);
        return;
    }
    store_tile(tile, call, first, count, width, &step);
}
FOR_BOTH_WIDTHS(log_softmax_tile_out, log_softmax_tile_of)

/* n entries of a row, contiguous or not. */
SF_INLINE void log_softmax_entries(const real *x, const sf_call *call, ptrdiff_t row, real *out,
                                   ptrdiff_t n, real inverse, double row_max, double log_sum)
{
    SF_ALIGNED(64) real buffer[BLOCK];
    ptrdiff_t stride = call->out.class_stride;
    if (is_extreme(row_max)) {
        double temperature = sf_temperature_of(call, row);
        for (ptrdiff_t c = 0; c < n; c++)
            out[c * stride] = (real)(sf_quotient(x[c], row_max, temperature) - log_sum);
        return;
    }
    log_softmax_contiguous(x, stride == 1 ? out : buffer, n, (real)row_max, inverse, (real)log_sum,
                           call->stream && stride == 1);
    if (stride != 1)
        scatter(out, stride, buffer, n);
}

static void log_softmax_row_out(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch,
                                ptrdiff_t at)
{
    ptrdiff_t n = call->n_classes, offset = sf_input_offset(call, &call->x, row);
    sf_temperature t = row_temperature(call, row);
    log_softmax_entries(fetch(&call->x, offset, n, room->x), call, row, out_at(call, row), n, t.inverse,
                        batch->max[at], batch->log_sum[at]);
}

static void log_softmax_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    reduce_blocks(r, first, count, 0, 1);
}

static void log_softmax_blocks_out(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    SF_ALIGNED(64) real x_buffer[BLOCK];
    const sf_call *call = r->call;
    real *out = out_at(call, r->row);
    for (ptrdiff_t b = first; b < first + count; b++)
        log_softmax_entries(block_at(call, r->row, b, x_buffer), call, r->row,
                            out + b * BLOCK * call->out.class_stride, block_length(call, b),
                            r->temperature->inverse, r->batch->max[r->at], r->batch->log_sum[r->at]);
}

/* ---- one result a row -------------------------------------------------------------------------------- */

/* A row without probabilities has its maximum for a result, or NaN. */
static void logsumexp_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                             ptrdiff_t at, sf_result *result)
{
    const double *m = batch->max + at, *rest = batch->rest + at, *log_sum = batch->log_sum + at;
    const double *temperature = call->temperature + first * call->temperature_step;
    const ptrdiff_t step = call->temperature_step, stride = call->out.row_stride;
    real *out = out_at(call, first);
    double value[SF_BATCH];
    int special = 0;
    (void)result;
    if (step == 0 && *temperature == 1.0)
        for (ptrdiff_t i = 0; i < count; i++)
            value[i] = m[i] + log_sum[i];
    else
        for (ptrdiff_t i = 0; i < count; i++)
            value[i] = m[i] / temperature[i * step] + log_sum[i];
    for (ptrdiff_t i = 0; i < count; i++)
        special |= value[i] != value[i];
    for (ptrdiff_t i = 0; special && i < count; i++)
        if (!isfinite(m[i]))
            value[i] = rest[i] == rest[i] ? m[i] : rest[i];
    for (ptrdiff_t i = 0; i < count; i++)
        out[i * stride] = (real)value[i];
}

static void maximum_and_rest_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                             ptrdiff_t at, sf_result *result)
{
    (void)result;
    memcpy(call->row_max + first, batch->max + at, (size_t)count * sizeof(double));
    memcpy(call->row_rest + first, batch->rest + at, (size_t)count * sizeof(double));
}

static void selected_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                            ptrdiff_t at, sf_result *result)
{
    const sf_targets *targets = call->targets;
    const ptrdiff_t n = call->n_indices;
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t row = first + i, offset = sf_input_offset(call, &call->x, row);
        const int64_t *indices = call->indices + row * n;
        real *out = (real *)call->out.data + row * n;
        double m = batch->max[at + i], log_sum = batch->log_sum[at + i];
        for (ptrdiff_t k = 0; k < n; k++) {
            if (targets->has_ignore_index && indices[k] == targets->ignore_index) {
                out[k] = 0;
            } else if (indices[k] < 0 || indices[k] >= call->n_classes) {
                if (result->bad_label_row < 0)
                    result->bad_label_row = row;
            } else {
                real x = fetch_one(&call->x, offset + indices[k] * call->x.class_stride);
                out[k] = (real)(sf_quotient(x, m, sf_temperature_of(call, row)) - log_sum);
            }
        }
    }
}

/* ---- exponentials with a shift and a scale given ------------------------------------------------------ */

static void exponentials_tile_out(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                  int width, sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real shift[2 * LANES];
    SF_ALIGNED(64) real unbias[2 * LANES];
    SF_ALIGNED(64) real scale[2 * LANES];
    SF_ALIGNED(64) double sum[2 * LANES];
    (void)batch;
    (void)at;
    load_tile(tile, call, first, count, width, shift);
    if (call->temperature_step)
        tile_temperatures(tile, call, first, count);
    for (int i = 0; i < 2 * LANES; i++) {
        ptrdiff_t row = first + SF_MIN(i, count - 1);
        shift[i] = (real)call->row_max[row];
        scale[i] = (real)call->row_rest[row];
        unbias[i] = (real)EXP_UNBIAS;
    }
    exponentiate_tile(tile, call->n_classes, width, shift, 1, 0, tile_next(call, first, count, tile, 1),
                      sum, NULL);
    const last_step step = {TWO_FACTORS, unbias, scale, scale};
    store_tile(tile, call, first, count, width, &step);
}

/* n <= BLOCK entries; buffer may be x. */
SF_INLINE void exponentials_of(const real *x, const sf_call *call, ptrdiff_t row, real *out, ptrdiff_t n,
                               const sf_temperature *t, real *buffer)
{
    ptrdiff_t stride = call->out.class_stride;
    next_lines none = {NULL, NULL};
    add_exponentials(wide_zero(), x, n, vset1((real)call->row_max[row]), vector_rate(t), buffer, -1,
                     none);
    const factors by = {1, (real)EXP_UNBIAS, (real)call->row_rest[row]};
    multiply_contiguous(buffer, stride == 1 ? out : buffer, n, by, 0);
    if (stride != 1)
        scatter(out, stride, buffer, n);
}

static void exponentials_row_out(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch,
                                 ptrdiff_t at)
{
    ptrdiff_t n = call->n_classes, offset = sf_input_offset(call, &call->x, row);
    sf_temperature t = row_temperature(call, row);
    (void)batch;
    (void)at;
    exponentials_of(fetch(&call->x, offset, n, room->x), call, row, out_at(call, row), n, &t, room->x);
}

static void exponentials_blocks_out(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    SF_ALIGNED(64) real x_buffer[BLOCK], e_buffer[BLOCK];
    const sf_call *call = r->call;
    for (ptrdiff_t b = first; b < first + count; b++)
        exponentials_of(block_at(call, r->row, b, x_buffer), call, r->row,
                        out_at(call, r->row) + b * BLOCK * call->out.class_stride, block_length(call, b),
                        r->temperature, e_buffer);
}
