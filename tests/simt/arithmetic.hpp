// Arithmetic that CUDA knows and C++ does not. A function with a rounding in its name is never fused into another.
#pragma once

extern "C" {
float expf(float); float exp2f(float); float exp10f(float); float expm1f(float);
float logf(float); float log2f(float); float log10f(float); float log1pf(float);
float sqrtf(float); float cbrtf(float); float powf(float, float); float fmaf(float, float, float);
float sinf(float); float cosf(float); float tanf(float); float tanhf(float); float erff(float); float atan2f(float, float);
float fabsf(float); float fminf(float, float); float fmaxf(float, float); float fmodf(float, float);
float floorf(float); float ceilf(float); float truncf(float); float roundf(float); float rintf(float);
float copysignf(float, float); float ldexpf(float, int); float scalbnf(float, int); float frexpf(float, int*);
int ilogbf(float); float nextafterf(float, float);
double exp(double); double exp2(double); double log(double); double log2(double); double log1p(double);
double sqrt(double); double pow(double, double); double fma(double, double, double); double fabs(double);
double fmin(double, double); double fmax(double, double); double floor(double); double ceil(double);
double ldexp(double, int); double rint(double); double trunc(double); double copysign(double, double);
int printf(const char*, ...);
void* memcpy(void*, const void*, size_t); void* memset(void*, int, size_t);
}
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)
#define isfinite(x) __builtin_isfinite(x)

#define SIMT_PURE static inline __attribute__((always_inline, no_sanitize("thread")))

SIMT_PURE float simt_apart(float value) { asm("" : "+x"(value)); return value; }
SIMT_PURE double simt_apart(double value) { asm("" : "+x"(value)); return value; }

SIMT_PURE float __fadd_rn(float a, float b) { return simt_apart(simt_apart(a) + simt_apart(b)); }
SIMT_PURE float __fsub_rn(float a, float b) { return simt_apart(simt_apart(a) - simt_apart(b)); }
SIMT_PURE float __fmul_rn(float a, float b) { return simt_apart(simt_apart(a) * simt_apart(b)); }
SIMT_PURE float __fdiv_rn(float a, float b) { return simt_apart(a) / b; }
SIMT_PURE float __frcp_rn(float a) { return 1.0f / a; }
SIMT_PURE float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
SIMT_PURE float __frsqrt_rn(float a) { return (float)(1.0 / __builtin_sqrt((double)a)); }
SIMT_PURE float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
SIMT_PURE double __dadd_rn(double a, double b) { return simt_apart(simt_apart(a) + simt_apart(b)); }
SIMT_PURE double __dmul_rn(double a, double b) { return simt_apart(simt_apart(a) * simt_apart(b)); }
SIMT_PURE double __dsub_rn(double a, double b) { return simt_apart(simt_apart(a) - simt_apart(b)); }
SIMT_PURE double __ddiv_rn(double a, double b) { return a / b; }
SIMT_PURE double __dsqrt_rn(double a) { return __builtin_sqrt(a); }
SIMT_PURE double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
SIMT_PURE float __double2float_rn(double a) { return (float)a; }

// Rounding upwards and downwards: the nearest value, stepped where it lies on the wrong side of the exact one.
SIMT_PURE float simt_up(double exact) {
    float near = (float)exact;
    return (double)near < exact ? __builtin_nextafterf(near, __builtin_inff()) : near;
}
SIMT_PURE float simt_down(double exact) { return -simt_up(-exact); }
SIMT_PURE float __fadd_ru(float a, float b) { float s = a + b; double e = (double)a - (s - (double)b);
    return e > 0 ? __builtin_nextafterf(s, __builtin_inff()) : s; }
SIMT_PURE float __fadd_rd(float a, float b) { return -__fadd_ru(-a, -b); }
SIMT_PURE float __fsub_ru(float a, float b) { return __fadd_ru(a, -b); }
SIMT_PURE float __fsub_rd(float a, float b) { return __fadd_rd(a, -b); }
SIMT_PURE float __fmul_ru(float a, float b) { return simt_up((double)a * b); }
SIMT_PURE float __fmul_rd(float a, float b) { return simt_down((double)a * b); }
SIMT_PURE float __fdiv_ru(float a, float b) { float q = a / b; double r = __builtin_fma(-(double)q, (double)b, (double)a);
    return (b > 0 ? r > 0 : r < 0) ? __builtin_nextafterf(q, __builtin_inff()) : q; }
