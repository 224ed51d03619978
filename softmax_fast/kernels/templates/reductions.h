/* Passes over contiguous entries; a row's statistics from those of its blocks. */

#define BLOCK (SF_BLOCK_BYTES / REAL_BYTES)

struct sf_temperature { real hi, lo, floor, inverse; sf_rate rate; };

static SF_NOINLINE sf_temperature row_temperature(const sf_call *call, ptrdiff_t row)
{
    sf_temperature t;
    t.rate = sf_make_rate(sf_temperature_of(call, row));
    t.inverse = (real)t.rate.inverse;
    split_rate(t.rate, &t.hi, &t.lo, &t.floor);
    return t;
}

SF_INLINE vrate vector_rate(const sf_temperature *t)
{
    vrate rate = {vset1(t->hi), vset1(t->lo), vset1(t->floor)};
    return rate;
}

/* What will be read and written next, or NULL. */
typedef struct { const char *in; char *out; } next_lines;

/* Lines of the entries [i, i + n). */
SF_INLINE void fetch_next(next_lines next, ptrdiff_t i, const int n)
{
    for (int b = 0; next.in && b < n * (int)REAL_BYTES; b += 64) {
        SF_PREFETCH(next.in + i * REAL_BYTES + b);
        if (next.out)
            SF_PREFETCH_WRITE(next.out + i * REAL_BYTES + b);
    }
}

SF_INLINE real maximum_of(const real *x, ptrdiff_t n)
{
    vec m0 = vset1((real)-INFINITY), m1 = m0, m2 = m0, m3 = m0;
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        m0 = vmax(vload(x + i), m0);
        m1 = vmax(vload(x + i + LANES), m1);
        m2 = vmax(vload(x + i + 2 * LANES), m2);
        m3 = vmax(vload(x + i + 3 * LANES), m3);
    }
    for (; i + LANES <= n; i += LANES)
        m0 = vmax(vload(x + i), m0);
    if (i < n)
        m1 = vmax(vload_first(x + i, n - i, (real)-INFINITY), m1);
    return vhmax(vmax(vmax(m0, m1), vmax(m2, m3)));
}

static SF_NOINLINE real maximum(const real *x, ptrdiff_t n) { return maximum_of(x, n); }

SF_INLINE next_lines next_of(const sf_call *call, const real *x, ptrdiff_t x_step, real *e,
                             ptrdiff_t e_step)
{
    next_lines next = {NULL, NULL};
    if (call->prefetch) {
        next.in = (const char *)(x + x_step);
        next.out = e ? (char *)(e + e_step) : NULL;
    }
    return next;
}

/* A window on these is 1 in all lanes but one, or in all. */
typedef struct { SF_ALIGNED(64) real window[2 * LANES]; } all_but_one;

SF_INLINE void set_all_but_one(all_but_one *kept)
{
    vstore(kept->window, vset1(1));
    vstore(kept->window + LANES, vset1(1));
    kept->window[LANES - 1] = 0;
}

/* 0 in one lane; none where there is no such lane.  No branch foresees which. */
SF_INLINE vec without_lane(vec a, ptrdiff_t lane, const all_but_one *kept)
{
    return vmul(a, vload(kept->window + (lane >= 0 && lane < LANES ? LANES - 1 - lane : LANES)));
}

/* Adds exp((x - m)/T) to w, groups of four vectors at a time, and leaves it in e unless that is NULL;
 * entry apart (-1: none) adds 0.  Meanwhile what will be read and written next is fetched. */
