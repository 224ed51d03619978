/* What the driver and all kernels share beside the interface: constants and scalar helpers. */
#ifndef SF_SCALARS_H
#define SF_SCALARS_H

#include <math.h>
#include <string.h>

#include "kernels.h"
#include "target.h"

#define SF_SQRT_HALF_BITS 0x3fe6a09e667f3bcdu
#define SF_SQRT_HALF_BITS_F32 0x3f3504f3u
#define SF_MIN(a, b) ((a) < (b) ? (a) : (b))
#define SF_MAX(a, b) ((a) > (b) ? (a) : (b))

enum {
    SF_BLOCK_BYTES = 8192,       /* x and exp(x) of one block share the L1 data cache */
    SF_SHORT_ROW = 256,          /* up to here several rows are computed side by side: the rooms of their
                                  * tiles have to fit a stack of 128 KiB, as threads with musl have */
    SF_LAYER_CLASSES = 192,      /* as many logits of a layer are */
    SF_WIDE_TILE_ROW = 64,       /* up to here two vectors of rows are: a tile fills half of L1 */
    SF_PANEL_BYTES = 4194304,    /* most that a transposed panel of rows may take */
    SF_SMALL_PANEL_BYTES = 524288, SF_PANEL_LINES = 8,
    SF_STREAM_ROW_BYTES = 1048576 /* the longest row kept in scratch before it is streamed out */
};

/* Temperatures that the kernels reach: 1/T is a number of their type with room to spare, and an entry
 * of -inf is told from a large finite spread. */
#define SF_FLOAT_TEMPERATURE_MIN 1e-30
#define SF_FLOAT_TEMPERATURE_MAX 1e30
#define SF_DOUBLE_TEMPERATURE_MIN 0x1p-900
#define SF_DOUBLE_TEMPERATURE_MAX 0x1p900

/* Whether rows are brought together in panels. */
static inline int sf_is_scattered(const sf_call *call)
{
    return call->x.class_stride != 1 || (call->out.data && call->out.class_stride != 1);
}

/* Rows of a panel: those that share cache lines, and some lines of these where a panel stays small, so
 * that few pages are looked up for much. */
static inline ptrdiff_t sf_panel_rows(ptrdiff_t n, ptrdiff_t item)
{
    const ptrdiff_t line = 64 / item, small = SF_SMALL_PANEL_BYTES / item / n / line;
    return line * SF_MAX(1, SF_MIN(SF_PANEL_LINES, small));
}

/* Rows of one block that share the L1 data cache, to be written together. */
static inline ptrdiff_t sf_rows_together(ptrdiff_t n, ptrdiff_t item)
{
    return SF_MAX(1, SF_MIN(SF_BATCH, SF_BLOCK_BYTES / (n * item)));
}

/* Scratch holds, in this order: a panel when rows are not contiguous, the numbers of each block of a
 * row, and the exponentials of rows that will be streamed together. */
#define SF_ROUND_UP(bytes) (((bytes) + 63) / 64 * 64)
#define SF_PANEL_SCRATCH(n, item) \
    SF_ROUND_UP((n) <= SF_PANEL_BYTES / (item) ? SF_MIN(sf_panel_rows(n, item) * (n) * (item), SF_PANEL_BYTES) : 0)
#define SF_BLOCK_SCRATCH(n, item) \
    SF_ROUND_UP(((n) / (SF_BLOCK_BYTES / (item)) + 1) * 7 * (ptrdiff_t)sizeof(double))

/* log2(e)/T as hi + lo, to some 100 bits. */
typedef struct { double hi, lo, inverse; } sf_rate;

/* The exact product a * b = *high + *low (Veltkamp, Dekker), without a fused multiply-add. */
static inline void sf_two_product(double a, double b, double *high, double *low)
{
    const double splitter = 134217729.0; /* 2^27 + 1 */
    double ta = splitter * a, tb = splitter * b;
    double a1 = ta - (ta - a), b1 = tb - (tb - b);
    double a2 = a - a1, b2 = b - b1;
    *high = a * b;
    *low = ((a1 * b1 - *high) + a1 * b2 + a2 * b1) + a2 * b2;
}

/* For a temperature within the kernels' reach, see beyond.c. */
static inline sf_rate sf_make_rate(double temperature)
{
    const double log2e_hi = 1.4426950408889634, log2e_lo = 2.0355273740931033e-17;
    sf_rate rate;
    double high, low;
    rate.inverse = 1.0 / temperature;
    rate.hi = log2e_hi * rate.inverse;
    sf_two_product(rate.hi, temperature, &high, &low);
    low = ((log2e_hi - high) - low + log2e_lo) * rate.inverse;
    low = rate.hi > 1e-250 ? low : 0.0;
    rate.lo = rate.hi < 1e250 ? low : 0.0;
    return rate;
}

static inline float sf_float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A half's fields moved into a float's; 2^112 puts the exponent right, subnormals included. */
static inline float sf_float_from_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = (uint32_t)(half & 0x7fff) << 13;
    if (magnitude >= 0x0f800000u) /* infinity or NaN */
        return sf_float_from_bits(sign | (magnitude + 0x70000000u));
    return sf_float_from_bits(sign | 0x3f800000u)
         * (sf_float_from_bits(magnitude) * 5.192296858534828e33f);
}

