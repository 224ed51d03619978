/* The fully connected layer: rows are lanes, two vectors of them a panel, and the weights of a few
 * classes are broadcast one by one, so that only the features are ever transposed.  A tile of logits is
 * reduced as those of tiles.h. */

#ifdef PRODUCT_CLASSES

enum {
    GROUP = PRODUCT_CLASSES,                  /* classes of which a panel's products stay in registers */
    PANEL = 2 * LANES,
    CLASSES = SF_LAYER_CLASSES / GROUP * GROUP,
    DEPTH = PRODUCT_DEPTH,                    /* features that are multiplied before the sums rest */
    DEPTH_STEP = DEPTH + 64 / REAL_BYTES,     /* from class to class: not a power of two */
    PACK = 4,                                 /* depths of which the weights of CLASSES are copied at once */
    PACK_ENTRIES = CLASSES * DEPTH_STEP,
    FEW = 4,                                  /* classes that a row is multiplied with at once, and whose */
    SUMMED = LANES > FEW ? LANES : FEW,       /* sums across lanes are taken together */
    AHEAD = 4,
    MOST_MERGED = 2 * LANES > 8 ? 2 * LANES : 8 /* a panel, or SF_FEW_PRODUCTS */
};

/* Logits of a panel, and the temperatures of its rows. */
typedef struct {
    SF_ALIGNED(64) real x[(CLASSES + 3) / 4 * 4 * PANEL]; /* [class][row] */
    SF_ALIGNED(64) real hi[PANEL];
    SF_ALIGNED(64) real lo[PANEL];
    SF_ALIGNED(64) real floor[PANEL];
} panel_tile;

/* ---- products ----------------------------------------------------------------------------------------- */

#if PRODUCT_CLASSES == 12
#define FOR_GROUP(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#else
#define FOR_GROUP(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#endif

/* out[j] += sum over r and k of b[r, j, k] x[r, k] for the GROUP of j, PANEL lanes each; or from start[j]
 * in all lanes.  Meanwhile next is fetched.  Accumulators have names because GCC 12 keeps those of an
 * array in memory. */
SF_INLINE void multiply_group(const real *x, const real *b, const ptrdiff_t j_step,
                              const ptrdiff_t k_step, ptrdiff_t depth, ptrdiff_t repeats,
                              const ptrdiff_t r_step, real *out, const ptrdiff_t out_step,
                              const real *start, const char *next)
{
#define DECLARE(j) vec low##j, high##j;
#define START(j) low##j = high##j = vset1(start[j]);
#define RESUME(j) low##j = vload(out + j * out_step); high##j = vload(out + j * out_step + LANES);
#define MULTIPLY(j)                                    \
    {                                                  \
        const vec w = vset1(b[j * j_step]);            \
        low##j = vfma(w, low, low##j);                 \
        high##j = vfma(w, high, high##j);              \
    }
#define STORE(j) vstore(out + j * out_step, low##j); vstore(out + j * out_step + LANES, high##j);
#define STEP                                           \
    {                                                  \
        const vec low = vload(x), high = vload(x + LANES); \
        FOR_GROUP(MULTIPLY)                            \
        x += PANEL;                                    \
        b += k_step;                                   \
    }
    FOR_GROUP(DECLARE)
    if (start) {
        FOR_GROUP(START)
    } else {
        FOR_GROUP(RESUME)
    }
    for (ptrdiff_t r = 0; r < repeats; r++) {
        ptrdiff_t k = 0;
        for (; k + 4 <= depth; k += 4) {
            SF_PREFETCH(next);
            next += 64;
            STEP STEP STEP STEP
        }
        for (; k < depth; k++)
            STEP
        b += r_step - depth * k_step;
    }
    FOR_GROUP(STORE)
#undef DECLARE
#undef START
#undef RESUME
#undef MULTIPLY
#undef STORE
#undef STEP
}

/* Logits of a group of classes: x a panel of features, w their packed weights. */
static SF_NOINLINE void multiply_classes(const real *x, const real *w, ptrdiff_t depth, real *out,
                                         const real *start, const char *next)
{
    multiply_group(x, w, DEPTH_STEP, 1, depth, 1, 0, out, PANEL, start, next);
}

/* ---- what goes into them ------------------------------------------------------------------------------- */

typedef struct { ptrdiff_t n, each, packs; } depths;

/* D in equal parts of at most DEPTH, packs of PACK of them. */
SF_INLINE depths depths_of(const sf_layer *layer)
{
    depths d;
    d.n = SF_MAX(1, (layer->n_features + DEPTH - 1) / DEPTH);
    d.each = (layer->n_features + d.n - 1) / d.n;
    d.packs = (d.n + PACK - 1) / PACK;
    return d;
}

SF_INLINE real *panel_at(const sf_slab *s, ptrdiff_t panel)
{
    return (real *)s->features + panel * PANEL * s->layer->n_features;
}

/* n entries from the element offset on, multiplied by *scale unless that is NULL. */
static SF_NOINLINE void load_entries(const sf_input *in, ptrdiff_t offset, ptrdiff_t n, const double *scale,
                                     real *home)
{
    const real *x = fetch(in, offset, n, home);
    if (scale) {
        const double factor = *scale;
        for (ptrdiff_t i = 0; i < n; i++)
            home[i] = (real)(x[i] * factor);
    } else if (x != home) {
        memcpy(home, x, (size_t)(n * REAL_BYTES));
    }
}

/* Features [from, from + n) of a row of the slab. */
SF_INLINE void load_row_features(const sf_slab *s, ptrdiff_t i, ptrdiff_t from, ptrdiff_t n, real *home)
{
    const sf_input *in = &s->layer->call.x;
    const sf_margin *margin = s->layer->margin;
    const ptrdiff_t row = s->rows[i];
    load_entries(in, row * in->row_stride + from * in->class_stride, n,
                 margin && margin->feature_scale ? margin->feature_scale + row : NULL, home);
}

enum { PIECE = 128 }; /* features of a panel that are transposed at once */

/* [row of the panel][PIECE] to [feature][row of the panel], some features of each. */
static SF_NOINLINE void transpose_piece(const real *buffer, ptrdiff_t some, real *home)
{
    ptrdiff_t c = 0;
    for (; c + COLUMNS <= some; c += COLUMNS)
        for (int k = 0; k < 2; k++) {
            vec column[COLUMNS];
            vload_transposed(buffer + k * LANES * PIECE + c, PIECE, column);
            for (int j = 0; j < COLUMNS; j++)
                vstore(home + (c + j) * PANEL + k * LANES, column[j]);
        }
    for (; c < some; c++)
        for (ptrdiff_t i = 0; i < PANEL; i++)
            home[c * PANEL + i] = buffer[i * PIECE + c];
}

