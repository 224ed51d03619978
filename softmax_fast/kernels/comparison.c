#include "comparison.h"
#include "beyond.h"
#include "environment.h"
#include "evaluation.h"
#include "scalars.h"
#include <stdlib.h>

/* Sums are made of ranges of rows, which depend on the number of classes alone, and merged in their
 * order. */
enum {
    RANGE_ROWS = 512,         /* at most */
    CHUNK_ROWS = 128,         /* at most at a time: their columns fit a level-1 cache */
    RANGE_ELEMENTS = 65536,   /* about so many where rows are long */
    FEWEST_RANGE_ROWS = 16,
    FEW_ROWS = 64,            /* the driver alone decides how these are shared out, */
    LONG_ROW = RANGE_ELEMENTS / FEWEST_RANGE_ROWS / 2 /* and rows longer than this */
};

enum { FAR = 4 * SF_COMPARED };

/* Columns of rows: what is the base's, what is that of the rows, and what is between them. */
typedef struct {
    sf_columns base, x;
    sf_measures between;
    double *same_top;
} columns;

enum { N_DOUBLES = 10, N_INTEGERS = 4 };

typedef struct {
    const sf_call *calls;
    const sf_comparison *to;
    int reach[3], n_workers, has_labels;
    int has_columns;          /* of all rows, in the scratch */
    ptrdiff_t n_rows, range_rows, n_ranges, room_rows;
    double *sums, *lost, *joint, *joint_lost, *largest;
    int64_t *counts;          /* SF_COMPARED_COUNTS a range, and the first two rows at fault */
    char *scratch;            /* of one worker: the walk's, then columns */
    size_t walk_bytes, scratch_bytes;
} work;

static void put_sums(double *hi, double *lo, const double *more, const double *lost, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        const sf_sum part = {more[i], lost[i]};
        sf_put_sum(hi + i, lo + i, part);
    }
}

/* ---- columns -------------------------------------------------------------------------------------- */

/* The columns of rows from the first on, in room for n rows, or where they are wanted. */
static columns columns_from(const work *w, ptrdiff_t first, char *room, ptrdiff_t n)
{
    double *numbers = (double *)room, *const *given = w->to->rows;
    int64_t *places = (int64_t *)(numbers + N_DOUBLES * n);
    columns of;
    memset(&of, 0, sizeof of);
#define AT(number, room) (given[number] ? given[number] + first : (room))
    of.base.prediction = places;
    of.x.prediction = places + n;
    of.between.kl = AT(SF_ROW_KL, numbers);
    of.between.reverse = AT(SF_ROW_REVERSE, numbers + n);
    of.between.js = AT(SF_ROW_JS, numbers + 2 * n);
    of.between.total_variation = AT(SF_ROW_VARIATION, numbers + 3 * n);
    of.between.largest = AT(SF_ROW_LARGEST, numbers + 4 * n);
    of.same_top = AT(SF_ROW_SAME_TOP, numbers + 5 * n);
    if (!w->has_labels)
        return of;
    of.between.log_ratio = numbers + 6 * n;
    of.between.change = AT(SF_ROW_CHANGE, numbers + 7 * n);
    of.base.loss = w->to->base_loss + first;
    of.base.slope = of.x.slope = numbers + 8 * n;
    of.base.curvature = of.x.curvature = numbers + 9 * n;
    of.base.rank = places + 2 * n;
    of.x.loss = w->to->loss + first;
    of.x.rank = places + 3 * n;
#undef AT
    return of;
}

/* Fills the columns of rows from the first on, with the scratch of a worker, or with all threads. */
static int run_calls(const work *w, const columns *of, ptrdiff_t first, ptrdiff_t count, char *scratch)
{
    static const int operations[] = {SF_ROW_STATISTICS, SF_ROW_STATISTICS, SF_MEASURES};
    sf_call own[3] = {w->calls[0], w->calls[1], w->calls[2]};
    sf_result unused = sf_no_result();
    sf_measures between = of->between;
    sf_targets labels;
    own[0].columns = &of->base;
    own[1].columns = &of->x;
    own[2].measures = &between;
    if (w->has_labels) {
        labels = *own[0].targets;
        labels.labels64 += first;
        between.labels = &labels;
    }
    if (!scratch) {
        sf_part parts[3];
        for (int i = 0; i < 3; i++) {
            parts[i].call = own + i;
            parts[i].operation = operations[i];
        }
        return sf_run_parts(parts, 3, &unused);
    }
    for (int i = 0; i < 3; i++) {
        own[i].first_row = -first;
        sf_run_rows(own + i, operations[i], w->reach[i], first, count, &unused, scratch);
    }
    return SF_OK;
}

