/* The vocabulary of simd_generic.h with the NEON of every 64-bit Arm: 4 floats or 2 doubles. */
#ifndef SF_SIMD_NEON_H
#define SF_SIMD_NEON_H

#include "kernels.h"

#define LANES_f32 4
#define LANES_f64 2
#define UNIT_f32 4
#define UNIT_f64 2
#define POW2_BITS_f32 0
#define POW2_BITS_f64 0
#define BESIDE_f32 1
#define BESIDE_f64 4

typedef float32x4_t v_f32;
typedef float64x2_t v_f64;

SF_INLINE v_f32 v_set1_f32(float a) { return vdupq_n_f32(a); }
SF_INLINE v_f32 v_load_f32(const float *p) { return vld1q_f32(p); }
SF_INLINE void v_store_f32(float *p, v_f32 a) { vst1q_f32(p, a); }
/* The cores notice a stream of whole lines by themselves, and there is no intrinsic for STNP. */
SF_INLINE void v_stream_f32(float *p, v_f32 a) { vst1q_f32(p, a); }
SF_INLINE v_f32 v_load_first_f32(const float *p, ptrdiff_t n, float fill)
{
    v_f32 a = vdupq_n_f32(fill);
    if (n > 0)
        a = vld1q_lane_f32(p, a, 0);
    if (n > 1)
        a = vld1q_lane_f32(p + 1, a, 1);
    if (n > 2)
        a = vld1q_lane_f32(p + 2, a, 2);
    if (n > 3)
        a = vld1q_lane_f32(p + 3, a, 3);
    return a;
}
SF_INLINE void v_store_first_f32(float *p, v_f32 a, ptrdiff_t n)
{
    if (n > 0)
        vst1q_lane_f32(p, a, 0);
    if (n > 1)
        vst1q_lane_f32(p + 1, a, 1);
    if (n > 2)
        vst1q_lane_f32(p + 2, a, 2);
    if (n > 3)
        vst1q_lane_f32(p + 3, a, 3);
}
SF_INLINE v_f32 v_add_f32(v_f32 a, v_f32 b) { return vaddq_f32(a, b); }
SF_INLINE v_f32 v_sub_f32(v_f32 a, v_f32 b) { return vsubq_f32(a, b); }
SF_INLINE v_f32 v_mul_f32(v_f32 a, v_f32 b) { return vmulq_f32(a, b); }
SF_INLINE v_f32 v_div_f32(v_f32 a, v_f32 b) { return vdivq_f32(a, b); }
SF_INLINE v_f32 v_fma_f32(v_f32 a, v_f32 b, v_f32 c) { return vfmaq_f32(c, a, b); }
/* FMAX keeps every NaN and FMAXNM drops every NaN; the vocabulary wants b. */
SF_INLINE v_f32 v_max_f32(v_f32 a, v_f32 b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
SF_INLINE float v_hmax_f32(v_f32 a) { return vmaxvq_f32(a); }
SF_INLINE v_f32 v_pow2_f32(v_f32 z)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(z), 23));
}
SF_INLINE unsigned v_equal_bits_f32(v_f32 a, v_f32 b)
{
    static const uint32_t bit[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vceqq_f32(a, b), vld1q_u32(bit)));
}
SF_INLINE v_f32 v_zero_where_zero_f32(v_f32 test, v_f32 a)
{
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vceqzq_f32(test)));
}
SF_INLINE v_f32 v_one_where_zero_f32(v_f32 test)
{
    return vreinterpretq_f32_u32(
        vandq_u32(vceqzq_f32(test), vreinterpretq_u32_f32(vdupq_n_f32(1.0f))));
}
SF_INLINE v_f32 v_fraction_f32(v_f32 d, v_f32 hi, v_f32 lo, v_f32 n)
{
    return vfmaq_f32(vnegq_f32(vfmsq_f32(n, d, hi)), d, lo);
}

SF_INLINE void v_transpose_4x4_f32(v_f32 *r)
{
    float64x2_t even_01 = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1]));
    float64x2_t odd_01 = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
    float64x2_t even_23 = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3]));
    float64x2_t odd_23 = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vzip1q_f64(even_01, even_23));
    r[1] = vreinterpretq_f32_f64(vzip1q_f64(odd_01, odd_23));
    r[2] = vreinterpretq_f32_f64(vzip2q_f64(even_01, even_23));
    r[3] = vreinterpretq_f32_f64(vzip2q_f64(odd_01, odd_23));
}
SF_INLINE void v_load_unit_f32(const float *p, ptrdiff_t stride, v_f32 *columns)
{
    for (int i = 0; i < 4; i++)
        columns[i] = vld1q_f32(p + i * stride);
    v_transpose_4x4_f32(columns);
}
SF_INLINE void v_store_unit_f32(float *p, ptrdiff_t stride, const v_f32 *columns)
{
    v_f32 r[4] = {columns[0], columns[1], columns[2], columns[3]};
    v_transpose_4x4_f32(r);
    for (int i = 0; i < 4; i++)
        vst1q_f32(p + i * stride, r[i]);
}


