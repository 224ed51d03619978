/* Short rows side by side, one to a lane; and a short row by itself, by the same arithmetic. */

/* A tile is one vector wide, or two where enough rows remain: their chains overlap. */
enum { TILE_ENTRIES = SF_MAX(SF_SHORT_ROW, 2 * SF_WIDE_TILE_ROW) * LANES };
struct sf_tile {
    real *x;                             /* entry c of lane i: [c * lanes + i] */
    real *a;                             /* weighted targets, where these are probabilities, or a base */
    SF_ALIGNED(64) real x_room[TILE_ENTRIES];
    SF_ALIGNED(64) char between[1024];   /* entries of both rooms share no set of the L1 cache */
    SF_ALIGNED(64) real a_room[TILE_ENTRIES];
    SF_ALIGNED(64) real hi[2 * LANES];
    SF_ALIGNED(64) real lo[2 * LANES];
    SF_ALIGNED(64) real floor[2 * LANES];
    SF_ALIGNED(64) real inverse[2 * LANES];
    /* Weighted targets are kept t + uniform. */
    real kept[SF_SHORT_ROW], uniform[SF_SHORT_ROW];
    double uniform_share;                /* the sum of the latter */
    int is_mixed;                        /* else they are t */
};

static SF_NOINLINE void tile_temperatures(sf_tile *tile, const sf_call *call, ptrdiff_t row,
                                          ptrdiff_t count)
{
    if (!call->temperature_step) {
        sf_temperature t = row_temperature(call, row);
        for (int i = 0; i < 2 * LANES; i++) {
            tile->hi[i] = t.hi;
            tile->lo[i] = t.lo;
            tile->floor[i] = t.floor;
            tile->inverse[i] = t.inverse;
        }
        return;
    }
    const ptrdiff_t lanes = count > LANES ? 2 * LANES : LANES;
    const double *t = call->temperature + row;
    double filled[2 * LANES];
    for (ptrdiff_t i = 0; count < lanes && i < lanes; i++)
        filled[i] = t[SF_MIN(i, count - 1)];
    if (count < lanes)
        t = filled;
    for (ptrdiff_t begin = 0; begin < lanes; begin += LANES)
        for (ptrdiff_t i = begin; i < begin + LANES; i++) {
            sf_rate rate = sf_make_rate(t[i]);
            split_rate(rate, &tile->hi[i], &tile->lo[i], &tile->floor[i]);
            tile->inverse[i] = (real)rate.inverse;
        }
}

/* Its entries follow used others in their rooms. */
SF_INLINE void place_tile(sf_tile *tile, ptrdiff_t used)
{
    tile->x = tile->x_room + used;
    tile->a = tile->a_room + used;
}

/* How many vectors wide the next tile is. */
SF_INLINE int tile_width(ptrdiff_t n, ptrdiff_t remaining)
{
    return remaining >= 2 * LANES && n <= SF_WIDE_TILE_ROW ? 2 : 1;
}

/* Rows [row, row + count) into the lanes of a tile of that width; m: their maxima; spare: room for a vector
 * of rows. */
