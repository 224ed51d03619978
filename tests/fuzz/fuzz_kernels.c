/* The kernels under a coverage-guided fuzzer: shapes, strides, dtypes, temperatures, labels,
 * options and entries come from the input's bytes.
 *
 *   clang -std=c11 -O1 -g -ffp-contract=off -fsanitize=fuzzer,address,undefined \
 *      -fno-sanitize-recover=undefined -I softmax_fast/kernels -o fuzz_kernels \
 *      tests/fuzz/fuzz_kernels.c softmax_fast/kernels/[b-d]*.c softmax_fast/kernels/units/[a-n]*.c -lm
 *   mkdir found && ./fuzz_kernels -max_len=256 -max_total_time=60 found tests/fuzz/corpus
 *   ./fuzz_kernels crash-0123...           # once more, what it found
 *
 * Every instruction set that runs here computes the rows alone and contiguous, then all of any layout
 * at once, in two calls, and in backward order as if on several threads.  All must have the same bits,
 * the sums too but for those of rows alone, leave what lies between the rows alone, and agree with the
 * oracle in long double. */
#include "../native/common.h"

#if LDBL_MANT_DIG < 64
#error "the oracle needs a long double of 64 digits"
#endif

enum { MOST_ENTRIES = 36000, N_INDICES = 3 };
/* ---- the input's bytes ----------------------------------------------------------------------- */

static const uint8_t *bytes;
static size_t n_bytes, next_byte;

static unsigned take(void) { return next_byte < n_bytes ? bytes[next_byte++] : 0; }

static double pick(const double *values, size_t n) { return values[take() % n]; }

/* The bytes that are left, over and over, otherwise each time. */
static uint64_t entry_byte(size_t i)
{
    size_t left = n_bytes - next_byte;
    uint64_t turn = left ? i / left : i + 1;
    uint64_t mixed = turn * 0x9e3779b97f4a7c15u;
    return ((left ? bytes[next_byte + i % left] : 0) ^ (mixed >> 56)) & 0xff;
}

/* ---- what is computed ------------------------------------------------------------------------ */

typedef struct { /* rows of one array in a region of exactly the bytes they span */
    unsigned char *region, *data;
    size_t size;
    ptrdiff_t outer, row, step;
    size_t item;
} view;

static struct {
    int operation, kind, result_kind, stream, in_place;
    ptrdiff_t n_outer, inner, rows, n, split;
    int temperature_step, pos_weight_step;
    double *temperature, *class_weight, *sample_weight, *pos_weight, *shift, *scale;
    double smoothing, gradient_scale;
    int32_t *labels32;
    int64_t *labels64, *indices;
    int has_ignore_index, of_labels;
    double *x, *t; /* entries as the kernels should see them, rows contiguous */
    view x_view, t_view;
} p;

static unsigned char *at(const view *v, ptrdiff_t row, ptrdiff_t c)
{
    ptrdiff_t i = row / p.inner * v->outer + row % p.inner * v->row + c * v->step;
    return v->data + i * (ptrdiff_t)v->item;
}

/* Any order of the three dimensions, gaps between their steps, and any of them backwards. */
static view new_view(unsigned layout, ptrdiff_t width, size_t item)
{
    static const int orders[6][3] = {{2, 1, 0}, {1, 2, 0}, {1, 0, 2},
                                     {2, 0, 1}, {0, 1, 2}, {0, 2, 1}};
    ptrdiff_t sizes[3] = {p.n_outer, p.inner, width}, strides[3], low = 0, high = 0, span = 1;
    for (int i = 0; i < 3; i++) {
        int dimension = orders[layout % 6][i];
        strides[dimension] = span;
        if (layout & (0x08u << i))
            strides[dimension] += i == 0 ? 2 : 3;
        span = strides[dimension] * sizes[dimension];
    }
    for (int i = 0; i < 3; i++) {
        if ((layout & 0x80) && (layout & (0x08u << i)))
            strides[i] = -strides[i];
        *(strides[i] < 0 ? &low : &high) += strides[i] * (sizes[i] - 1);
    }
    view v = {NULL, NULL, (size_t)(high - low + 1) * item, strides[0], strides[1], strides[2],
              item};
    v.region = allocated(v.size);
    v.data = v.region - low * (ptrdiff_t)item;
    return v;
}

static view like(const view *v)
{
    view copy = *v;
    copy.region = allocated(v->size);
    memcpy(copy.region, v->region, v->size);
    copy.data = copy.region + (v->data - v->region);
    return copy;
}

static sf_input input(const view *v, int kind)
{
    sf_input in = {v->data, v->outer, v->row, v->step, kind};
    return in;
}

static sf_output output(const view *v)
{
    sf_output out = {v->data, v->outer, v->row, v->step};
    return out;
}

/* ---- entries --------------------------------------------------------------------------------- */

enum { EIGHTHS, WIDE, SPECIAL, BITS, OFFSET, MASKED, N_STYLES };

