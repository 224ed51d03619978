/* The vocabulary of generic.h with the NEON of every 64-bit Arm, 4 floats or 2 doubles: no region needs
 * to be opened. */
#ifndef SF_SIMD_NEON_H
#define SF_SIMD_NEON_H

#include <arm_neon.h>

#define SF_ISA neon
#define SF_STREAM_FENCE() ((void)0)

#if !SF_DOUBLE

#define LANES 4
#define COLUMNS 4
#define POW2_BITS 0
#define EXP_INTERLEAVE 1
#define PRODUCT_CLASSES 12
#define PRODUCT_DEPTH 256

typedef float32x4_t vec;
SF_INLINE vec vset1(float a) { return vdupq_n_f32(a); }
SF_INLINE vec vload(const float *p) { return vld1q_f32(p); }
SF_INLINE void vstore(float *p, vec a) { vst1q_f32(p, a); }
/* The cores notice a stream of whole lines by themselves, and there is no intrinsic for STNP. */
SF_INLINE void vstream(float *p, vec a) { vst1q_f32(p, a); }
SF_INLINE vec vload_first(const float *p, ptrdiff_t n, float fill)
{
    vec a = vdupq_n_f32(fill);
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
SF_INLINE void vstore_first(float *p, vec a, ptrdiff_t n)
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
SF_INLINE vec vadd(vec a, vec b) { return vaddq_f32(a, b); }
SF_INLINE vec vsub(vec a, vec b) { return vsubq_f32(a, b); }
SF_INLINE vec vmul(vec a, vec b) { return vmulq_f32(a, b); }
SF_INLINE vec vdiv(vec a, vec b) { return vdivq_f32(a, b); }
SF_INLINE vec vfma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
/* FMAX keeps every NaN and FMAXNM drops every NaN; the vocabulary wants b. */
SF_INLINE vec vmax(vec a, vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
SF_INLINE float vhmax(vec a) { return vmaxvq_f32(a); }
SF_INLINE double vtotal(vec sum, vec lost)
{
    float64x2_t low = vsubq_f64(vcvt_f64_f32(vget_low_f32(sum)), vcvt_f64_f32(vget_low_f32(lost)));
    return vaddvq_f64(vaddq_f64(low, vsubq_f64(vcvt_high_f64_f32(sum), vcvt_high_f64_f32(lost))));
}
SF_INLINE vec vpow2(vec z)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(z), 23));
}
SF_INLINE unsigned vequal_mask(vec a, vec b)
{
    static const uint32_t bit[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vceqq_f32(a, b), vld1q_u32(bit)));
}
SF_INLINE vec vzero_where_zero(vec test, vec a)
{
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vceqzq_f32(test)));
}
SF_INLINE vec vadd_one_where_ge(vec sum, vec a, vec b)
{
    return vaddq_f32(sum, vreinterpretq_f32_u32(
        vandq_u32(vcgeq_f32(a, b), vreinterpretq_u32_f32(vdupq_n_f32(1.0f)))));
}
SF_INLINE vec vselect_ge(vec a, vec b, vec x, vec y) { return vbslq_f32(vcgeq_f32(a, b), x, y); }
SF_INLINE vec vadd_one_where_zero(vec sum, vec test)
{
    return vaddq_f32(sum, vreinterpretq_f32_u32(
        vandq_u32(vceqzq_f32(test), vreinterpretq_u32_f32(vdupq_n_f32(1.0f)))));
}
SF_INLINE vec vwhere_less(vec a, vec b, vec yes, vec no)
{
    return vbslq_f32(vcltq_f32(a, b), yes, no);
}
SF_INLINE vec vfraction(vec d, vec hi, vec lo, vec n)
{
    return vfmaq_f32(vnegq_f32(vfmsq_f32(n, d, hi)), d, lo);
}
SF_INLINE void vtranspose_4x4(vec *r)
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
SF_INLINE void vload_transposed(const float *p, ptrdiff_t stride, vec *columns)
{
    for (int i = 0; i < 4; i++)
        columns[i] = vld1q_f32(p + i * stride);
    vtranspose_4x4(columns);
}
SF_INLINE void vstore_transposed(float *p, ptrdiff_t stride, const vec *columns)
{
    vec r[4] = {columns[0], columns[1], columns[2], columns[3]};
    vtranspose_4x4(r);
    for (int i = 0; i < 4; i++)
        vst1q_f32(p + i * stride, r[i]);
}
/* FCVTL, which is older than the arithmetic on halves: every 64-bit Arm has it. */
SF_INLINE vec vsplit(vec u, vec *mantissa, vec *scale)
{
    uint32x4_t bits = vaddq_u32(vreinterpretq_u32_f32(u),
                                vdupq_n_u32(0x3f800000u - SF_SQRT_HALF_BITS_F32));
    uint32x4_t exponent = vshrq_n_u32(bits, 23);
    bits = vandq_u32(bits, vdupq_n_u32(0x7fffffu));
    *mantissa = vreinterpretq_f32_u32(vaddq_u32(bits, vdupq_n_u32(SF_SQRT_HALF_BITS_F32)));
    *scale = vreinterpretq_f32_u32(vshlq_n_u32(vsubq_u32(vdupq_n_u32(255), exponent), 23));
    return vsubq_f32(vcvtq_f32_u32(exponent), vdupq_n_f32(127.0f));
}
SF_INLINE vec vload_doubles(const double *p)
{
    return vcombine_f32(vcvt_f32_f64(vld1q_f64(p)), vcvt_f32_f64(vld1q_f64(p + 2)));
}
SF_INLINE void vstore_doubles(double *p, vec a)
{
    vst1q_f64(p, vcvt_f64_f32(vget_low_f32(a)));
    vst1q_f64(p + 2, vcvt_high_f64_f32(a));
}
SF_INLINE vec vload_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
SF_INLINE void vwiden_f16(const uint16_t *p, float *out, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + i))));
    for (; i < n; i++)
        out[i] = sf_float_from_half(p[i]);
}

