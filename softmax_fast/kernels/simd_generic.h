/* The vocabulary in plain C: fall-back, specification and oracle of the other instruction sets.
 * A vector is a short array, so that a compiler may use whatever the base architecture has.
 *
 * f32, f64: v_* are vectors of that type, LANES_* entries each.
 * UNIT_*   : columns that a transposing load or store moves at once (16 bytes).
 * v_max    : b where either operand is NaN, so v_max(x, running) drops a NaN and
 *            v_max(limit, x) keeps it.
 * v_pow2   : 2**n from z = n + EXP_MAGIC, by moving n's bits into the exponent.  Where n has
 *            POW2_BITS bits behind the point, these land in the mantissa, and a table turns them
 *            into what belongs there: entry i is 2**(i/2**POW2_BITS), as bits, less 1.0 and less
 *            those that i has left.
 * BESIDE   : how many vectors' exp are best computed side by side: the chain of operations for
 *            double is longer than a processor looks ahead to find what it can do meanwhile.
 */
#ifndef SF_SIMD_GENERIC_H
#define SF_SIMD_GENERIC_H

#include "kernels.h"

#define LANES_f32 4
#define LANES_f64 2
#define UNIT_f32 4
#define UNIT_f64 2
#define POW2_BITS_f32 0
#define POW2_BITS_f64 0
#define BESIDE_f32 1
#define BESIDE_f64 1

typedef struct { float lane[LANES_f32]; } v_f32;
typedef struct { double lane[LANES_f64]; } v_f64;

#define FOR_LANES(S) for (int i = 0; i < LANES_##S; i++)