static double entry(int style, size_t i)
{
    const int f32 = p.kind != SF_F64;
    const double specials[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, f32 ? FLT_MAX : DBL_MAX,
                               f32 ? -FLT_MAX : -DBL_MAX, f32 ? FLT_MIN : DBL_MIN,
                               f32 ? 0x1p-149 : 0x1p-1074, 88.7, -103.97, 709.78, -745.13, 1e5,
                               -1e-5, 1};
    int byte = (int)entry_byte(i);
    switch (style) {
    case WIDE: return (byte - 128) * 8.25;
    case SPECIAL: return byte < 16 ? specials[byte] : (byte - 128) / 8.0;
    case OFFSET: return (f32 ? 4e4 : 1e12) + byte / 64.0;
    case MASKED: return byte % 4 ? -INFINITY : byte / 16.0;
    default: return (byte - 128) / 8.0;
    }
}

static void fill_entries(view *v, int kind, int style, double *seen, int unit_interval)
{
    size_t i = 0;
    for (ptrdiff_t row = 0; row < p.rows; row++)
        for (ptrdiff_t c = 0; c < p.n; c++, i++) {
            unsigned char *to = at(v, row, c);
            if (unit_interval && style != SPECIAL && style != BITS) {
                unsigned byte = (unsigned)entry_byte(i);
                put(to, 0, kind, byte > 250 ? (double)(byte & 1) : byte < 4 ? ldexp(1, -(int)byte * 9)
                                                                        : byte / 256.0);
            } else if (style == BITS) {
                for (size_t j = 0; j < v->item; j++)
                    to[j] = (unsigned char)entry_byte(i * v->item + j);
            } else {
                put(to, 0, kind, entry(style, i));
            }
            seen[i] = get(to, 0, kind);
        }
}

static double *numbers(ptrdiff_t n, unsigned how)
{
    double *values = allocated((size_t)n * sizeof *values);
    for (ptrdiff_t i = 0; i < n; i++) {
        unsigned byte = (unsigned)entry_byte((size_t)i * 7 + how);
        values[i] = byte < 32 ? 0.0 : byte == 32 ? 1e-60 : byte == 33 ? 1e40 : byte / 64.0;
    }
    return values;
}