static SF_NOINLINE void load_lanes(real *to, const sf_input *in, const sf_call *call, ptrdiff_t row,
                                   ptrdiff_t count, int width, real *spare, real *m)
{
    ptrdiff_t n = call->n_classes, offset = sf_input_offset(call, in, row), lanes = width * LANES;
    int native = is_native(in) && count == lanes;
    int widened = !native && count == lanes && in->class_stride == 1 && in->row_stride == n;
    const real *x = (const real *)in->data + offset;
    if ((native || widened) && in->class_stride == 1 && n >= COLUMNS) {
        for (int k = 0; k < width; k++, x += LANES * in->row_stride) {
            if (widened)
                x = gather(in, offset + k * LANES * n, LANES * n, spare);
            vec maximum = vset1((real)-INFINITY);
            for (ptrdiff_t c = 0; c < n; c += COLUMNS) {
                ptrdiff_t begin = SF_MIN(c, n - COLUMNS); /* the last columns may overlap the one before */
                vec column[COLUMNS];
                vload_transposed(x + begin, in->row_stride, column);
                for (int j = 0; j < COLUMNS; j++) {
                    maximum = vmax(column[j], maximum);
                    vstore(to + (begin + j) * lanes + k * LANES, column[j]);
                }
            }
            vstore(m + k * LANES, maximum);
        }
        return;
    }
    if (!native || in->row_stride != 1) {
        real buffer[SF_SHORT_ROW];
        for (ptrdiff_t i = 0; i < lanes; i++) {
            x = fetch(in, offset + SF_MIN(i, count - 1) * in->row_stride, n, buffer);
            for (ptrdiff_t c = 0; c < n; c++)
                to[c * lanes + i] = x[c];
        }
    }
    for (int k = 0; k < width; k++) {
        vec maximum = vset1((real)-INFINITY);
        for (ptrdiff_t c = 0; c < n; c++) {
            real *home = to + c * lanes + k * LANES;
            if (native && in->row_stride == 1)
                vstore(home, vload(x + c * in->class_stride + k * LANES));
            maximum = vmax(vload(home), maximum);
        }
        vstore(m + k * LANES, maximum);
    }
}

SF_INLINE void load_tile(sf_tile *tile, const sf_call *call, ptrdiff_t row, ptrdiff_t count, int width,
                         real *m)
{
    load_lanes(tile->x, &call->x, call, row, count, width, tile->a, m);
}

/* What becomes of a tile's entries before they are written; the numbers are one for each lane. */
enum {
    ONE_FACTOR,  /* x * first */
    TWO_FACTORS, /* x * first * second */
    LOGARITHMS,  /* (x - first) * second + third */
    DIFFERENCES, /* (x * first * second + a) * third; a the class's uniform part, or in a the entry's */
    DIFFERENCES_FROM_A
};
typedef struct { int kind; const real *first, *second, *third; } last_step;
typedef struct { vec first, second, third; } lane_numbers; /* of one vector of rows */

SF_INLINE lane_numbers numbers_of(const last_step *step, int k)
{
    lane_numbers numbers = {vload(step->first + k * LANES), vload(step->second + k * LANES),
                            vload(step->third + k * LANES)};
    return numbers;
}

/* In place, entry c of vector k and those of the next count - 1 classes. */
SF_INLINE void take_last_step(const sf_tile *tile, const int kind, lane_numbers of, ptrdiff_t c, int k,
                              ptrdiff_t lanes, vec *x, const int count)
{
    switch (kind) {
    case ONE_FACTOR:
        for (int j = 0; j < count; j++)
            x[j] = vmul(x[j], of.first);
        break;
    case TWO_FACTORS:
        for (int j = 0; j < count; j++)
            x[j] = vmul(vmul(x[j], of.first), of.second);
        break;
    case LOGARITHMS:
        for (int j = 0; j < count; j++)
            x[j] = vfma(vsub(x[j], of.first), of.second, of.third);
        break;
    case DIFFERENCES:
        for (int j = 0; j < count; j++)
            x[j] = vmul(vfma(vmul(x[j], of.first), of.second, vset1(tile->uniform[c + j])), of.third);
        break;
    default:
        for (int j = 0; j < count; j++)
            x[j] = vmul(vfma(vmul(x[j], of.first), of.second,
                             vload(tile->a + (c + j) * lanes + k * LANES)),
                        of.third);
    }
}

static SF_NOINLINE void take_last_steps(sf_tile *tile, ptrdiff_t n, int width, const last_step *step)
{
    const ptrdiff_t lanes = width * LANES;
    real *entries = tile->x;
    for (ptrdiff_t c = 0; c < n; c++)
        for (int k = 0; k < width; k++) {
            vec x = vload(entries + c * lanes + k * LANES);
            take_last_step(tile, step->kind, numbers_of(step, k), c, k, lanes, &x, 1);
            vstore(entries + c * lanes + k * LANES, x);
        }
}

