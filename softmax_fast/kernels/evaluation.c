#include "evaluation.h"
#include "beyond.h"
#include "drive.h"
#include "environment.h"
#include "scalars.h"
#include <stdlib.h>

/* Sums are made of ranges of rows, which depend on the number of classes alone, and merged in their
 * order; what is counted in whole numbers may come in any order. */
enum {
    RANGE_ROWS = 1024,      /* at most */
    CHUNK_ROWS = SF_MOST_ADDED, /* at most at a time: their columns fit a level-1 cache */
    RANGE_ELEMENTS = 65536, /* about so many where rows are long */
    FEWEST_RANGE_ROWS = 16,
    FEW_ROWS = 64           /* the driver alone decides how these are shared out */
};

/* Rows without weights in one cell and one bin: their number and 2^32 times the hits, the units of
 * sf_cell_of, and the squares of 2^-16 of these, times 2^-16. */
typedef struct { uint64_t units, rows, squares; } slot;

typedef struct {
    ptrdiff_t n;
    sf_columns of;
    const double *weights;
} some_rows;

typedef struct work work;
typedef void sum_rows(const work *w, const some_rows *rows, ptrdiff_t range, ptrdiff_t first, int worker,
                      sf_column_sums *columns);

struct work {
    const sf_call *call;
    const double *weights;
    sum_rows *sum;
    const sf_evaluation *evaluation; /* or a pass */
    int reach, n_workers;
    ptrdiff_t range_rows, n_ranges, n_sums, n_counts;
    double *sums, *lost;             /* n_sums a range */
    int64_t *counts;                 /* n_counts a range, and the first two rows at fault */
    slot *slots;                     /* n_slots a worker */
    ptrdiff_t n_slots;
    char *scratch;                   /* of one worker: the walk's, then columns */
    size_t walk_bytes, scratch_bytes;
};

/* ---- one column -------------------------------------------------------------------------------------- */

static void put_column(const work *w, const double *x, ptrdiff_t n, double *hi, double *lo)
{
    sf_sum total;
    w->call->doubles->sums_of_array(x, n, &total, NULL);
    sf_put_sum(hi, lo, total);
}

/* What p = a b has lost; 0 beyond the range. */
static double rounding(double a, double b)
{
    double high, low;
    sf_two_product(a, b, &high, &low);
    return isfinite(low) ? low : 0.0;
}

/* Add v x, vv x and vv x x; the last two as if products were not rounded.  The variance is what remains
 * of them, where all x are nearly equal, after much cancellation.  Of a v whose square vanishes beside
 * other weights only v x may count. */
static void put_moments(double *hi, double *lo, double x, double v)
{
    const double vv = v * v, once = vv * x, lost = rounding(vv, x);
    sf_put(hi, lo, v * x);
    sf_put(hi + 1, lo + 1, once);
    lo[1] += lost;
    if (v < 0x1p-400) {
        sf_put(hi + 2, lo + 2, (v * x) * (v * x));
        return;
    }
    sf_put(hi + 2, lo + 2, once * x);
    lo[2] += rounding(once, x) + lost * x;
}

void sf_add_moments(const double *x, const double *weights, ptrdiff_t n, double *hi, double *lo)
{
    sf_sum sums[2];
    if (!weights) {
        sf_tables_in_use()->f64->sums_of_array(x, n, sums, sums + 1);
        for (int j = 0; j < 4; j++)
            sf_put_sum(hi + j, lo + j, sums[j > 1]);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        const double v = weights[i], once = v * x[i], lost = rounding(v, x[i]);
        put_moments(hi, lo, x[i], v);
        lo[0] += lost;
        sf_put(hi + 3, lo + 3, once * x[i]);
        lo[3] += rounding(once, x[i]) + lost * x[i];
    }
}

/* ---- evaluations ------------------------------------------------------------------------------------- */

enum { V, VV, V_BAD, VV_BAD, LOSS, BRIER = LOSS + 3, V_HIT = BRIER + 3, VV_HIT, RECIPROCAL_RANK,
       ENTROPY, SLOPE, CURVATURE, FAR_LOSS, N_SUMS = FAR_LOSS + 3 };
