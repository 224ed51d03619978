/* Row statistics: with s = (x - m)/T and e = exp(s), the sums of e, e s, e s s and e e (the last without
 * one maximum), the first index of the maximum, and how many entries come before the label's.  The maximum
 * and the sum of e are those of the losses, to the last bit. */

/* What of these the columns of a call ask for beside the sums of e, e s and e s s. */
typedef struct { int squares, ranks, top; } wanted;

SF_INLINE wanted wanted_of(const sf_columns *columns)
{
    const wanted all = {columns->brier != NULL, columns->rank && (columns->brier || columns->prediction),
                        columns->prediction != NULL};
    return all;
}

/* ---- contiguous entries ---------------------------------------------------------------------------- */

/* Sums of biased e t and e t t, t = log2(e) as exp leaves it, and of e e: a few groups of vectors plainly,
 * then as running sums. */
typedef struct { vec first, second, squares; int groups; wide firsts, seconds, squared; } moments;

enum { PLAIN_GROUPS = 8 };
#define FIRST_UNIT (EXP_UNBIAS * 0x1.62e42fefa39efp-1) /* log(2) */
#define SECOND_UNIT (FIRST_UNIT * 0x1.62e42fefa39efp-1)

SF_INLINE moments no_moments(void)
{
    moments none = {vset1(0), vset1(0), vset1(0), 0, wide_zero(), wide_zero(), wide_zero()};
    return none;
}

SF_INLINE void flush_moments(moments *total)
{
    total->firsts = wide_add(total->firsts, total->first);
    total->seconds = wide_add(total->seconds, total->second);
    total->squared = wide_add(total->squared, total->squares);
    total->first = total->second = total->squares = vset1(0);
    total->groups = 0;
}

/* What count <= 4 vectors of t, and of biased exponentials, add; those of -inf are 0. */
SF_INLINE void add_moments(moments *total, const vec *t, const vec *e, const int count, const int squares)
{
    const vec unbias = vset1((real)EXP_UNBIAS);
    for (int k = 0; k < count; k++) {
        vec et = vmul(e[k], t[k]);
        total->first = vadd(total->first, et);
        total->second = vfma(et, t[k], total->second);
    }
    for (int k = 0; squares && k < count; k++) {
        vec p = vmul(e[k], unbias);
        total->squares = vfma(p, p, total->squares);
    }
    if (++total->groups == PLAIN_GROUPS)
        flush_moments(total);
}

/* The label of a row, counted from where some of its entries begin; its logit and the least number
 * above; and how many entries come before it: those up to it that are no less, and those after it
 * that are greater. */
typedef struct { ptrdiff_t y; real x_y, above; ptrdiff_t before; } label_place;

/* How many entries equal value. */
SF_INLINE ptrdiff_t count_equal(const real *x, ptrdiff_t n, real value)
{
    const vec v = vset1(value);
    ptrdiff_t count = 0;
    for (; n >= LANES; n -= LANES, x += LANES)
        count += sf_count_bits(vequal_mask(vload(x), v));
    return n > 0 ? count + sf_count_bits(vequal_mask(vload_first(x, n, (real)NAN), v)) : count;
}

/* The sum of add_exponentials, in its order, and the moments, to which entry apart adds nothing; and the
 * entries before the label.  d is not below the floor of exp, so that t is finite. */