/* The entries of whole vectors of rows, transposed. */
SF_INLINE void store_columns(const sf_tile *tile, const sf_call *call, real *out, int width,
                             const last_step *step, const int kind)
{
    const ptrdiff_t n = call->n_classes, lanes = width * LANES, stride = call->out.row_stride;
    const real *x = tile->x;
    for (int k = 0; k < width; k++, out += LANES * stride) {
        const lane_numbers numbers = numbers_of(step, k);
        for (ptrdiff_t c = 0; c < n; c += COLUMNS) {
            ptrdiff_t begin = SF_MIN(c, n - COLUMNS);
            vec column[COLUMNS];
            for (int j = 0; j < COLUMNS; j++)
                column[j] = vload(x + (begin + j) * lanes + k * LANES);
            take_last_step(tile, kind, numbers, begin, k, lanes, column, COLUMNS);
            vstore_transposed(out + begin, stride, column);
        }
    }
}

/* The tile's entries, after their last step, to the output. */
static SF_NOINLINE void store_tile(sf_tile *tile, const sf_call *call, ptrdiff_t row,
                                   ptrdiff_t count, int width, const last_step *step)
{
    const sf_output *out = &call->out;
    ptrdiff_t n = call->n_classes, lanes = width * LANES;
    real *o = out_at(call, row);
    if (count == lanes && out->class_stride == 1 && n >= COLUMNS) {
        if (step->kind == ONE_FACTOR)
            store_columns(tile, call, o, width, step, ONE_FACTOR);
        else if (step->kind == TWO_FACTORS)
            store_columns(tile, call, o, width, step, TWO_FACTORS);
        else
            store_columns(tile, call, o, width, step, step->kind);
        return;
    }
    take_last_steps(tile, n, width, step);
    if (count == lanes && out->row_stride == 1) {
        for (ptrdiff_t c = 0; c < n; c++)
            for (int k = 0; k < width; k++)
                vstore(o + c * out->class_stride + k * LANES, vload(tile->x + c * lanes + k * LANES));
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++)
        for (ptrdiff_t c = 0; c < n; c++)
            o[i * out->row_stride + c * out->class_stride] = tile->x[c * lanes + i];
}

/* The rows of the next tile, and this one's output: too many streams to be foreseen by the processor. */
SF_INLINE next_lines tile_next(const sf_call *call, ptrdiff_t row, ptrdiff_t count,
                               const sf_tile *tile, int with_output)
{
    next_lines next = {NULL, NULL};
    if (!call->prefetch)
        return next;
    next.in = next.out = (char *)tile->x;
    if (is_native(&call->x) && call->x.class_stride == 1)
        next.in = (const char *)((const real *)call->x.data + sf_input_offset(call, &call->x, row)
                                  + count * call->x.row_stride);
    if (with_output && call->out.class_stride == 1)
        next.out = (char *)out_at(call, row);
    return next;
}

/* Four entries, or the count < 4 that remain, of as many rows as a vector has lanes: a step of
 * exponentiate_tile. */
SF_INLINE void exponentiate_entries(real *home, ptrdiff_t lanes, const int whole,
                                       ptrdiff_t count, vec maximum, vrate c, int keep,
                                       int apart, wide *w, vec *tied)
{
    const int beside = whole ? EXP_INTERLEAVE : 1;
    const vec zero = vset1(0);
    vec e[4], d[4], one[4];
    for (int first = 0; first < 4; first += beside) {
        e[first] = one[first] = zero;
        if (!whole && first >= count)
            continue;
        for (int j = first; j < first + beside; j++)
            e[j] = d[j] = vsub(vload(home + j * lanes), maximum);
        exp_steps(e + first, beside, c);
        for (int j = first; j < first + beside; j++) {
            if (keep)
                vstore(home + j * lanes, e[j]);
            if (apart) {
                e[j] = vzero_where_zero(d[j], e[j]);
                one[j] = vadd_one_where_zero(zero, d[j]);
            }
        }
    }
    if (apart)
        *tied = vadd(*tied, vadd(vadd(one[0], one[1]), vadd(one[2], one[3])));
    *w = wide_add(*w, vadd(vadd(e[0], e[1]), vadd(e[2], e[3])));
}

/* The tile's entries become biased exponentials if keep is set; their sums in sum.
 * apart: maxima stay out of the sums, and ties counts them. */
