#include "margins.h"
#include "drive.h"
#include "environment.h"
#include "scalars.h"
#include <math.h>
#include <string.h>

enum {
    WIDTH = 8,               /* entries, each with a sum of its own */
    ENTRIES_PER_PIECE = 32768,
    COLUMNS_PER_PIECE = 64,  /* of rows that may be repeated */
    ENTRIES_PER_THREAD = 16384
};

/* Entries of a vector, times power and then times inverse. */
typedef struct { const char *entries; int are_float; double power, inverse; } vector;

SF_INLINE vector vector_at(const sf_vectors *of, ptrdiff_t i)
{
    vector v = {of->first + (of->rows ? of->rows[i] : i) * of->step, of->are_float, 1.0, 1.0};
    return v;
}

/* By a power of two first, as the inverse of the norm may overflow or be subnormal. */
static vector unit_at(const sf_vectors *of, ptrdiff_t i)
{
    const double norm = of->norms[i];
    vector u = vector_at(of, i);
    if (norm != 0.0) {
        if (isfinite(norm)) {
            int exponent;
            frexp(norm, &exponent);
            u.power = ldexp(1.0, -exponent);
        }
        u.inverse = 1.0 / (norm * u.power);
    }
    return u;
}

/* WIDTH entries from i on, of which n are there; the others are 0. */
SF_INLINE void load(const char *entries, int are_float, ptrdiff_t i, ptrdiff_t n, double *out)
{
    const float *floats = (const float *)entries + i;
    const double *doubles = (const double *)entries + i;
    if (n >= WIDTH && are_float) {
        for (int j = 0; j < WIDTH; j++)
            out[j] = floats[j];
    } else if (n >= WIDTH) {
        for (int j = 0; j < WIDTH; j++)
            out[j] = doubles[j];
    } else {
        for (int j = 0; j < WIDTH; j++)
            out[j] = j >= n ? 0.0 : are_float ? floats[j] : doubles[j];
    }
}

SF_INLINE void load_vector(const vector *v, ptrdiff_t i, ptrdiff_t n, double *out)
{
    load(v->entries, v->are_float, i, n - i, out);
    for (int j = 0; j < WIDTH; j++)
        out[j] = out[j] * v->power * v->inverse;
}

SF_INLINE void store(char *entries, int are_float, ptrdiff_t i, ptrdiff_t n, const double *x)
{
    float *floats = (float *)entries + i;
    if (n == WIDTH && are_float) {
        for (int j = 0; j < WIDTH; j++)
            floats[j] = (float)x[j];
    } else if (are_float) {
        for (int j = 0; j < n; j++)
            floats[j] = (float)x[j];
    } else {
        memcpy((double *)entries + i, x, (size_t)n * sizeof(double));
    }
}