static void decode(void)
{
    static const double temperatures[] = {1, 1, 1, 0.5, 0.1, 1e-3, 3, 1e3, 0.7, 1.0000000000000002,
                                          1e-30, 1e30, 1e-31, 1e-300, 1e271, 1e300, 1e-310, 0x1p-1074};
    static const ptrdiff_t borders[] = {191,  192,  193,  194,  255,  256,  257,  511,
                                        1000, 1023, 1024, 1025, 1031, 2047, 2048, 2049,
                                        2053, 3000, 4096, 4097, 4099, 6145, 32768, 33000};
    const size_t n_borders = sizeof borders / sizeof *borders;
    memset(&p, 0, sizeof p);
    p.operation = (int)(take() % SF_N_OPERATIONS);
    p.kind = (int)(take() % 4);
    p.result_kind = result_kind(p.kind);
    unsigned classes = take(), outer = take(), inner = take(), layout = take(), t_layout = take();
    unsigned options = take(), more = take(), style = take() % N_STYLES, t_style = take();
    p.n = classes < 200 ? (ptrdiff_t)classes + 1 : borders[classes % n_borders];
    p.n_outer = outer % 4 == 3 ? 1 + outer % 3 : 1;
    p.inner = 1 + inner % 80;
    /* Enough for drive.c to share them out, but seldom: most inputs should take little time. */
    ptrdiff_t most = more & 0x80 ? MOST_ENTRIES : MOST_ENTRIES / 8;
    if (more & 0x80)
        p.inner = MOST_ENTRIES;
    if (p.inner * p.n_outer * p.n > most)
        p.inner = most / p.n / p.n_outer;
    if (p.inner < 1)
        p.inner = p.n_outer = 1;
    p.rows = p.n_outer * p.inner;
    p.split = (ptrdiff_t)take() % (p.inner + 1);
    p.stream = options >> 7 & 1;
    p.in_place = (options >> 6 & 1) && p.kind == p.result_kind;
    p.temperature_step = (options >> 5 & 1) && p.operation != SF_CROSS_ENTROPY;
    p.temperature = allocated((p.temperature_step ? (size_t)(p.rows * p.n) : 1) * sizeof(double));
    p.temperature[0] = pick(temperatures, sizeof temperatures / sizeof *temperatures);
    if (p.operation == SF_CROSS_ENTROPY) /* which has none */
        p.temperature[0] = 1;
    for (ptrdiff_t i = 1; p.temperature_step && i < p.rows * p.n; i++)
        p.temperature[i] = temperatures[entry_byte((size_t)i * 3) % 18];
    if ((options & 1) && p.operation != SF_MEASURES) /* which have none */
        p.sample_weight = numbers(is_binary(p.operation) ? p.rows * p.n : p.rows, 1);
    if (options & 2)
        p.class_weight = numbers(p.n, 2);
    p.has_ignore_index = options >> 2 & 1;
    p.of_labels = ((options >> 3 & 1) || p.operation == SF_ROW_STATISTICS)
               && !is_divergence(p.operation);
    p.smoothing = more & 1 ? (more >> 1 & 7) / 7.0 : 0.0;
    p.gradient_scale = more & 0x10 ? 1.0 / 3 : 1.0;
    p.pos_weight_step = more >> 5 & 1;
    p.pos_weight = numbers(p.pos_weight_step ? p.rows * p.n : 1, 4);

    p.x = allocated((size_t)(p.rows * p.n) * sizeof *p.x);
    p.t = allocated((size_t)(p.rows * p.n) * sizeof *p.t);
    p.x_view = new_view(is_binary(p.operation) ? 0 : layout, p.n, item_size(p.kind));
    p.t_view = new_view(is_binary(p.operation) ? 0 : t_layout, p.n, item_size(p.result_kind));
    int probabilities = p.operation == SF_CROSS_ENTROPY || p.operation == SF_BINARY_CROSS_ENTROPY;
    fill_entries(&p.x_view, p.kind, (int)style, p.x, probabilities);
    if (is_divergence(p.operation))
        fill_entries(&p.t_view, p.result_kind, (int)(t_style % N_STYLES), p.t, 0);
    else
        fill_entries(&p.t_view, p.result_kind,
                     t_style % 8 == 7 && is_binary(p.operation) ? SPECIAL : EIGHTHS, p.t, 1);

    const int64_t wrong[] = {-1, p.n, -100, p.n - 1, 0, INT64_MAX, INT64_MIN, INT32_MAX, INT32_MIN,
                             INT64_C(1) << 32, -100, -100};
    const size_t n_wrong = sizeof wrong / sizeof *wrong;
    p.labels64 = allocated((size_t)p.rows * sizeof *p.labels64);
    p.labels32 = allocated((size_t)p.rows * sizeof *p.labels32);
    p.indices = allocated((size_t)p.rows * N_INDICES * sizeof *p.indices);
    for (ptrdiff_t i = 0; i < p.rows * N_INDICES; i++) {
        unsigned byte = (unsigned)entry_byte((size_t)i * 5 + 3);
        int64_t label = byte < (t_style & 31) ? wrong[byte % n_wrong] : (int64_t)byte * 131 % p.n;
        if (more >> 6 & 1 && (label > INT32_MAX || label < INT32_MIN))
            label = 0;
        p.indices[i] = label;
        if (i < p.rows)
            p.labels64[i] = label;
    }
    for (ptrdiff_t i = 0; i < p.rows; i++)
        p.labels32[i] = (int32_t)p.labels64[i];
    if (!(more >> 6 & 1)) {
        free(p.labels32);
        p.labels32 = NULL;
    }
    p.shift = allocated((size_t)p.rows * sizeof *p.shift);
    p.scale = numbers(p.rows, 5);
    for (ptrdiff_t row = 0; row < p.rows; row++) /* the gradient of a weight is not so large or small */
        p.scale[row] = fmin(fmax(p.scale[row], 1e-30), 1e3);
    for (ptrdiff_t row = 0; row < p.rows; row++) {
        double most = -INFINITY;
        for (ptrdiff_t c = 0; c < p.n; c++)
            most = fmax(most, p.x[row * p.n + c]);
        p.shift[row] = isfinite(most) ? most : 0;
    }
}

