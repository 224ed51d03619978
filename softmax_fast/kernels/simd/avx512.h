/* The vocabulary of generic.h with AVX-512 (F, BW, DQ, VL): 16 floats or 8 doubles.  Opens the region,
 * which the unit closes. */
#ifndef SF_SIMD_AVX512_H
#define SF_SIMD_AVX512_H

#include <immintrin.h>

#define SF_ISA avx512
#define SF_STREAM_FENCE() _mm_sfence()

SF_TARGET_BEGIN_AVX512

#if !SF_DOUBLE

#define LANES 16
#define COLUMNS 4
#define POW2_BITS 4
#define EXP_INTERLEAVE 4
#define PRODUCT_CLASSES 12
#define PRODUCT_DEPTH 256

typedef __m512 vec;
SF_INLINE __mmask16 first_lanes(ptrdiff_t n) { return (__mmask16)((1u << n) - 1); }
SF_INLINE vec vset1(float a) { return _mm512_set1_ps(a); }
SF_INLINE vec vload(const float *p) { return _mm512_loadu_ps(p); }
SF_INLINE void vstore(float *p, vec a) { _mm512_storeu_ps(p, a); }
SF_INLINE void vstream(float *p, vec a) { _mm512_stream_ps(p, a); }
SF_INLINE vec vload_first(const float *p, ptrdiff_t n, float fill)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(n), p);
}
SF_INLINE void vstore_first(float *p, vec a, ptrdiff_t n)
{
    _mm512_mask_storeu_ps(p, first_lanes(n), a);
}
SF_INLINE vec vadd(vec a, vec b) { return _mm512_add_ps(a, b); }
SF_INLINE vec vsub(vec a, vec b) { return _mm512_sub_ps(a, b); }
SF_INLINE vec vmul(vec a, vec b) { return _mm512_mul_ps(a, b); }
SF_INLINE vec vdiv(vec a, vec b) { return _mm512_div_ps(a, b); }
SF_INLINE vec vfma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
SF_INLINE vec vmax(vec a, vec b) { return _mm512_max_ps(a, b); }
SF_INLINE float vhmax(vec a)
{
    a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0x4e));
    a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0xb1));
    a = _mm512_max_ps(a, _mm512_shuffle_ps(a, a, 0x4e));
    a = _mm512_max_ps(a, _mm512_shuffle_ps(a, a, 0xb1));
    return _mm512_cvtss_f32(a);
}
SF_INLINE double vtotal(vec sum, vec lost)
{
    __m512d low = _mm512_sub_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(sum)),
                                _mm512_cvtps_pd(_mm512_castps512_ps256(lost)));
    __m512d high = _mm512_sub_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(sum, 1)),
                                 _mm512_cvtps_pd(_mm512_extractf32x8_ps(lost, 1)));
    low = _mm512_add_pd(low, high);
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(low), _mm512_extractf64x4_pd(low, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
SF_INLINE vec vpow2(vec z)
{
    static const SF_ALIGNED(64) uint32_t table[16] = {
        0x00000000, 0xfffdaac3, 0xfffb95c2, 0xfff9c3d3, 0xfff837f0, 0xfff6f532, 0xfff5fed7, 0xfff5583f,
        0xfff504f3, 0xfff508a4, 0xfff5672a, 0xfff6248c, 0xfff744fd, 0xfff8ccdf, 0xfffac0c7, 0xfffd257d};
    __m512i n = _mm512_castps_si512(z);
    __m512i entry = _mm512_permutexvar_epi32(n, _mm512_load_si512(table));
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(n, 19), entry));
}
SF_INLINE unsigned vequal_mask(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
SF_INLINE vec vzero_where_zero(vec test, vec a)
{
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_EQ_OQ),
                              _mm512_setzero_ps());
}
SF_INLINE vec vadd_one_where_ge(vec sum, vec a, vec b)
{
    return _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), sum, _mm512_set1_ps(1.0f));
}
SF_INLINE vec vselect_ge(vec a, vec b, vec x, vec y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), y, x);
}
SF_INLINE vec vadd_one_where_zero(vec sum, vec test)
{
    return _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_EQ_OQ), sum,
                              _mm512_set1_ps(1.0f));
}
SF_INLINE vec vwhere_less(vec a, vec b, vec yes, vec no)
{
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
}
SF_INLINE vec vfraction(vec d, vec hi, vec lo, vec n)
{
    return _mm512_fmadd_ps(d, lo, _mm512_fmsub_ps(d, hi, n));
}
/* Rows i, i + 4, i + 8 and i + 12 share a register, so that 4 x 4 transposes within 128 bits put
 * the rows in order. */
