/* The vocabulary in plain C: fall-back, specification and oracle of the other instruction sets.
 * A vector is a short array, so that a compiler may use whatever the base architecture has.
 *
 * SF_DOUBLE chooses between float and double; vec is a vector of LANES entries of that type.
 * COLUMNS        : columns that a transposing load or store moves at once (16 bytes).
 * vmax           : b where either operand is NaN, so vmax(x, running) drops a NaN and
 *                  vmax(limit, x) keeps it.
 * vwhere_less    : yes where a < b, no elsewhere, as where one of them is NaN.
 * vpow2          : 2**n from z = n + EXP_MAGIC, by moving n's bits into the exponent.  Where n has
 *                  POW2_BITS bits behind the point, these land in the mantissa, and a table turns them
 *                  into what belongs there: entry i is 2**(i/2**POW2_BITS), as bits, less 1.0 and less
 *                  those that i has left.
 * EXP_INTERLEAVE : how many vectors' exp are best computed side by side: the chain of operations is longer
 *                  than a processor looks ahead to find what it can do meanwhile.
 * PRODUCT_CLASSES, PRODUCT_DEPTH : of a product of matrices, how many accumulators of two vectors fit into
 *                  registers, and how many terms are added before the next; none here, where BLAS is faster.
 */
#ifndef SF_SIMD_GENERIC_H
#define SF_SIMD_GENERIC_H

#define SF_ISA generic
#define SF_STREAM_FENCE() ((void)0)

#define POW2_BITS 0
#define EXP_INTERLEAVE 1

/* Without a fused multiply-add, vfraction goes through double for float, and for double through a
 * product of halves: its hi then has 26 bits only. */
#define SF_SPLIT_RATE 1

#if SF_DOUBLE
#define LANES 2
#define COLUMNS 2
typedef uint64_t lane_bits;
#else
#define LANES 4
#define COLUMNS 4
typedef uint32_t lane_bits;
#endif

typedef struct { real lane[LANES]; } vec;

#define FOR_LANES for (int i = 0; i < LANES; i++)

SF_INLINE vec vset1(real a)
{
    vec r;
    FOR_LANES r.lane[i] = a;
    return r;
}
SF_INLINE vec vload(const real *p)
{
    vec r;
    memcpy(&r, p, sizeof r);
    return r;
}
SF_INLINE void vstore(real *p, vec a) { memcpy(p, &a, sizeof a); }
SF_INLINE void vstream(real *p, vec a) { memcpy(p, &a, sizeof a); }
SF_INLINE vec vload_first(const real *p, ptrdiff_t n, real fill)
{
    vec r;
    FOR_LANES r.lane[i] = i < n ? p[i] : fill;
    return r;
}
SF_INLINE void vstore_first(real *p, vec a, ptrdiff_t n)
{
    FOR_LANES if (i < n) p[i] = a.lane[i];
}
SF_INLINE vec vadd(vec a, vec b)
{
    FOR_LANES a.lane[i] += b.lane[i];
    return a;
}
SF_INLINE vec vsub(vec a, vec b)
{
    FOR_LANES a.lane[i] -= b.lane[i];
    return a;
}
SF_INLINE vec vmul(vec a, vec b)
{
    FOR_LANES a.lane[i] *= b.lane[i];
    return a;
}
SF_INLINE vec vdiv(vec a, vec b)
{
    FOR_LANES a.lane[i] /= b.lane[i];
    return a;
}
SF_INLINE vec vfma(vec a, vec b, vec c)
{
    FOR_LANES a.lane[i] = a.lane[i] * b.lane[i] + c.lane[i];
    return a;
}
SF_INLINE vec vmax(vec a, vec b)
{
    FOR_LANES a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}