/* ---- sums of columns ------------------------------------------------------------------------------ */

/* Columns that there are sums of, from that of the divergence on. */
static void of_sums(const columns *of, const double *difference, const double *square,
                    const double *column[SF_COMPARED])
{
    column[SF_OF_KL] = of->between.kl;
    column[SF_OF_REVERSE] = of->between.reverse;
    column[SF_OF_JS] = of->between.js;
    column[SF_OF_VARIATION] = of->between.total_variation;
    column[SF_OF_SAME_TOP] = of->same_top;
    column[SF_OF_BASE_LOSS] = of->base.loss;
    column[SF_OF_LOSS] = of->x.loss;
    column[SF_OF_DIFFERENCE] = difference;
    column[SF_OF_CHANGE] = of->between.change;
    column[SF_OF_SQUARE] = square;
}

/* Where all these are finite and none is far, adds their sums; otherwise nothing, and 0. */
static int add_finite_rows(const double *const column[SF_COMPARED], int n_columns, const double *weights,
                           ptrdiff_t n, double *hi, double *lo)
{
    double own[2][FAR] = {{0.0}};
    int near = 1;
    for (int j = SF_OF_KL; j < n_columns; j++)
        sf_add_moments(column[j], weights, n, own[0] + 4 * j, own[1] + 4 * j);
    for (int i = 0; i < FAR; i++)
        near &= fabs(own[0][i]) < SF_FAR_LOSS * SF_FAR_LOSS && isfinite(own[1][i]);
    if (near)
        put_sums(hi, lo, own[0], own[1], FAR);
    return near;
}

/* The sums of rows of which some may not count, or not be finite. */
static void add_each_column(const double *const column[SF_COMPARED], int n_columns,
                            const double *weights, const char *good, ptrdiff_t n, double *hi,
                            double *lo, int64_t *infinite)
{
    double near[CHUNK_ROWS], far[CHUNK_ROWS], of_near[CHUNK_ROWS], of_far[CHUNK_ROWS];
    for (int j = SF_OF_KL; j < n_columns; j++) {
        ptrdiff_t n_near = 0, n_far = 0;
        for (ptrdiff_t i = 0; i < n; i++) {
            const double x = column[j][i], v = weights ? weights[i] : 1.0;
            if (!good[i])
                continue;
            if (fabs(x) < SF_FAR_LOSS) {
                near[n_near] = x;
                of_near[n_near++] = v;
            } else if (isfinite(x)) {
                far[n_far] = ldexp(x, -SF_FAR_EXPONENT);
                of_far[n_far++] = v;
            } else {
                infinite[j]++;
            }
        }
        sf_add_moments(near, weights ? of_near : NULL, n_near, hi + 4 * j, lo + 4 * j);
        sf_add_moments(far, weights ? of_far : NULL, n_far, hi + FAR + 4 * j, lo + FAR + 4 * j);
    }
}

