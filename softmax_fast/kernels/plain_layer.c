/* The fully connected layer without kernels for it: some rows at a time, their logits of all classes in
 * double.  The order of all sums depends on N, C and D alone. */
#include "drive.h"
#include "environment.h"
#include "linear.h"
#include "scalars.h"
#include <stdlib.h>

enum {
    TILE_BYTES = 4 << 20, /* of logits, as of the features */
    CLASSES = 64,         /* in a piece of the work, which reads their weights once */
    FEATURES = 64         /* likewise, of the gradient of the features */
};

/* Rows from first on. */
typedef struct {
    const sf_layer *layer;
    ptrdiff_t first, n_rows;
    ptrdiff_t class_pieces; /* of the gradients; the others are of features */
    double *features;       /* [row][feature] */
    double *logits;         /* [row][class], which become their gradients */
    double *d_features;     /* [row][feature] */
    double *losses;
    double *scratch;        /* a row of weights for each worker */
    char *counts;           /* whether a row does */
} tile;

static void widen(const sf_input *in, ptrdiff_t row, ptrdiff_t first, ptrdiff_t n, double *out)
{
    const ptrdiff_t at = row * in->row_stride + first * in->class_stride;
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = sf_entry(in, at + i * in->class_stride);
}

static double product_of(const double *a, const double *b, ptrdiff_t n)
{
    enum { LANES = 8 };
    double lanes[LANES] = {0};
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lanes[j] += a[i + j] * b[i + j];
    for (int j = 0; i < n; i++, j++)
        lanes[j] += a[i] * b[i];
    return sf_lanes_total(lanes, LANES);
}

/* out += a x */
static void add_multiple(double a, const double *x, ptrdiff_t n, double *out)
{
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] += a * x[i];
}

static int is_double(const sf_layer *layer) { return layer->call.x.kind == SF_F64; }

static double bias_of(const sf_layer *layer, ptrdiff_t class_)
{
    if (!layer->bias)
        return 0.0;
    return is_double(layer) ? ((const double *)layer->bias)[class_] : ((const float *)layer->bias)[class_];
}

/* data[i] = value, or with add set += value, in the layer's type. */
static void put(const sf_layer *layer, void *data, ptrdiff_t i, double value, int add)
{
    if (is_double(layer))
        ((double *)data)[i] = value + (add ? ((double *)data)[i] : 0.0);
    else
        ((float *)data)[i] = (float)(value + (add ? (double)((float *)data)[i] : 0.0));
}

static void logits_piece(void *context, ptrdiff_t piece, int worker)
{
    const tile *t = (const tile *)context;
    const sf_layer *layer = t->layer;
    const ptrdiff_t n_classes = layer->call.n_classes, n = layer->n_features;
    double *w = t->scratch + worker * n;
    sf_environment found = sf_enter();
    for (ptrdiff_t c = piece * CLASSES; c < SF_MIN((piece + 1) * CLASSES, n_classes); c++) {
        const double bias = bias_of(layer, c);
        widen(&layer->weights, c, 0, n, w);
        for (ptrdiff_t r = 0; r < t->n_rows; r++)
            t->logits[r * n_classes + c] = t->counts[r] ? product_of(t->features + r * n, w, n) + bias : 0.0;
    }
    sf_leave(found);
}

/* Gradients of the weights of some classes and of their bias. */
static void class_gradients(const tile *t, ptrdiff_t piece, double *sums)
{
    const sf_layer *layer = t->layer;
    const ptrdiff_t n_classes = layer->call.n_classes, n = layer->n_features;
    for (ptrdiff_t c = piece * CLASSES; c < SF_MIN((piece + 1) * CLASSES, n_classes); c++) {
        double of_bias = 0.0;
        for (ptrdiff_t i = 0; i < n; i++)
            sums[i] = 0.0;
        for (ptrdiff_t r = 0; r < t->n_rows; r++) {
            if (!t->counts[r])
                continue;
            of_bias += t->logits[r * n_classes + c];
            if (layer->d_weights.data)
                add_multiple(t->logits[r * n_classes + c], t->features + r * n, n, sums);
        }
        if (layer->d_bias)
            layer->d_bias[c] += of_bias;
        for (ptrdiff_t i = 0; layer->d_weights.data && i < n; i++)
            put(layer, layer->d_weights.data, c * layer->d_weights.row_stride + i, sums[i], 1);
    }
}