SIMT_PURE float __fdiv_rd(float a, float b) { return -__fdiv_ru(-a, b); }
SIMT_PURE float __fsqrt_ru(float a) { float s = __builtin_sqrtf(a);
    return (double)s * s < a ? __builtin_nextafterf(s, __builtin_inff()) : s; }
SIMT_PURE float __fsqrt_rd(float a) { float s = __builtin_sqrtf(a);
    return (double)s * s > a ? __builtin_nextafterf(s, 0.0f) : s; }
SIMT_PURE float __double2float_ru(double a) { return simt_up(a); }
SIMT_PURE float __double2float_rd(double a) { return simt_down(a); }

// The fast ones, as inexact as their definitions through ex2 and lg2 make them.
SIMT_PURE float __expf(float a) { return exp2f(a * 1.4426950408889634f); }
SIMT_PURE float __exp2f(float a) { return exp2f(a); }
SIMT_PURE float __logf(float a) { return log2f(a) * 0.6931471805599453f; }
SIMT_PURE float __log2f(float a) { return log2f(a); }
SIMT_PURE float __fdividef(float a, float b) { return a * (1.0f / b); }
SIMT_PURE float __powf(float a, float b) { return exp2f(b * log2f(a)); }
SIMT_PURE float rsqrtf(float a) { return (float)(1.0 / __builtin_sqrt((double)a)); }
SIMT_PURE float __saturatef(float a) { return a > 0 ? (a < 1 ? a : 1) : 0; }

template <class To, class From> SIMT_PURE To simt_bits(From from) { return __builtin_bit_cast(To, from); }
SIMT_PURE unsigned __float_as_uint(float a) { return simt_bits<unsigned>(a); }
SIMT_PURE int __float_as_int(float a) { return simt_bits<int>(a); }
SIMT_PURE float __uint_as_float(unsigned a) { return simt_bits<float>(a); }
SIMT_PURE float __int_as_float(int a) { return simt_bits<float>(a); }
SIMT_PURE long long __double_as_longlong(double a) { return simt_bits<long long>(a); }
SIMT_PURE double __longlong_as_double(long long a) { return simt_bits<double>(a); }
SIMT_PURE double __hiloint2double(int hi, int lo) {
    return simt_bits<double>(((unsigned long long)(unsigned)hi << 32) | (unsigned)lo);
}

// Conversions saturate, and NaN becomes 0.
template <class To> SIMT_PURE To simt_saturate(double a, double low, double high, To most) {
    if (a != a) return 0;
    return a <= low ? (To)low : a >= high ? most : (To)a;
}
SIMT_PURE int simt_int(double a) { return simt_saturate<int>(a, -2147483648.0, 2147483647.0, 2147483647); }
SIMT_PURE unsigned simt_uint(double a) { return simt_saturate<unsigned>(a, 0.0, 4294967295.0, 4294967295u); }
SIMT_PURE long long simt_long(double a) {
    return simt_saturate<long long>(a, -9223372036854775808.0, 9223372036854775808.0, 9223372036854775807ll);
}
SIMT_PURE unsigned long long simt_ulong(double a) {
    return simt_saturate<unsigned long long>(a, 0.0, 18446744073709551616.0, 18446744073709551615ull);
}
#define SIMT_ROUNDINGS(from, T, to, F)                                       \
    SIMT_PURE T __##from##2##to##_rn(F a) { return simt_##to(__builtin_rint(a)); }  \
    SIMT_PURE T __##from##2##to##_rz(F a) { return simt_##to(__builtin_trunc(a)); } \
    SIMT_PURE T __##from##2##to##_ru(F a) { return simt_##to(__builtin_ceil(a)); }  \
    SIMT_PURE T __##from##2##to##_rd(F a) { return simt_##to(__builtin_floor(a)); }
