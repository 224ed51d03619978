/* The softmax loss of a fully connected layer: logits = features weights^T + bias, which are never all
 * there.  Classes go through in chunks that C alone decides, each with a maximum and a sum of its own
 * for every row, merged in order; so bits depend on N, C, D and the instruction set. */
#ifndef SF_LINEAR_H
#define SF_LINEAR_H

#include "kernels.h"

/* What a margin changes.  Features and weights are multiplied by a number a row and one a class, unless
 * NULL, as they are loaded; the label's logit is the one given.  Its gradient goes to label_gradients
 * instead of into those of features and weights. */
typedef struct {
    const double *feature_scale, *weight_scale;
    const double *label_logits; /* one a row */
    double *label_gradients;    /* one a row; of rows that do not count they are left alone */
} sf_margin;

/* The call's x are the features, of which each row has n_features; all else is of the logits. */
typedef struct {
    sf_call call;
    sf_input weights;     /* a row for each class */
    const void *bias;     /* one a class, in the type of the kernels, or NULL */
    ptrdiff_t n_features;
    const sf_margin *margin; /* or NULL; of layers with labels */
    /* What the gradients are added to, in the type of the kernels (the bias's in double), or NULL where
     * one is not wanted. */
    sf_output d_features; /* rows that do not count are left alone */
    sf_output d_weights;  /* contiguous rows */
    double *d_bias;
    /* Set where the weighted class probabilities of a row add up to what float may not hold with all
     * its digits, or to 0, for which some may have been too small; or NULL. */
    int *has_far_sums;
} sf_layer;

enum {
    SF_CHUNKS = 64,       /* most chunks of the classes */
    SF_FEW_PRODUCTS = 8,  /* up to so many rows are multiplied one by one, with the weights in place */
    SF_FEW_WIDENED = 2,   /* up to so many widen weights of bfloat16 each for itself */
    SF_PANELS_OF_TILES = 16
};

/* Numbers of rows, one array for each chunk: maximum and rest as everywhere, of the weighted target a
 * the sums of a (x - max), and for class probabilities of a; the label's logit is one for all chunks.  Of
 * row statistics product and share are the moments, and the last three are there, as in sf_batch. */
typedef struct { double *max, *rest, *product, *share, *label_logit, *squares, *top, *above; } sf_chunk_sums;

/* Of the gradient of a row's logits, scale (p share - a), and its entry at the label. */
typedef struct { double *scale, *share, *at_label; } sf_row_gradients;

/* Some rows that count, and what has become of them. */
typedef struct {
    const sf_layer *layer;
    ptrdiff_t *rows;            /* their numbers */
    ptrdiff_t n_rows, room;     /* room for rows in each chunk's sums */
    int few;                    /* rows are multiplied one by one */
    ptrdiff_t n_chunks, chunk;  /* classes in one */
    void *features;             /* [panel][feature][row of the panel], of few rows, as they are */
    void *logits;               /* [row][class]: where these go instead of into sums, or NULL */
    sf_chunk_sums sums;
    double *losses;             /* one a row, times its weights */
    sf_row_gradients gradients;
    ptrdiff_t first_block, n_blocks; /* of classes, whose gradients are there at once */
    char *tiles;                /* [block][panel]: logits, which become their gradients */
    void *weights;              /* [block][depth][class][feature] */
    void *columns;              /* features: [panel of features][row][feature of the panel] */
    void *d_features;           /* [panel][depth][feature][row of the panel] */
} sf_slab;

typedef struct sf_linear {
    ptrdiff_t panel;            /* rows side by side */
    ptrdiff_t block;            /* classes of which the logits of a panel are there at once */
    size_t (*scratch_bytes)(const sf_slab *slab);
    void (*load_features)(const sf_slab *slab, ptrdiff_t panel);
    void (*load_row)(const sf_slab *slab, ptrdiff_t row); /* of few */
    void (*reduce)(const sf_slab *slab, ptrdiff_t chunk, ptrdiff_t first_panel, ptrdiff_t n_panels,
                   void *scratch);
    void (*reduce_few)(const sf_slab *slab, ptrdiff_t chunk, void *scratch);
    void (*finish)(const sf_slab *slab, ptrdiff_t first, ptrdiff_t count);

    /* Gradients.  Bytes of the tile of a panel, of the weights of a block, and of a panel of the last two
     * arrays of a slab; then what is done block by block and panel by panel. */
    ptrdiff_t tile_bytes;
    size_t (*weights_bytes)(const sf_layer *layer);
    size_t (*columns_bytes)(const sf_layer *layer);
    size_t (*d_features_bytes)(const sf_layer *layer);
    void (*load_columns)(const sf_slab *slab, ptrdiff_t panel);
    void (*load_weights)(const sf_slab *slab, ptrdiff_t block);
    void (*multiply)(const sf_slab *slab, ptrdiff_t block, ptrdiff_t panel, int reduce, void *scratch);
    void (*prepare)(const sf_slab *slab, ptrdiff_t first, ptrdiff_t count);
    void (*differentiate)(const sf_slab *slab, ptrdiff_t block, ptrdiff_t panel, void *scratch);
    void (*add_d_weights)(const sf_slab *slab, ptrdiff_t block, ptrdiff_t first_feature,
                          ptrdiff_t n_features);
    void (*add_d_bias)(const sf_slab *slab, ptrdiff_t block);
    void (*add_d_features)(const sf_slab *slab, ptrdiff_t panel);
    void (*store_d_features)(const sf_slab *slab, ptrdiff_t panel);
} sf_linear;

/* Whether the kernels in use multiply the layer: there are vectors, and a panel of its rows has room. */
int sf_multiplies_layer(const sf_layer *layer);

/* The logits of all rows, which are few enough for a copy of their features, in the type of the kernels.
 * Those of a row depend neither on its place nor on the others.  SF_OK or SF_NO_MEMORY. */
int sf_layer_logits(const sf_layer *layer, void *logits);

/* Whether the kernels in use take its row statistics: they multiply it, its rows are long, and no
 * temperature lies beyond what goes without another look at the logits. */
int sf_takes_layer_statistics(const sf_layer *layer);

/* The columns of the call, of its rows in their order.  SF_OK or SF_NO_MEMORY. */
int sf_layer_statistics(const sf_layer *layer);

/* Whether the kernels in use take its loss: they multiply it, and no temperature or weight lies beyond
 * their type. */
int sf_takes_layer(const sf_layer *layer);

/* Adds the losses of the rows, and their gradients; labels have been checked.  SF_OK or SF_NO_MEMORY. */
int sf_run_layer(const sf_layer *layer, sf_result *result);

/* The same of any layer, in double and slower; row losses of rows that do not count are 0 then. */
int sf_run_plain_layer(const sf_layer *layer, sf_result *result);

int sf_layer_threads(const sf_layer *layer);

#endif