/* The logits at the labels of a panel's rows, with the bits that they have in a tile. */
static SF_NOINLINE void load_label_logits(const sf_slab *s, ptrdiff_t panel)
{
    SF_ALIGNED(64) real buffer[PANEL * PIECE];
    SF_ALIGNED(64) real weights[PIECE * PANEL];
    SF_ALIGNED(64) real sum[PANEL];
    const sf_layer *layer = s->layer;
    const sf_input *in = &layer->weights;
    const real *bias = (const real *)layer->bias, *x = panel_at(s, panel);
    const ptrdiff_t n = layer->n_features, first = panel * PANEL, count = SF_MIN(PANEL, s->n_rows - first);
    ptrdiff_t y[PANEL];
    for (ptrdiff_t i = 0; i < PANEL; i++) {
        y[i] = i < count ? label_or_none(&layer->call, s->rows[first + i]) : -1;
        sum[i] = bias && y[i] >= 0 ? bias[y[i]] : 0;
    }
    vec low = vload(sum), high = vload(sum + LANES);
    for (ptrdiff_t d = 0; d < n; d += PIECE) {
        const ptrdiff_t some = SF_MIN(PIECE, n - d);
        for (ptrdiff_t i = 0; i < PANEL; i++) {
            if (y[i] >= 0)
                load_entries(in, y[i] * in->row_stride + d * in->class_stride, some, NULL, buffer + i * PIECE);
            else
                memset(buffer + i * PIECE, 0, (size_t)(some * REAL_BYTES));
        }
        transpose_piece(buffer, some, weights);
        for (ptrdiff_t k = 0; k < some; k++, x += PANEL) {
            low = vfma(vload(weights + k * PANEL), vload(x), low);
            high = vfma(vload(weights + k * PANEL + LANES), vload(x + LANES), high);
        }
    }
    vstore(sum, low);
    vstore(sum + LANES, high);
    for (ptrdiff_t i = 0; i < count; i++)
        s->sums.label_logit[first + i] = y[i] < 0 ? INFINITY : sum[i];
}

/* Transposes the rows of a panel; lanes without a row are 0. */
static void load_features(const sf_slab *s, ptrdiff_t panel)
{
    SF_ALIGNED(64) real buffer[PANEL * PIECE];
    const ptrdiff_t n = s->layer->n_features, first = panel * PANEL;
    const ptrdiff_t count = SF_MIN(PANEL, s->n_rows - first);
    real *home = panel_at(s, panel);
    for (ptrdiff_t d = 0; d < n; d += PIECE) {
        const ptrdiff_t some = SF_MIN(PIECE, n - d);
        for (ptrdiff_t i = 0; i < PANEL; i++) {
            if (i < count)
                load_row_features(s, first + i, d, some, buffer + i * PIECE);
            else
                memset(buffer + i * PIECE, 0, (size_t)(some * REAL_BYTES));
        }
        transpose_piece(buffer, some, home + d * PANEL);
    }
    if (s->layer->call.columns)
        load_label_logits(s, panel);
}

/* Weights of classes [begin, begin + n) and the depths of a pack: [depth][class][feature], classes
 * beyond n zero up to a whole group. */
static SF_NOINLINE void load_weights(const sf_layer *layer, ptrdiff_t begin, ptrdiff_t n, depths d,
                                     ptrdiff_t pack, real *out)
{
    const sf_input *in = &layer->weights;
    const double *scale = layer->margin ? layer->margin->weight_scale : NULL;
    const ptrdiff_t whole = (n + GROUP - 1) / GROUP * GROUP;
    for (ptrdiff_t c = 0; c < whole; c++)
        for (ptrdiff_t k = pack * PACK; k < SF_MIN(d.n, (pack + 1) * PACK); k++) {
            real *row = out + (k - pack * PACK) * PACK_ENTRIES + c * DEPTH_STEP;
            const ptrdiff_t from = k * d.each, some = SF_MAX(0, SF_MIN(d.each, layer->n_features - from));
            if (c >= n) {
                memset(row, 0, (size_t)(some * REAL_BYTES));
                continue;
            }
            load_entries(in, (begin + c) * in->row_stride + from * in->class_stride, some,
                         scale ? scale + begin + c : NULL, row);
            memset(row + some, 0, (size_t)((DEPTH_STEP - some) * REAL_BYTES));
        }
}

/* ---- sums of a tile's rows join those of their chunk ---------------------------------------------------- */

/* Where a chunk keeps the numbers of rows from first on. */
SF_INLINE sf_chunk_sums sums_at(const sf_slab *s, ptrdiff_t chunk, ptrdiff_t first)
{
    const ptrdiff_t at = chunk * s->room + first;
    sf_chunk_sums sums = s->sums;
    sums.max += at;
    sums.rest += at;
    sums.product = sums.product ? sums.product + at : NULL;
    sums.share = sums.share ? sums.share + at : NULL;
    if (sums.top) {
        sums.squares += at;
        sums.top += at;
        sums.above += at;
    }
    sums.label_logit += first;
    return sums;
}

SF_INLINE double finite_or_0(double a) { return isfinite(a) ? a : 0.0; }

/* Further numbers of count rows join theirs. */
static SF_NOINLINE void merge_rows(const sf_slab *s, const sf_chunk_sums *sums, ptrdiff_t first,
                                   ptrdiff_t count, const double *m, const double *rest,
                                   const double *product, const double *share)
{
    const sf_call *call = &s->layer->call;
    const sf_rate one = {1.4426950408889634, 2.0355273740931033e-17, 1.0};
    double fade[MOST_MERGED];
    SF_ASSUME(count > 0);
    for (ptrdiff_t i = 0; i < count; i++) {
        const double a = SF_MIN(sums->max[i], m[i]), b = SF_MAX(sums->max[i], m[i]);
        fade[i] = a == b ? 0.0 : sf_quotient(a, b, sf_temperature_of(call, s->rows[first + i]));
    }
    exp_doubles(fade, fade, count, one);
    for (ptrdiff_t i = 0; i < count; i++) {
        const double before = sums->max[i], after = SF_MAX(before, m[i]);
        if (product) {
            const double to = finite_or_0(after);
            sums->product[i] += product[i];
            if (sums->share[i] != 0.0)
                sums->product[i] += sums->share[i] * (finite_or_0(before) - to);
            if (share[i] != 0.0)
                sums->product[i] += share[i] * (finite_or_0(m[i]) - to);
            sums->share[i] += share[i];
        }
        sums->rest[i] = before >= m[i] ? sums->rest[i] + (1.0 + rest[i]) * fade[i]
                                       : rest[i] + (1.0 + sums->rest[i]) * fade[i];
        sums->max[i] = after;
    }
}

/* The same of row statistics.  With d = (m2 - m1)/T <= 0 and f = exp(d), the sums of e, e s and e s s of
 * the part of the lesser maximum become f S, f (A + d S) and f (V + 2 d A + d d S). */
static SF_NOINLINE void merge_statistics_of_rows(const sf_slab *s, const sf_chunk_sums *sums, ptrdiff_t first,
                                                 ptrdiff_t count, const sf_chunk_sums *other)
{
    const sf_call *call = &s->layer->call;
    double d[MOST_MERGED], fade[MOST_MERGED];
    SF_ASSUME(count > 0);
    for (ptrdiff_t i = 0; i < count; i++) {
        const double a = SF_MIN(sums->max[i], other->max[i]), b = SF_MAX(sums->max[i], other->max[i]);
        d[i] = a == b ? 0.0 : sf_quotient(a, b, sf_temperature_of(call, s->rows[first + i]));
    }
    exp_doubles(d, fade, count, sf_make_rate(1.0));
    for (ptrdiff_t i = 0; i < count; i++) {
        const int stays = sums->max[i] >= other->max[i];
        const sf_chunk_sums *more = stays ? sums : other, *less = stays ? other : sums;
        double a = more->product[i], v = more->share[i], q = more->squares[i];
        if (fade[i] != 0.0) { /* d may be infinite */
            const double f = fade[i], sum = d[i] * (1.0 + less->rest[i]);
            v += f * (less->share[i] + d[i] * (2.0 * less->product[i] + sum));
            a += f * (less->product[i] + sum);
            q += f * f * (1.0 + less->squares[i]);
        }
        sums->top[i] = more->top[i];
        sums->above[i] += other->above[i];
        sums->product[i] = a;
        sums->share[i] = v;
        sums->squares[i] = q;
    }
    merge_rows(s, sums, first, count, other->max, other->rest, NULL, NULL);
}