#define simt_ll simt_long
#define simt_ull simt_ulong
SIMT_ROUNDINGS(float, int, int, float)
SIMT_ROUNDINGS(float, unsigned, uint, float)
SIMT_ROUNDINGS(float, long long, ll, float)
SIMT_ROUNDINGS(float, unsigned long long, ull, float)
SIMT_ROUNDINGS(double, int, int, double)
SIMT_ROUNDINGS(double, unsigned, uint, double)
SIMT_ROUNDINGS(double, long long, ll, double)
SIMT_ROUNDINGS(double, unsigned long long, ull, double)
#undef SIMT_ROUNDINGS
SIMT_PURE float __int2float_rn(int a) { return (float)a; }
SIMT_PURE float __uint2float_rn(unsigned a) { return (float)a; }
SIMT_PURE float __ll2float_rn(long long a) { return (float)a; }
SIMT_PURE float __ull2float_rn(unsigned long long a) { return (float)a; }
SIMT_PURE double __int2double_rn(int a) { return a; }
SIMT_PURE double __uint2double_rn(unsigned a) { return a; }

SIMT_PURE unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
SIMT_PURE int __mulhi(int a, int b) { return (int)(((long long)a * b) >> 32); }
SIMT_PURE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
SIMT_PURE long long __mul64hi(long long a, long long b) { return (long long)(((__int128)a * b) >> 64); }
SIMT_PURE int __popc(unsigned a) { return __builtin_popcount(a); }
SIMT_PURE int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
SIMT_PURE int __clz(int a) { return a ? __builtin_clz((unsigned)a) : 32; }
SIMT_PURE int __clzll(long long a) { return a ? __builtin_clzll((unsigned long long)a) : 64; }
SIMT_PURE int __ffs(int a) { return __builtin_ffs(a); }
SIMT_PURE int __ffsll(long long a) { return __builtin_ffsll(a); }
SIMT_PURE unsigned __brev(unsigned a) {
    unsigned r = 0;
    for (int bit = 0; bit < 32; bit++) r |= ((a >> bit) & 1u) << (31 - bit);
    return r;
}
SIMT_PURE unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned by) {
    return (unsigned)(((((unsigned long long)hi << 32) | lo) << (by & 31)) >> 32);
}
SIMT_PURE unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned by) {
    return (unsigned)((((unsigned long long)hi << 32) | lo) >> (by & 31));
}
SIMT_PURE unsigned __byte_perm(unsigned a, unsigned b, unsigned select) {
    unsigned long long both = ((unsigned long long)b << 32) | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned which = (select >> (4 * i)) & 15, byte = (unsigned)(both >> (8 * (which & 7))) & 255;
        if (which & 8) byte = byte & 128 ? 255 : 0;
        r |= byte << (8 * i);
    }
    return r;
}
SIMT_PURE int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (signed char)(a >> (8 * i)) * (signed char)(b >> (8 * i));
    return c;
}

#define SIMT_MIN_MAX(T)                                    \
    SIMT_PURE T min(T a, T b) { return b < a ? b : a; }    \
    SIMT_PURE T max(T a, T b) { return a < b ? b : a; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
SIMT_PURE float min(float a, float b) { return fminf(a, b); }
SIMT_PURE float max(float a, float b) { return fmaxf(a, b); }
SIMT_PURE double min(double a, double b) { return fmin(a, b); }
SIMT_PURE double max(double a, double b) { return fmax(a, b); }
SIMT_PURE unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
SIMT_PURE unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
SIMT_PURE unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
SIMT_PURE unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
SIMT_PURE int abs(int a) { return a < 0 ? -a : a; }
SIMT_PURE long long abs(long long a) { return a < 0 ? -a : a; }
SIMT_PURE float abs(float a) { return fabsf(a); }
SIMT_PURE double abs(double a) { return fabs(a); }
SIMT_PURE unsigned umin(unsigned a, unsigned b) { return min(a, b); }
SIMT_PURE unsigned umax(unsigned a, unsigned b) { return max(a, b); }

template <class T> static inline T __ldg(const T* address) { return *address; }
template <class T> static inline T __ldcg(const T* address) { return *address; }
template <class T> static inline T __ldca(const T* address) { return *address; }
template <class T> static inline T __ldcs(const T* address) { return *address; }
template <class T> static inline T __ldlu(const T* address) { return *address; }
template <class T> static inline T __ldcv(const T* address) { return *address; }
template <class T> static inline void __stcg(T* address, T value) { *address = value; }
template <class T> static inline void __stcs(T* address, T value) { *address = value; }
template <class T> static inline void __stwb(T* address, T value) { *address = value; }
template <class T> static inline void __stwt(T* address, T value) { *address = value; }