static inline float sf_float_from_bfloat(uint16_t bits)
{
    return sf_float_from_bits((uint32_t)bits << 16);
}

static inline double sf_entry(const sf_input *in, ptrdiff_t i)
{
    switch (in->kind) {
    case SF_F32: return ((const float *)in->data)[i];
    case SF_F64: return ((const double *)in->data)[i];
    case SF_F16: return sf_float_from_half(((const uint16_t *)in->data)[i]);
    default: return sf_float_from_bfloat(((const uint16_t *)in->data)[i]);
    }
}

/* Most jobs have one outer step, and a division takes as long as several exponentials. */
static inline ptrdiff_t sf_row_offset(ptrdiff_t row, ptrdiff_t inner, ptrdiff_t outer_stride,
                                      ptrdiff_t row_stride)
{
    return row < inner ? row * row_stride : row / inner * outer_stride + row % inner * row_stride;
}

static inline ptrdiff_t sf_input_offset(const sf_call *call, const sf_input *in, ptrdiff_t row)
{
    return sf_row_offset(row, call->inner, in->outer_stride, in->row_stride);
}

static inline ptrdiff_t sf_output_offset(const sf_call *call, ptrdiff_t row)
{
    return sf_row_offset(row, call->inner, call->out.outer_stride, call->out.row_stride);
}

static inline double sf_temperature_of(const sf_call *call, ptrdiff_t row)
{
    return call->temperature[row * call->temperature_step];
}

/* (x - m)/T for x <= m, also where x - m overflows. */
static inline double sf_quotient(double x, double m, double temperature)
{
    double d = x - m;
    if (d < -1.7976931348623157e308 && x >= -1.7976931348623157e308)
        return (0.5 * x - 0.5 * m) / temperature * 2.0;
    return temperature == 1.0 ? d : d / temperature;
}

static inline int sf_has_labels(const sf_targets *t) { return t->labels32 || t->labels64; }

static inline int64_t sf_label(const sf_targets *t, ptrdiff_t row)
{
    return t->labels32 ? t->labels32[row] : t->labels64[row];
}

static inline double sf_sample_weight(const sf_targets *t, ptrdiff_t row)
{
    return t->sample_weight ? t->sample_weight[row] : 1.0;
}

/* In any of the losses: (1 - smoothing) t + smoothing/C is t, and t a label. */
static inline int sf_is_hard_label(const sf_targets *t)
{
    return sf_has_labels(t) && t->label_smoothing == 0.0;
}

/* Of a row with a good label, or with class probabilities. */
static inline double sf_label_weight(const sf_targets *t, ptrdiff_t row)
{
    return t->class_weight && sf_has_labels(t) ? t->class_weight[sf_label(t, row)] : 1.0;
}

/* Whether a row counts: one of weight 0 does not, nor one whose label is ignored.  A bad label is
 * noted, and its row does not. */
static inline int sf_row_counts(const sf_targets *t, ptrdiff_t row, ptrdiff_t n_classes,
                                sf_result *result)
{
    if (sf_has_labels(t)) {
        int64_t label = sf_label(t, row);
        if (t->has_ignore_index && label == t->ignore_index)
            return 0;
        if (label < 0 || label >= n_classes) {
            if (result->bad_label_row < 0)
                result->bad_label_row = row;
            return 0;
        }
    }
    return sf_sample_weight(t, row) != 0.0 && sf_label_weight(t, row) != 0.0;
}

/* expm1(t) - t, with the digits of a small t. */
static inline double sf_expm1_excess(double t)
{
    if (!(fabs(t) < 0.5))
        return expm1(t) - t;
    double sum = 1.0 / 15.0;
    for (int k = 14; k > 2; k--)
        sum = (1.0 + sum * t) / k;
    return 0.5 * t * t * (1.0 + sum * t);
}

/* w - log1p(w), likewise. */
static inline double sf_log1p_excess(double w)
{
    if (!(fabs(w) < 1e-3))
        return w - log1p(w);
    return w * w * (0.5 - w * (1.0 / 3.0 - w * (0.25 - w * (0.2 - w / 6.0))));
}

static inline int sf_count_bits(unsigned mask)
{
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_popcount(mask);
#else
    int count = 0;
    for (; mask; mask &= mask - 1)
        count++;
    return count;
#endif
}

/* Halves of n lanes, a power of two up to 32, one on the other; each has a constant length. */
SF_INLINE double sf_lanes_total(double *lanes, const int n)
{
    if (n > 16)
        for (int i = 0; i < 16; i++)
            lanes[i] += lanes[i + 16];
    if (n > 8)
        for (int i = 0; i < 8; i++)
            lanes[i] += lanes[i + 8];
    if (n > 4)
        for (int i = 0; i < 4; i++)
            lanes[i] += lanes[i + 4];
    if (n > 2)
        for (int i = 0; i < 2; i++)
            lanes[i] += lanes[i + 2];
    return n > 1 ? lanes[0] + lanes[1] : lanes[0];
}

#endif