SF_INLINE double total(const double *sums)
{
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/* ---- squares and angles ------------------------------------------------------------------------- */

typedef struct {
    const sf_vectors *x, *w; /* w: NULL for squares */
    ptrdiff_t n, length, rows;
    double *first, *second;
} pairs;

static double square_of(vector x, ptrdiff_t n)
{
    double sums[WIDTH] = {0}, u[WIDTH];
    for (ptrdiff_t i = 0; i < n; i += WIDTH) {
        load(x.entries, x.are_float, i, n - i, u);
        for (int j = 0; j < WIDTH; j++)
            sums[j] += u[j] * u[j];
    }
    return total(sums);
}

/* The sine is the length of what of w is across x.  What a first step left along x is as large as the
 * rounding of the cosine. */
static void angle_of(vector x, vector w, ptrdiff_t n, double *cosine, double *sine)
{
    double along[WIDTH] = {0}, left[WIDTH] = {0}, across[WIDTH] = {0}, u[WIDTH], v[WIDTH];
    for (ptrdiff_t i = 0; i < n; i += WIDTH) {
        load_vector(&x, i, n, u);
        load_vector(&w, i, n, v);
        for (int j = 0; j < WIDTH; j++)
            along[j] += u[j] * v[j];
    }
    const double c = total(along);
    for (ptrdiff_t i = 0; i < n; i += WIDTH) {
        load_vector(&x, i, n, u);
        load_vector(&w, i, n, v);
        for (int j = 0; j < WIDTH; j++)
            left[j] += (v[j] - c * u[j]) * u[j];
    }
    const double rest = total(left);
    for (ptrdiff_t i = 0; i < n; i += WIDTH) {
        load_vector(&x, i, n, u);
        load_vector(&w, i, n, v);
        for (int j = 0; j < WIDTH; j++) {
            const double a = v[j] - c * u[j] - rest * u[j];
            across[j] += a * a;
        }
    }
    *cosine = c;
    *sine = sqrt(total(across));
}

static void pairs_piece(void *context, ptrdiff_t piece, int worker)
{
    const pairs *p = (const pairs *)context;
    const ptrdiff_t end = SF_MIN(p->n, (piece + 1) * p->rows);
    sf_environment found = sf_enter();
    (void)worker;
    for (ptrdiff_t i = piece * p->rows; i < end; i++)
        if (p->w)
            angle_of(unit_at(p->x, i), unit_at(p->w, i), p->length, p->first + i, p->second + i);
        else
            p->first[i] = square_of(vector_at(p->x, i), p->length);
    sf_leave(found);
}

static ptrdiff_t rows_of_piece(ptrdiff_t length)
{
    return SF_MAX(1, ENTRIES_PER_PIECE / SF_MAX(1, length));
}

static int threads_of(ptrdiff_t n, ptrdiff_t length, int most)
{
    const double threads = (double)n * (double)length / ENTRIES_PER_THREAD;
    return threads < 2.0 ? 1 : (int)SF_MIN(threads, (double)most);
}

static void share_pairs(pairs *p, int n_threads)
{
    p->rows = rows_of_piece(p->length);
    sf_share_out(pairs_piece, p, (p->n + p->rows - 1) / p->rows, threads_of(p->n, p->length, n_threads));
}

void sf_squares(const sf_vectors *x, ptrdiff_t n, ptrdiff_t length, double *squares, int n_threads)
{
    pairs p = {x, NULL, n, length, 0, squares, NULL};
    share_pairs(&p, n_threads);
}

void sf_angles(const sf_vectors *x, const sf_vectors *w, ptrdiff_t n, ptrdiff_t length, double *cosine,
               double *sine, int n_threads)
{
    pairs p = {x, w, n, length, 0, cosine, sine};
    share_pairs(&p, n_threads);
}

/* ---- gradients ---------------------------------------------------------------------------------- */

/* Entries [from, to) of a row. */
static void add_to_row(const sf_vector_gradients *s, ptrdiff_t row, ptrdiff_t from, ptrdiff_t to)
{
    char *home = s->first + (s->rows ? s->rows[row] : row) * s->step;
    const vector own = unit_at(&s->own, row);
    vector other = own;
    double along = 0.0, scale = 1.0, own_part = 0.0, other_part = 0.0, g[WIDTH], u[WIDTH], v[WIDTH];
    if (s->scale) {
        double sums[WIDTH] = {0};
        for (ptrdiff_t i = 0; i < s->length; i += WIDTH) {
            load(home, s->are_float, i, s->length - i, g);
            load_vector(&own, i, s->length, u);
            for (int j = 0; j < WIDTH; j++)
                sums[j] += g[j] * u[j];
        }
        along = total(sums);
        scale = s->scale[row];
    }
    if (s->own_part) {
        other = unit_at(&s->other, row);
        own_part = s->own_part[row];
        other_part = s->other_part[row];
    }
    for (ptrdiff_t i = from; i < to; i += WIDTH) {
        const ptrdiff_t n = SF_MIN(WIDTH, to - i);
        load(home, s->are_float, i, n, g);
        load_vector(&own, i, to, u);
        if (s->scale)
            for (int j = 0; j < WIDTH; j++)
                g[j] = (g[j] - along * u[j]) * scale;
        if (s->own_part) {
            load_vector(&other, i, to, v);
            for (int j = 0; j < WIDTH; j++)
                g[j] += own_part * u[j] + other_part * v[j];
        }
        store(home, s->are_float, i, n, g);
    }
}

static void gradients_piece(void *context, ptrdiff_t piece, int worker)
{
    const sf_vector_gradients *s = (const sf_vector_gradients *)context;
    const ptrdiff_t rows = s->are_repeated ? s->n : rows_of_piece(s->length);
    const ptrdiff_t columns = s->are_repeated ? COLUMNS_PER_PIECE : s->length;
    const ptrdiff_t pieces = s->are_repeated ? 1 : (s->n + rows - 1) / rows;
    const ptrdiff_t first = piece % pieces * rows, from = piece / pieces * columns;
    sf_environment found = sf_enter();
    (void)worker;
    for (ptrdiff_t row = first; row < SF_MIN(s->n, first + rows); row++)
        add_to_row(s, row, from, SF_MIN(s->length, from + columns));
    sf_leave(found);
}

void sf_add_vector_gradients(const sf_vector_gradients *gradients, int n_threads)
{
    const ptrdiff_t n = gradients->n, length = gradients->length, rows = rows_of_piece(length);
    const ptrdiff_t of_columns = (length + COLUMNS_PER_PIECE - 1) / COLUMNS_PER_PIECE;
    const ptrdiff_t pieces = gradients->are_repeated ? of_columns : (n + rows - 1) / rows;
    sf_share_out(gradients_piece, (void *)gradients, pieces, threads_of(n, length, n_threads));
}