SF_INLINE wide add_statistics(wide w, const real *x, ptrdiff_t n, real m, const sf_temperature *temperature,
                              ptrdiff_t apart, next_lines next, wanted want, moments *total,
                              label_place *label)
{
    enum { GROUP = 4 * LANES };
    const vec vm = vset1(m), limits[2] = {vset1(label->above), vset1(label->x_y)};
    const vrate c = vector_rate(temperature);
    moments sums = *total;
    vec t[4], e[4], before = vset1(0);
    all_but_one kept;
    set_all_but_one(&kept);
    ptrdiff_t i = 0;
    for (; i + GROUP <= n; i += GROUP) {
        fetch_next(next, i, GROUP);
        for (int first = 0; first < 4; first += EXP_INTERLEAVE) {
            for (int k = first; k < first + EXP_INTERLEAVE; k++)
                e[k] = vmax(c.floor, vsub(vload(x + i + k * LANES), vm));
            exp_and_log2(e + first, t + first, EXP_INTERLEAVE, c);
        }
        if (apart >= i && apart < i + 4 * LANES)
            for (int k = 0; k < 4; k++)
                e[k] = without_lane(e[k], apart - i - k * LANES, &kept);
        w = wide_add(w, vadd(vadd(e[0], e[1]), vadd(e[2], e[3])));
        add_moments(&sums, t, e, 4, want.squares);
        const vec limit = limits[i + GROUP <= label->y];
        for (int k = 0; want.ranks && k < 4; k++)
            before = vadd_one_where_ge(before, vload(x + i + k * LANES), limit);
    }
    const ptrdiff_t grouped = i;
    vec rest = vset1(0);
    for (; i < n; i += LANES) {
        const int whole = i + LANES <= n;
        fetch_next(next, i, LANES);
        e[0] = whole ? vload(x + i) : vload_first(x + i, n - i, (real)-INFINITY);
        before = vadd_one_where_ge(before, e[0], limits[whole && i + LANES <= label->y]);
        e[0] = vmax(c.floor, vsub(e[0], vm));
        exp_and_log2(e, t, 1, c);
        e[0] = without_lane(e[0], apart - i, &kept);
        rest = vadd(rest, e[0]);
        add_moments(&sums, t, e, 1, want.squares);
    }
    flush_moments(&sums);
    *total = sums;
    if (!want.ranks)
        return wide_add(w, rest);
    /* Of the entries up to the label those from here on have been compared with what is above it. */
    ptrdiff_t from = label->y < grouped ? label->y / GROUP * GROUP
                   : SF_MIN(label->y / LANES * LANES, n / LANES * LANES);
    label->before += (ptrdiff_t)vtotal(before, vset1(0)); /* exact */
    if (label->y > from)
        label->before += count_equal(x + from, SF_MIN(label->y, n) - from, label->x_y);
    return wide_add(w, rest);
}

/* How many entries are limit or more. */
static SF_NOINLINE ptrdiff_t count_from(const real *x, ptrdiff_t n, real limit)
{
    const vec least = vset1(limit);
    ptrdiff_t count = 0, i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec v = vload(x + i);
        count += sf_count_bits(vequal_mask(vmax(v, least), v));
    }
    for (; i < n; i++)
        count += x[i] >= limit;
    return count;
}

/* The least number above a; NaN for NaN, and inf for inf. */
SF_INLINE real next_above(real a)
{
#if SF_DOUBLE
    const int64_t infinity = 0x7ff0000000000000, minus_infinity = INT64_MIN + infinity;
    int64_t bits;
#else
    const int32_t infinity = 0x7f800000, minus_infinity = INT32_MIN + infinity;
    int32_t bits;
#endif
    a += 0; /* -0 becomes 0 */
    memcpy(&bits, &a, sizeof bits);
    bits += (bits >= 0) & (bits < infinity);
    bits -= (bits < 0) & (bits <= minus_infinity);
    memcpy(&a, &bits, sizeof bits);
    return a;
}

/* Entries [begin, begin + n) of a row that come before its label y, whose logit is x_y. */
SF_INLINE ptrdiff_t count_before(const real *x, ptrdiff_t begin, ptrdiff_t n, ptrdiff_t y, real x_y)
{
    ptrdiff_t ahead = SF_MAX(0, SF_MIN(n, y - begin));
    return count_from(x, ahead, x_y) + count_from(x + ahead, n - ahead, next_above(x_y));
}

/* ---- the steps --------------------------------------------------------------------------------------- */

/* The row's label, or -1 for one that does not count or where there are none. */
SF_INLINE ptrdiff_t label_or_none(const sf_call *call, ptrdiff_t row)
{
    const sf_targets *t = call->targets;
    if (!t)
        return -1;
    const int64_t y = sf_label(t, row);
    if ((t->has_ignore_index && y == t->ignore_index) || (uint64_t)y >= (uint64_t)call->n_classes)
        return -1;
    return (t->sample_weight || t->class_weight) && !row_counts(call, row) ? -1 : (ptrdiff_t)y;
}

