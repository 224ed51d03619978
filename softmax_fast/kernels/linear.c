#include "linear.h"
#include "beyond.h"
#include "drive.h"
#include "environment.h"
#include "scalars.h"
#include <stdlib.h>

enum {
    /* Features of a slab in panels: the larger it is, the less often the weights are read. */
    SLAB_BYTES = 4 << 20,
    SLAB_ROWS = 2048,
    /* The same where there are gradients, for which features are kept in three forms. */
    GRADIENT_SLAB_BYTES = 2 << 20,
    /* Logits and weights of the blocks of classes that are differentiated together. */
    BLOCKS_BYTES = 8 << 20,
    /* With so many rows or more in a slab, all classes are. */
    FEWEST_WHOLE_ROWS = 256,
    /* One panel of more stays with BLAS. */
    PANEL_BYTES = 8 << 20,
    /* Pieces for each thread, so that all end at about the same time. */
    PIECES_PER_THREAD = 4,
    /* Products that deserve a thread. */
    PRODUCTS_PER_THREAD = 262144
};

static int wants_gradients(const sf_layer *layer)
{
    return layer->d_features.data || layer->d_weights.data || layer->d_bias;
}

int sf_multiplies_layer(const sf_layer *layer)
{
    const sf_kernels *kernels = layer->call.kernels;
    const sf_linear *linear = kernels->linear;
    return linear && layer->n_features <= PANEL_BYTES / linear->panel / kernels->item_size;
}

int sf_takes_layer_statistics(const sf_layer *layer)
{
    const sf_call *call = &layer->call;
    const double most = call->kernels->item_size == sizeof(double) ? 0x1p400 : 0x1p40;
    if (!sf_multiplies_layer(layer) || call->n_classes <= SF_LAYER_CLASSES || sf_reach(call, SF_ROW_STATISTICS))
        return 0;
    for (ptrdiff_t row = 0; row < (call->temperature_step ? call->n_rows : 1); row++)
        if (call->temperature[row] > most)
            return 0;
    return 1;
}

int sf_takes_layer(const sf_layer *layer)
{
    const sf_call *call = &layer->call;
    const sf_linear *linear = call->kernels->linear;
    if (!sf_multiplies_layer(layer))
        return 0;
    if (wants_gradients(layer) && linear->weights_bytes(layer) > BLOCKS_BYTES / 4 * 3)
        return 0;
    const int reach = sf_reach(call, wants_gradients(layer) ? SF_SOFTMAX_LOSS_GRAD : SF_SOFTMAX_LOSS);
    for (ptrdiff_t row = 0; reach && row < call->n_rows; row++)
        if (sf_is_beyond(call, reach, row))
            return 0;
    return 1;
}

/* The next rows that count, from *next on. */
static ptrdiff_t rows_of_slab(const sf_layer *layer, ptrdiff_t most, ptrdiff_t *next, ptrdiff_t *rows)
{
    const sf_call *call = &layer->call;
    sf_result ignored = sf_no_result();
    ptrdiff_t n = 0, row = *next;
    for (; n < most && row < call->n_rows; row++)
        if (sf_row_counts(call->targets, row, call->n_classes, &ignored))
            rows[n++] = row;
    *next = row;
    return n;
}

typedef struct {
    const sf_slab *slab;
    ptrdiff_t n_panels, group; /* panels in one piece */
    ptrdiff_t blocks, most_blocks, whole; /* of all classes, and at once; whole: all are */
    ptrdiff_t features;        /* in one piece of the weights */
    int reduce, differentiate; /* what a piece of logits goes on with */
    char *scratch;
    size_t scratch_bytes;
} work;

static void load_piece(void *context, ptrdiff_t piece, int worker)
{
    const sf_slab *s = ((const work *)context)->slab;
    const sf_linear *linear = s->layer->call.kernels->linear;
    sf_environment found = sf_enter();
    (void)worker;
    linear->load_features(s, piece);
    if (s->columns)
        linear->load_columns(s, piece);
    sf_leave(found);
}