enum { GOOD, IGNORED, BAD, INFINITE, HITS, N_COUNTS };

/* A row that counts and has probabilities. */
static int is_good(const work *w, const some_rows *rows, ptrdiff_t i)
{
    return (uint64_t)rows->of.rank[i] < (uint64_t)w->call->n_classes
        && (!rows->weights || rows->weights[i] > 0.0);
}

static void add_each_row(const work *w, const some_rows *rows, double *hi, double *lo, int64_t *counts,
                         int64_t *faults, ptrdiff_t first)
{
    const sf_evaluation *e = w->evaluation;
    for (ptrdiff_t i = 0; i < rows->n; i++) {
        const int64_t rank = rows->of.rank[i];
        const double loss = rows->of.loss[i];
        const double v = rows->weights ? rows->weights[i] : 1.0;
        if (rank < 0 || !(v > 0.0)) {
            counts[IGNORED]++;
            continue;
        }
        if (rank >= w->call->n_classes) {
            counts[BAD]++;
            sf_put(hi + V_BAD, lo + V_BAD, v);
            sf_put(hi + VV_BAD, lo + VV_BAD, v * v);
            if (faults[0] < 0)
                faults[0] = first + i;
            continue;
        }
        counts[GOOD]++;
        if (isfinite(loss)) {
            if (loss < SF_FAR_LOSS)
                put_moments(hi + LOSS, lo + LOSS, loss, v);
            else
                put_moments(hi + FAR_LOSS, lo + FAR_LOSS, ldexp(loss, -SF_FAR_EXPONENT), v);
            sf_put(hi + SLOPE, lo + SLOPE, v * rows->of.slope[i]);
            sf_put(hi + CURVATURE, lo + CURVATURE, v * rows->of.curvature[i]);
        } else {
            counts[INFINITE]++;
            if (faults[1] < 0)
                faults[1] = first + i;
        }
        put_moments(hi + BRIER, lo + BRIER, rows->of.brier[i], v);
        sf_put(hi + RECIPROCAL_RANK, lo + RECIPROCAL_RANK, v / ((double)rank + 1.0));
        sf_put(hi + ENTROPY, lo + ENTROPY, v * rows->of.entropy[i]);
        counts[HITS] += rank == 0;
        for (ptrdiff_t j = 0; j < e->n_top; j++)
            counts[N_COUNTS + j] += rank < e->top_k[j];
        if (!rows->weights) /* their sums are counts */
            continue;
        sf_put(hi + V, lo + V, v);
        sf_put(hi + VV, lo + VV, v * v);
        if (rank == 0) {
            sf_put(hi + V_HIT, lo + V_HIT, v);
            sf_put(hi + VV_HIT, lo + VV_HIT, v * v);
        }
        for (ptrdiff_t j = 0; j < e->n_top; j++)
            if (rank < e->top_k[j])
                sf_put(hi + N_SUMS + j, lo + N_SUMS + j, v);
    }
}

static void sum_evaluation(const work *w, const some_rows *rows, ptrdiff_t range, ptrdiff_t first, int worker,
                           sf_column_sums *columns)
{
    const sf_evaluation *e = w->evaluation;
    double *hi = w->sums + range * w->n_sums, *lo = w->lost + range * w->n_sums;
    int64_t *counts = w->counts + range * (w->n_counts + 2);
    const int plain = !rows->weights
        && w->call->doubles->add_columns(&rows->of, rows->n, w->call->n_classes, e->top_k, e->n_top,
                                         counts + N_COUNTS, columns);
    if (!plain)
        add_each_row(w, rows, hi, lo, counts, counts + w->n_counts, first);
    if (rows->weights)
        return;
    slot *slots = w->slots + worker * w->n_slots;
    int32_t at[CHUNK_ROWS];
    int64_t units[CHUNK_ROWS], hits = 0;
    w->call->doubles->slots_of(rows->of.confidence, rows->n, e->n_bins, at, units);
    for (ptrdiff_t i = 0; i < rows->n; i++) {
        if (!plain && !is_good(w, rows, i))
            continue;
        slot *s = slots + at[i];
        const uint64_t part = ((uint64_t)units[i] + 0x8000) >> 16, hit = rows->of.rank[i] == 0;
        hits += (int64_t)hit;
        s->rows += 1 + (hit << 32);
        s->units += (uint64_t)units[i];
        s->squares += part * part >> 16;
    }
    if (plain) {
        counts[GOOD] += rows->n;
        counts[HITS] += hits;
    }
}