/* Nothing yet, of the rows of some panels. */
static void clear_sums(const sf_chunk_sums *sums, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        sums->max[i] = -INFINITY;
        sums->rest[i] = -1.0;
        if (sums->product)
            sums->product[i] = sums->share[i] = 0.0;
        if (sums->top) {
            sums->squares[i] = -1.0;
            sums->top[i] = sums->above[i] = 0.0;
        }
    }
}

/* ---- a tile of logits ------------------------------------------------------------------------------------- */

/* The weighted target of classes [begin, begin + n) in the form of a tile, without what a label adds to
 * the share of all classes; that is one for all rows, and one row of the tile then holds it. */
static SF_NOINLINE void load_weighted_targets(const sf_slab *s, ptrdiff_t first, ptrdiff_t count, ptrdiff_t begin,
                                     ptrdiff_t n, real *a)
{
    const sf_call *call = &s->layer->call;
    const sf_targets *targets = call->targets;
    real row[CLASSES];
    if (sf_has_labels(targets)) {
        const double uniform = targets->label_smoothing / (double)call->n_classes;
        for (ptrdiff_t c = 0; c < n; c++)
            a[c] = (real)(targets->class_weight ? uniform * targets->class_weight[begin + c] : uniform);
        return;
    }
    for (ptrdiff_t i = 0; i < PANEL; i++) {
        if (i < count)
            weighted_target(call, s->rows[first + i], begin, n, row);
        for (ptrdiff_t c = 0; c < n; c++)
            a[c * PANEL + i] = i < count ? row[c] : 0;
    }
}

/* Sums of a (x - m) and of a over the classes of a tile. */
static SF_NOINLINE void weigh_panel(const real *x, const real *a, int same, ptrdiff_t n, const real *m,
                                   double *product, double *share)
{
    for (int k = 0; k < 2; k++) {
        real from[LANES];
        for (int i = 0; i < LANES; i++)
            from[i] = (real)finite_or_0(m[k * LANES + i]);
        const vec vm = vload(from);
        wide products = wide_zero(), shares = wide_zero();
        for (ptrdiff_t c = 0; c < n; c++) {
            const vec va = same ? vset1(a[c]) : vload(a + c * PANEL + k * LANES);
            const vec d = vsub(vload(x + c * PANEL + k * LANES), vm);
            products = wide_add(products, vzero_where_zero(va, vmul(va, d)));
            shares = wide_add(shares, va);
        }
        wide_store(product + k * LANES, products);
        wide_store(share + k * LANES, shares);
        for (int i = k * LANES; i < (k + 1) * LANES; i++)
            if (!isfinite(product[i])) { /* Compensation turns infinite sums into NaN */
                product[i] = 0.0;
                for (ptrdiff_t c = 0; c < n; c++) {
                    const double weight = a[same ? c : c * PANEL + i];
                    if (weight != 0.0)
                        product[i] += weight * ((double)x[c * PANEL + i] - (double)from[i - k * LANES]);
                }
            }
    }
}

/* Temperatures of rows [first, first + count) of a slab in the lanes of a tile; others have that of one
 * of these. */
static SF_NOINLINE void panel_temperatures(panel_tile *tile, const sf_slab *s, ptrdiff_t first,
                                           ptrdiff_t count)
{
    const sf_call *call = &s->layer->call;
    sf_temperature t = row_temperature(call, s->rows[first]);
    for (ptrdiff_t i = 0; i < PANEL; i++) {
        if (call->temperature_step && i < count)
            t = row_temperature(call, s->rows[first + i]);
        tile->hi[i] = t.hi;
        tile->lo[i] = t.lo;
        tile->floor[i] = t.floor;
    }
}

SF_INLINE vrate lanes_rate(const panel_tile *tile, int k)
{
    vrate rate = {vload(tile->hi + k * LANES), vload(tile->lo + k * LANES), vload(tile->floor + k * LANES)};
    return rate;
}

/* Sums of the exponentials of n classes without the maxima m, which ties counts. */
static SF_NOINLINE void sum_panel(panel_tile *tile, ptrdiff_t n, const real *m, double *sum, real *ties)
{
    for (int k = 0; k < 2; k++) {
        const vec maximum = vload(m + k * LANES);
        const vrate rate = lanes_rate(tile, k);
        vec tied = vset1(0);
        wide w = wide_zero();
        ptrdiff_t c = 0;
        for (; c + 4 <= n; c += 4)
            exponentiate_entries(tile->x + c * PANEL + k * LANES, PANEL, 1, 4, maximum, rate, 0, 1, &w, &tied);
        if (c < n)
            exponentiate_entries(tile->x + c * PANEL + k * LANES, PANEL, 0, n - c, maximum, rate, 0, 1, &w,
                                 &tied);
        wide_store(sum + k * LANES, w);
        vstore(ties + k * LANES, tied);
    }
}

/* Where the label of a row of the slab is among classes [begin, begin + n), or a number below 0. */
SF_INLINE ptrdiff_t label_among(const sf_slab *s, ptrdiff_t i, ptrdiff_t begin, ptrdiff_t n)
{
    const sf_targets *targets = s->layer->call.targets;
    const ptrdiff_t y = sf_has_labels(targets) ? (ptrdiff_t)sf_label(targets, s->rows[i]) - begin : -1;
    return y < n ? y : -1;
}

SF_INLINE int any_nan(const real *x, ptrdiff_t n, ptrdiff_t step)
{
    for (ptrdiff_t i = 0; i < n; i++)
        if (x[i * step] != x[i * step])
            return 1;
    return 0;
}

static SF_NOINLINE void panel_maxima(const panel_tile *tile, ptrdiff_t n, real *m)
{
    vec low = vset1((real)-INFINITY), high = low;
    for (ptrdiff_t c = 0; c < n; c++) {
        low = vmax(vload(tile->x + c * PANEL), low);
        high = vmax(vload(tile->x + c * PANEL + LANES), high);
    }
    vstore(m, low);
    vstore(m + LANES, high);
}

/* Biased sums become rests. */
static SF_NOINLINE void panel_rests(const panel_tile *tile, ptrdiff_t n, ptrdiff_t count, const real *m,
                                    const real *ties, double *row_max, double *sum)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        row_max[i] = m[i];
        sum[i] = isfinite(m[i]) ? unbiased(sum[i]) + ((double)ties[i] - 1.0)
               : any_nan(tile->x + i, n, PANEL) ? NAN : m[i] > 0 ? 0.0 : -1.0;
    }
}