static void forget(void)
{
    void *all[] = {p.temperature, p.class_weight, p.sample_weight, p.pos_weight, p.shift, p.scale,
                   p.labels32, p.labels64, p.indices, p.x, p.t, p.x_view.region, p.t_view.region};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* ---- runs ------------------------------------------------------------------------------------ */

typedef struct { /* results of rows, contiguous, in the type of the result */
    unsigned char *out, *losses;
    double *row_max, *row_rest;
    sf_result result;
    statistics statistics;
} results;

static ptrdiff_t width(void)
{
    return p.operation == SF_SELECTED_LOG_PROBS ? N_INDICES
         : p.operation == SF_LOGSUMEXP ? 1 : writes_classes(p.operation) ? p.n : 0;
}

static results new_results(void)
{
    size_t item = item_size(p.result_kind), r = (size_t)p.rows;
    results o = {allocated(r * (size_t)width() * item),
                 allocated(r * (is_binary(p.operation) ? (size_t)p.n : 1) * item),
                 allocated(r * sizeof(double)), allocated(r * sizeof(double)), sf_no_result(),
                 new_statistics(r)};
    return o;
}

static void free_results(results *o)
{
    free(o->out);
    free(o->losses);
    free(o->row_max);
    free(o->row_rest);
    free_statistics(&o->statistics);
}

static int has_losses(void)
{
    return p.operation == SF_SOFTMAX_LOSS || p.operation == SF_SOFTMAX_LOSS_GRAD
        || p.operation == SF_CROSS_ENTROPY || is_divergence(p.operation);
}

static sf_targets targets(const view *t, void *losses)
{
    sf_targets target = sf_no_targets();
    target.labels32 = p.of_labels ? p.labels32 : NULL;
    target.labels64 = p.of_labels && !p.labels32 ? p.labels64 : NULL;
    target.probabilities = input(t, p.result_kind);
    target.class_weight = is_divergence(p.operation) ? NULL : p.class_weight;
    target.sample_weight = p.sample_weight;
    target.has_ignore_index = p.has_ignore_index;
    target.ignore_index = -100;
    target.label_smoothing = p.operation == SF_CROSS_ENTROPY ? 0 : p.smoothing;
    target.row_losses = losses;
    target.gradient_scale = p.gradient_scale;
    return target;
}

/* All rows, with one number or a few of each row in o. */
static sf_call new_call(const view *x, results *o, const sf_targets *t, int n_threads)
{
    sf_call call;
    sf_output out = {width() ? o->out : NULL, p.inner * width(), width(), 1};
    sf_begin(&call, input(x, p.kind), p.rows, p.inner, p.n, n_threads);
    call.out = out;
    call.temperature = p.temperature;
    call.temperature_step = p.temperature_step;
    call.targets = t;
    call.columns = &o->statistics.columns;
    call.measures = &o->statistics.measures;
    if (p.operation == SF_SELECTED_LOG_PROBS) {
        call.indices = p.indices;
        call.n_indices = N_INDICES;
    }
    if (p.operation == SF_MAXIMUM_AND_REST || p.operation == SF_EXPONENTIALS) {
        call.row_max = o->row_max;
        call.row_rest = o->row_rest;
        memcpy(o->row_max, p.shift, (size_t)p.rows * sizeof *o->row_max);
        memcpy(o->row_rest, p.scale, (size_t)p.rows * sizeof *o->row_rest);
    }
    return call;
}

static void run(const sf_call *call, sf_result *result)
{
    int status = sf_run(call, p.operation, result);
    if (status != SF_OK)
        fail("status %d", status);
}

/* Rows [first, first + count) of a call, which lie in one outer step; the sums go on. */
static void run_part(const sf_call *call, ptrdiff_t first, ptrdiff_t count, sf_result *result)
{
    const sf_result before = *result;
    sf_targets target;
    sf_call part = sf_rows_from(call, first, &target);
    part.n_rows = count;
    run(&part, result);
    if (before.bad_label_row < 0 && result->bad_label_row >= 0)
        result->bad_label_row += first;
    if (before.bad_value_row < 0 && result->bad_value_row >= 0)
        result->bad_value_row += first;
}

/* Every row by itself, contiguous. */
static void run_alone(results *o)
{
    ptrdiff_t n = p.n, inner = p.inner;
    view x = {0}, t = {0};
    x.item = item_size(p.kind);
    t.item = item_size(p.result_kind);
    x.outer = t.outer = n * inner;
    x.row = t.row = n;
    x.step = t.step = 1;
    x.size = (size_t)(p.rows * n) * x.item;
    t.size = (size_t)(p.rows * n) * t.item;
    x.data = x.region = allocated(x.size);
    t.data = t.region = allocated(t.size);
    for (ptrdiff_t row = 0; row < p.rows; row++)
        for (ptrdiff_t c = 0; c < n; c++) {
            memcpy(at(&x, row, c), at(&p.x_view, row, c), x.item);
            memcpy(at(&t, row, c), at(&p.t_view, row, c), t.item);
        }
    sf_targets target = targets(&t, o->losses);
    sf_call call = new_call(&x, o, &target, 1);
    for (ptrdiff_t row = 0; row < p.rows; row++)
        run_part(&call, row, 1, &o->result);
    free(x.region);
    free(t.region);
}

static int is_nan(const unsigned char *from)
{
    double value = get(from, 0, p.result_kind);
    return value != value;
}

static void compare(const char *what, const unsigned char *got, const unsigned char *expected,
                    ptrdiff_t row, ptrdiff_t c)
{
    if (memcmp(got, expected, item_size(p.result_kind)) && !(is_nan(got) && is_nan(expected)))
        fail("%s: row %ld, entry %ld: %a, alone %a", what, (long)row, (long)c,
             get(got, 0, p.result_kind), get(expected, 0, p.result_kind));
}

static int same_number(double a, double b) { return a == b || (a != a && b != b); }

static void compare_results(const char *what, const sf_result *got, const sf_result *expected,
                            int with_sums)
{
    if (with_sums && (!same_number(sf_sum_value(got->loss), sf_sum_value(expected->loss))
                      || !same_number(sf_sum_value(got->weight), sf_sum_value(expected->weight))))
        fail("%s: sums %a and %a, else %a and %a", what, sf_sum_value(got->loss),
             sf_sum_value(got->weight), sf_sum_value(expected->loss),
             sf_sum_value(expected->weight));
    if (got->bad_label_row != expected->bad_label_row
        || got->bad_value_row != expected->bad_value_row)
        fail("%s: bad rows %ld and %ld, else %ld and %ld", what, (long)got->bad_label_row,
             (long)got->bad_value_row, (long)expected->bad_label_row,
             (long)expected->bad_value_row);
}

enum { AT_ONCE, IN_TWO_CALLS, BY_THREADS, N_WAYS };
static const char *const ways[] = {"at once", "in two calls", "by threads"};

/* In the layout asked for.  The sums of the first way are those of the others. */
static void run_laid_out(int way, unsigned out_layout, const results *alone, sf_result *sums)
{
    const char *what = ways[way];
    const size_t item = item_size(p.result_kind);
    const int outer_rows = writes_classes(p.operation);
    results o = new_results();
    view x = p.x_view, out = p.x_view;
    if (outer_rows)
        out = p.in_place ? like(&p.x_view) : new_view(out_layout, p.n, item);
    if (p.in_place && outer_rows)
        x = out;
    unsigned char *untouched = outer_rows ? allocated(out.size) : NULL;
    if (outer_rows)
        memcpy(untouched, out.region, out.size);
    sf_targets target = targets(&p.t_view, o.losses);
    sf_call call = new_call(&x, &o, &target, way == BY_THREADS ? 3 : 1);
    if (outer_rows) {
        sf_write_to(&call, output(&out));
        call.stream = p.stream;
    }
    ptrdiff_t together = sf_rows_of_a_sum(p.n);
    ptrdiff_t split = p.n_outer > 1 ? 0 : p.split / together * together;
    if (way == IN_TWO_CALLS && split > 0) {
        run_part(&call, 0, split, &o.result);
        if (split < p.rows)
            run_part(&call, split, p.rows - split, &o.result);
    } else {
        run(&call, &o.result);
    }
    if (way == AT_ONCE)
        *sums = o.result;
    compare_results(what, &o.result, sums, 1);
    compare_results(what, &o.result, &alone->result, 0);
    for (ptrdiff_t row = 0; row < p.rows; row++) {
        for (ptrdiff_t c = 0; c < width(); c++) {
            size_t offset = (size_t)(row * width() + c) * item;
            unsigned char *got = outer_rows ? at(&out, row, c) : o.out + offset;
            compare(what, got, alone->out + offset, row, c);
            if (outer_rows)
                memcpy(got, untouched + (got - out.region), item);
        }
        if (has_losses())
            compare(what, o.losses + (size_t)row * item, alone->losses + (size_t)row * item, row,
                    -1);
        if (p.operation == SF_MAXIMUM_AND_REST && (!same_number(o.row_max[row], alone->row_max[row])
                                    || !same_number(o.row_rest[row], alone->row_rest[row])))
            fail("%s: row %ld: statistics %a and %a, alone %a and %a", what, (long)row,
                 o.row_max[row], o.row_rest[row], alone->row_max[row], alone->row_rest[row]);
    }
    if ((p.operation == SF_ROW_STATISTICS || p.operation == SF_MEASURES)
        && !same_statistics(&o.statistics, &alone->statistics))
        fail("%s: other statistics than alone", what);
    if (outer_rows && memcmp(out.region, untouched, out.size))
        fail("%s: wrote between the rows", what);
    if (outer_rows)
        free(out.region);
    free(untouched);
    free_results(&o);
}

/* ---- the oracle ------------------------------------------------------------------------------ */

static double epsilon, smallest, largest;

static void within(double got, long double exact, long double bound, const char *what,
                   ptrdiff_t row, ptrdiff_t c)
{
    if (got == exact || (got != got && exact != exact))
        return;
    if (fabsl(exact) + bound > largest && isinf(got) && (got > 0) == (exact > 0))
        return;
    if (!(fabsl(got - exact) <= bound))
        fail("%s of row %ld, entry %ld: %a, exact %La, error %Lg of %Lg", what, (long)row, (long)c,
             got, exact, fabsl(got - exact), bound);
}

static double temperature_of(ptrdiff_t i) { return p.temperature[i * p.temperature_step]; }

typedef struct { long double m, sum, log_sum; int valid; } exact_row;

static long double exponent(const exact_row *r, ptrdiff_t row, ptrdiff_t c)
{
    return ((long double)p.x[row * p.n + c] - r->m) / temperature_of(row);
}

static exact_row exact_row_of(ptrdiff_t row)
{
    exact_row r = {-INFINITY, 0, NAN, 0};
    const double *x = p.x + row * p.n;
    for (ptrdiff_t c = 0; c < p.n; c++)
        r.m = x[c] != x[c] || r.m != r.m ? NAN : fmaxl(r.m, x[c]);
    if (!isfinite(r.m))
        return r;
    r.valid = 1;
    for (ptrdiff_t c = 0; c < p.n; c++)
        r.sum += expl(exponent(&r, row, c));
    r.log_sum = logl(r.sum);
    return r;
}

/* The contract's bound; roundings of the exponent count where the result is subnormal, too. */
static long double probability_bound(long double d, long double value, double temperature)
{
    long double slope = temperature == 1 ? 0.5L : 1.5L;
    return value == 0 ? 2 * smallest : (4 + slope * fabsl(d)) * epsilon * value + 2 * smallest;
}

static int counts(ptrdiff_t row)
{
    if (p.sample_weight && p.sample_weight[row] == 0)
        return 0;
    if (!p.of_labels)
        return 1;
    int64_t label = p.labels64[row];
    return label >= 0 && label < p.n && !(p.class_weight && p.class_weight[label] == 0);
}

static void check_loss(const results *o, ptrdiff_t row, const exact_row *r, long double *sum,
                       long double *sum_bound)
{
    const int logits = p.operation != SF_CROSS_ENTROPY;
    const double v = p.sample_weight ? p.sample_weight[row] : 1, alpha = logits ? p.smoothing : 0;
    const double t = temperature_of(row);
    const size_t item = item_size(p.result_kind);
    double got = get(o->losses + (size_t)row * item, 0, p.result_kind);
    long double loss = 0, share = 0;
    int nan = 0, outside = 0, unknown = 0, ignored = !counts(row);
    for (ptrdiff_t c = 0; !ignored && c < p.n; c++) {
        double x = p.x[row * p.n + c];
        long double target = p.of_labels ? c == p.labels64[row] : p.t[row * p.n + c];
        long double a = (1 - (long double)alpha) * target + (long double)alpha / p.n;
        int counted = a != 0;
        a *= p.class_weight ? p.class_weight[c] : 1;
        share += a;
        long double term = logits ? r->log_sum - exponent(r, row, c) : -logl(x);
        nan |= x != x;
        outside |= x < 0 || x > 1;
        if (a != 0)
            loss += a * term;
        /* inf * 0, or a weight that comes after a sum that overflows */
        unknown |= counted && fabsl(term) > DBL_MAX / 1e6 && (a * v == 0 || isfinite(term));
    }
    if (logits ? !r->valid && !ignored : nan)
        loss = NAN;
    loss *= v;
    if (!unknown && (logits || !outside))
        within(got, loss, 4 * epsilon * fmaxl(share * v, fabsl(loss)) + 2 * smallest, "loss", row, -1);
    *sum += unknown ? NAN : loss;
    *sum_bound += 4 * epsilon * fmaxl(share * v, fabsl(loss));

    if (p.operation != SF_SOFTMAX_LOSS_GRAD)
        return;
    long double k = (long double)p.gradient_scale * v / t;
    for (ptrdiff_t c = 0; c < p.n; c++) {
        long double target = p.of_labels ? c == p.labels64[row] : p.t[row * p.n + c];
        long double a = ((1 - (long double)alpha) * target + (long double)alpha / p.n)
                      * (p.class_weight ? p.class_weight[c] : 1);
        long double d = exponent(r, row, c), probability = expl(d) / r->sum;
        long double exact = ignored ? 0 : r->valid ? k * (probability * share - a) : NAN;
        /* p's own error, a handful of roundings of each of the two terms, and the result's */
        long double bound = k * (probability_bound(d, probability, t) * share
                                 + 4 * epsilon * (probability * share + a)) + 2 * smallest;
        got = get(o->out + (size_t)(row * p.n + c) * item, 0, p.result_kind);
        if (ignored || k < 1e30L)
            within(got, exact, bound, "gradient", row, c);
    }
}

/* The bounds are those of oracle.py, roughly: every p and q may be off as probabilities are. */
static void check_divergence(const results *o, ptrdiff_t row, const exact_row *r)
{
    const double v = p.sample_weight ? p.sample_weight[row] : 1, t = temperature_of(row);
    const size_t item = item_size(p.result_kind);
    const double *a = p.t + row * p.n;
    exact_row base = {-INFINITY, 0, NAN, 0};
    for (ptrdiff_t c = 0; c < p.n; c++)
        base.m = a[c] != a[c] || base.m != base.m ? NAN : fmaxl(base.m, a[c]);
    int valid = r->valid && isfinite(base.m), unknown = 0;
    /* Of logits a million temperatures from 0 on, and of others beside them, test_divergence.py knows. */
    if (v != 0 && valid && fmaxl(fabsl(r->m), fabsl(base.m)) > 1e6L * t)
        return;
    for (ptrdiff_t c = 0; valid && c < p.n; c++)
        base.sum += expl((a[c] - base.m) / t);
    base.log_sum = logl(base.sum);
    long double divergence = 0, slack = 0;
    const long double k = (long double)p.gradient_scale * v / t;
    for (ptrdiff_t c = 0; c < p.n; c++) {
        long double d = (a[c] - base.m) / t, d_x = exponent(r, row, c);
        long double mass = expl(d) / base.sum, other = expl(d_x) / r->sum;
        long double ratio = (d_x - d) - (r->log_sum - base.log_sum);
        long double of_p = mass > 0 ? (4 + 1.5L * fabsl(d)) * epsilon * mass : 0;
        long double of_q = other > 0 ? (4 + 1.5L * fabsl(d_x)) * epsilon * other : 0;
        if (a[c] == -INFINITY || mass < 1e-330L) {
            mass = of_p = ratio = 0;
            divergence += other;
        } else {
            unknown |= mass < 1e-300L && fabsl(mass * ratio) > 1e-30L;
            divergence += mass * (fabsl(ratio) < 1e-5L ? ratio * ratio * (0.5L + ratio / 6)
                                                       : expm1l(ratio) - ratio);
        }
        slack += of_q + of_p * (1 + fabsl(ratio)) + 4 * epsilon * (1 + fabsl(ratio)) * mass;
        if (p.operation != SF_KL_DIVERGENCE_GRAD)
            continue;
        long double exact = v == 0 ? 0 : valid ? k * (other - mass) : NAN;
        long double bound = 2 * k * (of_p + of_q + 2 * smallest) + 2 * smallest;
        if (v == 0 || k < 1e30L)
            within(get(o->out + (size_t)(row * p.n + c) * item, 0, p.result_kind), exact, bound,
                   "gradient", row, c);
    }
    unknown |= divergence > 1e308L; /* infinite before it is weighted */
    divergence = v == 0 ? 0 : valid ? divergence * v : NAN;
    if (v == 0 || !unknown)
        within(get(o->losses + (size_t)row * item, 0, p.result_kind), divergence,
               v * slack + 4 * epsilon * fabsl(divergence) + 2 * smallest, "divergence", row, -1);
}

static void check_rows(const results *o, sf_result sums)
{
    const size_t item = item_size(p.result_kind);
    long double sum = 0, sum_bound = 0;
    for (ptrdiff_t row = 0; row < p.rows; row++) {
        exact_row r = exact_row_of(row);
        double t = temperature_of(row);
        long double total = r.m != r.m || isinf(r.m) ? r.m : r.m / t + r.log_sum;
        long double total_bound = 4 * epsilon * fmaxl(1, fmaxl(fabsl(r.m / t), fabsl(total)));
        if (is_divergence(p.operation)) {
            check_divergence(o, row, &r);
            continue;
        }
        if (has_losses()) {
            check_loss(o, row, &r, &sum, &sum_bound);
            continue;
        }
        if (p.operation == SF_MAXIMUM_AND_REST) {
            double got = o->row_max[row] / t;
            if (isfinite(o->row_max[row]))
                got += log1p(o->row_rest[row]);
            if (o->row_rest[row] != o->row_rest[row])
                got = NAN;
            within(got, total, total_bound + 1e-300L, "log-sum-exp of statistics", row, -1);
            continue;
        }
        for (ptrdiff_t c = 0; c < width(); c++) {
            double got = get(o->out + (size_t)(row * width() + c) * item, 0, p.result_kind);
            int64_t index = p.operation == SF_SELECTED_LOG_PROBS ? p.indices[row * N_INDICES + c] : c;
            if (p.operation == SF_LOGSUMEXP) {
                within(got, total, total_bound, "logsumexp", row, c);
                continue;
            }
            if (index < 0 || index >= p.n) {
                if (p.has_ignore_index && index == -100 && got != 0)
                    fail("row %ld, index %ld: not 0 where ignored", (long)row, (long)c);
                continue;
            }
            long double d = exponent(&r, row, index), probability = expl(d), log_p = d - r.log_sum;
            if (p.operation == SF_SOFTMAX) {
                probability = r.valid ? probability / r.sum : NAN;
                within(got, probability, probability_bound(d, probability, t), "softmax", row, c);
            } else if (p.operation == SF_EXPONENTIALS) {
                if (r.valid)
                    within(got, probability * p.scale[row],
                           probability_bound(d, probability * p.scale[row], t)
                               + 2 * smallest * (p.scale[row] + 1), "exponential", row, c);
            } else {
                within(got, r.valid ? log_p : NAN, 4 * epsilon * fmaxl(1, fabsl(log_p)), "log p",
                       row, c);
            }
        }
    }
    if (p.operation == SF_SOFTMAX_LOSS && isfinite(sum))
        within(sf_sum_value(sums.loss), sum, sum_bound + 1e-300L, "sum", -1, -1);
}

/* ---- binary losses --------------------------------------------------------------------------- */

/* Entries [first, first + count), which are rows of one class. */
static void run_entries(results *o, ptrdiff_t first, ptrdiff_t count, int n_threads)
{
    const size_t item = item_size(p.result_kind);
    sf_input x = {p.x_view.region + (size_t)first * item_size(p.kind), 0, 1, 1, p.kind};
    sf_input t = {p.t_view.region + (size_t)first * item, 0, 1, 1, p.result_kind};
    sf_output out = {o->losses + (size_t)first * item, 0, 1, 1};
    sf_targets target = sf_no_targets();
    sf_call call;
    sf_begin(&call, x, count, count, 1, n_threads);
    call.out = out;
    call.temperature = p.temperature + first * p.temperature_step;
    call.temperature_step = p.temperature_step;
    call.targets = &target;
    target.probabilities = t;
    target.pos_weight = p.pos_weight + first * p.pos_weight_step;
    target.pos_weight_step = p.pos_weight_step;
    target.sample_weight = p.sample_weight ? p.sample_weight + first : NULL;
    run(&call, &o->result);
}

static void check_binary(void)
{
    const int of_logits = p.operation == SF_BINARY_CROSS_ENTROPY_WITH_LOGITS;
    const ptrdiff_t n = p.rows * p.n;
    const size_t item = item_size(p.result_kind);
    results o = new_results(), shared = new_results(), serial = new_results();
    for (ptrdiff_t i = 0; i < n; i += 1 + i / 3) /* any beginnings and lengths */
        run_entries(&o, i, i + 1 + i / 3 < n ? 1 + i / 3 : n - i, 1);
    run_entries(&shared, 0, n, 3);
    run_entries(&serial, 0, n, 1);
    compare_results("by threads", &shared.result, &serial.result, 1);
    for (ptrdiff_t i = 0; i < n; i++) {
        long double x = p.x[i], t = p.t[i], v = p.sample_weight ? p.sample_weight[i] : 1;
        long double yes, no, loss;
        const unsigned char *expected = o.losses + (size_t)i * item;
        compare("by threads", shared.losses + (size_t)i * item, expected, i, 0);
        compare("at once", serial.losses + (size_t)i * item, expected, i, 0);
        if (!(t >= 0 && t <= 1) || (!of_logits && (x < 0 || x > 1)))
            continue;
        if (of_logits) {
            long double z = x / temperature_of(i), rest = log1pl(expl(-fabsl(z)));
            yes = rest + fmaxl(-z, 0);
            no = rest + fmaxl(z, 0);
        } else {
            yes = -logl(x);
            no = -log1pl(-x);
        }
        long double weight = of_logits ? p.pos_weight[i * p.pos_weight_step] : 1;
        long double on = t * weight;
        loss = v * ((on == 0 ? 0 : on * yes) + (t == 1 ? 0 : (1 - t) * no));
        if (x != x)
            loss = NAN;
        if (v == 0)
            loss = 0;
        if (fmaxl(yes * fmaxl(weight, 1), no) > DBL_MAX) /* and then a small weight */
            continue;
        within(get(o.losses + (size_t)i * item, 0, p.result_kind), loss,
               4 * epsilon * fmaxl(v * (on + 1 - t), fabsl(loss)) + 2 * smallest, "binary loss", i, 0);
    }
    free_results(&o);
    free_results(&shared);
    free_results(&serial);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 4096)
        return -1;
    bytes = data;
    n_bytes = size;
    next_byte = 0;
    unsigned out_layout = take();
    decode();
    epsilon = p.result_kind == SF_F64 ? DBL_EPSILON : FLT_EPSILON;
    smallest = p.result_kind == SF_F64 ? 0x1p-1074 : 0x1p-149;
    largest = p.result_kind == SF_F64 ? DBL_MAX : FLT_MAX;
    sf_set_parallel_for(backwards);
    failure_aborts = 1;
    if (!isas[0].tables)
        find_isas(0, NULL);
    set_context("%s, %s, %ld x %ld x %ld, T %a (step %d), strides %ld %ld %ld, stream %d, in place %d",
                operation_names[p.operation], kind_name(p.kind), (long)p.n_outer, (long)p.inner, (long)p.n,
                p.temperature[0], p.temperature_step, (long)p.x_view.outer, (long)p.x_view.row,
                (long)p.x_view.step, p.stream, p.in_place);
    for (int i = 0; choose(i); i++) {
        if (is_binary(p.operation)) {
            check_binary();
            continue;
        }
        results alone = new_results();
        sf_result sums;
        run_alone(&alone);
        for (int way = 0; way < N_WAYS; way++)
            run_laid_out(way, out_layout, &alone, &sums);
        /* Their digits test_evaluation.py and test_comparison.py look at. */
        if (p.operation != SF_ROW_STATISTICS && p.operation != SF_MEASURES)
            check_rows(&alone, sums);
        free_results(&alone);
    }
    forget();
    return 0;
}