/* At most CHUNK_ROWS rows, from the row first on. */
static void sum_columns(const work *w, const columns *of, ptrdiff_t range, ptrdiff_t first, ptrdiff_t n)
{
    const sf_comparison *to = w->to;
    const double *weights = to->weights ? to->weights + first : NULL;
    double *hi = w->sums + range * SF_COMPARED_SUMS, *lo = w->lost + range * SF_COMPARED_SUMS;
    int64_t *counts = w->counts + range * (SF_COMPARED_COUNTS + 2);
    int64_t *faults = counts + SF_COMPARED_COUNTS;
    const int n_columns = w->has_labels ? SF_COMPARED : SF_OF_BASE_LOSS;
    double difference[CHUNK_ROWS], square[CHUNK_ROWS], ones[CHUNK_ROWS], of_ones[CHUNK_ROWS];
    const double *column[SF_COMPARED];
    char good[CHUNK_ROWS];
    ptrdiff_t counted = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const int64_t p = of->base.prediction[i], q = of->x.prediction[i];
        of->same_top[i] = (double)((p == q) & (p >= 0));
    }
    for (ptrdiff_t i = 0; i < n; i++)
        good[i] = !weights || weights[i] > 0.0;
    if (w->has_labels) {
        for (ptrdiff_t i = 0; i < n; i++)
            good[i] = (char)(good[i] & (of->base.rank[i] >= 0));
        for (ptrdiff_t i = 0; i < n; i++) {
            difference[i] = -of->between.log_ratio[i];
            square[i] = of->between.change[i] * of->between.change[i];
        }
    }
    for (ptrdiff_t i = 0; i < n; i++)
        counted += good[i];
    for (ptrdiff_t i = 0; i < n; i++)
        to->kl[first + i] = of->between.kl[i];
    for (ptrdiff_t i = 0; w->has_labels && i < n; i++)
        to->change[first + i] = of->between.change[i];
    of_sums(of, difference, square, column);
    double largest = w->largest[range];
    if (counted == n && add_finite_rows(column, n_columns, weights, n, hi, lo)) {
        for (ptrdiff_t i = 0; i < n; i++)
            ones[i] = 1.0;
        sf_add_moments(ones, weights, n, hi, lo);
        counts[SF_COMPARED_GOOD] += n;
        for (ptrdiff_t i = 0; i < n; i++)
            largest = SF_MAX(largest, of->between.largest[i]);
        w->largest[range] = largest;
        return;
    }
    counted = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const double kl = of->between.kl[i];
        if (!good[i]) {
            counts[SF_COMPARED_IGNORED]++;
            to->kl[first + i] = NAN;
            continue;
        }
        ones[counted] = 1.0;
        of_ones[counted++] = weights ? weights[i] : 1.0;
        const int finite = isfinite(kl) && isfinite(of->between.reverse[i])
            && (!w->has_labels || (isfinite(of->base.loss[i]) && isfinite(of->x.loss[i])));
        good[i] = kl == kl;
        counts[good[i] ? SF_COMPARED_GOOD : SF_COMPARED_BAD]++;
        if (!good[i] && faults[0] < 0)
            faults[0] = first + i;
        counts[SF_COMPARED_NONFINITE] += !finite;
        if (!finite && faults[1] < 0)
            faults[1] = first + i;
        if (good[i])
            largest = SF_MAX(largest, of->between.largest[i]);
    }
    w->largest[range] = largest;
    sf_add_moments(ones, weights ? of_ones : NULL, counted, hi, lo);
    add_each_column(column, n_columns, weights, good, n, hi, lo, counts + SF_COMPARED_INFINITE);
}

/* ---- both losses ---------------------------------------------------------------------------------- */

/* Next to the mean losses of the first rows that there are. */
static void choose_points(const work *w)
{
    const double *losses[] = {w->to->base_loss, w->to->loss};
    const double *weights = w->to->weights;
    double *points = w->to->points;
    for (ptrdiff_t first = 0; first < w->n_rows && points[0] != points[0]; first += CHUNK_ROWS) {
        const ptrdiff_t end = SF_MIN(first + CHUNK_ROWS, w->n_rows);
        for (int j = 0; j < 2; j++) {
            double sum = 0.0, weight = 0.0, least = INFINITY, most = -INFINITY;
            for (ptrdiff_t i = first; i < end; i++) {
                const double v = weights ? weights[i] : 1.0, loss = losses[j][i];
                if (w->to->kl[i] != w->to->kl[i])
                    continue;
                sum += v * loss;
                weight += v;
                least = loss < least ? loss : least;
                most = loss > most ? loss : most;
            }
            const double mean = sum / weight;
            if (weight > 0.0)
                points[j] = mean < least ? least : mean > most ? most : mean;
        }
    }
}