/* The logits of classes [begin, begin + n), one to a lane, join the row statistics. */
static SF_NOINLINE void reduce_statistics(const sf_slab *s, panel_tile *tile, ptrdiff_t chunk,
                                          ptrdiff_t panel, ptrdiff_t begin, ptrdiff_t n)
{
    const ptrdiff_t first = panel * PANEL, count = SF_MIN(PANEL, s->n_rows - first);
    const wanted want = wanted_of(s->layer->call.columns);
    const sf_chunk_sums sums = sums_at(s, chunk, first);
    SF_ALIGNED(64) real m[PANEL], ties[PANEL], top[PANEL], before[PANEL];
    SF_ALIGNED(64) real label[PANEL], x_y[PANEL], above[PANEL];
    SF_ALIGNED(64) double sum[PANEL], first_moment[PANEL], second_moment[PANEL], squares[PANEL];
    double row_max[PANEL], row_top[PANEL], row_above[PANEL];
    const sf_chunk_sums own = {row_max, sum, first_moment, second_moment, NULL, squares, row_top, row_above};
    panel_maxima(tile, n, m);
    panel_temperatures(tile, s, first, count);
    for (ptrdiff_t i = 0; i < PANEL; i++) {
        const ptrdiff_t y = i < count ? label_or_none(&s->layer->call, s->rows[first + i]) - begin : -1;
        label[i] = (real)SF_MAX(-1, SF_MIN(y, n)); /* before all, or behind */
        x_y[i] = i < count ? (real)sums.label_logit[i] : (real)INFINITY;
        above[i] = next_above(x_y[i]);
    }
    for (int k = 0; k < 2; k++) {
        real *home = tile->x + k * LANES;
        const vec zero = vset1(0);
        tile_rows r = {vload(m + k * LANES), vload(label + k * LANES),
                       vload(x_y + k * LANES), vload(above + k * LANES), lanes_rate(tile, k), zero, zero,
                       zero, wide_zero(), no_moments()};
        fill_fours(home, PANEL, n);
        for (ptrdiff_t c = 0; c < n; c += 4)
            add_tile_entries(&r, home + c * PANEL, PANEL, n - c, want);
        flush_moments(&r.sums);
        vstore(ties + k * LANES, r.tied);
        vstore(top + k * LANES, r.top);
        vstore(before + k * LANES, r.before);
        wide_store(sum + k * LANES, r.w);
        wide_store(first_moment + k * LANES, r.sums.firsts);
        wide_store(second_moment + k * LANES, r.sums.seconds);
        wide_store(squares + k * LANES, r.sums.squared);
    }
    panel_rests(tile, n, count, m, ties, row_max, sum);
    for (ptrdiff_t i = 0; i < count; i++) {
        const int finite = isfinite(m[i]);
        first_moment[i] = finite ? first_moment[i] * FIRST_UNIT : 0.0;
        second_moment[i] = finite ? second_moment[i] * SECOND_UNIT : 0.0;
        squares[i] = finite ? squares[i] + ((double)ties[i] - 1.0) : -1.0;
        row_top[i] = (double)begin + ((double)n - (double)top[i]);
        row_above[i] = before[i];
    }
    merge_statistics_of_rows(s, &sums, first, count, &own);
}

/* The logits of classes [begin, begin + n), one to a lane, join the sums of their rows. */
static SF_NOINLINE void reduce_logits(const sf_slab *s, panel_tile *tile, ptrdiff_t chunk, ptrdiff_t panel,
                                      ptrdiff_t begin, ptrdiff_t n, real *a)
{
    const sf_call *call = &s->layer->call;
    const sf_targets *targets = call->targets;
    const ptrdiff_t first = panel * PANEL, count = SF_MIN(PANEL, s->n_rows - first);
    const sf_chunk_sums sums = sums_at(s, chunk, first);
    SF_ALIGNED(64) real m[PANEL];
    SF_ALIGNED(64) real ties[PANEL];
    SF_ALIGNED(64) double sum[PANEL];
    double row_max[PANEL], product[PANEL], share[PANEL];
    ptrdiff_t label[PANEL];
    for (ptrdiff_t i = 0; i < count; i++) {
        label[i] = label_among(s, first + i, begin, n);
        if (label[i] < 0)
            continue;
        real *x = tile->x + label[i] * PANEL + i;
        if (s->layer->margin)
            *x = (real)s->layer->margin->label_logits[s->rows[first + i]];
        sums.label_logit[i] = *x;
    }
    panel_maxima(tile, n, m);
    panel_temperatures(tile, s, first, count);
    sum_panel(tile, n, m, sum, ties);
    panel_rests(tile, n, count, m, ties, row_max, sum);
    if (sums.product) {
        load_weighted_targets(s, first, count, begin, n, a);
        weigh_panel(tile->x, a, sf_has_labels(targets), n, m, product, share);
    }
    merge_rows(s, &sums, first, count, row_max, sum, sums.product ? product : NULL, share);
}

/* The logits of classes [begin, begin + n) go to their rows. */
static SF_NOINLINE void store_logits(const sf_slab *s, const panel_tile *tile, ptrdiff_t panel,
                                     ptrdiff_t begin, ptrdiff_t n)
{
    const ptrdiff_t step = s->layer->call.n_classes, first = panel * PANEL;
    const ptrdiff_t count = SF_MIN(PANEL, s->n_rows - first);
    real *out = (real *)s->logits + first * step + begin;
    for (ptrdiff_t i = 0; i < count; i += COLUMNS) {
        const ptrdiff_t some = SF_MIN(COLUMNS, count - i);
        ptrdiff_t c = 0;
        for (; some == COLUMNS && c + LANES <= n; c += LANES) {
            vec row[COLUMNS];
            vload_transposed(tile->x + c * PANEL + i, PANEL, row);
            for (int j = 0; j < COLUMNS; j++)
                vstore(out + (i + j) * step + c, row[j]);
        }
        for (; c < n; c++)
            for (ptrdiff_t j = i; j < i + some; j++)
                out[j * step + c] = tile->x[c * PANEL + j];
    }
}

/* ---- a chunk of the classes ------------------------------------------------------------------------------- */

/* Scratch: weights of a pack, tiles of the panels that wait for the next one, and a tile of targets. */
enum {
    WEIGHTS_BYTES = SF_ROUND_UP(PACK * PACK_ENTRIES * REAL_BYTES),
    TILE_BYTES = SF_ROUND_UP(sizeof(panel_tile)),
    TARGETS_BYTES = SF_ROUND_UP(CLASSES * PANEL * REAL_BYTES)
};

/* How many panels share what is copied of the weights, where they have to wait for more. */
SF_INLINE ptrdiff_t tiles_of(depths d) { return d.packs > 1 ? SF_PANELS_OF_TILES : 1; }

static size_t linear_scratch_bytes(const sf_slab *s)
{
    const size_t tiles = tiles_of(depths_of(s->layer));
    if (s->few) /* the widened weights of some classes, and the logits of each row */
        return (size_t)(SF_ROUND_UP(FEW * s->layer->n_features * REAL_BYTES)
                        + SF_FEW_PRODUCTS * CLASSES * REAL_BYTES);
    return WEIGHTS_BYTES + tiles * TILE_BYTES + TARGETS_BYTES;
}