SF_INLINE wide add_exponentials(wide w, const real *x, ptrdiff_t n, vec m, vrate c, real *e,
                                ptrdiff_t apart, next_lines next)
{
    ptrdiff_t i = 0;
    all_but_one kept;
    if (apart >= 0)
        set_all_but_one(&kept);
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        fetch_next(next, i, 4 * LANES);
        vec group[4];
        for (int first = 0; first < 4; first += EXP_INTERLEAVE) {
            for (int k = first; k < first + EXP_INTERLEAVE; k++)
                group[k] = vsub(vload(x + i + k * LANES), m);
            exp_steps(group + first, EXP_INTERLEAVE, c);
            for (int k = first; e && k < first + EXP_INTERLEAVE; k++)
                vstore(e + i + k * LANES, group[k]);
        }
        if (apart >= i && apart < i + 4 * LANES)
            for (int k = 0; k < 4; k++)
                group[k] = without_lane(group[k], apart - i - k * LANES, &kept);
        w = wide_add(w, vadd(vadd(group[0], group[1]), vadd(group[2], group[3])));
    }
    vec rest = vset1(0);
    for (; i < n; i += LANES) {
        const int whole = i + LANES <= n;
        fetch_next(next, i, LANES);
        vec x0 = whole ? vload(x + i) : vload_first(x + i, n - i, (real)-INFINITY);
        vec e0 = vexp(vsub(x0, m), c);
        if (e && whole)
            vstore(e + i, e0);
        else if (e)
            vstore_first(e + i, e0, n - i);
        rest = vadd(rest, apart < i ? e0 : without_lane(e0, apart - i, &kept));
    }
    return wide_add(w, rest);
}

/* The biased sum of a wide accumulator, as a true one. */
SF_INLINE double unbiased(double sum)
{
    return sum < EXP_VANISHES ? 0.0 : sum * EXP_UNBIAS;
}

SF_INLINE double total(wide w)
{
    return unbiased(wide_total(w));
}

/* The first entry of that value, or n. */
SF_INLINE ptrdiff_t find(const real *x, ptrdiff_t n, real value)
{
    vec v = vset1(value);
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        unsigned equal = vequal_mask(vload(x + i), v);
        if (equal)
            return i + sf_count_bits((equal & (0u - equal)) - 1);
    }
    while (i < n && x[i] != value)
        i++;
    return i;
}

/* The maximum of a block and, where that is finite, its first place: what the maximum was after every
 * sixteen vectors tells where to look. */
static SF_NOINLINE real maximum_and_place(const real *x, ptrdiff_t n, ptrdiff_t *place)
{
    enum { STEP = 16 * LANES };
    vec until[BLOCK / STEP + 1];
    vec m0 = vset1((real)-INFINITY), m1 = m0, m2 = m0, m3 = m0;
    ptrdiff_t i = 0, step = 0;
    for (; i + STEP <= n; i += STEP) {
        for (int k = 0; k < 16; k += 4) {
            m0 = vmax(vload(x + i + k * LANES), m0);
            m1 = vmax(vload(x + i + (k + 1) * LANES), m1);
            m2 = vmax(vload(x + i + (k + 2) * LANES), m2);
            m3 = vmax(vload(x + i + (k + 3) * LANES), m3);
        }
        until[i / STEP] = vmax(vmax(m0, m1), vmax(m2, m3));
    }
    const ptrdiff_t steps = i / STEP;
    real m = maximum_of(x + i, n - i);
    if (steps) {
        real before = vhmax(until[steps - 1]);
        if (before >= m)
            m = before;
        else
            step = steps;
    }
    for (vec v = vset1(m); step < steps && !vequal_mask(until[step], v); step++)
        ;
    i = step * STEP;
    *place = i + find(x + i, n - i, m);
    return m;
}

static SF_NOINLINE int has_nan(const real *x, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++)
        if (x[i] != x[i])
            return 1;
    return 0;
}

/* Maximum m of a block and its rest = sum exp((x - m)/T) - 1; leaves the biased exponentials in e
 * unless that is NULL.  apart: one maximum is kept out of the sum, so that a small rest keeps its
 * digits.  All entries -inf: m = -inf, rest = -1.  +inf: m = inf, rest = 0.  NaN: rest = NaN. */