SF_INLINE void vtranspose_4x4(vec *r)
{
    __m512 low_01 = _mm512_unpacklo_ps(r[0], r[1]), high_01 = _mm512_unpackhi_ps(r[0], r[1]);
    __m512 low_23 = _mm512_unpacklo_ps(r[2], r[3]), high_23 = _mm512_unpackhi_ps(r[2], r[3]);
    r[0] = _mm512_shuffle_ps(low_01, low_23, 0x44);
    r[1] = _mm512_shuffle_ps(low_01, low_23, 0xee);
    r[2] = _mm512_shuffle_ps(high_01, high_23, 0x44);
    r[3] = _mm512_shuffle_ps(high_01, high_23, 0xee);
}
SF_INLINE void vload_transposed(const float *p, ptrdiff_t stride, vec *columns)
{
    for (int i = 0; i < 4; i++) {
        __m512 r = _mm512_castps128_ps512(_mm_loadu_ps(p + i * stride));
        r = _mm512_insertf32x4(r, _mm_loadu_ps(p + (i + 4) * stride), 1);
        r = _mm512_insertf32x4(r, _mm_loadu_ps(p + (i + 8) * stride), 2);
        columns[i] = _mm512_insertf32x4(r, _mm_loadu_ps(p + (i + 12) * stride), 3);
    }
    vtranspose_4x4(columns);
}
SF_INLINE void vstore_transposed(float *p, ptrdiff_t stride, const vec *columns)
{
    vec r[4] = {columns[0], columns[1], columns[2], columns[3]};
    vtranspose_4x4(r);
    for (int i = 0; i < 4; i++) {
        _mm_storeu_ps(p + i * stride, _mm512_castps512_ps128(r[i]));
        _mm_storeu_ps(p + (i + 4) * stride, _mm512_extractf32x4_ps(r[i], 1));
        _mm_storeu_ps(p + (i + 8) * stride, _mm512_extractf32x4_ps(r[i], 2));
        _mm_storeu_ps(p + (i + 12) * stride, _mm512_extractf32x4_ps(r[i], 3));
    }
}
SF_INLINE vec vsplit(vec u, vec *mantissa, vec *scale)
{
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(u),
                                    _mm512_set1_epi32(0x3f800000 - SF_SQRT_HALF_BITS_F32));
    __m512i exponent = _mm512_srli_epi32(bits, 23);
    bits = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffff));
    *mantissa =
        _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(SF_SQRT_HALF_BITS_F32)));
    *scale =
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(255), exponent), 23));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(exponent, _mm512_set1_epi32(127)));
}
SF_INLINE vec vload_doubles(const double *p)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_loadu_pd(p))),
                              _mm512_cvtpd_ps(_mm512_loadu_pd(p + 8)), 1);
}
SF_INLINE void vstore_doubles(double *p, vec a)
{
    _mm512_storeu_pd(p, _mm512_cvtps_pd(_mm512_castps512_ps256(a)));
    _mm512_storeu_pd(p + 8, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)));
}
SF_INLINE vec vload_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
SF_INLINE void vwiden_f16(const uint16_t *p, float *out, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p + i))));
    for (; i < n; i++)
        out[i] = sf_float_from_half(p[i]);
}

#else

#define LANES 8
#define COLUMNS 2
#define POW2_BITS 4
#define EXP_INTERLEAVE 4
#define PRODUCT_CLASSES 12
#define PRODUCT_DEPTH 256

