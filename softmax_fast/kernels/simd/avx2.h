/* The vocabulary of generic.h with AVX2, FMA and F16C: 8 floats or 4 doubles.  Opens the region, which
 * the unit closes. */
#ifndef SF_SIMD_AVX2_H
#define SF_SIMD_AVX2_H

#include <immintrin.h>
#if defined(__clang__) && defined(_MSC_VER)
/* There, immintrin.h leaves out what the command line does not ask for. */
#include <pmmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
#include <fmaintrin.h>
#endif

#define SF_ISA avx2
#define SF_STREAM_FENCE() _mm_sfence()

SF_TARGET_BEGIN_AVX2

static const SF_ALIGNED(32) int32_t first_lanes_mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

#if !SF_DOUBLE

#define LANES 8
#define COLUMNS 4
#define POW2_BITS 3
#define EXP_INTERLEAVE 2
#define PRODUCT_CLASSES 6
#define PRODUCT_DEPTH 384

typedef __m256 vec;
SF_INLINE __m256i first_lanes(ptrdiff_t n)
{
    return _mm256_loadu_si256((const __m256i *)(first_lanes_mask + 8 - n));
}
SF_INLINE vec vset1(float a) { return _mm256_set1_ps(a); }
SF_INLINE vec vload(const float *p) { return _mm256_loadu_ps(p); }
SF_INLINE void vstore(float *p, vec a) { _mm256_storeu_ps(p, a); }
SF_INLINE void vstream(float *p, vec a) { _mm256_stream_ps(p, a); }
SF_INLINE vec vload_first(const float *p, ptrdiff_t n, float fill)
{
    __m256i mask = first_lanes(n);
    return _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, mask),
                            _mm256_castsi256_ps(mask));
}
/* In pieces: a masked store costs some twenty operations on AMD's cores. */
SF_INLINE void vstore_first(float *p, vec a, ptrdiff_t n)
{
    __m128 part = _mm256_castps256_ps128(a);
    if (n & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps(a, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, part);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
    if (n & 1)
        _mm_store_ss(p, part);
}
SF_INLINE vec vadd(vec a, vec b) { return _mm256_add_ps(a, b); }
SF_INLINE vec vsub(vec a, vec b) { return _mm256_sub_ps(a, b); }
SF_INLINE vec vmul(vec a, vec b) { return _mm256_mul_ps(a, b); }
SF_INLINE vec vdiv(vec a, vec b) { return _mm256_div_ps(a, b); }
SF_INLINE vec vfma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
SF_INLINE vec vmax(vec a, vec b) { return _mm256_max_ps(a, b); }
SF_INLINE float vhmax(vec a)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    m = _mm_max_ss(m, _mm_movehdup_ps(m));
    return _mm_cvtss_f32(m);
}
SF_INLINE double vtotal(vec sum, vec lost)
{
    __m256d low = _mm256_sub_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(sum)),
                                _mm256_cvtps_pd(_mm256_castps256_ps128(lost)));
    __m256d high = _mm256_sub_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(sum, 1)),
                                 _mm256_cvtps_pd(_mm256_extractf128_ps(lost, 1)));
    low = _mm256_add_pd(low, high);
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(low), _mm256_extractf128_pd(low, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
SF_INLINE vec vpow2(vec z)
{
    static const SF_ALIGNED(32) uint32_t table[8] = {
        0x00000000, 0xfffb95c2, 0xfff837f0, 0xfff5fed7, 0xfff504f3, 0xfff5672a, 0xfff744fd, 0xfffac0c7};
    __m256i n = _mm256_castps_si256(z);
    __m256i entry = _mm256_permutevar8x32_epi32(_mm256_load_si256((const __m256i *)table), n);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(n, 20), entry));
}
SF_INLINE unsigned vequal_mask(vec a, vec b)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}
SF_INLINE vec vzero_where_zero(vec test, vec a)
{
    return _mm256_andnot_ps(_mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_EQ_OQ), a);
}
SF_INLINE vec vadd_one_where_ge(vec sum, vec a, vec b)
{
    return _mm256_add_ps(sum, _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ), _mm256_set1_ps(1.0f)));
}
SF_INLINE vec vselect_ge(vec a, vec b, vec x, vec y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GE_OQ));
}
SF_INLINE vec vadd_one_where_zero(vec sum, vec test)
{
    return _mm256_add_ps(sum, _mm256_and_ps(_mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_EQ_OQ),
                                            _mm256_set1_ps(1.0f)));
}
SF_INLINE vec vwhere_less(vec a, vec b, vec yes, vec no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
SF_INLINE vec vfraction(vec d, vec hi, vec lo, vec n)
{
    return _mm256_fmadd_ps(d, lo, _mm256_fmsub_ps(d, hi, n));
}
/* Rows i and i + 4 share a register, so that 4 x 4 transposes within 128 bits put the rows in order. */
SF_INLINE void vtranspose_4x4(vec *r)
{
    __m256 low_01 = _mm256_unpacklo_ps(r[0], r[1]), high_01 = _mm256_unpackhi_ps(r[0], r[1]);
    __m256 low_23 = _mm256_unpacklo_ps(r[2], r[3]), high_23 = _mm256_unpackhi_ps(r[2], r[3]);
    r[0] = _mm256_shuffle_ps(low_01, low_23, 0x44);
    r[1] = _mm256_shuffle_ps(low_01, low_23, 0xee);
    r[2] = _mm256_shuffle_ps(high_01, high_23, 0x44);
    r[3] = _mm256_shuffle_ps(high_01, high_23, 0xee);
}
SF_INLINE void vload_transposed(const float *p, ptrdiff_t stride, vec *columns)
{
    for (int i = 0; i < 4; i++)
        columns[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + i * stride)),
                                          _mm_loadu_ps(p + (i + 4) * stride), 1);
    vtranspose_4x4(columns);
}
SF_INLINE void vstore_transposed(float *p, ptrdiff_t stride, const vec *columns)
{
    vec r[4] = {columns[0], columns[1], columns[2], columns[3]};
    vtranspose_4x4(r);
    for (int i = 0; i < 4; i++) {
        _mm_storeu_ps(p + i * stride, _mm256_castps256_ps128(r[i]));
        _mm_storeu_ps(p + (i + 4) * stride, _mm256_extractf128_ps(r[i], 1));
    }
}
SF_INLINE vec vsplit(vec u, vec *mantissa, vec *scale)
{
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(u),
                                    _mm256_set1_epi32(0x3f800000 - SF_SQRT_HALF_BITS_F32));
    __m256i exponent = _mm256_srli_epi32(bits, 23);
    bits = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff));
    *mantissa =
        _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(SF_SQRT_HALF_BITS_F32)));
    *scale =
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_sub_epi32(_mm256_set1_epi32(255), exponent), 23));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(exponent, _mm256_set1_epi32(127)));
}
SF_INLINE vec vload_doubles(const double *p)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(_mm256_loadu_pd(p))),
                                _mm256_cvtpd_ps(_mm256_loadu_pd(p + 4)), 1);
}
SF_INLINE void vstore_doubles(double *p, vec a)
{
    _mm256_storeu_pd(p, _mm256_cvtps_pd(_mm256_castps256_ps128(a)));
    _mm256_storeu_pd(p + 4, _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
}
SF_INLINE vec vload_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
SF_INLINE void vwiden_f16(const uint16_t *p, float *out, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + i))));
    for (; i < n; i++)
        out[i] = sf_float_from_half(p[i]);
}