#else

#define LANES 2
#define COLUMNS 2
#define POW2_BITS 0
#define EXP_INTERLEAVE 4
#define PRODUCT_CLASSES 12
#define PRODUCT_DEPTH 256

typedef float64x2_t vec;
SF_INLINE vec vset1(double a) { return vdupq_n_f64(a); }
SF_INLINE vec vload(const double *p) { return vld1q_f64(p); }
SF_INLINE void vstore(double *p, vec a) { vst1q_f64(p, a); }
SF_INLINE void vstream(double *p, vec a) { vst1q_f64(p, a); }
SF_INLINE vec vload_first(const double *p, ptrdiff_t n, double fill)
{
    vec a = vdupq_n_f64(fill);
    if (n > 0)
        a = vld1q_lane_f64(p, a, 0);
    if (n > 1)
        a = vld1q_lane_f64(p + 1, a, 1);
    return a;
}
SF_INLINE void vstore_first(double *p, vec a, ptrdiff_t n)
{
    if (n > 0)
        vst1q_lane_f64(p, a, 0);
    if (n > 1)
        vst1q_lane_f64(p + 1, a, 1);
}
SF_INLINE vec vadd(vec a, vec b) { return vaddq_f64(a, b); }
SF_INLINE vec vsub(vec a, vec b) { return vsubq_f64(a, b); }
SF_INLINE vec vmul(vec a, vec b) { return vmulq_f64(a, b); }
SF_INLINE vec vdiv(vec a, vec b) { return vdivq_f64(a, b); }
SF_INLINE vec vfma(vec a, vec b, vec c) { return vfmaq_f64(c, a, b); }
SF_INLINE vec vmax(vec a, vec b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
SF_INLINE double vhmax(vec a) { return vmaxvq_f64(a); }
SF_INLINE double vtotal(vec sum, vec lost) { return vaddvq_f64(vsubq_f64(sum, lost)); }
SF_INLINE vec vpow2(vec z)
{
    return vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(z), 52));
}
SF_INLINE unsigned vequal_mask(vec a, vec b)
{
    uint64x2_t equal = vceqq_f64(a, b);
    return (unsigned)((vgetq_lane_u64(equal, 0) & 1) | (vgetq_lane_u64(equal, 1) & 2));
}
SF_INLINE vec vzero_where_zero(vec test, vec a)
{
    return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(a), vceqzq_f64(test)));
}
SF_INLINE vec vadd_one_where_ge(vec sum, vec a, vec b)
{
    return vaddq_f64(sum, vreinterpretq_f64_u64(
        vandq_u64(vcgeq_f64(a, b), vreinterpretq_u64_f64(vdupq_n_f64(1.0)))));
}
SF_INLINE vec vselect_ge(vec a, vec b, vec x, vec y) { return vbslq_f64(vcgeq_f64(a, b), x, y); }
SF_INLINE vec vadd_one_where_zero(vec sum, vec test)
{
    return vaddq_f64(sum, vreinterpretq_f64_u64(
        vandq_u64(vceqzq_f64(test), vreinterpretq_u64_f64(vdupq_n_f64(1.0)))));
}
SF_INLINE vec vwhere_less(vec a, vec b, vec yes, vec no)
{
    return vbslq_f64(vcltq_f64(a, b), yes, no);
}
SF_INLINE vec vfraction(vec d, vec hi, vec lo, vec n)
{
    return vfmaq_f64(vnegq_f64(vfmsq_f64(n, d, hi)), d, lo);
}
SF_INLINE void vload_transposed(const double *p, ptrdiff_t stride, vec *columns)
{
    float64x2_t row_0 = vld1q_f64(p), row_1 = vld1q_f64(p + stride);
    columns[0] = vzip1q_f64(row_0, row_1);
    columns[1] = vzip2q_f64(row_0, row_1);
}
SF_INLINE void vstore_transposed(double *p, ptrdiff_t stride, const vec *columns)
{
    vst1q_f64(p, vzip1q_f64(columns[0], columns[1]));
    vst1q_f64(p + stride, vzip2q_f64(columns[0], columns[1]));
}
SF_INLINE vec vsplit(vec u, vec *mantissa, vec *scale)
{
    uint64x2_t bits = vaddq_u64(vreinterpretq_u64_f64(u),
                                vdupq_n_u64(0x3ff0000000000000u - SF_SQRT_HALF_BITS));
    uint64x2_t exponent = vshrq_n_u64(bits, 52);
    bits = vandq_u64(bits, vdupq_n_u64(0xfffffffffffffu));
    *mantissa = vreinterpretq_f64_u64(vaddq_u64(bits, vdupq_n_u64(SF_SQRT_HALF_BITS)));
    *scale = vreinterpretq_f64_u64(vshlq_n_u64(vsubq_u64(vdupq_n_u64(2047), exponent), 52));
    return vsubq_f64(vcvtq_f64_u64(exponent), vdupq_n_f64(1023.0));
}

#endif

#endif