static void reduce_piece(void *context, ptrdiff_t piece, int worker)
{
    const work *w = (const work *)context;
    const sf_linear *linear = w->slab->layer->call.kernels->linear;
    void *scratch = w->scratch + (size_t)worker * w->scratch_bytes;
    sf_environment found = sf_enter();
    if (!w->slab->few) {
        const ptrdiff_t groups = (w->n_panels + w->group - 1) / w->group;
        const ptrdiff_t first = piece % groups * w->group;
        linear->reduce(w->slab, piece / groups, first, SF_MIN(w->group, w->n_panels - first), scratch);
    } else {
        linear->reduce_few(w->slab, piece, scratch);
    }
    sf_leave(found);
}

static void finish_piece(void *context, ptrdiff_t piece, int worker)
{
    const sf_slab *s = ((const work *)context)->slab;
    const sf_linear *linear = s->layer->call.kernels->linear;
    const ptrdiff_t first = piece * SF_BATCH, count = SF_MIN(SF_BATCH, s->n_rows - first);
    sf_environment found = sf_enter();
    (void)worker;
    linear->finish(s, first, count);
    if (wants_gradients(s->layer))
        linear->prepare(s, first, count);
    sf_leave(found);
}

static void weights_piece(void *context, ptrdiff_t piece, int worker)
{
    const sf_slab *s = ((const work *)context)->slab;
    sf_environment found = sf_enter();
    (void)worker;
    s->layer->call.kernels->linear->load_weights(s, s->first_block + piece);
    sf_leave(found);
}

static void logits_piece(void *context, ptrdiff_t piece, int worker)
{
    const work *w = (const work *)context;
    const sf_linear *linear = w->slab->layer->call.kernels->linear;
    const ptrdiff_t block = w->slab->first_block + piece / w->n_panels, panel = piece % w->n_panels;
    void *scratch = w->scratch + (size_t)worker * w->scratch_bytes;
    sf_environment found = sf_enter();
    if (w->reduce || !w->whole)
        linear->multiply(w->slab, block, panel, w->reduce, scratch);
    if (w->differentiate)
        linear->differentiate(w->slab, block, panel, scratch);
    sf_leave(found);
}

/* Gradients of weights, then of the bias, then of features. */
static void gradients_piece(void *context, ptrdiff_t piece, int worker)
{
    const work *w = (const work *)context;
    const sf_slab *s = w->slab;
    const sf_layer *layer = s->layer;
    const sf_linear *linear = layer->call.kernels->linear;
    const ptrdiff_t parts = (layer->n_features + w->features - 1) / w->features;
    const ptrdiff_t of_weights = layer->d_weights.data ? s->n_blocks * parts : 0;
    const ptrdiff_t of_bias = layer->d_bias ? s->n_blocks : 0;
    sf_environment found = sf_enter();
    sf_flush_subnormals(1);
    (void)worker;
    if (piece < of_weights) {
        const ptrdiff_t first = piece % parts * w->features;
        linear->add_d_weights(s, s->first_block + piece / parts, first,
                              SF_MIN(w->features, layer->n_features - first));
    } else if (piece < of_weights + of_bias) {
        linear->add_d_bias(s, s->first_block + piece - of_weights);
    } else {
        piece -= of_weights + of_bias;
        linear->add_d_features(s, piece);
        if (s->first_block + s->n_blocks == w->blocks)
            linear->store_d_features(s, piece);
    }
    sf_flush_subnormals(0);
    sf_leave(found);
}

int sf_layer_threads(const sf_layer *layer)
{
    const double products = (double)layer->call.n_rows * (double)layer->call.n_classes
                          * (double)(layer->n_features + 1);
    const double n = products / PRODUCTS_PER_THREAD;
    return n < 2.0 ? 1 : (int)SF_MIN(n, (double)layer->call.n_threads);
}

/* One block of memory for all arrays, each on a line of its own. */
typedef struct { char *next; size_t bytes; } store;

static void *take(store *from, ptrdiff_t n, size_t size)
{
    const size_t bytes = SF_ROUND_UP((size_t)n * size);
    void *taken = from->next;
    if (from->next)
        from->next += bytes;
    from->bytes += bytes;
    return taken;
}