SF_INLINE void reduce_block(const real *x, ptrdiff_t n, const sf_temperature *t, real *e,
                            int apart, next_lines next, double *max, double *rest)
{
    ptrdiff_t place = -1;
    real m = apart ? maximum_and_place(x, n, &place) : maximum(x, n);
    *max = m;
    if (!isfinite(m)) {
        *rest = has_nan(x, n) ? NAN : m > 0 ? 0.0 : -1.0;
        if (e)
            memset(e, 0, (size_t)(n * REAL_BYTES));
        return;
    }
    *rest = total(add_exponentials(wide_zero(), x, n, vset1(m), vector_rate(t), e, place, next));
    if (!apart)
        *rest -= 1.0;
}

static SF_NOINLINE void exponentiate_block(const real *x, ptrdiff_t n, const sf_temperature *t,
                                           real *e, next_lines next, double *max, double *rest)
{
    reduce_block(x, n, t, e, 0, next, max, rest);
}

static SF_NOINLINE void summarize_and_exponentiate_block(const real *x, ptrdiff_t n,
                                                         const sf_temperature *t, real *e,
                                                         next_lines next, double *max,
                                                         double *rest)
{
    reduce_block(x, n, t, e, 1, next, max, rest);
}

static SF_NOINLINE void summarize_block(const real *x, ptrdiff_t n, const sf_temperature *t,
                                        next_lines next, double *max, double *rest)
{
    reduce_block(x, n, t, NULL, 1, next, max, rest);
}

/* The entries of out, of n, before the first that a vector can be streamed to. */
SF_INLINE ptrdiff_t before_a_vector(const real *out, ptrdiff_t n)
{
    ptrdiff_t past = (ptrdiff_t)((uintptr_t)out / sizeof(real) % LANES);
    return SF_MIN(past ? LANES - past : 0, n);
}

/* Biased exponentials become results by these, one after the other, each product rounded. */
typedef struct { real first, second, third; } factors;

SF_INLINE vec multiply_vector(vec v, factors by, const int count)
{
    if (count == 3)
        v = vmul(v, vset1(by.first));
    if (count >= 2)
        v = vmul(v, vset1(by.second));
    return vmul(v, vset1(by.third));
}

SF_INLINE void multiply_by(const real *e, real *out, ptrdiff_t n, factors by, const int count, const int stream)
{
    const ptrdiff_t head = stream ? before_a_vector(out, n) : 0;
    ptrdiff_t i = head;
    if (head)
        vstore_first(out, multiply_vector(vload_first(e, head, 0), by, count), head);
    for (; i + LANES <= n; i += LANES) {
        const vec v = multiply_vector(vload(e + i), by, count);
        if (stream)
            vstream(out + i, v);
        else
            vstore(out + i, v);
    }
    if (i < n)
        vstore_first(out + i, multiply_vector(vload_first(e + i, n - i, 0), by, count), n - i);
}

/* Factors of 1 cost nothing. */
static SF_NOINLINE void multiply_contiguous(const real *e, real *out, ptrdiff_t n, factors by, int stream)
{
    if (by.third == 1)
        by = (factors){1, by.first, by.second};
    if (by.second == 1)
        by = (factors){1, by.first, by.third};
    if (by.first != 1)
        stream ? multiply_by(e, out, n, by, 3, 1) : multiply_by(e, out, n, by, 3, 0);
    else if (stream)
        multiply_by(e, out, n, by, 2, 1);
    else if (by.second != 1)
        multiply_by(e, out, n, by, 2, 0);
    else
        multiply_by(e, out, n, by, 1, 0);
}