static void reduce_chunk(const sf_slab *s, ptrdiff_t chunk, ptrdiff_t first_panel, ptrdiff_t n_panels,
                         void *scratch)
{
    const sf_layer *layer = s->layer;
    const depths d = depths_of(layer);
    const ptrdiff_t end = SF_MIN((chunk + 1) * s->chunk, layer->call.n_classes);
    const ptrdiff_t last_panel = first_panel + n_panels;
    const ptrdiff_t together = d.packs > 1 ? SF_PANELS_OF_TILES : n_panels;
    const real *bias = (const real *)layer->bias;
    real *w = (real *)scratch;
    char *tiles = (char *)scratch + WEIGHTS_BYTES;
    real *a = (real *)(tiles + TILE_BYTES * tiles_of(d));
    real start[CLASSES];
    for (ptrdiff_t p = first_panel; p < last_panel && !s->logits; p++) {
        const sf_chunk_sums sums = sums_at(s, chunk, p * PANEL);
        clear_sums(&sums, PANEL);
    }
    for (ptrdiff_t begin = chunk * s->chunk; begin < end; begin += CLASSES) {
        const ptrdiff_t n = SF_MIN(CLASSES, end - begin);
        for (ptrdiff_t c = 0; c < CLASSES; c++)
            start[c] = bias && c < n ? bias[begin + c] : 0;
        for (ptrdiff_t first = first_panel; first < last_panel; first += together) {
            const ptrdiff_t last = SF_MIN(first + together, last_panel);
            for (ptrdiff_t pack = 0; pack < d.packs; pack++) {
                if (d.packs > 1 || first == first_panel)
                    load_weights(layer, begin, n, d, pack, w);
                for (ptrdiff_t p = first; p < last; p++) {
                    panel_tile *tile = (panel_tile *)(tiles + (d.packs > 1 ? p - first : 0) * TILE_BYTES);
                    for (ptrdiff_t k = pack * PACK; k < SF_MIN(d.n, (pack + 1) * PACK); k++) {
                        const real *x = panel_at(s, p) + k * d.each * PANEL;
                        const real *b = w + (k - pack * PACK) * PACK_ENTRIES;
                        const ptrdiff_t depth = SF_MAX(0, SF_MIN(d.each, layer->n_features - k * d.each));
                        for (ptrdiff_t c = 0; c < n; c += GROUP)
                            multiply_classes(x, b + c * DEPTH_STEP, depth, tile->x + c * PANEL,
                                             k ? NULL : start + c,
                                             (const char *)(b + (c + GROUP) * DEPTH_STEP));
                    }
                    if (pack < d.packs - 1)
                        continue;
                    if (s->logits)
                        store_logits(s, tile, p, begin, n);
                    else if (layer->call.columns)
                        reduce_statistics(s, tile, chunk, p, begin, n);
                    else
                        reduce_logits(s, tile, chunk, p, begin, n, a);
                }
            }
        }
    }
}

/* ---- few rows ----------------------------------------------------------------------------------------------- */

/* Sums of the lanes of SUMMED vectors. */
static SF_NOINLINE void sum_lanes(const real *lanes, real *out)
{
    for (int first = 0; first < SUMMED; first += LANES) {
        vec total = vset1(0);
        for (int c = 0; c < LANES; c += COLUMNS) {
            vec column[COLUMNS];
            vload_transposed(lanes + first * LANES + c, LANES, column);
            for (int j = 0; j < COLUMNS; j++)
                total = vadd(total, column[j]);
        }
        vstore(out + first, total);
    }
}

/* Weights from the entry i on, in their own type or, widened as they are loaded, in bfloat16. */
SF_INLINE vec load_stored(const void *w, ptrdiff_t i, int is_bf16)
{
#if !SF_DOUBLE
    if (is_bf16)
        return vload_bf16((const uint16_t *)w + i);
#endif
    (void)is_bf16;
    return vload((const real *)w + i);
}

SF_INLINE vec load_first_stored(const void *w, ptrdiff_t i, ptrdiff_t n, int is_bf16)
{
#if !SF_DOUBLE
    if (is_bf16) {
        real wide[LANES] = {0};
        for (ptrdiff_t k = 0; k < n; k++)
            wide[k] = sf_float_from_bfloat(((const uint16_t *)w)[i + k]);
        return vload(wide);
    }
#endif
    (void)is_bf16;
    return vload_first((const real *)w + i, n, 0);
}

/* Products of a row with four rows of weights, step apart, a sum in each lane; meanwhile those that come
 * next are fetched. */
SF_INLINE void multiply_stored(const real *x, const void *w, ptrdiff_t step, ptrdiff_t n, real *lanes,
                               const char *next, const int is_bf16)
{
    const ptrdiff_t item = is_bf16 ? (ptrdiff_t)sizeof(uint16_t) : (ptrdiff_t)REAL_BYTES;
    const char *w0 = (const char *)w, *w1 = w0 + step * item, *w2 = w1 + step * item, *w3 = w2 + step * item;
    vec a0 = vset1(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
    ptrdiff_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const vec x0 = vload(x + i), x1 = vload(x + i + LANES);
        for (int k = 0; next && k < 8 * LANES * (int)item; k += 64)
            SF_PREFETCH(next + 4 * i * item + k);
        a0 = vfma(load_stored(w0, i, is_bf16), x0, a0);
        a1 = vfma(load_stored(w1, i, is_bf16), x0, a1);
        a2 = vfma(load_stored(w2, i, is_bf16), x0, a2);
        a3 = vfma(load_stored(w3, i, is_bf16), x0, a3);
        b0 = vfma(load_stored(w0, i + LANES, is_bf16), x1, b0);
        b1 = vfma(load_stored(w1, i + LANES, is_bf16), x1, b1);
        b2 = vfma(load_stored(w2, i + LANES, is_bf16), x1, b2);
        b3 = vfma(load_stored(w3, i + LANES, is_bf16), x1, b3);
    }
    for (; i < n; i += LANES) {
        const ptrdiff_t some = SF_MIN(LANES, n - i);
        const vec x0 = vload_first(x + i, some, 0);
        a0 = vfma(load_first_stored(w0, i, some, is_bf16), x0, a0);
        a1 = vfma(load_first_stored(w1, i, some, is_bf16), x0, a1);
        a2 = vfma(load_first_stored(w2, i, some, is_bf16), x0, a2);
        a3 = vfma(load_first_stored(w3, i, some, is_bf16), x0, a3);
    }
    vstore(lanes, vadd(a0, b0));
    vstore(lanes + LANES, vadd(a1, b1));
    vstore(lanes + 2 * LANES, vadd(a2, b2));
    vstore(lanes + 3 * LANES, vadd(a3, b3));
}

static SF_NOINLINE void multiply_four(const real *x, const void *w, ptrdiff_t step, ptrdiff_t n,
                                      real *lanes, const char *next, int is_bf16)
{
    if (!SF_DOUBLE && is_bf16)
        multiply_stored(x, w, step, n, lanes, next, 1);
    else
        multiply_stored(x, w, step, n, lanes, next, 0);
}

/* Copies the row; panel is its number. */
static void load_row(const sf_slab *s, ptrdiff_t i)
{
    const ptrdiff_t n = s->layer->n_features;
    load_row_features(s, i, 0, n, (real *)s->features + i * n);
}