/* What rows without weights have added to columns, and their counts, to the sums of a range. */
static void end_evaluation(const work *w, ptrdiff_t range, const sf_column_sums *columns)
{
    double *hi = w->sums + range * w->n_sums, *lo = w->lost + range * w->n_sums;
    const int64_t *counts = w->counts + range * (w->n_counts + 2);
    if (w->weights)
        return;
    for (int i = 0; i < SF_SUM_LANES; i++) {
#define FOLD(name, at) sf_put_sum(hi + (at), lo + (at), (sf_sum){columns->name.sum[i], columns->name.lost[i]})
        FOLD(loss, LOSS);
        FOLD(loss_squares, LOSS + 2);
        FOLD(brier, BRIER);
        FOLD(brier_squares, BRIER + 2);
        FOLD(slope, SLOPE);
        FOLD(curvature, CURVATURE);
        FOLD(entropy, ENTROPY);
        FOLD(reciprocal_rank, RECIPROCAL_RANK);
#undef FOLD
    }
    hi[LOSS + 1] = hi[LOSS];
    lo[LOSS + 1] = lo[LOSS];
    hi[BRIER + 1] = hi[BRIER];
    lo[BRIER + 1] = lo[BRIER];
    hi[V] = hi[VV] = (double)counts[GOOD];
    hi[V_HIT] = hi[VV_HIT] = (double)counts[HITS];
    for (ptrdiff_t j = 0; j < w->evaluation->n_top; j++)
        hi[N_SUMS + j] = (double)counts[N_COUNTS + j];
}

/* Rows with weights, to bins or cells. */
static void put_in_bin(const some_rows *rows, ptrdiff_t i, ptrdiff_t at, ptrdiff_t n, double *const *sums,
                       int64_t *counts)
{
    const double c = rows->of.confidence[i], v = rows->weights[i], vv = v * v;
    const double values[] = {v, vv, v * c, rows->of.rank[i] == 0 ? v : 0.0, vv * (c * (1.0 - c))};
    counts[at]++;
    for (int j = 0; j < 5; j++)
        sf_put(sums[0] + j * n + at, sums[1] + j * n + at, values[j]);
}

static void put_in_bins(void *context, ptrdiff_t piece, int worker)
{
    const work *w = (const work *)context;
    const sf_evaluation *e = w->evaluation;
    const some_rows rows = {w->call->n_rows, *w->call->columns, w->weights};
    int64_t units;
    (void)worker;
    sf_environment found = sf_enter();
    for (ptrdiff_t i = 0; i < rows.n; i++) {
        const double c = rows.of.confidence[i];
        if (!is_good(w, &rows, i))
            continue;
        if (piece)
            put_in_bin(&rows, i, sf_bin_of(c, e->n_bins), e->n_bins, e->bin_sums, e->bin_counts);
        else
            put_in_bin(&rows, i, sf_cell_of(c, &units), SF_CELLS, e->cell_sums, e->cell_counts);
    }
    sf_leave(found);
}

/* ---- passes of a fit ----------------------------------------------------------------------------------- */

enum { PASS_LOSS, PASS_SLOPE, PASS_CURVATURE, PASS_SQUARES, PASS_SIZE, PASS_UNCERTAINTY, PASS_WEIGHT };

static int is_infinite_of_label(const sf_call *call, ptrdiff_t row)
{
    const ptrdiff_t y = (ptrdiff_t)sf_label(call->targets, row);
    return sf_entry(&call->x, sf_input_offset(call, &call->x, row) + y * call->x.class_stride) == -INFINITY;
}