#else

#define LANES 4
#define COLUMNS 2
#define POW2_BITS 1
#define EXP_INTERLEAVE 4
#define PRODUCT_CLASSES 6
#define PRODUCT_DEPTH 384

typedef __m256d vec;
SF_INLINE __m256i first_lanes(ptrdiff_t n)
{
    return _mm256_loadu_si256((const __m256i *)(first_lanes_mask + 8 - 2 * n));
}
SF_INLINE vec vset1(double a) { return _mm256_set1_pd(a); }
SF_INLINE vec vload(const double *p) { return _mm256_loadu_pd(p); }
SF_INLINE void vstore(double *p, vec a) { _mm256_storeu_pd(p, a); }
SF_INLINE void vstream(double *p, vec a) { _mm256_stream_pd(p, a); }
SF_INLINE vec vload_first(const double *p, ptrdiff_t n, double fill)
{
    __m256i mask = first_lanes(n);
    return _mm256_blendv_pd(_mm256_set1_pd(fill), _mm256_maskload_pd(p, mask),
                            _mm256_castsi256_pd(mask));
}
SF_INLINE void vstore_first(double *p, vec a, ptrdiff_t n)
{
    __m128d part = _mm256_castpd256_pd128(a);
    if (n & 2) {
        _mm_storeu_pd(p, part);
        part = _mm256_extractf128_pd(a, 1);
        p += 2;
    }
    if (n & 1)
        _mm_store_sd(p, part);
}
SF_INLINE vec vadd(vec a, vec b) { return _mm256_add_pd(a, b); }
SF_INLINE vec vsub(vec a, vec b) { return _mm256_sub_pd(a, b); }
SF_INLINE vec vmul(vec a, vec b) { return _mm256_mul_pd(a, b); }
SF_INLINE vec vdiv(vec a, vec b) { return _mm256_div_pd(a, b); }
SF_INLINE vec vfma(vec a, vec b, vec c) { return _mm256_fmadd_pd(a, b, c); }
SF_INLINE vec vmax(vec a, vec b) { return _mm256_max_pd(a, b); }
SF_INLINE double vhmax(vec a)
{
    __m128d m = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(m, _mm_unpackhi_pd(m, m)));
}
SF_INLINE double vtotal(vec sum, vec lost)
{
    sum = _mm256_sub_pd(sum, lost);
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd(sum, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
SF_INLINE vec vpow2(vec z)
{
    static const SF_ALIGNED(32) uint64_t table[4] = {0, 0xfffea09e667f3bcd, 0, 0xfffea09e667f3bcd};
    __m256i n = _mm256_castpd_si256(z); /* the permutation looks at the second bit */
    __m256d entry = _mm256_permutevar_pd(_mm256_load_pd((const double *)table), _mm256_add_epi64(n, n));
    return _mm256_castsi256_pd(_mm256_add_epi64(_mm256_slli_epi64(n, 51), _mm256_castpd_si256(entry)));
}
SF_INLINE unsigned vequal_mask(vec a, vec b)
{
    return (unsigned)_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_EQ_OQ));
}
SF_INLINE vec vzero_where_zero(vec test, vec a)
{
    return _mm256_andnot_pd(_mm256_cmp_pd(test, _mm256_setzero_pd(), _CMP_EQ_OQ), a);
}
SF_INLINE vec vadd_one_where_ge(vec sum, vec a, vec b)
{
    return _mm256_add_pd(sum, _mm256_and_pd(_mm256_cmp_pd(a, b, _CMP_GE_OQ), _mm256_set1_pd(1.0)));
}
SF_INLINE vec vselect_ge(vec a, vec b, vec x, vec y)
{
    return _mm256_blendv_pd(y, x, _mm256_cmp_pd(a, b, _CMP_GE_OQ));
}
SF_INLINE vec vadd_one_where_zero(vec sum, vec test)
{
    return _mm256_add_pd(sum, _mm256_and_pd(_mm256_cmp_pd(test, _mm256_setzero_pd(), _CMP_EQ_OQ),
                                            _mm256_set1_pd(1.0)));
}
SF_INLINE vec vwhere_less(vec a, vec b, vec yes, vec no)
{
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(a, b, _CMP_LT_OQ));
}
SF_INLINE vec vfraction(vec d, vec hi, vec lo, vec n)
{
    return _mm256_fmadd_pd(d, lo, _mm256_fmsub_pd(d, hi, n));
}
SF_INLINE void vload_transposed(const double *p, ptrdiff_t stride, vec *columns)
{
    __m256d rows_02 = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)),
                                           _mm_loadu_pd(p + 2 * stride), 1);
    __m256d rows_13 = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p + stride)),
                                           _mm_loadu_pd(p + 3 * stride), 1);
    columns[0] = _mm256_unpacklo_pd(rows_02, rows_13);
    columns[1] = _mm256_unpackhi_pd(rows_02, rows_13);
}
SF_INLINE void vstore_transposed(double *p, ptrdiff_t stride, const vec *columns)
{
    __m256d rows_02 = _mm256_unpacklo_pd(columns[0], columns[1]);
    __m256d rows_13 = _mm256_unpackhi_pd(columns[0], columns[1]);
    _mm_storeu_pd(p, _mm256_castpd256_pd128(rows_02));
    _mm_storeu_pd(p + stride, _mm256_castpd256_pd128(rows_13));
    _mm_storeu_pd(p + 2 * stride, _mm256_extractf128_pd(rows_02, 1));
    _mm_storeu_pd(p + 3 * stride, _mm256_extractf128_pd(rows_13, 1));
}
SF_INLINE vec vsplit(vec u, vec *mantissa, vec *scale)
{
    const __m256i sqrt_half = _mm256_set1_epi64x((long long)SF_SQRT_HALF_BITS);
    const __m256d two_52 = _mm256_set1_pd(4503599627370496.0);
    __m256i bits = _mm256_add_epi64(
        _mm256_castpd_si256(u),
        _mm256_set1_epi64x((long long)(0x3ff0000000000000u - SF_SQRT_HALF_BITS)));
    __m256i exponent = _mm256_srli_epi64(bits, 52);
    bits = _mm256_and_si256(bits, _mm256_set1_epi64x(0xfffffffffffff));
    *mantissa = _mm256_castsi256_pd(_mm256_add_epi64(bits, sqrt_half));
    *scale = _mm256_castsi256_pd(
        _mm256_slli_epi64(_mm256_sub_epi64(_mm256_set1_epi64x(2047), exponent), 52));
    exponent = _mm256_or_si256(exponent, _mm256_castpd_si256(two_52));
    return _mm256_sub_pd(_mm256_castsi256_pd(exponent), _mm256_set1_pd(4503599627370496.0 + 1023));
}

#endif

#endif