static void sum_losses(void *context, ptrdiff_t range, int worker)
{
    const work *w = (const work *)context;
    const double *weights = w->to->weights, *points = w->to->points;
    const ptrdiff_t begin = range * w->range_rows, end = SF_MIN(begin + w->range_rows, w->n_rows);
    double *hi = w->joint + range * SF_JOINT_SUMS, *lo = w->joint_lost + range * SF_JOINT_SUMS;
    double v[CHUNK_ROWS], x[3][CHUNK_ROWS];
    sf_environment found = sf_enter();
    (void)worker;
    for (ptrdiff_t first = begin; first < end; first += CHUNK_ROWS) {
        const ptrdiff_t some = SF_MIN(first + CHUNK_ROWS, end);
        ptrdiff_t n = 0;
        for (ptrdiff_t i = first; i < some; i++) {
            x[0][n] = w->to->base_loss[i] - points[0];
            x[1][n] = w->to->loss[i] - points[1];
            v[n] = weights ? weights[i] : 1.0;
            n += w->to->kl[i] == w->to->kl[i];
        }
        for (ptrdiff_t i = 0; i < n; i++)
            x[2][i] = x[0][i] * x[1][i];
        for (int j = 0; j < 3; j++) {
            double own[2][4] = {{0.0}};
            sf_add_moments(x[j], weights ? v : NULL, n, own[0], own[1]);
            put_sums(hi + (j == 2 ? 4 : j), lo + (j == 2 ? 4 : j), own[0], own[1], 1);
            if (j < 2)
                put_sums(hi + 2 + j, lo + 2 + j, own[0] + 3, own[1] + 3, 1);
        }
        for (ptrdiff_t i = 0; weights && i < n; i++)
            sf_put(hi + 5, lo + 5, v[i]);
        if (!weights)
            hi[5] += (double)n;
    }
    sf_leave(found);
}

/* ---- ranges --------------------------------------------------------------------------------------- */

static void sum_range(void *context, ptrdiff_t range, int worker)
{
    const work *w = (const work *)context;
    const ptrdiff_t begin = range * w->range_rows, end = SF_MIN(begin + w->range_rows, w->n_rows);
    char *scratch = w->scratch + (size_t)worker * w->scratch_bytes;
    sf_environment found = sf_enter();
    for (ptrdiff_t first = begin; first < end; first += CHUNK_ROWS) {
        const ptrdiff_t count = SF_MIN(CHUNK_ROWS, end - first);
        columns of;
        if (w->has_columns) {
            of = columns_from(w, first, w->scratch + first * (ptrdiff_t)sizeof(double), w->room_rows);
        } else {
            of = columns_from(w, first, scratch + w->walk_bytes, CHUNK_ROWS);
            run_calls(w, &of, first, count, scratch);
        }
        sum_columns(w, &of, range, first, count);
    }
    sf_leave(found);
}

static int sum_ranges(work *w)
{
    const sf_call *call = w->calls + 1;
    const ptrdiff_t some = RANGE_ELEMENTS / call->n_classes / FEWEST_RANGE_ROWS * FEWEST_RANGE_ROWS;
    const int together = w->n_rows > FEW_ROWS && call->n_classes <= LONG_ROW;
    w->range_rows = SF_MIN(RANGE_ROWS, SF_MAX(FEWEST_RANGE_ROWS, some));
    w->n_ranges = (w->n_rows + w->range_rows - 1) / w->range_rows;
    w->has_columns = !together;
    w->room_rows = together ? CHUNK_ROWS : w->n_rows;
    w->n_workers =
        sf_threads_for(w->n_rows * (together ? call->n_classes : 16), w->n_ranges, call->n_threads);
    for (int i = 0; i < 3 && together; i++) {
        w->reach[i] = sf_reach(w->calls + i, i < 2 ? SF_ROW_STATISTICS : SF_MEASURES);
        w->walk_bytes = SF_MAX(w->walk_bytes, sf_walk_bytes(w->calls + i, w->reach[i]));
    }
    w->scratch_bytes = w->walk_bytes
        + (size_t)SF_ROUND_UP(w->room_rows * (N_DOUBLES + N_INTEGERS) * (ptrdiff_t)sizeof(double));
    const ptrdiff_t of_range = 2 * SF_COMPARED_SUMS + 2 * SF_JOINT_SUMS + 1 + SF_COMPARED_COUNTS + 2;
    w->scratch = (char *)malloc((size_t)(together ? w->n_workers : 1) * w->scratch_bytes);
    w->sums = (double *)calloc((size_t)(w->n_ranges * of_range), sizeof(double));
    if (!w->scratch || !w->sums)
        return SF_NO_MEMORY;
    w->lost = w->sums + w->n_ranges * SF_COMPARED_SUMS;
    w->joint = w->lost + w->n_ranges * SF_COMPARED_SUMS;
    w->joint_lost = w->joint + w->n_ranges * SF_JOINT_SUMS;
    w->largest = w->joint_lost + w->n_ranges * SF_JOINT_SUMS;
    w->counts = (int64_t *)(w->largest + w->n_ranges);
    for (ptrdiff_t range = 0; range < w->n_ranges; range++)
        for (int j = 0; j < 2; j++)
            w->counts[range * (SF_COMPARED_COUNTS + 2) + SF_COMPARED_COUNTS + j] = -1;
    if (!together) {
        columns of = columns_from(w, 0, w->scratch, w->room_rows);
        if (run_calls(w, &of, 0, w->n_rows, NULL) != SF_OK)
            return SF_NO_MEMORY;
    }
    sf_share_out(sum_range, w, w->n_ranges, w->n_workers);
    if (w->has_labels) {
        choose_points(w);
        sf_share_out(sum_losses, w, w->n_ranges,
                     sf_threads_for(w->n_rows * 4, w->n_ranges, call->n_threads));
    }
    return SF_OK;
}