static void sum_pass(const work *w, const some_rows *rows, ptrdiff_t range, ptrdiff_t first, int worker,
                     sf_column_sums *unused)
{
    double *hi = w->sums + range * w->n_sums, *lo = w->lost + range * w->n_sums;
    int64_t *counts = w->counts + range * (w->n_counts + 2), *fault = counts + w->n_counts;
    double columns[5][CHUNK_ROWS], sizes[4] = {0.0, 0.0, 0.0, 0.0};
    enum { OWN_LOSS, OWN_SLOPE, OWN_CURVATURE, OWN_UNCERTAINTY, OWN_WEIGHT };
    ptrdiff_t n = 0;
    (void)worker;
    (void)unused;
    for (ptrdiff_t i = 0; i < rows->n; i++) {
        const double v = rows->weights ? rows->weights[i] : 1.0, loss = rows->of.loss[i];
        if (rows->of.rank[i] < 0 || !(v > 0.0))
            continue;
        if (!isfinite(loss) && (loss != loss || is_infinite_of_label(w->call, first + i))) {
            if (fault[0] < 0)
                fault[0] = first + i;
            continue;
        }
        columns[OWN_LOSS][n] = v * loss;
        columns[OWN_SLOPE][n] = v * rows->of.slope[i];
        columns[OWN_CURVATURE][n] = v * rows->of.curvature[i];
        columns[OWN_UNCERTAINTY][n] = v * rows->of.uncertainty[i];
        columns[OWN_WEIGHT][n++] = v;
    }
    counts[0] += n;
    for (ptrdiff_t i = 0; i < n; i++)
        sizes[i % 4] += fabs(columns[OWN_SLOPE][i]);
    sf_sum sums[2];
    w->call->doubles->sums_of_array(columns[OWN_SLOPE], n, sums, sums + 1);
    sf_put_sum(hi + PASS_SLOPE, lo + PASS_SLOPE, sums[0]);
    sf_put_sum(hi + PASS_SQUARES, lo + PASS_SQUARES, sums[1]);
    sf_put(hi + PASS_SIZE, lo + PASS_SIZE, (sizes[0] + sizes[1]) + (sizes[2] + sizes[3]));
    put_column(w, columns[OWN_LOSS], n, hi + PASS_LOSS, lo + PASS_LOSS);
    put_column(w, columns[OWN_CURVATURE], n, hi + PASS_CURVATURE, lo + PASS_CURVATURE);
    put_column(w, columns[OWN_UNCERTAINTY], n, hi + PASS_UNCERTAINTY, lo + PASS_UNCERTAINTY);
    if (rows->weights)
        put_column(w, columns[OWN_WEIGHT], n, hi + PASS_WEIGHT, lo + PASS_WEIGHT);
    else
        sf_put(hi + PASS_WEIGHT, lo + PASS_WEIGHT, (double)n);
}

/* ---- ranges ------------------------------------------------------------------------------------------- */

enum { N_DOUBLES = 8, N_INTEGERS = 1 };

/* The columns of some rows from row first on: those of the call, and of the others those that are used,
 * in room for n rows. */
static sf_columns columns_from(const work *w, ptrdiff_t first, char *room, ptrdiff_t n)
{
    const sf_columns *given = w->call->columns;
    double *numbers = (double *)room;
    int64_t *places = (int64_t *)(numbers + N_DOUBLES * n);
    sf_columns of = {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL};
#define OWN(name, room) of.name = given && given->name ? given->name + first : (room)
    OWN(loss, numbers);
    OWN(slope, numbers + n);
    OWN(curvature, numbers + 2 * n);
    OWN(rank, places);
    OWN(confidence, w->evaluation ? numbers + 3 * n : NULL);
    OWN(entropy, w->evaluation ? numbers + 4 * n : NULL);
    OWN(brier, w->evaluation ? numbers + 5 * n : NULL);
    OWN(prediction, NULL);
    OWN(uncertainty, w->evaluation ? NULL : numbers + 6 * n);
    OWN(logsumexp, NULL);
#undef OWN
    return of;
}