/* Of most rows; the first time only to see how much it takes. */
static void lay_out(sf_slab *s, ptrdiff_t most, work *w, int n_threads, store *from)
{
    const sf_layer *layer = s->layer;
    const sf_linear *linear = layer->call.kernels->linear;
    const ptrdiff_t room = s->room, sums = room * s->n_chunks, panels = room / linear->panel;
    const int statistics = layer->call.columns != NULL;
    const int soft = !s->logits && (statistics || !sf_is_hard_label(layer->call.targets));
    w->scratch_bytes = linear->scratch_bytes(s);
    w->scratch = (char *)take(from, n_threads, w->scratch_bytes);
    s->features = take(from, room * layer->n_features, (size_t)layer->call.kernels->item_size);
    s->rows = (ptrdiff_t *)take(from, most, sizeof(ptrdiff_t));
    if (s->logits)
        return;
    s->sums.max = (double *)take(from, sums, sizeof(double));
    s->sums.rest = (double *)take(from, sums, sizeof(double));
    s->sums.product = soft ? (double *)take(from, sums, sizeof(double)) : NULL;
    s->sums.share = soft ? (double *)take(from, sums, sizeof(double)) : NULL;
    s->sums.label_logit = (double *)take(from, room, sizeof(double));
    if (statistics) {
        s->sums.squares = (double *)take(from, sums, sizeof(double));
        s->sums.top = (double *)take(from, sums, sizeof(double));
        s->sums.above = (double *)take(from, sums, sizeof(double));
        return;
    }
    s->losses = (double *)take(from, most, sizeof(double));
    if (!wants_gradients(layer))
        return;
    s->gradients.scale = (double *)take(from, room, sizeof(double));
    s->gradients.share = (double *)take(from, room, sizeof(double));
    s->gradients.at_label = (double *)take(from, room, sizeof(double));
    s->tiles = (char *)take(from, w->most_blocks * panels, (size_t)linear->tile_bytes);
    s->weights = take(from, w->most_blocks, linear->weights_bytes(layer));
    if (layer->d_weights.data)
        s->columns = take(from, panels, linear->columns_bytes(layer));
    if (layer->d_features.data)
        s->d_features = take(from, panels, linear->d_features_bytes(layer));
}

/* ---- a slab ------------------------------------------------------------------------------------------ */

static void finish_rows(sf_slab *s, work *w, int n_threads)
{
    sf_share_out(finish_piece, w, (s->n_rows + SF_BATCH - 1) / SF_BATCH, n_threads);
}

/* Chunks by panels: into their sums, or to where the logits go. */
static void run_chunks(sf_slab *s, work *w, int n_threads)
{
    const ptrdiff_t groups = (PIECES_PER_THREAD * n_threads + s->n_chunks - 1) / s->n_chunks;
    w->group = n_threads == 1 ? w->n_panels : SF_MAX(1, w->n_panels / groups);
    sf_share_out(reduce_piece, w, s->n_chunks * ((w->n_panels + w->group - 1) / w->group), n_threads);
}

static void run_losses(sf_slab *s, work *w, int n_threads)
{
    if (!s->few) {
        run_chunks(s, w, n_threads);
    } else {
        sf_environment found = sf_enter();
        for (ptrdiff_t i = 0; i < s->n_rows; i++)
            s->layer->call.kernels->linear->load_row(s, i);
        sf_leave(found);
        sf_share_out(reduce_piece, w, s->n_chunks, n_threads);
    }
    finish_rows(s, w, n_threads);
}

static void run_logits(sf_slab *s, work *w, int reduce, int differentiate, int n_threads)
{
    w->reduce = reduce;
    w->differentiate = differentiate;
    sf_share_out(logits_piece, w, s->n_blocks * w->n_panels, n_threads);
}