SF_INLINE void exponentiate_tile(sf_tile *tile, ptrdiff_t n, const int width, const real *m,
                                    int keep, int apart, next_lines next, double *sum,
                                    real *ties)
{
    const ptrdiff_t lanes = width * LANES;
    real *x = tile->x;
    vrate c[2];
    vec maximum[2], tied[2];
    wide w[2];
    for (int k = 0; k < width; k++) {
        vrate rate = {vload(tile->hi + k * LANES), vload(tile->lo + k * LANES),
                          vload(tile->floor + k * LANES)};
        c[k] = rate;
        maximum[k] = vload(m + k * LANES);
        tied[k] = vset1(0);
        w[k] = wide_zero();
    }
    ptrdiff_t first = 0;
    for (; first + 4 <= n; first += 4) {
        for (int b = 0; next.in && b < 4 * width * LANES * (int)REAL_BYTES; b += 64) {
            SF_PREFETCH(next.in + first * lanes * REAL_BYTES + b);
            SF_PREFETCH_WRITE(next.out + first * lanes * REAL_BYTES + b);
        }
        for (int k = 0; k < width; k++)
            exponentiate_entries(x + first * lanes + k * LANES, lanes, 1, 4, maximum[k], c[k], keep,
                                 apart, &w[k], &tied[k]);
    }
    for (int k = 0; first < n && k < width; k++)
        exponentiate_entries(x + first * lanes + k * LANES, lanes, 0, n - first, maximum[k], c[k], keep,
                             apart, &w[k], &tied[k]);
    for (int k = 0; k < width; k++) {
        wide_store(sum + k * LANES, w[k]);
        if (apart)
            vstore(ties + k * LANES, tied[k]);
    }
}

/* Statistics of all lanes, from the sums without their maxima. */
SF_INLINE void tile_stats(const sf_call *call, ptrdiff_t row, ptrdiff_t count, const int width,
                          const real *m, const double *sum, const real *ties, double *row_max,
                          double *row_rest)
{
    int special = 0;
    for (int k = 0; k < width; k++) {
        vec nought = vsub(vload(m + k * LANES), vload(m + k * LANES));
        special |= vequal_mask(nought, nought) != (1u << LANES) - 1;
    }
    for (int i = 0; i < width * LANES; i++) {
        row_max[i] = m[i];
        row_rest[i] = unbiased(sum[i]) + ((double)ties[i] - 1.0);
    }
    for (ptrdiff_t i = 0; special && i < count; i++)
        if (!isfinite(m[i])) {
            real buffer[SF_SHORT_ROW];
            ptrdiff_t n = call->n_classes, offset = sf_input_offset(call, &call->x, row + i);
            const real *x = fetch(&call->x, offset, n, buffer);
            row_rest[i] = has_nan(x, n) ? NAN : m[i] > 0 ? 0.0 : -1.0;
        }
}

/* Loads a tile and leaves its rows' statistics in the batch; writes: the rows are written soon. */
SF_INLINE void reduce_tile(sf_tile *tile, const sf_call *call, ptrdiff_t row, ptrdiff_t count,
                           const int width, int writes, sf_batch *batch, ptrdiff_t at)
{
    SF_ALIGNED(64) real m[2 * LANES];
    SF_ALIGNED(64) real ties[2 * LANES];
    SF_ALIGNED(64) double sum[2 * LANES];
    if (call->temperature_step)
        tile_temperatures(tile, call, row, count);
    load_tile(tile, call, row, count, width, m);
    exponentiate_tile(tile, call->n_classes, width, m, 0, 1, tile_next(call, row, count, tile, writes),
                      sum, ties);
    tile_stats(call, row, count, width, m, sum, ties, batch->max + at, batch->rest + at);
}

/* A step on tiles, compiled for each of their widths. */
#define FOR_BOTH_WIDTHS(step, step_of)                                                              \
    static void step(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,         \
                     int width, sf_batch *batch, ptrdiff_t at)                                     \
    {                                                                                              \
        if (width == 2)                                                                            \
            step_of(tile, call, first, count, 2, batch, at);                                       \
        else                                                                                       \
            step_of(tile, call, first, count, 1, batch, at);                                       \
    }