SF_INLINE v_f64 v_set1_f64(double a) { return vdupq_n_f64(a); }
SF_INLINE v_f64 v_load_f64(const double *p) { return vld1q_f64(p); }
SF_INLINE void v_store_f64(double *p, v_f64 a) { vst1q_f64(p, a); }
SF_INLINE void v_stream_f64(double *p, v_f64 a) { vst1q_f64(p, a); }
SF_INLINE v_f64 v_load_first_f64(const double *p, ptrdiff_t n, double fill)
{
    v_f64 a = vdupq_n_f64(fill);
    if (n > 0)
        a = vld1q_lane_f64(p, a, 0);
    if (n > 1)
        a = vld1q_lane_f64(p + 1, a, 1);
    return a;
}
SF_INLINE void v_store_first_f64(double *p, v_f64 a, ptrdiff_t n)
{
    if (n > 0)
        vst1q_lane_f64(p, a, 0);
    if (n > 1)
        vst1q_lane_f64(p + 1, a, 1);
}
SF_INLINE v_f64 v_add_f64(v_f64 a, v_f64 b) { return vaddq_f64(a, b); }
SF_INLINE v_f64 v_sub_f64(v_f64 a, v_f64 b) { return vsubq_f64(a, b); }
SF_INLINE v_f64 v_mul_f64(v_f64 a, v_f64 b) { return vmulq_f64(a, b); }
SF_INLINE v_f64 v_div_f64(v_f64 a, v_f64 b) { return vdivq_f64(a, b); }
SF_INLINE v_f64 v_fma_f64(v_f64 a, v_f64 b, v_f64 c) { return vfmaq_f64(c, a, b); }
SF_INLINE v_f64 v_max_f64(v_f64 a, v_f64 b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
SF_INLINE double v_hmax_f64(v_f64 a) { return vmaxvq_f64(a); }
SF_INLINE v_f64 v_pow2_f64(v_f64 z)
{
    return vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(z), 52));
}
SF_INLINE unsigned v_equal_bits_f64(v_f64 a, v_f64 b)
{
    uint64x2_t equal = vceqq_f64(a, b);
    return (unsigned)((vgetq_lane_u64(equal, 0) & 1) | (vgetq_lane_u64(equal, 1) & 2));
}
SF_INLINE v_f64 v_zero_where_zero_f64(v_f64 test, v_f64 a)
{
    return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(a), vceqzq_f64(test)));
}
SF_INLINE v_f64 v_one_where_zero_f64(v_f64 test)
{
    return vreinterpretq_f64_u64(
        vandq_u64(vceqzq_f64(test), vreinterpretq_u64_f64(vdupq_n_f64(1.0))));
}
SF_INLINE v_f64 v_fraction_f64(v_f64 d, v_f64 hi, v_f64 lo, v_f64 n)
{
    return vfmaq_f64(vnegq_f64(vfmsq_f64(n, d, hi)), d, lo);
}
SF_INLINE void v_load_unit_f64(const double *p, ptrdiff_t stride, v_f64 *columns)
{
    float64x2_t row_0 = vld1q_f64(p), row_1 = vld1q_f64(p + stride);
    columns[0] = vzip1q_f64(row_0, row_1);
    columns[1] = vzip2q_f64(row_0, row_1);
}
SF_INLINE void v_store_unit_f64(double *p, ptrdiff_t stride, const v_f64 *columns)
{
    vst1q_f64(p, vzip1q_f64(columns[0], columns[1]));
    vst1q_f64(p + stride, vzip2q_f64(columns[0], columns[1]));
}
SF_INLINE v_f64 v_split_f64(v_f64 u, v_f64 *mantissa)
{
    uint64x2_t bits = vaddq_u64(vreinterpretq_u64_f64(u),
                                vdupq_n_u64(0x3ff0000000000000u - SF_SQRT_HALF_BITS));
    v_f64 exponent = vcvtq_f64_u64(vshrq_n_u64(bits, 52));
    bits = vandq_u64(bits, vdupq_n_u64(0xfffffffffffffu));
    *mantissa = vreinterpretq_f64_u64(vaddq_u64(bits, vdupq_n_u64(SF_SQRT_HALF_BITS)));
    return vsubq_f64(exponent, vdupq_n_f64(1023.0));
}

/* FCVTL, which is older than the arithmetic on halves: every 64-bit Arm has it. */
SF_INLINE void v_widen_f16(const uint16_t *p, float *out, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + i))));
    for (; i < n; i++)
        out[i] = sf_float_from_half(p[i]);
}

#endif