SF_INLINE real vhmax(vec a)
{
    real m = a.lane[0];
    FOR_LANES m = a.lane[i] > m ? a.lane[i] : m;
    return m;
}
/* The sum of sum - lost in double, halves of the lanes one on the other. */
SF_INLINE double vtotal(vec sum, vec lost)
{
    double lanes[LANES];
    FOR_LANES lanes[i] = (double)sum.lane[i] - (double)lost.lane[i];
    return sf_lanes_total(lanes, LANES);
}
SF_INLINE vec vpow2(vec z)
{
    lane_bits bits[LANES];
    memcpy(bits, &z, sizeof z);
    FOR_LANES bits[i] <<= SF_DOUBLE ? 52 : 23;
    memcpy(&z, bits, sizeof z);
    return z;
}
SF_INLINE unsigned vequal_mask(vec a, vec b)
{
    unsigned mask = 0;
    FOR_LANES mask |= (unsigned)(a.lane[i] == b.lane[i]) << i;
    return mask;
}
SF_INLINE vec vzero_where_zero(vec test, vec a)
{
    FOR_LANES a.lane[i] = test.lane[i] == 0 ? 0 : a.lane[i];
    return a;
}
/* sum, and one more where a >= b. */
SF_INLINE vec vadd_one_where_ge(vec sum, vec a, vec b)
{
    FOR_LANES sum.lane[i] += a.lane[i] >= b.lane[i];
    return sum;
}
/* x where a >= b, else y. */
SF_INLINE vec vselect_ge(vec a, vec b, vec x, vec y)
{
    FOR_LANES y.lane[i] = a.lane[i] >= b.lane[i] ? x.lane[i] : y.lane[i];
    return y;
}
SF_INLINE vec vadd_one_where_zero(vec sum, vec test)
{
    FOR_LANES sum.lane[i] += test.lane[i] == 0;
    return sum;
}
SF_INLINE vec vwhere_less(vec a, vec b, vec yes, vec no)
{
    FOR_LANES a.lane[i] = a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i];
    return a;
}
/* LANES doubles, and back; the units for double have them from exp_log.h. */
#if !SF_DOUBLE
SF_INLINE vec vload_doubles(const double *p)
{
    vec r;
    FOR_LANES r.lane[i] = (real)p[i];
    return r;
}
SF_INLINE void vstore_doubles(double *p, vec a) { FOR_LANES p[i] = a.lane[i]; }
#endif
SF_INLINE void vload_transposed(const real *p, ptrdiff_t stride, vec *columns)
{
    FOR_LANES for (int c = 0; c < COLUMNS; c++) columns[c].lane[i] = p[i * stride + c];
}
SF_INLINE void vstore_transposed(real *p, ptrdiff_t stride, const vec *columns)
{
    FOR_LANES for (int c = 0; c < COLUMNS; c++) p[i * stride + c] = columns[c].lane[i];
}

/* u >= 1 as f * 2**k, f in [sqrt(1/2), sqrt(2)): k, f, and 2**(1 - k). */
SF_INLINE vec vsplit(vec u, vec *mantissa, vec *scale)
{
    const int shift = SF_DOUBLE ? 52 : 23, bias = SF_DOUBLE ? 1023 : 127;
    const lane_bits border = SF_DOUBLE ? (lane_bits)SF_SQRT_HALF_BITS : (lane_bits)SF_SQRT_HALF_BITS_F32;
    lane_bits bits[LANES], inverse[LANES];
    vec k;
    memcpy(bits, &u, sizeof u);
    FOR_LANES {
        bits[i] += ((lane_bits)bias << shift) - border;
        lane_bits exponent = bits[i] >> shift;
        k.lane[i] = (real)exponent - (real)bias;
        inverse[i] = (lane_bits)(2 * bias + 1 - (int)exponent) << shift;
        bits[i] = (bits[i] & (((lane_bits)1 << shift) - 1)) + border;
    }
    memcpy(mantissa, bits, sizeof bits);
    memcpy(scale, inverse, sizeof inverse);
    return k;
}

#if SF_DOUBLE

/* d * (hi + lo) - n for an integer n next to it: exact but for the last rounding. */
SF_INLINE vec vfraction(vec d, vec hi, vec lo, vec n)
{
    uint64_t bits[LANES];
    vec top;
    memcpy(bits, &d, sizeof d);
    FOR_LANES bits[i] &= ~(uint64_t)0x7ffffff;
    memcpy(&top, bits, sizeof d);
    FOR_LANES {
        double rest = d.lane[i] - top.lane[i];
        d.lane[i] = (top.lane[i] * hi.lane[i] - n.lane[i])
                  + (rest * hi.lane[i] + d.lane[i] * lo.lane[i]);
    }
    return d;
}

#else

SF_INLINE vec vfraction(vec d, vec hi, vec lo, vec n)
{
    FOR_LANES
        d.lane[i] = (float)((double)d.lane[i] * ((double)hi.lane[i] + lo.lane[i]) - n.lane[i]);
    return d;
}

/* LANES bfloat16, widened. */
SF_INLINE vec vload_bf16(const uint16_t *p)
{
    vec a;
    FOR_LANES a.lane[i] = sf_float_from_bfloat(p[i]);
    return a;
}

SF_INLINE void vwiden_f16(const uint16_t *p, float *out, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = sf_float_from_half(p[i]);
}

#endif

#endif