static void run_gradients(sf_slab *s, work *w, int n_threads)
{
    const sf_layer *layer = s->layer;
    const ptrdiff_t panel = layer->call.kernels->linear->panel;
    for (s->first_block = 0; s->first_block < w->blocks; s->first_block += w->most_blocks) {
        s->n_blocks = SF_MIN(w->most_blocks, w->blocks - s->first_block);
        sf_share_out(weights_piece, w, s->n_blocks, n_threads);
        if (w->whole) {
            run_logits(s, w, 1, 0, n_threads);
            finish_rows(s, w, n_threads);
        }
        run_logits(s, w, 0, 1, n_threads);
        const ptrdiff_t feature_panels = (layer->n_features + panel - 1) / panel;
        const ptrdiff_t parts = (PIECES_PER_THREAD * n_threads + s->n_blocks - 1) / s->n_blocks;
        w->features = SF_MAX(1, (feature_panels + parts - 1) / parts) * panel;
        const ptrdiff_t pieces = (layer->n_features + w->features - 1) / w->features;
        sf_share_out(gradients_piece, w,
                     (layer->d_weights.data ? s->n_blocks * pieces : 0) + (layer->d_bias ? s->n_blocks : 0)
                         + (layer->d_features.data ? w->n_panels : 0),
                     n_threads);
    }
}

static ptrdiff_t counting_rows(const sf_call *call)
{
    sf_result ignored = sf_no_result();
    ptrdiff_t n = 0;
    for (ptrdiff_t row = 0; row < call->n_rows; row++)
        n += sf_row_counts(call->targets, row, call->n_classes, &ignored);
    return n;
}

/* Rows of a slab, and blocks of classes at once: by the shapes alone. */
static ptrdiff_t plan(const sf_layer *layer, const sf_slab *s, work *w)
{
    const sf_linear *linear = layer->call.kernels->linear;
    const ptrdiff_t panel = linear->panel, item = layer->call.kernels->item_size;
    const ptrdiff_t slab_bytes = wants_gradients(layer) ? GRADIENT_SLAB_BYTES : SLAB_BYTES;
    const ptrdiff_t features_bytes = SF_MAX(1, panel * layer->n_features * item);
    ptrdiff_t panels = SF_MIN(SLAB_ROWS / panel, SF_MAX(1, slab_bytes / features_bytes));
    panels = SF_MIN(panels, (layer->call.n_rows + panel - 1) / panel);
    w->blocks = (layer->call.n_classes + linear->block - 1) / linear->block;
    if (wants_gradients(layer)) {
        const ptrdiff_t weights_bytes = (ptrdiff_t)linear->weights_bytes(layer);
        const ptrdiff_t fitting = (BLOCKS_BYTES / w->blocks - weights_bytes) / linear->tile_bytes;
        if (fitting >= panels || fitting * panel >= FEWEST_WHOLE_ROWS)
            panels = SF_MIN(panels, fitting);
        w->most_blocks = SF_MAX(1, BLOCKS_BYTES / (panels * linear->tile_bytes + weights_bytes));
        w->most_blocks = SF_MIN(w->most_blocks, w->blocks);
        w->whole = w->most_blocks == w->blocks && s->chunk == linear->block;
    }
    return SF_MIN(panels * panel, layer->call.n_rows);
}