/* The tile's entries stay as they are. */
static SF_NOINLINE void summarize_rows(sf_tile *tile, const sf_call *call, ptrdiff_t first,
                                       ptrdiff_t count, int width, int writes, sf_batch *batch,
                                       ptrdiff_t at)
{
    if (width == 2)
        reduce_tile(tile, call, first, count, 2, writes, batch, at);
    else
        reduce_tile(tile, call, first, count, 1, writes, batch, at);
}

static void summarize_tile(sf_tile *tile, const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                           int width, sf_batch *batch, ptrdiff_t at)
{
    summarize_rows(tile, call, first, count, width, 0, batch, at);
}

/* ---- a short row by itself: the arithmetic of one lane of a tile, in the same order --------------- */

/* Whether rows cost less one by one than as a tile of which they fill only some lanes. */
SF_INLINE int one_by_one(ptrdiff_t n, ptrdiff_t count)
{
    return count < LANES && count * (n / LANES + 6) < n;
}

/* The sum of n entries as a lane adds them up; three more can be written. */
SF_INLINE double sum_as_lane(real *g, ptrdiff_t n)
{
    real sum = 0, lost = 0;
    g[n] = g[n + 1] = g[n + 2] = 0;
    for (ptrdiff_t i = 0; i < n; i += 4) {
        /* One operation at a time: where float is computed in double, each is rounded as a lane is. */
        real low = g[i] + g[i + 1], high = g[i + 2] + g[i + 3], group = low + high;
        if (i == 0) { /* the steps below would lose nothing */
            sum = 0 + group;
            continue;
        }
        real y = group - lost, total = sum + y, added = total - sum;
        lost = added - y;
        sum = total;
    }
    return (double)sum - (double)lost;
}

/* Biased exponentials of the row in e (room for LANES more), and the statistics a tile would give. */
SF_INLINE void exponentiate_row(const real *x, ptrdiff_t n, const sf_temperature *t, real *e,
                                int apart, double *row_max, double *row_rest)
{
    SF_ALIGNED(64) real others[SF_SHORT_ROW + LANES + 3];
    real m = maximum_of(x, n);
    vrate c = vector_rate(t);
    vec vm = vset1(m), tied = vset1(0);
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vec d = vsub(i + LANES <= n ? vload(x + i) : vload_first(x + i, n - i, (real)-INFINITY), vm);
        vec g = vexp(d, c);
        vstore(e + i, g);
        if (apart) {
            vstore(others + i, vzero_where_zero(d, g));
            tied = vadd_one_where_zero(tied, d);
        }
    }
    double value = sum_as_lane(apart ? others : e, n), ties = 0, rest = value * EXP_UNBIAS;
    if (apart) {
        real counts[LANES];
        vstore(counts, tied);
        for (int i = 0; i < LANES; i++)
            ties += counts[i];
        rest = unbiased(value) + (ties - 1.0);
    }
    if (apart && !isfinite(m))
        rest = has_nan(x, n) ? NAN : m > 0 ? 0.0 : -1.0;
    *row_max = m;
    *row_rest = rest;
}

/* As exponentiate_row with the row's own temperature, and the biased exponentials in the room. */
SF_INLINE void reduce_row(sf_tile *room, const sf_call *call, ptrdiff_t row, const int apart,
                          sf_batch *batch, ptrdiff_t at)
{
    real x_buffer[SF_SHORT_ROW];
    sf_temperature t = row_temperature(call, row);
    ptrdiff_t n = call->n_classes, offset = sf_input_offset(call, &call->x, row);
    exponentiate_row(fetch(&call->x, offset, n, x_buffer), n, &t, room->x, apart, &batch->max[at],
                     &batch->rest[at]);
}

static SF_NOINLINE void summarize_row(sf_tile *room, const sf_call *call, ptrdiff_t row,
                                      sf_batch *batch, ptrdiff_t at)
{
    reduce_row(room, call, row, 1, batch, at);
}