static void sum_columns(const work *w, const sf_columns *of, ptrdiff_t range, ptrdiff_t first,
                        ptrdiff_t count, int worker, sf_column_sums *columns)
{
    const some_rows rows = {count, *of, w->weights ? w->weights + first : NULL};
    w->sum(w, &rows, range, first, worker, columns);
}

static void sum_range(void *context, ptrdiff_t range, int worker)
{
    const work *w = (const work *)context;
    const ptrdiff_t begin = range * w->range_rows, end = SF_MIN(begin + w->range_rows, w->call->n_rows);
    char *scratch = w->scratch + (size_t)worker * w->scratch_bytes;
    sf_call own = *w->call;
    sf_result unused = sf_no_result();
    sf_column_sums columns = {0};
    sf_environment found = sf_enter();
    for (ptrdiff_t first = begin; first < end; first += CHUNK_ROWS) {
        const ptrdiff_t count = SF_MIN(CHUNK_ROWS, end - first);
        sf_columns of = columns_from(w, first, scratch + w->walk_bytes, CHUNK_ROWS);
        own.columns = &of;
        own.first_row = -first;
        if (own.x.data)
            sf_run_rows(&own, SF_ROW_STATISTICS, w->reach, first, count, &unused, scratch);
        sum_columns(w, &of, range, first, count, worker, &columns);
    }
    if (w->evaluation)
        end_evaluation(w, range, &columns);
    sf_leave(found);
}

/* Sums of all ranges go to w->sums and w->lost, counts and rows at fault to w->counts, range by range. */
static int sum_ranges(work *w)
{
    const sf_call *call = w->call;
    const ptrdiff_t some = RANGE_ELEMENTS / call->n_classes / FEWEST_RANGE_ROWS * FEWEST_RANGE_ROWS;
    const int few = call->n_rows <= FEW_ROWS;
    w->range_rows = SF_MIN(RANGE_ROWS, SF_MAX(FEWEST_RANGE_ROWS, some));
    w->n_ranges = (call->n_rows + w->range_rows - 1) / w->range_rows;
    w->reach = sf_reach(call, SF_ROW_STATISTICS);
    w->n_workers = few ? 1 : sf_threads_for(call->n_rows * call->n_classes, w->n_ranges, call->n_threads);
    w->walk_bytes = few ? 0 : sf_walk_bytes(call, w->reach);
    const ptrdiff_t columns = few ? call->n_rows : CHUNK_ROWS;
    w->scratch_bytes = w->walk_bytes
        + (size_t)SF_ROUND_UP(columns * (N_DOUBLES + N_INTEGERS) * (ptrdiff_t)sizeof(double));
    const ptrdiff_t n_numbers = w->n_ranges * (2 * w->n_sums + w->n_counts + 2);
    w->scratch = (char *)malloc((size_t)w->n_workers * w->scratch_bytes);
    w->sums = (double *)calloc((size_t)n_numbers, sizeof(double));
    w->slots = w->n_slots ? (slot *)calloc((size_t)(w->n_workers * w->n_slots), sizeof(slot)) : NULL;
    if (!w->scratch || !w->sums || (w->n_slots && !w->slots))
        return SF_NO_MEMORY;
    w->lost = w->sums + w->n_ranges * w->n_sums;
    w->counts = (int64_t *)(w->lost + w->n_ranges * w->n_sums);
    for (ptrdiff_t range = 0; range < w->n_ranges; range++)
        for (int j = 0; j < 2; j++)
            w->counts[range * (w->n_counts + 2) + w->n_counts + j] = -1;
    if (!few) {
        sf_share_out(sum_range, w, w->n_ranges, w->n_workers);
        return SF_OK;
    }
    sf_call own = *call;
    sf_columns of = columns_from(w, 0, w->scratch, columns);
    sf_result unused = sf_no_result();
    own.columns = &of;
    if (own.x.data && sf_run(&own, SF_ROW_STATISTICS, &unused) != SF_OK)
        return SF_NO_MEMORY;
    sf_environment found = sf_enter();
    for (ptrdiff_t range = 0; range < w->n_ranges; range++) {
        const ptrdiff_t first = range * w->range_rows;
        sf_column_sums sums = {0};
        of = columns_from(w, first, w->scratch + first * (ptrdiff_t)sizeof(double), columns);
        sum_columns(w, &of, range, first, SF_MIN(w->range_rows, call->n_rows - first), 0, &sums);
        if (w->evaluation)
            end_evaluation(w, range, &sums);
    }
    sf_leave(found);
    return SF_OK;
}