static void forget_lost(const double *hi, double *lo, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++)
        if (!isfinite(hi[i])) /* beyond the range there is nothing to keep */
            lo[i] = 0.0;
}

int sf_add_to_comparison(const sf_call calls[3], sf_comparison *to)
{
    work w = {.calls = calls, .to = to, .has_labels = calls[0].targets != NULL,
              .n_rows = calls[1].n_rows};
    const int status = sum_ranges(&w);
    for (ptrdiff_t range = 0; status == SF_OK && range < w.n_ranges; range++) {
        const int64_t *counts = w.counts + range * (SF_COMPARED_COUNTS + 2);
        put_sums(to->sums[0], to->sums[1], w.sums + range * SF_COMPARED_SUMS,
                 w.lost + range * SF_COMPARED_SUMS, SF_COMPARED_SUMS);
        put_sums(to->joint[0], to->joint[1], w.joint + range * SF_JOINT_SUMS,
                 w.joint_lost + range * SF_JOINT_SUMS, SF_JOINT_SUMS);
        for (int i = 0; i < SF_COMPARED_COUNTS; i++)
            to->counts[i] += counts[i];
        for (int j = 0; j < 2; j++)
            if (to->first[j] < 0)
                to->first[j] = (ptrdiff_t)counts[SF_COMPARED_COUNTS + j];
        to->largest = SF_MAX(to->largest, w.largest[range]);
    }
    if (status == SF_OK) {
        forget_lost(to->sums[0], to->sums[1], SF_COMPARED_SUMS);
        forget_lost(to->joint[0], to->joint[1], SF_JOINT_SUMS);
    }
    free(w.scratch);
    free(w.sums);
    return status;
}

/* ---- order statistics ----------------------------------------------------------------------------- */

/* Numbers as whole ones in their order, and back. */
static inline uint64_t key_of(double x)
{
    uint64_t bits;
    x += 0.0; /* -0 becomes 0 */
    memcpy(&bits, &x, sizeof bits);
    return bits ^ ((uint64_t)((int64_t)bits >> 63) | (uint64_t)1 << 63);
}