/* The gradient of some features of all rows. */
static void feature_gradients(const tile *t, ptrdiff_t piece)
{
    const sf_layer *layer = t->layer;
    const sf_output *out = &layer->d_features;
    const ptrdiff_t n_classes = layer->call.n_classes, first = piece * FEATURES;
    const ptrdiff_t n = SF_MIN(FEATURES, layer->n_features - first);
    double w[FEATURES];
    for (ptrdiff_t r = 0; r < t->n_rows; r++)
        for (ptrdiff_t i = 0; i < n; i++)
            t->d_features[r * layer->n_features + first + i] = 0.0;
    for (ptrdiff_t c = 0; c < n_classes; c++) {
        widen(&layer->weights, c, first, n, w);
        for (ptrdiff_t r = 0; r < t->n_rows; r++)
            add_multiple(t->logits[r * n_classes + c], w, n, t->d_features + r * layer->n_features + first);
    }
    for (ptrdiff_t r = 0; r < t->n_rows; r++)
        for (ptrdiff_t i = 0; t->counts[r] && i < n; i++)
            put(layer, out->data, (t->first + r) * out->row_stride + (first + i) * out->class_stride,
                t->d_features[r * layer->n_features + first + i], 0);
}

static void gradients_piece(void *context, ptrdiff_t piece, int worker)
{
    const tile *t = (const tile *)context;
    sf_environment found = sf_enter();
    if (piece < t->class_pieces)
        class_gradients(t, piece, t->scratch + worker * t->layer->n_features);
    else
        feature_gradients(t, piece - t->class_pieces);
    sf_leave(found);
}

/* The losses of a tile, and its logits' gradients in their place. */
static int reduce_tile(const tile *t, int with_gradients, sf_result *result)
{
    const sf_layer *layer = t->layer;
    sf_targets targets;
    sf_call call = sf_rows_from(&layer->call, t->first, &targets);
    const sf_input x = {t->logits, 0, call.n_classes, 1, SF_F64};
    const sf_output out = {t->logits, 0, call.n_classes, 1};
    call.x = x;
    call.n_rows = t->n_rows;
    sf_use_doubles(&call);
    if (with_gradients)
        sf_write_to(&call, out);
    if (targets.row_losses)
        targets.row_losses = t->losses;
    const int status = sf_run(&call, with_gradients ? SF_SOFTMAX_LOSS_GRAD : SF_SOFTMAX_LOSS, result);
    sf_environment found = sf_enter();
    for (ptrdiff_t r = 0; targets.row_losses && r < t->n_rows; r++)
        put(layer, layer->call.targets->row_losses, t->first + r, t->losses[r], 0);
    sf_leave(found);
    return status;
}

static int run_tile(tile *t, int n_threads, sf_result *result)
{
    const sf_layer *layer = t->layer;
    const ptrdiff_t class_pieces = (layer->call.n_classes + CLASSES - 1) / CLASSES;
    const int of_classes = layer->d_weights.data || layer->d_bias;
    const int of_features = layer->d_features.data != NULL;
    sf_result ignored = sf_no_result();
    sf_environment found = sf_enter();
    for (ptrdiff_t r = 0; r < t->n_rows; r++) {
        t->counts[r] = (char)sf_row_counts(layer->call.targets, t->first + r, layer->call.n_classes, &ignored);
        if (t->counts[r])
            widen(&layer->call.x, t->first + r, 0, layer->n_features, t->features + r * layer->n_features);
    }
    sf_leave(found);
    sf_share_out(logits_piece, t, class_pieces, n_threads);
    const int status = reduce_tile(t, of_classes || of_features, result);
    t->class_pieces = of_classes ? class_pieces : 0;
    if (status == SF_OK && (of_classes || of_features))
        sf_share_out(gradients_piece, t,
                     t->class_pieces + (of_features ? (layer->n_features + FEATURES - 1) / FEATURES : 0),
                     n_threads);
    return status;
}

int sf_run_plain_layer(const sf_layer *layer, sf_result *result)
{
    const ptrdiff_t n_classes = layer->call.n_classes, n = layer->n_features;
    const ptrdiff_t fitting = TILE_BYTES / (ptrdiff_t)sizeof(double) / SF_MAX(n_classes, n);
    const ptrdiff_t most = SF_MIN(SF_MAX(1, fitting), layer->call.n_rows);
    const int n_threads = sf_layer_threads(layer);
    const size_t doubles = (size_t)(most * (2 * n + n_classes + 1) + n_threads * n);
    double *memory = (double *)malloc(doubles * sizeof(double) + (size_t)most);
    tile t = {.layer = layer, .features = memory};
    sf_result found = sf_no_result();
    int status = memory ? SF_OK : SF_NO_MEMORY;
    t.logits = t.features + most * n;
    t.d_features = t.logits + most * n_classes;
    t.losses = t.d_features + most * n;
    t.scratch = t.losses + most;
    t.counts = (char *)(t.scratch + n_threads * n);
    for (; status == SF_OK && t.first < layer->call.n_rows; t.first += most) {
        t.n_rows = SF_MIN(most, layer->call.n_rows - t.first);
        status = run_tile(&t, n_threads, &found);
    }
    sf_sum_merge(&result->loss, found.loss);
    free(memory);
    return status;
}