int sf_run_layer(const sf_layer *layer, sf_result *result)
{
    const sf_call *call = &layer->call;
    const sf_linear *linear = call->kernels->linear;
    const ptrdiff_t blocks = (call->n_classes + linear->block - 1) / linear->block;
    const int n_threads = sf_layer_threads(layer), gradients = wants_gradients(layer);
    ptrdiff_t next = 0;
    sf_slab s = {.layer = layer, .chunk = (blocks + SF_CHUNKS - 1) / SF_CHUNKS * linear->block};
    work w = {.slab = &s};
    s.n_chunks = (call->n_classes + s.chunk - 1) / s.chunk;
    s.few = !gradients && counting_rows(call) <= SF_FEW_PRODUCTS;
    const ptrdiff_t most = plan(layer, &s, &w);
    s.room = (most + linear->panel - 1) / linear->panel * linear->panel;

    store memory = {NULL, 0};
    lay_out(&s, most, &w, n_threads, &memory);
    void *allocated = malloc(memory.bytes + 64);
    if (!allocated)
        return SF_NO_MEMORY;
    memory.next = (char *)SF_ROUND_UP((uintptr_t)allocated);
    lay_out(&s, most, &w, n_threads, &memory);
    while ((s.n_rows = rows_of_slab(layer, most, &next, s.rows)) > 0) {
        w.n_panels = (s.n_rows + linear->panel - 1) / linear->panel;
        if (!s.few)
            sf_share_out(load_piece, &w, w.n_panels, n_threads);
        if (!w.whole)
            run_losses(&s, &w, n_threads);
        if (gradients)
            run_gradients(&s, &w, n_threads);
        for (ptrdiff_t i = 0; i < s.n_rows; i++)
            sf_sum_add(&result->loss, s.losses[i]);
        if (layer->has_far_sums)
            for (ptrdiff_t i = 0; i < s.n_rows; i++)
                if (!(s.sums.share[i] >= 0x1p-64 && s.sums.share[i] <= 0x1p64))
                    *layer->has_far_sums = 1;
    }
    free(allocated);
    return SF_OK;
}

int sf_layer_logits(const sf_layer *layer, void *logits)
{
    const sf_linear *linear = layer->call.kernels->linear;
    const ptrdiff_t n_rows = layer->call.n_rows;
    const int n_threads = sf_layer_threads(layer);
    sf_slab s = {.layer = layer, .n_rows = n_rows, .chunk = linear->block, .logits = logits};
    work w = {.slab = &s, .n_panels = (n_rows + linear->panel - 1) / linear->panel};
    s.room = w.n_panels * linear->panel;
    s.n_chunks = (layer->call.n_classes + s.chunk - 1) / s.chunk;

    store memory = {NULL, 0};
    lay_out(&s, n_rows, &w, n_threads, &memory);
    void *allocated = malloc(memory.bytes + 64);
    if (!allocated)
        return SF_NO_MEMORY;
    memory.next = (char *)SF_ROUND_UP((uintptr_t)allocated);
    lay_out(&s, n_rows, &w, n_threads, &memory);
    for (ptrdiff_t row = 0; row < n_rows; row++)
        s.rows[row] = row;
    sf_share_out(load_piece, &w, w.n_panels, n_threads);
    run_chunks(&s, &w, n_threads);
    free(allocated);
    return SF_OK;
}

int sf_layer_statistics(const sf_layer *layer)
{
    const sf_call *call = &layer->call;
    const sf_linear *linear = call->kernels->linear;
    const ptrdiff_t blocks = (call->n_classes + linear->block - 1) / linear->block;
    const int n_threads = sf_layer_threads(layer);
    sf_slab s = {.layer = layer, .chunk = (blocks + SF_CHUNKS - 1) / SF_CHUNKS * linear->block};
    work w = {.slab = &s};
    const ptrdiff_t most = plan(layer, &s, &w);
    s.n_chunks = (call->n_classes + s.chunk - 1) / s.chunk;
    s.room = (most + linear->panel - 1) / linear->panel * linear->panel;

    store memory = {NULL, 0};
    lay_out(&s, most, &w, n_threads, &memory);
    void *allocated = malloc(memory.bytes + 64);
    if (!allocated)
        return SF_NO_MEMORY;
    memory.next = (char *)SF_ROUND_UP((uintptr_t)allocated);
    lay_out(&s, most, &w, n_threads, &memory);
    for (ptrdiff_t first = 0; first < call->n_rows; first += s.n_rows) {
        s.n_rows = SF_MIN(most, call->n_rows - first);
        for (ptrdiff_t i = 0; i < s.n_rows; i++)
            s.rows[i] = first + i;
        w.n_panels = (s.n_rows + linear->panel - 1) / linear->panel;
        sf_share_out(load_piece, &w, w.n_panels, n_threads);
        run_chunks(&s, &w, n_threads);
        finish_rows(&s, &w, n_threads);
    }
    free(allocated);
    return SF_OK;
}