/* What the rows in the lanes of a vector have, and what their entries add up to. */
typedef struct {
    vec maximum, label, x_y, above; /* the label counted from the entry that is next */
    vrate c;
    vec tied, top, before;
    wide w;
    moments sums;
} tile_rows;

/* The sums of a vector of rows, in another unit. */
SF_INLINE void store_times(double *p, wide w, double unit)
{
    real sum[LANES], lost[LANES];
    vstore(sum, w.sum);
    vstore(lost, w.lost);
    for (int i = 0; i < LANES; i++)
        p[i] = ((double)sum[i] - (double)lost[i]) * unit;
}

/* After the n entries come such that add nothing, to a multiple of four. */
SF_INLINE void fill_fours(real *home, ptrdiff_t lanes, ptrdiff_t n)
{
    for (ptrdiff_t c = n; c % 4; c++)
        vstore(home + c * lanes, vset1((real)-INFINITY));
}

/* Four entries, of those that remain. */
SF_INLINE void add_tile_entries(tile_rows *r, const real *home, ptrdiff_t lanes, ptrdiff_t remaining,
                                wanted want)
{
    const vec zero = vset1(0);
    vec d[4], e[4], t[4];
    for (int j = 0; j < 4; j++) {
        d[j] = vsub(vload(home + j * lanes), r->maximum);
        e[j] = vmax(r->c.floor, d[j]);
    }
    for (int j = 0; j < 4; j += EXP_INTERLEAVE)
        exp_and_log2(e + j, t + j, EXP_INTERLEAVE, r->c);
    for (int j = 0; j < 4; j++) {
        r->tied = vadd_one_where_zero(r->tied, d[j]);
        e[j] = vzero_where_zero(d[j], e[j]);
    }
    for (int j = 0; want.top && j < 4; j++)
        r->top = vmax(r->top, vselect_ge(d[j], zero, vset1((real)(remaining - j)), zero));
    for (int j = 0; want.ranks && j < 4; j++) {
        vec limit = vselect_ge(vset1((real)j), r->label, r->above, r->x_y);
        r->before = vadd_one_where_ge(r->before, vload(home + j * lanes), limit);
    }
    r->label = vsub(r->label, vset1(4));
    r->w = wide_add(r->w, vadd(vadd(e[0], e[1]), vadd(e[2], e[3])));
    add_moments(&r->sums, t, e, 4, want.squares);
}