static void reduce_chunk_of_few(const sf_slab *s, ptrdiff_t chunk, void *scratch)
{
    const sf_layer *layer = s->layer;
    const sf_call *call = &layer->call;
    const sf_targets *targets = call->targets;
    const ptrdiff_t d = layer->n_features, end = SF_MIN((chunk + 1) * s->chunk, call->n_classes);
    const real *bias = (const real *)layer->bias;
    const sf_margin *margin = layer->margin;
    const double *scale = margin ? margin->weight_scale : NULL;
    const next_lines none = {NULL, NULL};
    const sf_input *in = &layer->weights;
    /* Of more rows, widening the weights once is faster. */
    const int is_bf16 = !SF_DOUBLE && in->kind == SF_BF16 && s->n_rows <= SF_FEW_WIDENED;
    const int in_place = (is_native(in) || is_bf16) && in->class_stride == 1 && !scale;
    const ptrdiff_t item = is_bf16 ? (ptrdiff_t)sizeof(uint16_t) : (ptrdiff_t)REAL_BYTES;
    real *widened = (real *)scratch;
    real *logits = (real *)((char *)scratch + SF_ROUND_UP(FEW * d * REAL_BYTES)); /* [row][class] */
    const sf_chunk_sums sums = sums_at(s, chunk, 0);
    SF_ALIGNED(64) real lanes[SF_FEW_PRODUCTS][SUMMED * LANES] = {{0}};
    clear_sums(&sums, s->n_rows);
    for (ptrdiff_t begin = chunk * s->chunk; begin < end; begin += CLASSES) {
        const ptrdiff_t n = SF_MIN(CLASSES, end - begin);
        double m[SF_FEW_PRODUCTS], rest[SF_FEW_PRODUCTS], product[SF_FEW_PRODUCTS], share[SF_FEW_PRODUCTS];
        for (ptrdiff_t c = 0; c < n; c += FEW) {
            const ptrdiff_t some = SF_MIN(FEW, n - c), summed = c % SUMMED;
            const char *w = (const char *)widened;
            ptrdiff_t step = d;
            const int stays = in_place && some == FEW;
            if (stays) {
                w = (const char *)in->data + (begin + c) * in->row_stride * item;
                step = in->row_stride;
            } else {
                for (ptrdiff_t j = 0; j < FEW; j++) { /* of too few, the last again */
                    const ptrdiff_t class_ = begin + c + SF_MIN(j, some - 1);
                    load_entries(in, class_ * in->row_stride, d, scale ? scale + class_ : NULL, widened + j * d);
                }
            }
            for (ptrdiff_t i = 0; i < s->n_rows; i++) {
                multiply_four((const real *)s->features + i * d, w, step, d, lanes[i] + summed * LANES,
                              i || !stays ? NULL : w + AHEAD * step * item, stays && is_bf16);
                if (summed + FEW == SUMMED || c + FEW >= n)
                    sum_lanes(lanes[i], logits + i * CLASSES + c - summed);
            }
        }
        for (ptrdiff_t i = 0; bias && i < s->n_rows; i++)
            for (ptrdiff_t c = 0; c < n; c++)
                logits[i * CLASSES + c] += bias[begin + c];
        for (ptrdiff_t i = 0; i < s->n_rows; i++) {
            const ptrdiff_t row = s->rows[i];
            real *x = logits + i * CLASSES;
            const sf_temperature t = row_temperature(call, row);
            const ptrdiff_t y = label_among(s, i, begin, n);
            if (y >= 0) {
                if (margin)
                    x[y] = (real)margin->label_logits[row];
                sums.label_logit[i] = x[y];
            }
            summarize_block(x, n, &t, none, &m[i], &rest[i]);
            if (sums.product) {
                real a[CLASSES];
                if (sf_has_labels(targets))
                    load_weighted_targets(s, i, 1, begin, n, a);
                else
                    weighted_target(call, row, begin, n, a);
                weighted_sums(a, x, n, (real)finite_or_0(m[i]), &share[i], &product[i]);
            }
        }
        merge_rows(s, &sums, 0, s->n_rows, m, rest, sums.product ? product : NULL, share);
    }
}

/* ---- losses ------------------------------------------------------------------------------------------------- */

/* Merges the chunks of rows [first, first + count), count <= SF_BATCH, into those of the first chunk, and
 * takes the logarithms of the sums. */
static SF_NOINLINE void merge_chunks(const sf_slab *s, ptrdiff_t first, ptrdiff_t count, double *log_sum)
{
    for (ptrdiff_t begin = 0; begin < count; begin += PANEL) {
        const ptrdiff_t some = SF_MIN(PANEL, count - begin);
        const sf_chunk_sums sums = sums_at(s, 0, first + begin);
        for (ptrdiff_t chunk = 1; chunk < s->n_chunks; chunk++) {
            const sf_chunk_sums other = sums_at(s, chunk, first + begin);
            if (sums.top)
                merge_statistics_of_rows(s, &sums, first + begin, some, &other);
            else
                merge_rows(s, &sums, first + begin, some, other.max, other.rest, other.product, other.share);
        }
        log1p_doubles(sums.rest, log_sum + begin, some);
        for (ptrdiff_t i = 0; i < some; i++)
            log_sum[begin + i] += sums.max[i] - sums.max[i]; /* NaN without probabilities */
    }
}

static SF_NOINLINE void finish_statistics(const sf_slab *s, ptrdiff_t first, ptrdiff_t count)
{
    SF_ALIGNED(64) sf_batch batch;
    const sf_call *call = &s->layer->call;
    const sf_chunk_sums sums = sums_at(s, 0, first);
    sf_result ignored = sf_no_result(); /* labels have been checked */
    merge_chunks(s, first, count, batch.log_sum);
    for (ptrdiff_t i = 0; i < count; i++) {
        const ptrdiff_t row = s->rows[first + i], y = label_or_none(call, row);
        batch.max[i] = sums.max[i];
        batch.rest[i] = sums.rest[i];
        batch.first_moment[i] = sums.product[i];
        batch.second_moment[i] = sums.share[i];
        batch.squares[i] = sums.squares[i];
        batch.top[i] = sums.top[i];
        batch.above[i] = sums.above[i];
        batch.y[i] = y;
        batch.quotient[i] = y < 0 ? 0.0
            : sf_quotient(sums.label_logit[i], sums.max[i], sf_temperature_of(call, row));
    }
    statistics_finish(call, s->rows[first], count, &batch, 0, &ignored);
}

static void finish_losses(const sf_slab *s, ptrdiff_t first, ptrdiff_t count)
{
    const sf_call *call = &s->layer->call;
    const sf_targets *targets = call->targets;
    const double kept = 1.0 - targets->label_smoothing;
    double log_sum[SF_BATCH];
    merge_chunks(s, first, count, log_sum);
    const sf_chunk_sums sums = sums_at(s, 0, first);
    for (ptrdiff_t i = 0; i < count; i++) {
        const ptrdiff_t row = s->rows[first + i];
        const double temperature = sf_temperature_of(call, row), v = sf_sample_weight(targets, row);
        double loss = 0.0, on_label = 0.0;
        if (sf_has_labels(targets)) {
            on_label = kept * sf_label_weight(targets, row);
            if (on_label != 0.0)
                loss = on_label * (log_sum[i] - sf_quotient(sums.label_logit[i], sums.max[i], temperature));
        }
        if (sums.product)
            loss += sums.share[i] * log_sum[i] - sums.product[i] / temperature;
        s->losses[first + i] = loss * v;
        if (targets->row_losses)
            ((real *)targets->row_losses)[row] = (real)(loss * v);
    }
}

static void finish_sums(const sf_slab *s, ptrdiff_t first, ptrdiff_t count)
{
    (s->layer->call.columns ? finish_statistics : finish_losses)(s, first, count);
}

/* ---- gradients ---------------------------------------------------------------------------------------------- */

enum { ROWS_TOGETHER = 8 }; /* panels of rows between two looks at the sums of weights */

/* Features of a depth, rounded up to whole groups. */
SF_INLINE ptrdiff_t padded_depth(depths d) { return (d.each + GROUP - 1) / GROUP * GROUP; }

SF_INLINE panel_tile *tile_at(const sf_slab *s, ptrdiff_t block, ptrdiff_t panel)
{
    const ptrdiff_t n_panels = (s->n_rows + PANEL - 1) / PANEL;
    return (panel_tile *)(s->tiles + ((block - s->first_block) * n_panels + panel) * TILE_BYTES);
}