typedef __m512d vec;
SF_INLINE __mmask8 first_lanes(ptrdiff_t n) { return (__mmask8)((1u << n) - 1); }
SF_INLINE vec vset1(double a) { return _mm512_set1_pd(a); }
SF_INLINE vec vload(const double *p) { return _mm512_loadu_pd(p); }
SF_INLINE void vstore(double *p, vec a) { _mm512_storeu_pd(p, a); }
SF_INLINE void vstream(double *p, vec a) { _mm512_stream_pd(p, a); }
SF_INLINE vec vload_first(const double *p, ptrdiff_t n, double fill)
{
    return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), first_lanes(n), p);
}
SF_INLINE void vstore_first(double *p, vec a, ptrdiff_t n)
{
    _mm512_mask_storeu_pd(p, first_lanes(n), a);
}
SF_INLINE vec vadd(vec a, vec b) { return _mm512_add_pd(a, b); }
SF_INLINE vec vsub(vec a, vec b) { return _mm512_sub_pd(a, b); }
SF_INLINE vec vmul(vec a, vec b) { return _mm512_mul_pd(a, b); }
SF_INLINE vec vdiv(vec a, vec b) { return _mm512_div_pd(a, b); }
SF_INLINE vec vfma(vec a, vec b, vec c) { return _mm512_fmadd_pd(a, b, c); }
SF_INLINE vec vmax(vec a, vec b) { return _mm512_max_pd(a, b); }
SF_INLINE double vhmax(vec a)
{
    a = _mm512_max_pd(a, _mm512_shuffle_f64x2(a, a, 0x4e));
    a = _mm512_max_pd(a, _mm512_shuffle_f64x2(a, a, 0xb1));
    a = _mm512_max_pd(a, _mm512_shuffle_pd(a, a, 0x55));
    return _mm512_cvtsd_f64(a);
}
SF_INLINE double vtotal(vec sum, vec lost)
{
    sum = _mm512_sub_pd(sum, lost);
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(sum), _mm512_extractf64x4_pd(sum, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
SF_INLINE vec vpow2(vec z)
{
    static const SF_ALIGNED(64) uint64_t table[16] = {
        0x0000000000000000, 0xffffb5586cf9890f, 0xffff72b83c7d517b, 0xffff387a6e756238,
        0xffff06fe0a31b715, 0xfffedea64c123422, 0xfffebfdad5362a27, 0xfffeab07dd485429,
        0xfffea09e667f3bcd, 0xfffea11473eb0187, 0xfffeace5422aa0db, 0xfffec49182a3f090,
        0xfffee89f995ad3ad, 0xffff199bdd85529c, 0xffff5818dcfba487, 0xffffa4afa2a490da};
    __m512i n = _mm512_castpd_si512(z);
    __m512i entry = _mm512_permutex2var_epi64(_mm512_load_si512(table), n, _mm512_load_si512(table + 8));
    return _mm512_castsi512_pd(_mm512_add_epi64(_mm512_slli_epi64(n, 48), entry));
}
SF_INLINE unsigned vequal_mask(vec a, vec b)
{
    return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ);
}
SF_INLINE vec vzero_where_zero(vec test, vec a)
{
    return _mm512_mask_mov_pd(a, _mm512_cmp_pd_mask(test, _mm512_setzero_pd(), _CMP_EQ_OQ),
                              _mm512_setzero_pd());
}
SF_INLINE vec vadd_one_where_ge(vec sum, vec a, vec b)
{
    return _mm512_mask_add_pd(sum, _mm512_cmp_pd_mask(a, b, _CMP_GE_OQ), sum, _mm512_set1_pd(1.0));
}
SF_INLINE vec vselect_ge(vec a, vec b, vec x, vec y)
{
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_GE_OQ), y, x);
}
SF_INLINE vec vadd_one_where_zero(vec sum, vec test)
{
    return _mm512_mask_add_pd(sum, _mm512_cmp_pd_mask(test, _mm512_setzero_pd(), _CMP_EQ_OQ), sum,
                              _mm512_set1_pd(1.0));
}
SF_INLINE vec vwhere_less(vec a, vec b, vec yes, vec no)
{
    return _mm512_mask_mov_pd(no, _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), yes);
}
SF_INLINE vec vfraction(vec d, vec hi, vec lo, vec n)
{
    return _mm512_fmadd_pd(d, lo, _mm512_fmsub_pd(d, hi, n));
}
SF_INLINE vec load_4_pairs(const double *p, ptrdiff_t stride)
{
    __m512d r = _mm512_castpd128_pd512(_mm_loadu_pd(p));
    r = _mm512_insertf64x2(r, _mm_loadu_pd(p + 2 * stride), 1);
    r = _mm512_insertf64x2(r, _mm_loadu_pd(p + 4 * stride), 2);
    return _mm512_insertf64x2(r, _mm_loadu_pd(p + 6 * stride), 3);
}
SF_INLINE void store_4_pairs(double *p, ptrdiff_t stride, vec r)
{
    _mm_storeu_pd(p, _mm512_castpd512_pd128(r));
    _mm_storeu_pd(p + 2 * stride, _mm512_extractf64x2_pd(r, 1));
    _mm_storeu_pd(p + 4 * stride, _mm512_extractf64x2_pd(r, 2));
    _mm_storeu_pd(p + 6 * stride, _mm512_extractf64x2_pd(r, 3));
}
SF_INLINE void vload_transposed(const double *p, ptrdiff_t stride, vec *columns)
{
    __m512d even = load_4_pairs(p, stride), odd = load_4_pairs(p + stride, stride);
    columns[0] = _mm512_unpacklo_pd(even, odd);
    columns[1] = _mm512_unpackhi_pd(even, odd);
}
SF_INLINE void vstore_transposed(double *p, ptrdiff_t stride, const vec *columns)
{
    store_4_pairs(p, stride, _mm512_unpacklo_pd(columns[0], columns[1]));
    store_4_pairs(p + stride, stride, _mm512_unpackhi_pd(columns[0], columns[1]));
}
SF_INLINE vec vsplit(vec u, vec *mantissa, vec *scale)
{
    const __m512i sqrt_half = _mm512_set1_epi64((long long)SF_SQRT_HALF_BITS);
    __m512i bits = _mm512_add_epi64(
        _mm512_castpd_si512(u),
        _mm512_set1_epi64((long long)(0x3ff0000000000000u - SF_SQRT_HALF_BITS)));
    __m512i exponent = _mm512_srli_epi64(bits, 52);
    bits = _mm512_and_si512(bits, _mm512_set1_epi64(0xfffffffffffff));
    *mantissa = _mm512_castsi512_pd(_mm512_add_epi64(bits, sqrt_half));
    *scale = _mm512_castsi512_pd(
        _mm512_slli_epi64(_mm512_sub_epi64(_mm512_set1_epi64(2047), exponent), 52));
    return _mm512_cvtepi64_pd(_mm512_sub_epi64(exponent, _mm512_set1_epi64(1023)));
}

#endif

#endif