#define SF_DEFINE_GENERIC_VERBS(S, T, U, MANTISSA_BITS)                                          \
    SF_INLINE v_##S v_set1_##S(T a) { v_##S r; FOR_LANES(S) r.lane[i] = a; return r; }             \
    SF_INLINE v_##S v_load_##S(const T *p) { v_##S r; memcpy(&r, p, sizeof r); return r; }         \
    SF_INLINE void v_store_##S(T *p, v_##S a) { memcpy(p, &a, sizeof a); }                         \
    SF_INLINE void v_stream_##S(T *p, v_##S a) { memcpy(p, &a, sizeof a); }                        \
    SF_INLINE v_##S v_load_first_##S(const T *p, ptrdiff_t n, T fill)                              \
    { v_##S r; FOR_LANES(S) r.lane[i] = i < n ? p[i] : fill; return r; }                           \
    SF_INLINE void v_store_first_##S(T *p, v_##S a, ptrdiff_t n)                                   \
    { FOR_LANES(S) if (i < n) p[i] = a.lane[i]; }                                                  \
    SF_INLINE v_##S v_add_##S(v_##S a, v_##S b) { FOR_LANES(S) a.lane[i] += b.lane[i]; return a; } \
    SF_INLINE v_##S v_sub_##S(v_##S a, v_##S b) { FOR_LANES(S) a.lane[i] -= b.lane[i]; return a; } \
    SF_INLINE v_##S v_mul_##S(v_##S a, v_##S b) { FOR_LANES(S) a.lane[i] *= b.lane[i]; return a; } \
    SF_INLINE v_##S v_div_##S(v_##S a, v_##S b) { FOR_LANES(S) a.lane[i] /= b.lane[i]; return a; } \
    SF_INLINE v_##S v_fma_##S(v_##S a, v_##S b, v_##S c)                                           \
    { FOR_LANES(S) a.lane[i] = a.lane[i] * b.lane[i] + c.lane[i]; return a; }                      \
    SF_INLINE v_##S v_max_##S(v_##S a, v_##S b)                                                    \
    { FOR_LANES(S) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; return a; }          \
    SF_INLINE T v_hmax_##S(v_##S a)                                                                \
    { T m = a.lane[0]; FOR_LANES(S) m = a.lane[i] > m ? a.lane[i] : m; return m; }                 \
    SF_INLINE v_##S v_pow2_##S(v_##S z)                                                            \
    {                                                                                              \
        U bits[LANES_##S];                                                                         \
        memcpy(bits, &z, sizeof z);                                                                \
        FOR_LANES(S) bits[i] <<= MANTISSA_BITS;                                                    \
        memcpy(&z, bits, sizeof z);                                                                \
        return z;                                                                                  \
    }                                                                                              \
    SF_INLINE unsigned v_equal_bits_##S(v_##S a, v_##S b)                                          \
    { unsigned m = 0; FOR_LANES(S) m |= (unsigned)(a.lane[i] == b.lane[i]) << i; return m; }       \
    SF_INLINE v_##S v_zero_where_zero_##S(v_##S test, v_##S a)                                     \
    { FOR_LANES(S) a.lane[i] = test.lane[i] == 0 ? 0 : a.lane[i]; return a; }                      \
    SF_INLINE v_##S v_one_where_zero_##S(v_##S test)                                               \
    { FOR_LANES(S) test.lane[i] = test.lane[i] == 0; return test; }                                \
    SF_INLINE void v_load_unit_##S(const T *p, ptrdiff_t stride, v_##S *columns)                   \
    { FOR_LANES(S) for (int c = 0; c < UNIT_##S; c++) columns[c].lane[i] = p[i * stride + c]; }    \
    SF_INLINE void v_store_unit_##S(T *p, ptrdiff_t stride, const v_##S *columns)                  \
    { FOR_LANES(S) for (int c = 0; c < UNIT_##S; c++) p[i * stride + c] = columns[c].lane[i]; }

SF_DEFINE_GENERIC_VERBS(f32, float, uint32_t, 23)
SF_DEFINE_GENERIC_VERBS(f64, double, uint64_t, 52)

/* d * (hi + lo) - n for an integer n next to it: exact but for the last rounding.  Without a fused
 * multiply-add, f32 goes through double and f64 through a product of halves: scale_hi then has
 * 26 bits only (SF_SPLIT_SCALE). */
#define SF_SPLIT_SCALE 1
SF_INLINE v_f32 v_fraction_f32(v_f32 d, v_f32 hi, v_f32 lo, v_f32 n)
{
    FOR_LANES(f32)
        d.lane[i] = (float)((double)d.lane[i] * ((double)hi.lane[i] + lo.lane[i]) - n.lane[i]);
    return d;
}
SF_INLINE v_f64 v_fraction_f64(v_f64 d, v_f64 hi, v_f64 lo, v_f64 n)
{
    uint64_t bits[LANES_f64];
    v_f64 top;
    memcpy(bits, &d, sizeof d);
    FOR_LANES(f64) bits[i] &= ~(uint64_t)0x7ffffff;
    memcpy(&top, bits, sizeof d);
    FOR_LANES(f64) {
        double rest = d.lane[i] - top.lane[i];
        d.lane[i] = (top.lane[i] * hi.lane[i] - n.lane[i])
                  + (rest * hi.lane[i] + d.lane[i] * lo.lane[i]);
    }
    return d;
}

/* The exponent k and the mantissa f in [sqrt(1/2), sqrt(2)) of u >= 1/2: u = f * 2**k. */
SF_INLINE v_f64 v_split_f64(v_f64 u, v_f64 *mantissa)
{
    uint64_t bits[LANES_f64];
    v_f64 k;
    memcpy(bits, &u, sizeof u);
    FOR_LANES(f64) {
        bits[i] += 0x3ff0000000000000u - SF_SQRT_HALF_BITS;
        k.lane[i] = (double)(bits[i] >> 52) - 1023.0;
        bits[i] = (bits[i] & 0xfffffffffffffu) + SF_SQRT_HALF_BITS;
    }
    memcpy(mantissa, bits, sizeof bits);
    return k;
}

SF_INLINE void v_widen_f16(const uint16_t *p, float *out, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = sf_float_from_half(p[i]);
}

#endif