SF_INLINE real *weights_at(const sf_slab *s, ptrdiff_t block, depths d)
{
    return (real *)s->weights + (block - s->first_block) * d.n * PACK_ENTRIES;
}

SF_INLINE ptrdiff_t classes_of(const sf_slab *s, ptrdiff_t block)
{
    return SF_MIN(CLASSES, s->layer->call.n_classes - block * CLASSES);
}

static size_t weights_bytes(const sf_layer *layer)
{
    return (size_t)(depths_of(layer).n * PACK_ENTRIES * REAL_BYTES);
}

static size_t columns_bytes(const sf_layer *layer)
{
    return (size_t)((layer->n_features + PANEL - 1) / PANEL * PANEL * PANEL * REAL_BYTES);
}

static size_t d_features_bytes(const sf_layer *layer)
{
    const depths d = depths_of(layer);
    return (size_t)(d.n * padded_depth(d) * PANEL * REAL_BYTES);
}

/* The rows of a panel as they are, cut into panels of features; what is missing is 0. */
static void load_columns(const sf_slab *s, ptrdiff_t panel)
{
    const ptrdiff_t n = s->layer->n_features;
    for (ptrdiff_t i = panel * PANEL; i < (panel + 1) * PANEL; i++)
        for (ptrdiff_t d = 0; d < n; d += PANEL) {
            real *home = (real *)s->columns + d * s->room + i * PANEL;
            const ptrdiff_t some = i < s->n_rows ? SF_MIN(PANEL, n - d) : 0;
            if (some)
                load_row_features(s, i, d, some, home);
            memset(home + some, 0, (size_t)((PANEL - some) * REAL_BYTES));
        }
}

static void load_block(const sf_slab *s, ptrdiff_t block)
{
    const depths d = depths_of(s->layer);
    for (ptrdiff_t pack = 0; pack < d.packs; pack++)
        load_weights(s->layer, block * CLASSES, classes_of(s, block), d, pack,
                     weights_at(s, block, d) + pack * PACK * PACK_ENTRIES);
}

/* The logits of a block and a panel, which join the sums if reduce is set: a block is a chunk then. */
static void multiply_block(const sf_slab *s, ptrdiff_t block, ptrdiff_t panel, int reduce, void *scratch)
{
    const sf_layer *layer = s->layer;
    const depths d = depths_of(layer);
    const ptrdiff_t n = classes_of(s, block), begin = block * CLASSES;
    const real *bias = (const real *)layer->bias, *w = weights_at(s, block, d);
    panel_tile *tile = tile_at(s, block, panel);
    real start[CLASSES];
    for (ptrdiff_t c = 0; c < CLASSES; c++)
        start[c] = bias && c < n ? bias[begin + c] : 0;
    for (ptrdiff_t k = 0; k < d.n; k++) {
        const real *x = panel_at(s, panel) + k * d.each * PANEL, *b = w + k * PACK_ENTRIES;
        const ptrdiff_t depth = SF_MAX(0, SF_MIN(d.each, layer->n_features - k * d.each));
        for (ptrdiff_t c = 0; c < n; c += GROUP)
            multiply_classes(x, b + c * DEPTH_STEP, depth, tile->x + c * PANEL, k ? NULL : start + c,
                             (const char *)(b + (c + GROUP) * DEPTH_STEP));
    }
    if (reduce) {
        const sf_chunk_sums sums = sums_at(s, block, panel * PANEL);
        clear_sums(&sums, PANEL);
        reduce_logits(s, tile, block, panel, begin, n, (real *)scratch);
    }
}

/* What the gradients of rows need beside their sums, which have been merged. */
static void prepare_gradients(const sf_slab *s, ptrdiff_t first, ptrdiff_t count)
{
    const sf_call *call = &s->layer->call;
    const sf_targets *targets = call->targets;
    const double kept = 1.0 - targets->label_smoothing;
    const double uniform = targets->label_smoothing / (double)call->n_classes;
    const sf_chunk_sums sums = sums_at(s, 0, first);
    for (ptrdiff_t i = 0; i < count; i++) {
        const ptrdiff_t row = s->rows[first + i];
        const double temperature = sf_temperature_of(call, row), m = sums.max[i], rest = sums.rest[i];
        const double scale = targets->gradient_scale * sf_sample_weight(targets, row) / temperature;
        double share = sums.product ? sums.share[i] : 0.0, at_label = 0.0;
        if (sf_has_labels(targets)) {
            /* scale (share p - a) at the label, where p - 1 = -((1 - e) + rest)/(1 + rest) does not cancel */
            const double weight = sf_label_weight(targets, row), on_label = kept * weight;
            const double e = exp(sf_quotient(sums.label_logit[i], m, temperature));
            const double others = sums.product ? share - (double)(real)(uniform * weight) : 0.0;
            share += on_label;
            at_label = scale * (others - share * ((1.0 - e) + rest) / (1.0 + rest)) + (m - m);
        }
        s->gradients.scale[first + i] = scale;
        s->gradients.share[first + i] = share;
        s->gradients.at_label[first + i] = at_label;
        if (s->layer->margin)
            s->layer->margin->label_gradients[row] = at_label;
    }
}

/* What exponentials of a row are rounded to multiples of, as 2^-(digits) of it, before they become
 * gradients: no less than the smallest normal number then, as the products are slow with others. */
static real rounder_of(double probability, double share, double scale)
{
    const double least = SF_DOUBLE ? 0x1p-970 : 0x1p-103, most = 0x1p100;
    const double factor = fabs(probability * share * scale);
    return (real)(factor * most > least ? least / factor : most);
}

/* Logits become their gradients: p = exp((x - m)/T) probability, then scale (share p - a). */
static void differentiate_block(const sf_slab *s, ptrdiff_t block, ptrdiff_t panel, void *scratch)
{
    const sf_call *call = &s->layer->call;
    const sf_targets *targets = call->targets;
    const ptrdiff_t first = panel * PANEL, count = SF_MIN(PANEL, s->n_rows - first);
    const ptrdiff_t n = classes_of(s, block), begin = block * CLASSES;
    const int soft = s->sums.product != NULL, same = sf_has_labels(targets);
    const sf_chunk_sums sums = sums_at(s, 0, first);
    panel_tile *tile = tile_at(s, block, panel);
    real *a = (real *)scratch;
    SF_ALIGNED(64) real m[PANEL], probability[PANEL], share[PANEL], scale[PANEL], rounder[PANEL];
    panel_temperatures(tile, s, first, count);
    for (ptrdiff_t i = 0; i < PANEL; i++) {
        const int there = i < count;
        m[i] = there ? (real)sums.max[i] : 0;
        probability[i] = there ? softmax_factor(sums.max[i], sums.rest[i]) : 0;
        const double all = there ? s->gradients.share[first + i] : 0.0;
        const double last = there ? s->gradients.scale[first + i] : 0.0;
        share[i] = (real)(soft ? all : 1.0);
        scale[i] = (real)(soft ? last : last * all);
        rounder[i] = rounder_of(probability[i], share[i], scale[i]);
    }
    if (soft)
        load_weighted_targets(s, first, count, begin, n, a);
    for (int k = 0; k < 2; k++) {
        const vrate rate = lanes_rate(tile, k);
        const vec vm = vload(m + k * LANES), vp = vload(probability + k * LANES);
        const vec vshare = vload(share + k * LANES), vscale = vload(scale + k * LANES);
        const vec vr = vload(rounder + k * LANES);
        real *home = tile->x + k * LANES;
        ptrdiff_t c = 0;
        for (; c + EXP_INTERLEAVE <= n; c += EXP_INTERLEAVE) {
            vec e[EXP_INTERLEAVE];
            for (int j = 0; j < EXP_INTERLEAVE; j++)
                e[j] = vsub(vload(home + (c + j) * PANEL), vm);
            exp_steps(e, EXP_INTERLEAVE, rate);
            for (int j = 0; j < EXP_INTERLEAVE; j++)
                vstore(home + (c + j) * PANEL, vmul(vsub(vadd(e[j], vr), vr), vp));
        }
        for (; c < n; c++) {
            const vec e = vexp(vsub(vload(home + c * PANEL), vm), rate);
            vstore(home + c * PANEL, vmul(vsub(vadd(e, vr), vr), vp));
        }
        for (c = 0; c < n; c++) {
            vec g = vload(home + c * PANEL);
            if (soft) {
                const vec target = same ? vset1(a[c]) : vload(a + c * PANEL + k * LANES);
                g = vsub(vmul(g, vshare), target);
            }
            vstore(home + c * PANEL, vmul(g, vscale));
        }
    }
    for (ptrdiff_t i = 0; same && i < count; i++) {
        const ptrdiff_t y = label_among(s, first + i, begin, n);
        if (y >= 0)
            tile->x[y * PANEL + i] = s->layer->margin ? 0 : (real)s->gradients.at_label[first + i];
    }
    for (ptrdiff_t c = 0; count < PANEL && c < n; c++)
        memset(tile->x + c * PANEL + count, 0, (size_t)((PANEL - count) * REAL_BYTES));
    for (ptrdiff_t c = n; c < (n + GROUP - 1) / GROUP * GROUP; c++)
        memset(tile->x + c * PANEL, 0, PANEL * REAL_BYTES);
}