/* The same, streamed, but for entry y, which becomes value: not a line that is written twice. */
static SF_NOINLINE void stream_around(const real *e, real *out, ptrdiff_t n, factors by, ptrdiff_t y,
                                      real value)
{
    SF_ALIGNED(64) real entries[LANES];
    const ptrdiff_t head = before_a_vector(out, n);
    const ptrdiff_t begin = y < head ? 0 : y - (y - head) % LANES;
    const ptrdiff_t end = y < head ? head : SF_MIN(n, begin + LANES);
    multiply_contiguous(e, out, begin, by, 1);
    multiply_contiguous(e + begin, entries, end - begin, by, 0);
    entries[y - begin] = value;
    if (end - begin == LANES)
        vstream(out + begin, vload(entries));
    else
        memcpy(out + begin, entries, (size_t)((end - begin) * REAL_BYTES));
    multiply_contiguous(e + end, out + end, n - end, by, 1);
}

/* Whether x - m might overflow where (x - m)/T does not. */
SF_INLINE int is_extreme(double m) { return fabs(m) >= (SF_DOUBLE ? 0x1p970 : 0x1p103); }

/* out = (x - m)/T - log_sum */
static SF_NOINLINE void log_softmax_contiguous(const real *x, real *out, ptrdiff_t n, real m,
                                               real inverse, real log_sum, int stream)
{
    vec vm = vset1(m), vi = vset1(inverse), vl = vset1(-log_sum);
    ptrdiff_t i = 0;
    if (stream) {
        const ptrdiff_t head = before_a_vector(out, n);
        if (head)
            vstore_first(out, vfma(vsub(vload_first(x, head, 0), vm), vi, vl), head);
        for (i = head; i + LANES <= n; i += LANES)
            vstream(out + i, vfma(vsub(vload(x + i), vm), vi, vl));
    }
    for (; i + LANES <= n; i += LANES)
        vstore(out + i, vfma(vsub(vload(x + i), vm), vi, vl));
    if (i < n)
        vstore_first(out + i, vfma(vsub(vload_first(x + i, n - i, 0), vm), vi, vl), n - i);
}

/* ---- blocks of a long row ------------------------------------------------------------------------- */

SF_INLINE ptrdiff_t block_length(const sf_call *call, ptrdiff_t block)
{
    return SF_MIN(BLOCK, call->n_classes - block * BLOCK);
}

/* Block b of the row: contiguous, where it lies or in buffer. */
SF_INLINE const real *block_at(const sf_call *call, ptrdiff_t row, ptrdiff_t b, real *buffer)
{
    const sf_input *in = &call->x;
    ptrdiff_t offset = sf_input_offset(call, in, row) + b * BLOCK * in->class_stride;
    return fetch(in, offset, block_length(call, b), buffer);
}

/* As reduce_block, of blocks [first, first + count): with keep, the exponentials go where they wait;
 * with writes, the row is written soon. */
SF_INLINE void reduce_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count, const int keep,
                             const int writes)
{
    SF_ALIGNED(64) real x_buffer[BLOCK], e_buffer[BLOCK];
    const sf_call *call = r->call;
    ptrdiff_t stride = call->out.class_stride;
    real *e_row = (real *)r->exponentials, *out = keep && !e_row ? out_at(call, r->row) : NULL;
    /* The only block of a row is followed by the next row. */
    ptrdiff_t x_step = keep && r->n_blocks == 1 ? call->x.row_stride : BLOCK;
    ptrdiff_t e_step = r->n_blocks == 1 ? call->out.row_stride : BLOCK;
    for (ptrdiff_t b = first; b < first + count; b++) {
        ptrdiff_t n = block_length(call, b), begin = b * BLOCK;
        const real *x = block_at(call, r->row, b, x_buffer);
        if (!keep) {
            next_lines next = next_of(call, x, x == x_buffer ? 0 : x_step, NULL, 0);
            if (writes && next.in && !call->stream && stride == 1
                && call->n_classes <= 32 * BLOCK) /* what a level-2 cache holds until then */
                next.out = (char *)(out_at(call, r->row) + begin);
            summarize_block(x, n, r->temperature, next, &r->blocks.max[b], &r->blocks.rest[b]);
            continue;
        }
        real *e = e_row ? e_row + begin : stride == 1 ? out + begin : e_buffer;
        next_lines next = next_of(call, x, x == x_buffer ? 0 : x_step, e,
                                  e_row || e == e_buffer ? 0 : e_step);
        exponentiate_block(x, n, r->temperature, e, next, &r->blocks.max[b], &r->blocks.rest[b]);
        if (e == e_buffer)
            scatter(out + begin * stride, stride, e, n);
    }
}

