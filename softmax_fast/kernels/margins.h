/* Vectors of a margin: rows of a matrix in float or double, worked on in double whatever the kernels in
 * use.  What is computed of one depends neither on its place nor on threads. */
#ifndef SF_MARGINS_H
#define SF_MARGINS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *first;
    ptrdiff_t step;       /* bytes from row to row, whose entries are contiguous */
    int are_float;
    const int64_t *rows;  /* which they are, or NULL: in their order */
    const double *norms;  /* one a vector */
} sf_vectors;

/* What becomes of rows of a contiguous matrix of float or double, with u and v the unit vectors of own
 * and other: g is replaced by (g - (g u) u) scale unless that is NULL, and own_part u + other_part v
 * then added unless those are. */
typedef struct {
    char *first;
    ptrdiff_t step;
    int are_float, are_repeated; /* rows may be the same: they are gone through in order */
    const int64_t *rows;
    sf_vectors own, other;
    const double *scale, *own_part, *other_part;
    ptrdiff_t n, length;
} sf_vector_gradients;

void sf_squares(const sf_vectors *x, ptrdiff_t n, ptrdiff_t length, double *squares, int n_threads);

/* Cosines and sines of the angles between x and w, by their norms; a norm of 0 counts as 1. */
void sf_angles(const sf_vectors *x, const sf_vectors *w, ptrdiff_t n, ptrdiff_t length, double *cosine,
               double *sine, int n_threads);

void sf_add_vector_gradients(const sf_vector_gradients *gradients, int n_threads);

#endif