/* Weights of a group of classes: x a panel of features of some rows, g their gradients. */
static SF_NOINLINE void multiply_rows(const real *x, const real *g, ptrdiff_t panels, real *out,
                                      ptrdiff_t out_step)
{
    multiply_group(x, g, PANEL, 1, PANEL, panels, TILE_BYTES / REAL_BYTES, out, out_step, NULL,
                   (const char *)(g + GROUP * PANEL));
}

static void add_d_weights(const sf_slab *s, ptrdiff_t block, ptrdiff_t first_feature, ptrdiff_t n_features)
{
    const ptrdiff_t n = classes_of(s, block), n_panels = (s->n_rows + PANEL - 1) / PANEL;
    const ptrdiff_t step = s->layer->d_weights.row_stride;
    real *home = (real *)s->layer->d_weights.data + block * CLASSES * step;
    for (ptrdiff_t panel = 0; panel < n_panels; panel += ROWS_TOGETHER) {
        const ptrdiff_t panels = SF_MIN(ROWS_TOGETHER, n_panels - panel);
        const real *g = tile_at(s, block, panel)->x;
        for (ptrdiff_t d = first_feature; d < first_feature + n_features; d += PANEL) {
            const ptrdiff_t some = SF_MIN(PANEL, s->layer->n_features - d);
            const real *x = (const real *)s->columns + d * s->room + panel * PANEL * PANEL;
            for (ptrdiff_t c = 0; c < n; c += GROUP) {
                const ptrdiff_t classes = SF_MIN(GROUP, n - c);
                real *out = home + c * step + d;
                if (classes == GROUP && some == PANEL) {
                    multiply_rows(x, g + c * PANEL, panels, out, step);
                    continue;
                }
                SF_ALIGNED(64) real part[GROUP * PANEL] = {0};
                for (ptrdiff_t j = 0; j < classes; j++)
                    memcpy(part + j * PANEL, out + j * step, (size_t)(some * REAL_BYTES));
                multiply_rows(x, g + c * PANEL, panels, part, PANEL);
                for (ptrdiff_t j = 0; j < classes; j++)
                    memcpy(out + j * step, part + j * PANEL, (size_t)(some * REAL_BYTES));
            }
        }
    }
}

static void add_d_bias(const sf_slab *s, ptrdiff_t block)
{
    const ptrdiff_t n = classes_of(s, block), n_panels = (s->n_rows + PANEL - 1) / PANEL;
    double *home = s->layer->d_bias + block * CLASSES;
    for (ptrdiff_t panel = 0; panel < n_panels; panel++) {
        const real *g = tile_at(s, block, panel)->x;
        for (ptrdiff_t c = 0; c < n; c++) {
            double lanes[PANEL];
            for (int i = 0; i < PANEL; i++)
                lanes[i] = g[c * PANEL + i];
            home[c] += sf_lanes_total(lanes, PANEL);
        }
    }
}

/* Features of a panel, a group of them: g gradients of a block, w its weights. */
static SF_NOINLINE void multiply_features(const real *g, const real *w, ptrdiff_t classes, real *out)
{
    multiply_group(g, w, 1, DEPTH_STEP, classes, 1, 0, out, PANEL, NULL, (const char *)(out + GROUP * PANEL));
}

static void add_d_features(const sf_slab *s, ptrdiff_t panel)
{
    const depths d = depths_of(s->layer);
    const ptrdiff_t padded = padded_depth(d);
    real *home = (real *)s->d_features + panel * d.n * padded * PANEL;
    if (s->first_block == 0)
        memset(home, 0, d_features_bytes(s->layer));
    for (ptrdiff_t block = s->first_block; block < s->first_block + s->n_blocks; block++)
        for (ptrdiff_t k = 0; k < d.n; k++)
            for (ptrdiff_t j = 0; j < padded; j += GROUP)
                multiply_features(tile_at(s, block, panel)->x, weights_at(s, block, d) + k * PACK_ENTRIES + j,
                                  classes_of(s, block), home + (k * padded + j) * PANEL);
}

static void store_d_features(const sf_slab *s, ptrdiff_t panel)
{
    const sf_output *out = &s->layer->d_features;
    const depths d = depths_of(s->layer);
    const ptrdiff_t padded = padded_depth(d), first = panel * PANEL, n = s->layer->n_features;
    const real *sums = (const real *)s->d_features + panel * d.n * padded * PANEL;
    for (ptrdiff_t i = 0; i < SF_MIN(PANEL, s->n_rows - first); i++) {
        real *row = (real *)out->data + s->rows[first + i] * out->row_stride;
        for (ptrdiff_t k = 0; k < d.n; k++)
            for (ptrdiff_t j = 0; j < SF_MIN(d.each, n - k * d.each); j++)
                row[(k * d.each + j) * out->class_stride] = sums[(k * padded + j) * PANEL + i];
    }
}

static const sf_linear linear = {
    .panel = PANEL,
    .block = CLASSES,
    .scratch_bytes = linear_scratch_bytes,
    .load_features = load_features,
    .load_row = load_row,
    .reduce = reduce_chunk,
    .reduce_few = reduce_chunk_of_few,
    .finish = finish_sums,
    .tile_bytes = TILE_BYTES,
    .weights_bytes = weights_bytes,
    .columns_bytes = columns_bytes,
    .d_features_bytes = d_features_bytes,
    .load_columns = load_columns,
    .load_weights = load_block,
    .multiply = multiply_block,
    .prepare = prepare_gradients,
    .differentiate = differentiate_block,
    .add_d_weights = add_d_weights,
    .add_d_bias = add_d_bias,
    .add_d_features = add_d_features,
    .store_d_features = store_d_features,
};

#endif