SF_INLINE void statistics_tile_of(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                  const int width, sf_batch *batch, ptrdiff_t at)
{
    const ptrdiff_t n = call->n_classes, lanes = width * LANES;
    SF_ASSUME(count > 0 && count <= lanes);
    const wanted want = wanted_of(call->columns);
    SF_ALIGNED(64) real m[2 * LANES], ties[2 * LANES], top[2 * LANES], before[2 * LANES];
    SF_ALIGNED(64) real label[2 * LANES], x_y[2 * LANES], above[2 * LANES];
    SF_ALIGNED(64) double sum[2 * LANES];
    ptrdiff_t *y = batch->y + at;
    load_tile(tile, call, first, count, width, m);
    if (call->temperature_step)
        tile_temperatures(tile, call, first, count);
    if (call->targets)
        read_labels(call, first, count, batch, at);
    for (ptrdiff_t i = call->targets ? count : 0; i < lanes; i++)
        y[i] = -1;
    for (ptrdiff_t i = 0; i < lanes; i++) {
        label[i] = (real)(int32_t)y[i];
        x_y[i] = tile->x[(y[i] < 0 ? 0 : y[i]) * lanes + i];
    }
    for (ptrdiff_t i = 0; i < lanes; i++) {
        x_y[i] = label[i] < 0 ? (real)INFINITY : x_y[i];
        above[i] = next_above(x_y[i]);
    }
    next_lines next = tile_next(call, first, count, tile, 0);
    for (int k = 0; k < width; k++) {
        const real *home = tile->x + k * LANES;
        const vec zero = vset1(0);
        tile_rows r = {vload(m + k * LANES), vload(label + k * LANES),
                       vload(x_y + k * LANES), vload(above + k * LANES),
                       {vload(tile->hi + k * LANES), vload(tile->lo + k * LANES),
                        vload(tile->floor + k * LANES)},
                       zero, zero, zero, wide_zero(), no_moments()};
        fill_fours(tile->x + k * LANES, lanes, n);
        for (ptrdiff_t c = 0; c < n; c += 4) {
            for (int j = 0; next.in && j < 4; j++)
                SF_PREFETCH(next.in + ((c + j) * lanes + k * LANES) * REAL_BYTES);
            add_tile_entries(&r, home + c * lanes, lanes, n - c, want);
        }
        flush_moments(&r.sums);
        vstore(ties + k * LANES, r.tied);
        vstore(top + k * LANES, r.top);
        vstore(before + k * LANES, r.before);
        wide_store(sum + k * LANES, r.w);
        store_times(batch->first_moment + at + k * LANES, r.sums.firsts, FIRST_UNIT);
        store_times(batch->second_moment + at + k * LANES, r.sums.seconds, SECOND_UNIT);
        wide_store(batch->squares + at + k * LANES, r.sums.squared);
    }
    tile_stats(call, first, count, width, m, sum, ties, batch->max + at, batch->rest + at);
    for (ptrdiff_t i = 0; i < lanes; i++) {
        batch->squares[at + i] += (double)ties[i] - 1.0;
        batch->above[at + i] = (double)before[i];
    }
    for (ptrdiff_t i = 0; want.top && i < lanes; i++)
        batch->top[at + i] = (double)n - (double)top[i];
    if (!SF_DOUBLE && !call->temperature_step && call->temperature[0] == 1.0) {
        for (ptrdiff_t i = 0; i < lanes; i++)
            batch->quotient[at + i] = (double)x_y[i] - (double)m[i];
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++)
        batch->quotient[at + i] = sf_quotient(x_y[i], m[i], sf_temperature_of(call, first + i));
}
FOR_BOTH_WIDTHS(statistics_tile, statistics_tile_of)

static void statistics_row(sf_tile *room, const sf_call *call, ptrdiff_t row, sf_batch *batch,
                           ptrdiff_t at)
{
    sf_batch own; /* a tile fills places for all its lanes */
    tile_temperatures(room, call, row, 1);
    statistics_tile(room, call, row, 1, 1, &own, 0);
    batch->max[at] = own.max[0];
    batch->rest[at] = own.rest[0];
    batch->quotient[at] = own.quotient[0];
    batch->y[at] = own.y[0];
    batch->first_moment[at] = own.first_moment[0];
    batch->second_moment[at] = own.second_moment[0];
    batch->squares[at] = own.squares[0];
    batch->top[at] = own.top[0];
    batch->above[at] = own.above[0];
}

static void statistics_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    SF_ALIGNED(64) real x_buffer[BLOCK];
    const sf_call *call = r->call;
    const wanted want = wanted_of(call->columns);
    const ptrdiff_t y = label_or_none(call, r->row);
    real x_y = (real)INFINITY;
    if (y >= 0 && r->n_blocks > 1)
        x_y = fetch_one(&call->x, sf_input_offset(call, &call->x, r->row) + y * call->x.class_stride);
    for (ptrdiff_t b = first; b < first + count; b++) {
        const ptrdiff_t n = block_length(call, b), begin = b * BLOCK;
        const real *x = block_at(call, r->row, b, x_buffer);
        next_lines next = next_of(call, x, x == x_buffer ? 0 : BLOCK, NULL, 0);
        ptrdiff_t k;
        const real m = maximum_and_place(x, n, &k);
        moments sums = no_moments();
        if (y >= begin && y < begin + n)
            r->batch->quotient[r->at] = x_y = x[y - begin];
        label_place label = {y < 0 ? -1 : y - begin, x_y, next_above(x_y), 0};
        r->blocks.max[b] = m;
        if (!isfinite(m)) {
            r->blocks.rest[b] = has_nan(x, n) ? NAN : m > 0 ? 0.0 : -1.0;
            k = 0;
            if (want.ranks && !(m < x_y))
                label.before = count_before(x, begin, n, y, x_y);
        } else {
            const wanted here = {want.squares, want.ranks && m > x_y, want.top};
            wide w = add_statistics(wide_zero(), x, n, m, r->temperature, k, next, here, &sums, &label);
            r->blocks.rest[b] = total(w);
            if (want.ranks && m == x_y && begin + k < y) /* none is greater */
                label.before = count_equal(x + k, SF_MIN(n, y - begin) - k, m);
        }
        r->blocks.share[b] = wide_total(sums.firsts) * FIRST_UNIT;
        r->blocks.product[b] = wide_total(sums.seconds) * SECOND_UNIT;
        r->blocks.scaled[b] = wide_total(sums.squared);
        r->blocks.top[b] = (double)(begin + k);
        r->blocks.above[b] = (double)label.before;
    }
}