/* Adds the ranges to sums, counts and the first rows at fault. */
static void merge_ranges(const work *w, double *hi, double *lo, int64_t *counts, ptrdiff_t *faults,
                         int n_faults)
{
    const ptrdiff_t n_sums = w->n_sums, n_counts = w->n_counts;
    for (ptrdiff_t range = 0; range < w->n_ranges; range++) {
        const int64_t *own = w->counts + range * (n_counts + 2);
        for (ptrdiff_t i = 0; i < n_sums; i++) {
            sf_sum part = {w->sums[range * n_sums + i], w->lost[range * n_sums + i]};
            sf_put_sum(hi + i, lo + i, part);
        }
        for (ptrdiff_t i = 0; i < n_counts; i++)
            counts[i] += own[i];
        for (int j = 0; j < n_faults; j++)
            if (faults[j] < 0)
                faults[j] = (ptrdiff_t)own[n_counts + j];
    }
    for (ptrdiff_t i = 0; i < n_sums; i++)
        if (!isfinite(hi[i])) /* beyond the range there is nothing to keep */
            lo[i] = 0.0;
}

static void release(work *w)
{
    free(w->scratch);
    free(w->sums);
    free(w->slots);
}

/* Adds to a whole number kept as its upper bits and its lower 32. */
static void put_whole(int64_t *upper, int64_t *lower, uint64_t x)
{
    const uint64_t low = (uint64_t)*lower + (x & 0xffffffffu);
    *upper += (int64_t)((x >> 32) + (low >> 32));
    *lower = (int64_t)(low & 0xffffffffu);
}

static void merge_slots(const work *w)
{
    int64_t *to = w->evaluation->slots;
    const ptrdiff_t n = w->n_slots;
    for (ptrdiff_t i = 0; i < n * w->n_workers; i++) {
        const slot *s = w->slots + i;
        int64_t *at = to + i % n;
        at[0] += (int64_t)(s->rows & 0xffffffffu);
        at[n] += (int64_t)(s->rows >> 32);
        put_whole(at + 2 * n, at + 3 * n, s->units);
        put_whole(at + 4 * n, at + 5 * n, s->squares);
    }
}

int sf_add_to_evaluation(const sf_call *call, sf_evaluation *to)
{
    work w = {.call = call, .weights = to->weights, .sum = sum_evaluation, .evaluation = to,
              .n_sums = N_SUMS + to->n_top, .n_counts = N_COUNTS + to->n_top,
              .n_slots = to->weights ? 0 : SF_CELLS + to->n_bins};
    int status = sum_ranges(&w);
    if (status == SF_OK) {
        sf_environment found = sf_enter();
        merge_ranges(&w, to->sums[0], to->sums[1], to->counts, to->first, 2);
        merge_slots(&w);
        sf_leave(found);
        if (to->weights)
            sf_share_out(put_in_bins, &w, 2, call->n_rows < 2048 ? 1 : SF_MIN(2, call->n_threads));
    }
    release(&w);
    return status;
}

int sf_add_to_pass(const sf_call *call, sf_pass *to)
{
    work w = {.call = call, .weights = to->weights, .sum = sum_pass, .n_sums = SF_PASS_SUMS, .n_counts = 1};
    int status = sum_ranges(&w);
    if (status == SF_OK) {
        sf_environment found = sf_enter();
        merge_ranges(&w, to->sums[0], to->sums[1], &to->n, &to->first, 1);
        sf_leave(found);
    }
    release(&w);
    return status;
}