static void summarize_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count)
{
    reduce_blocks(r, first, count, 0, 0);
}

/* The row's statistics from those of its blocks, whose rests become the factors
 * exp((block maximum - row maximum)/T). */
static SF_NOINLINE void merge_statistics(const sf_long_row *r)
{
    double *block_max = r->blocks.max, *block_rest = r->blocks.rest;
    double *row_max = &r->batch->max[r->at], *row_rest = &r->batch->rest[r->at];
    double m = -INFINITY;
    ptrdiff_t winner = 0;
    if (r->n_blocks == 1) {
        *row_max = block_max[0];
        *row_rest = block_rest[0];
        block_rest[0] = 1.0;
        return;
    }
    for (ptrdiff_t b = 0; b < r->n_blocks; b++)
        if (block_max[b] > m) {
            m = block_max[b];
            winner = b;
        }
    sf_sum sum = {0, 0};
    if (!isfinite(m)) {
        for (ptrdiff_t b = 0; b < r->n_blocks; b++) {
            sf_sum_add(&sum, block_rest[b] != block_rest[b] ? NAN : 0.0);
            block_rest[b] = NAN;
        }
        sum.sum += m > 0 ? 0.0 : -1.0;
    } else {
        double d[64], factor[64];
        for (ptrdiff_t start = 0; start < r->n_blocks; start += 64) {
            ptrdiff_t n = SF_MIN(64, r->n_blocks - start);
            SF_ASSUME(n > 0);
            for (ptrdiff_t i = 0; i < n; i++)
                d[i] = block_max[start + i] - m;
            exp_doubles(d, factor, n, r->temperature->rate);
            for (ptrdiff_t i = 0; i < n; i++) {
                double rest = block_rest[start + i];
                sf_sum_add(&sum, start + i == winner ? rest : (1.0 + rest) * factor[i]);
                block_rest[start + i] = factor[i];
            }
        }
    }
    *row_max = m;
    *row_rest = sf_sum_value(sum);
}

/* What turns biased exponentials into probabilities. */
SF_INLINE real softmax_factor(double row_max, double row_rest)
{
    return isfinite(row_max) ? (real)(EXP_UNBIAS / (1.0 + row_rest)) : (real)NAN;
}

/* out = exponentials * block factor * factor * last; entry y (-1: none) becomes value. */
SF_INLINE void multiply_blocks(const sf_long_row *r, ptrdiff_t first, ptrdiff_t count, real factor,
                               real last, ptrdiff_t y, real value)
{
    SF_ALIGNED(64) real e_buffer[BLOCK];
    const sf_call *call = r->call;
    ptrdiff_t stride = call->out.class_stride;
    real *out = out_at(call, r->row), *e_row = (real *)r->exponentials;
    for (ptrdiff_t b = first; b < first + count; b++) {
        const ptrdiff_t n = block_length(call, b);
        const int has_y = y >= 0 && y / BLOCK == b;
        const factors by = {(real)r->blocks.rest[b], factor, last};
        real *o = out + b * BLOCK * stride, *target = stride == 1 ? o : e_buffer;
        for (ptrdiff_t i = 0; stride != 1 && i < n; i++)
            e_buffer[i] = o[i * stride];
        if (e_row && has_y) {
            stream_around(e_row + b * BLOCK, o, n, by, y % BLOCK, value);
            continue;
        }
        multiply_contiguous(e_row ? e_row + b * BLOCK : target, target, n, by, e_row != NULL);
        if (has_y)
            target[y % BLOCK] = value;
        if (target == e_buffer)
            scatter(o, stride, e_buffer, n);
    }
}