/* With the block's maximum d above the row's (d <= 0, in units of T) and f = exp(d), a block's sums of
 * e, e s and e s s become f S, f (A + d S) and f (V + 2 d A + d d S): no term cancels another. */
static void merge_moments(const sf_long_row *r)
{
    const sf_call *call = r->call;
    sf_batch *batch = r->batch;
    const ptrdiff_t at = r->at, y = label_or_none(call, r->row);
    const double temperature = sf_temperature_of(call, r->row);
    double above = 0.0, m = -INFINITY;
    ptrdiff_t winner = 0;
    for (ptrdiff_t b = 0; b < r->n_blocks; b++)
        if (r->blocks.max[b] > m) {
            m = r->blocks.max[b];
            winner = b;
        }
    batch->y[at] = y;
    batch->top[at] = r->blocks.top[winner];
    batch->quotient[at] = y < 0 ? 0.0 : sf_quotient(batch->quotient[at], m, temperature);
    if (r->n_blocks == 1) {
        merge_statistics(r);
        batch->first_moment[at] = r->blocks.share[0];
        batch->second_moment[at] = r->blocks.product[0];
        batch->squares[at] = r->blocks.scaled[0];
        batch->above[at] = r->blocks.above[0];
        return;
    }
    /* The blocks' sums of e, before their rests become factors. */
    sf_sum first = {0, 0}, second = {0, 0}, squares = {0, 0};
    for (ptrdiff_t b = 0; b < r->n_blocks; b++) {
        double a = r->blocks.share[b], s = 1.0 + r->blocks.rest[b], d = 0.0;
        above += r->blocks.above[b];
        if (isfinite(m) && isfinite(r->blocks.max[b])) {
            d = sf_quotient(r->blocks.max[b], m, temperature);
            r->blocks.product[b] += d * (2.0 * a + d * s);
            r->blocks.share[b] = a + d * s;
        }
    }
    merge_statistics(r);
    for (ptrdiff_t b = 0; b < r->n_blocks; b++) {
        double f = r->blocks.rest[b];
        if (f == 0.0) /* d may be infinite */
            continue;
        sf_sum_add(&first, f * r->blocks.share[b]);
        sf_sum_add(&second, f * r->blocks.product[b]);
        sf_sum_add(&squares, f * f * (r->blocks.scaled[b] + (b == winner ? 0.0 : 1.0)));
    }
    batch->first_moment[at] = sf_sum_value(first);
    batch->second_moment[at] = sf_sum_value(second);
    batch->squares[at] = sf_sum_value(squares);
    batch->above[at] = above;
}