static double number_of(uint64_t key)
{
    const uint64_t bits = key ^ (key >> 63 ? (uint64_t)1 << 63 : UINT64_MAX);
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

enum { FIRST_BITS = 16, NEXT_BITS = 8 };

/* Keys, or numbers that are not keys yet, that agree in all digits before, and their weights or NULL. */
typedef struct { const void *keys; const double *weights; ptrdiff_t n; int are_numbers; } keys;

/* How many there are of each digit, their weight, and where those go that are looked at again, or -1. */
typedef struct { ptrdiff_t *n, *to; sf_sum *weight; } digits;

typedef struct { uint64_t *keys; double *weights; } room;

static inline uint64_t key_at(const keys *from, ptrdiff_t i, const int are_numbers)
{
    return are_numbers ? key_of(((const double *)from->keys)[i]) : ((const uint64_t *)from->keys)[i];
}

static inline void count_digits(const keys *from, int shift, uint64_t mask, const int are_numbers,
                                digits *of)
{
    for (ptrdiff_t i = 0; i < from->n; i++)
        of->n[key_at(from, i, are_numbers) >> shift & mask]++;
    for (ptrdiff_t i = 0; from->weights && i < from->n; i++)
        sf_sum_add(&of->weight[key_at(from, i, are_numbers) >> shift & mask], from->weights[i]);
}

static inline void move_keys(const keys *from, int shift, uint64_t mask, const int are_numbers,
                             const digits *of, room to)
{
    for (ptrdiff_t i = 0; i < from->n; i++) {
        const uint64_t key = key_at(from, i, are_numbers);
        ptrdiff_t *place = of->to + (key >> shift & mask);
        if (*place < 0)
            continue;
        if (from->weights)
            to.weights[*place] = from->weights[i];
        to.keys[(*place)++] = key;
    }
}

/* Those of digits among which masses lie are moved to one of the rooms, and looked at by the next digit
 * with the other; before is the weight of what is less than all keys. */
static void find_masses(const keys *from, int shift, int bits, digits of, sf_sum before,
                        const double *masses, ptrdiff_t n_masses, room here, room there, double *out)
{
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    ptrdiff_t place = 0, done = 0, last = 0;
    if (from->are_numbers)
        count_digits(from, shift, mask, 1, &of);
    else
        count_digits(from, shift, mask, 0, &of);
    for (ptrdiff_t d = 0; d <= (ptrdiff_t)mask; d++)
        last = of.n[d] ? d : last;
    sf_sum up_to = before;
    for (ptrdiff_t d = 0, m = 0; d <= last; d++) {
        of.to[d] = -1;
        if (!of.n[d])
            continue;
        if (from->weights)
            sf_sum_merge(&up_to, of.weight[d]);
        else
            sf_sum_add(&up_to, (double)of.n[d]);
        const ptrdiff_t first = m;
        while (m < n_masses && (d == last || sf_sum_value(up_to) >= masses[m]))
            m++;
        if (m > first) {
            of.to[d] = place;
            place += of.n[d];
        }
    }
    if (from->are_numbers)
        move_keys(from, shift, mask, 1, &of, here);
    else
        move_keys(from, shift, mask, 0, &of, here);
    for (ptrdiff_t d = 0; d <= last && done < n_masses; d++) {
        sf_sum next = before;
        if (from->weights)
            sf_sum_merge(&next, of.weight[d]);
        else
            sf_sum_add(&next, (double)of.n[d]);
        if (of.n[d] && of.to[d] >= 0) {
            ptrdiff_t end = done;
            while (end < n_masses && (d == last || sf_sum_value(next) >= masses[end]))
                end++;
            const ptrdiff_t first = of.to[d] - of.n[d];
            const room other = {here.keys + first, here.weights ? here.weights + first : NULL};
            const room own = {there.keys + first, there.weights ? there.weights + first : NULL};
            const keys some = {other.keys, other.weights, of.n[d], 0};
            if (shift == 0) {
                for (; done < end; done++)
                    out[done] = number_of(here.keys[first]);
            } else {
                ptrdiff_t n[1 << NEXT_BITS] = {0}, to[1 << NEXT_BITS];
                sf_sum weight[1 << NEXT_BITS] = {{0.0, 0.0}};
                const digits below = {n, to, weight};
                find_masses(&some, shift - NEXT_BITS, NEXT_BITS, below, before, masses + done,
                            end - done, own, other, out + done);
                done = end;
            }
        }
        before = next;
    }
}

int sf_at_masses(const sf_sample *sample, const double *masses, ptrdiff_t n_masses, double *out)
{
    const size_t n_digits = (size_t)1 << FIRST_BITS, n = (size_t)sample->n;
    const int weighted = sample->weights != NULL;
    ptrdiff_t *numbers = (ptrdiff_t *)calloc(2 * n_digits, sizeof(ptrdiff_t));
    sf_sum *weight = weighted ? (sf_sum *)calloc(n_digits, sizeof(sf_sum)) : NULL;
    uint64_t *room_of_keys = (uint64_t *)malloc(2 * n * sizeof(uint64_t));
    double *room_of_weights = weighted ? (double *)malloc(2 * n * sizeof(double)) : NULL;
    const int has_room = numbers && room_of_keys && (!weighted || (weight && room_of_weights));
    if (has_room) {
        const keys all = {sample->values, sample->weights, sample->n, 1};
        const digits of = {numbers, numbers + n_digits, weight};
        const room here = {room_of_keys, room_of_weights};
        const room there = {room_of_keys + n, weighted ? room_of_weights + n : NULL};
        const sf_sum none = {0.0, 0.0};
        find_masses(&all, 64 - FIRST_BITS, FIRST_BITS, of, none, masses, n_masses, here, there, out);
    }
    free(numbers);
    free(weight);
    free(room_of_keys);
    free(room_of_weights);
    return has_room ? SF_OK : SF_NO_MEMORY;
}