static void statistics_finish(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_batch *batch,
                              ptrdiff_t at, sf_result *result)
{
    const sf_columns *to = call->columns;
    const double *s_y = batch->quotient + at;
    SF_ASSUME(count > 0);
    double sum[SF_BATCH], mean[SF_BATCH], inverse[SF_BATCH], t[SF_BATCH];
    const double *row_max = batch->max + at, *rest = batch->rest + at, *log_sum = batch->log_sum + at;
    const double *top = batch->top + at, *squares = batch->squares + at;
    const double *first_moment = batch->first_moment + at, *second_moment = batch->second_moment + at;
    const double *before = batch->above + at;
    const ptrdiff_t *y = batch->y + at;
    const double *temperature = call->temperature + first * call->temperature_step;
    const ptrdiff_t step = call->temperature_step, put = call->first_row + first;
    for (ptrdiff_t i = 0; i < count; i++) { /* NaN where the row has no probabilities */
        sum[i] = 1.0 + rest[i] + (row_max[i] - row_max[i]);
        inverse[i] = 1.0 / sum[i];
        mean[i] = first_moment[i] * inverse[i];
    }
    if (to->confidence) {
        double *restrict confidence = to->confidence + put;
        for (ptrdiff_t i = 0; i < count; i++)
            confidence[i] = inverse[i];
    }
    if (to->uncertainty) {
        double *restrict uncertainty = to->uncertainty + put;
        for (ptrdiff_t i = 0; i < count; i++)
            uncertainty[i] = rest[i] * inverse[i];
    }
    if (to->entropy) {
        double *restrict entropy = to->entropy + put;
        for (ptrdiff_t i = 0; i < count; i++)
            entropy[i] = log_sum[i] - mean[i];
    }
    for (ptrdiff_t i = 0; i < count; i++)
        t[i] = temperature[i * step];
    if (to->logsumexp) {
        double *restrict logsumexp = to->logsumexp + put;
        for (ptrdiff_t i = 0; i < count; i++)
            logsumexp[i] = isfinite(row_max[i]) ? row_max[i] / t[i] + log_sum[i]
                         : rest[i] == rest[i] ? row_max[i] : rest[i];
    }
    if (to->prediction) {
        int64_t *restrict prediction = to->prediction + put;
        for (ptrdiff_t i = 0; i < count; i++)
            prediction[i] = sum[i] == sum[i] ? (int64_t)top[i] : -1;
    }
    if (!to->loss)
        return;
    int special = 0;
    if (to->brier) {
        double *restrict brier = to->brier + put;
        double e_y[SF_BATCH];
        exp_doubles(s_y, e_y, count, sf_make_rate(1.0));
        for (ptrdiff_t i = 0; i < count; i++) {
            /* (1 - p_y)^2 and the squares of the others' p: nothing cancels where p_y is next to 1. */
            const int hit = before[i] == 0.0;
            const double one_less = 1.0 - e_y[i] * e_y[i], doubt = rest[i] * inverse[i];
            const double other_doubt = 1.0 - e_y[i] * inverse[i];
            const double others = squares[i] + (hit ? 0.0 : one_less), missing = hit ? doubt : other_doubt;
            brier[i] = missing * missing + others * inverse[i] * inverse[i];
        }
    }
    {
        double *restrict loss = to->loss + put;
        double *restrict slope = to->slope + put, *restrict curvature = to->curvature + put;
        int64_t *restrict rank = to->rank + put;
        double odd = 0.0;
        for (ptrdiff_t i = 0; i < count; i++) {
            loss[i] = log_sum[i] - s_y[i];
            slope[i] = t[i] * (mean[i] - s_y[i]);
            curvature[i] = t[i] * t[i] * (second_moment[i] * inverse[i] - mean[i] * mean[i]);
        }
        for (ptrdiff_t i = 0; i < count; i++)
            rank[i] = (int64_t)(sum[i] == sum[i] ? before[i] : (double)call->n_classes);
        for (ptrdiff_t i = 0; i < count; i++)
            odd = y[i] < 0 || t[i] > (SF_DOUBLE ? 0x1p400 : 0x1p40) ? 1.0 : odd;
        special = odd > 0.0;
    }
    for (ptrdiff_t i = 0; special && i < count; i++) {
        if (temperature[i * step] > (SF_DOUBLE ? 0x1p400 : 0x1p40) && isfinite(row_max[i])
            && rest[i] == rest[i] && y[i] >= 0)
            sf_put_moments(call, first + i, row_max[i]);
        if (y[i] < 0) {
            sf_row_counts(call->targets, first + i, call->n_classes, result); /* notes a bad one */
            to->loss[put + i] = to->slope[put + i] = to->curvature[put + i] = 0.0;
            if (to->brier)
                to->brier[put + i] = 0.0;
            to->rank[put + i] = -1;
        }
    }
}

#if SF_DOUBLE

/* ---- sums of columns -------------------------------------------------------------------------------- */

/* A vector of the column; beyond its end 0. */
SF_INLINE vec column_at(const double *x, ptrdiff_t i, ptrdiff_t n)
{
    return i + LANES <= n ? vload(x + i) : i < n ? vload_first(x + i, n - i, 0.0) : vset1(0.0);
}

SF_INLINE pair lanes_from(const sf_lanes *lanes, int k)
{
    pair p = {vload(lanes->sum + k), vload(lanes->lost + k)};
    return p;
}

SF_INLINE void put_lanes(sf_lanes *lanes, int k, pair p)
{
    vstore(lanes->sum + k, p.sum);
    vstore(lanes->lost + k, p.lost);
}

/* The sum of x, and unless squares is NULL of x x, as if nothing were rounded. */
SF_INLINE void add_exactly(const double *x, ptrdiff_t n, sf_lanes *sums, sf_lanes *squares)
{
    for (int k = 0; k < SF_SUM_LANES; k += LANES) {
        pair sum = lanes_from(sums, k), square = lanes_from(squares ? squares : sums, k);
        for (ptrdiff_t i = k; i < n; i += SF_SUM_LANES) {
            vec a = column_at(x, i, n), lost;
            pair_add(&sum, a);
            if (squares) {
                pair_add(&square, exact_square(a, &lost));
                square.lost = vadd(square.lost, lost);
            }
        }
        put_lanes(sums, k, sum);
        if (squares)
            put_lanes(squares, k, square);
    }
}

/* The sum of x >= 0, four by four. */
SF_INLINE void add_in_fours(const double *x, ptrdiff_t n, sf_lanes *sums)
{
    for (int k = 0; k < SF_SUM_LANES; k += LANES) {
        pair sum = lanes_from(sums, k);
        for (ptrdiff_t i = k; i < n; i += 4 * SF_SUM_LANES) {
            vec a[4];
            for (int j = 0; j < 4; j++)
                a[j] = column_at(x, i + j * SF_SUM_LANES, n);
            pair_add(&sum, vadd(vadd(a[0], a[1]), vadd(a[2], a[3])));
        }
        put_lanes(sums, k, sum);
    }
}

static int add_columns(const sf_columns *rows, ptrdiff_t n, ptrdiff_t n_classes, const int64_t *k,
                       ptrdiff_t n_k, int64_t *counts, sf_column_sums *sums)
{
    double reciprocal[SF_MOST_ADDED];
    const int64_t *rank = rows->rank;
    uint64_t special = 0;
    for (ptrdiff_t i = 0; i < n; i++)
        special |= (uint64_t)rank[i] | (uint64_t)(n_classes - 1 - rank[i]);
    for (ptrdiff_t i = 0; i < n; i++)
        special |= (uint64_t)!(rows->loss[i] < SF_FAR_LOSS) << 63;
    if (special >> 63 || n_classes > INT32_MAX)
        return 0;
    for (ptrdiff_t j = 0; j < n_k; j++) {
        uint64_t below = 0;
        for (ptrdiff_t i = 0; i < n; i++)
            below += (uint64_t)(rank[i] - k[j]) >> 63;
        counts[j] += (int64_t)below;
    }
    for (ptrdiff_t i = 0; i < n; i++)
        reciprocal[i] = 1.0 / ((double)(int32_t)rank[i] + 1.0);
    add_exactly(rows->loss, n, &sums->loss, &sums->loss_squares);
    add_exactly(rows->brier, n, &sums->brier, &sums->brier_squares);
    add_exactly(rows->slope, n, &sums->slope, NULL);
    add_in_fours(rows->curvature, n, &sums->curvature);
    add_in_fours(rows->entropy, n, &sums->entropy);
    add_in_fours(reciprocal, n, &sums->reciprocal_rank);
    return 1;
}

static void slots_of(const double *confidence, ptrdiff_t n, ptrdiff_t n_bins, int32_t *slot, int64_t *units)
{
    double c[SF_MOST_ADDED];
    for (ptrdiff_t i = 0; i < n; i++)
        c[i] = confidence[i] > 0.0 ? confidence[i] : 0.0;
    for (ptrdiff_t i = 0; i < n; i++)
        slot[i] = (int32_t)sf_bin_of(c[i], n_bins);
    for (ptrdiff_t i = 0; i < n; i++)
        slot[i] += sf_cell_of(c[i], &units[i]);
}

#endif
