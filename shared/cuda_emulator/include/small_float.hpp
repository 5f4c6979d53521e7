// What __half and __nv_bfloat16 have in common: 16 bits that are computed with in float and rounded after each
// operation. For + - * / and sqrt that is the correctly rounded result, since float has more than twice the bits.
//
//     EMULATOR_SMALL_FLOAT(type, pair, name, from_float, to_float)    name: half, as in __int2half_rn
#pragma once

// From a wider type through float to 16 bits, float must not round: it keeps what is cut off as an odd last bit.
template <class Wide>
static inline float emulator_to_odd(Wide x) {
    const float f = (float)x;
    if ((Wide)f == x || x != x) return f;
    const unsigned bits = __float_as_uint(f), cut = (f < 0 ? (Wide)f < x : (Wide)f > x) ? bits - 1 : bits;
    return __uint_as_float(cut | 1u);
}
// The neighbour below (_rd), above (_ru) or nearer to 0 (_rz), where x lies between two values.
template <class T>
static inline T emulator_small_toward(double x, char mode) {
    T nearest(x);
    const double value = (float)nearest;
    const bool down = mode == 'd' || (mode == 'z' && x > 0), up = mode == 'u' || (mode == 'z' && x < 0);
    const bool negative = nearest.bits & 0x8000;
    if (value > x && down) nearest.bits += negative ? 1 : -1;
    if (value < x && up) nearest.bits += negative ? -1 : 1;
    return nearest;
}

#define EMULATOR_SMALL_SCALAR(T, from_float, to_float)                                                  \
    struct alignas(2) T {                                                                               \
        unsigned short bits;                                                                            \
        T() = default;                                                                                  \
        T(float x) : bits(from_float(x)) {}                                                             \
        T(double x) : bits(from_float(emulator_to_odd(x))) {}                                           \
        T(int x) : bits(from_float(emulator_to_odd((double)x))) {}                                      \
        T(unsigned x) : bits(from_float(emulator_to_odd((double)x))) {}                                 \
        T(long x) : bits(from_float(emulator_to_odd((long double)x))) {}                                \
        T(unsigned long x) : bits(from_float(emulator_to_odd((long double)x))) {}                       \
        T(long long x) : bits(from_float(emulator_to_odd((long double)x))) {}                           \
        T(unsigned long long x) : bits(from_float(emulator_to_odd((long double)x))) {}                  \
        operator float() const { return to_float(bits); }                                               \
        T& operator+=(const T& other) { return *this = T((float)*this + (float)other); }                \
        T& operator-=(const T& other) { return *this = T((float)*this - (float)other); }                \
        T& operator*=(const T& other) { return *this = T((float)*this * (float)other); }                \
        T& operator/=(const T& other) { return *this = T((float)*this / (float)other); }                \
    };                                                                                                  \
    static inline T operator+(const T& a, const T& b) { return T((float)a + (float)b); }                \
    static inline T operator-(const T& a, const T& b) { return T((float)a - (float)b); }                \
    static inline T operator*(const T& a, const T& b) { return T((float)a * (float)b); }                \
    static inline T operator/(const T& a, const T& b) { return T((float)a / (float)b); }                \
    static inline T operator-(const T& a) { return T(-(float)a); }                                      \
    static inline bool operator==(const T& a, const T& b) { return (float)a == (float)b; }              \
    static inline bool operator!=(const T& a, const T& b) { return (float)a != (float)b; }              \
    static inline bool operator<(const T& a, const T& b) { return (float)a < (float)b; }                \
    static inline bool operator>(const T& a, const T& b) { return (float)a > (float)b; }                \
    static inline bool operator<=(const T& a, const T& b) { return (float)a <= (float)b; }              \
    static inline bool operator>=(const T& a, const T& b) { return (float)a >= (float)b; }              \
    static inline T __hadd(T a, T b) { return a + b; }                                                  \
    static inline T __hadd_rn(T a, T b) { return a + b; }                                               \
    static inline T __hadd_sat(T a, T b) { return T(__saturatef(a + b)); }                              \
    static inline T __hsub(T a, T b) { return a - b; }                                                  \
    static inline T __hsub_rn(T a, T b) { return a - b; }                                               \
    static inline T __hsub_sat(T a, T b) { return T(__saturatef(a - b)); }                              \
    static inline T __hmul(T a, T b) { return a * b; }                                                  \
    static inline T __hmul_rn(T a, T b) { return a * b; }                                               \
    static inline T __hmul_sat(T a, T b) { return T(__saturatef(a * b)); }                              \
    static inline T __hdiv(T a, T b) { return a / b; }                                                  \
    static inline T __hfma(T a, T b, T c) { return T((double)(float)a * (float)b + (float)c); }         \
    static inline T __hfma_sat(T a, T b, T c) { return T(__saturatef(__hfma(a, b, c))); }               \
    static inline T __hfma_relu(T a, T b, T c) {                                                        \
        const T x = __hfma(a, b, c);                                                                    \
        return (float)x < 0.0f ? T(0.0f) : x;                                                           \
    }                                                                                                   \
    static inline T __hneg(T a) { return -a; }                                                          \
    static inline T __habs(T a) { return T(fabsf(a)); }                                                 \
    static inline bool __hisnan(T a) { return (float)a != (float)a; }                                   \
    static inline int __hisinf(T a) { return fabsf(a) != INFINITY ? 0 : (float)a > 0 ? 1 : -1; }        \
    static inline T __hmax(T a, T b) { return T(fmaxf(a, b)); }                                         \
    static inline T __hmin(T a, T b) { return T(fminf(a, b)); }                                         \
    static inline T __hmax_nan(T a, T b) { return __hisnan(a) || __hisnan(b) ? T(NAN) : __hmax(a, b); } \
    static inline T __hmin_nan(T a, T b) { return __hisnan(a) || __hisnan(b) ? T(NAN) : __hmin(a, b); } \
    static inline bool __heq(T a, T b) { return (float)a == (float)b; }                                 \
    static inline bool __hequ(T a, T b) { return __hisnan(a) || __hisnan(b) || (float)a == (float)b; }  \
    static inline bool __hne(T a, T b) { return !__hisnan(a) && !__hisnan(b) && (float)a != (float)b; } \
    static inline bool __hneu(T a, T b) { return __hisnan(a) || __hisnan(b) || (float)a != (float)b; }  \
    static inline bool __hlt(T a, T b) { return (float)a < (float)b; }                                  \
    static inline bool __hltu(T a, T b) { return __hisnan(a) || __hisnan(b) || (float)a < (float)b; }   \
    static inline bool __hgt(T a, T b) { return (float)a > (float)b; }                                  \
    static inline bool __hgtu(T a, T b) { return __hisnan(a) || __hisnan(b) || (float)a > (float)b; }   \
    static inline bool __hle(T a, T b) { return (float)a <= (float)b; }                                 \
    static inline bool __hleu(T a, T b) { return __hisnan(a) || __hisnan(b) || (float)a <= (float)b; }  \
    static inline bool __hge(T a, T b) { return (float)a >= (float)b; }                                 \
    static inline bool __hgeu(T a, T b) { return __hisnan(a) || __hisnan(b) || (float)a >= (float)b; }  \
    static inline T hexp(T a) { return T(expf(a)); }                                                    \
    static inline T hexp2(T a) { return T(exp2f(a)); }                                                  \
    static inline T hexp10(T a) { return T(exp10f(a)); }                                                \
    static inline T hlog(T a) { return T(logf(a)); }                                                    \
    static inline T hlog2(T a) { return T(log2f(a)); }                                                  \
    static inline T hlog10(T a) { return T(log10f(a)); }                                                \
    static inline T hsqrt(T a) { return T(sqrtf(a)); }                                                  \
    static inline T hrsqrt(T a) { return T(1.0 / sqrt((double)a)); }                                    \
    static inline T hrcp(T a) { return T(1.0f / (float)a); }                                            \
    static inline T hsin(T a) { return T(sinf(a)); }                                                    \
    static inline T hcos(T a) { return T(cosf(a)); }                                                    \
    static inline T htanh(T a) { return T(tanhf(a)); }                                                  \
    static inline T htanh_approx(T a) { return T(tanhf(a)); }                                           \
    static inline T hfloor(T a) { return T(floorf(a)); }                                                \
    static inline T hceil(T a) { return T(ceilf(a)); }                                                  \
    static inline T htrunc(T a) { return T(truncf(a)); }                                                \
    static inline T hrint(T a) { return T(rintf(a)); }

// To and from other types.
#define EMULATOR_SMALL_CONVERSIONS(T, name)                                                                 \
    static inline T __float2##name(float x) { return T(x); }                                                \
    static inline T __double2##name(double x) { return T(x); }                                              \
    static inline float __##name##2float(T x) { return x; }                                                 \
    static inline unsigned short __##name##_as_ushort(T x) { return x.bits; }                               \
    static inline short __##name##_as_short(T x) { return (short)x.bits; }                                  \
    static inline T __ushort_as_##name(unsigned short bits) {                                               \
        T x;                                                                                                \
        x.bits = bits;                                                                                      \
        return x;                                                                                           \
    }                                                                                                       \
    static inline T __short_as_##name(short bits) { return __ushort_as_##name((unsigned short)bits); }      \
    static inline T __float2##name##_rn(float x) { return T(x); }                                           \
    static inline T __int2##name##_rn(int x) { return T(x); }                                               \
    static inline T __uint2##name##_rn(unsigned x) { return T(x); }                                         \
    static inline T __short2##name##_rn(short x) { return T(x); }                                           \
    static inline T __ushort2##name##_rn(unsigned short x) { return T(x); }                                 \
    static inline T __ll2##name##_rn(long long x) { return T(x); }                                          \
    static inline T __ull2##name##_rn(unsigned long long x) { return T(x); }                                \
    static inline int __##name##2int_rn(T x) { return emulator_to_integer<int>(nearbyintf(x)); }            \
    static inline unsigned __##name##2uint_rn(T x) { return emulator_to_integer<unsigned>(nearbyintf(x)); } \
    static inline short __##name##2short_rn(T x) { return emulator_to_integer<short>(nearbyintf(x)); }      \
    static inline unsigned short __##name##2ushort_rn(T x) {                                                \
        return emulator_to_integer<unsigned short>(nearbyintf(x));                                          \
    }                                                                                                       \
    static inline long long __##name##2ll_rn(T x) { return emulator_to_integer<long long>(nearbyintf(x)); } \
    static inline unsigned long long __##name##2ull_rn(T x) {                                               \
        return emulator_to_integer<unsigned long long>(nearbyintf(x));                                      \
    }                                                                                                       \
    static inline T __float2##name##_rz(float x) { return emulator_small_toward<T>(x, 'z'); }               \
    static inline T __int2##name##_rz(int x) { return emulator_small_toward<T>(x, 'z'); }                   \
    static inline T __uint2##name##_rz(unsigned x) { return emulator_small_toward<T>(x, 'z'); }             \
    static inline T __short2##name##_rz(short x) { return emulator_small_toward<T>(x, 'z'); }               \
    static inline T __ushort2##name##_rz(unsigned short x) { return emulator_small_toward<T>(x, 'z'); }     \
    static inline int __##name##2int_rz(T x) { return emulator_to_integer<int>(truncf(x)); }                \
    static inline unsigned __##name##2uint_rz(T x) { return emulator_to_integer<unsigned>(truncf(x)); }     \
    static inline short __##name##2short_rz(T x) { return emulator_to_integer<short>(truncf(x)); }          \
    static inline unsigned short __##name##2ushort_rz(T x) {                                                \
        return emulator_to_integer<unsigned short>(truncf(x));                                              \
    }                                                                                                       \
    static inline long long __##name##2ll_rz(T x) { return emulator_to_integer<long long>(truncf(x)); }     \
    static inline unsigned long long __##name##2ull_rz(T x) {                                               \
        return emulator_to_integer<unsigned long long>(truncf(x));                                          \
    }                                                                                                       \
    static inline T __float2##name##_rd(float x) { return emulator_small_toward<T>(x, 'd'); }               \
    static inline T __int2##name##_rd(int x) { return emulator_small_toward<T>(x, 'd'); }                   \
    static inline T __uint2##name##_rd(unsigned x) { return emulator_small_toward<T>(x, 'd'); }             \
    static inline T __short2##name##_rd(short x) { return emulator_small_toward<T>(x, 'd'); }               \
    static inline T __ushort2##name##_rd(unsigned short x) { return emulator_small_toward<T>(x, 'd'); }     \
    static inline int __##name##2int_rd(T x) { return emulator_to_integer<int>(floorf(x)); }                \
    static inline unsigned __##name##2uint_rd(T x) { return emulator_to_integer<unsigned>(floorf(x)); }     \
    static inline short __##name##2short_rd(T x) { return emulator_to_integer<short>(floorf(x)); }          \
    static inline unsigned short __##name##2ushort_rd(T x) {                                                \
        return emulator_to_integer<unsigned short>(floorf(x));                                              \
    }                                                                                                       \
    static inline long long __##name##2ll_rd(T x) { return emulator_to_integer<long long>(floorf(x)); }     \
    static inline unsigned long long __##name##2ull_rd(T x) {                                               \
        return emulator_to_integer<unsigned long long>(floorf(x));                                          \
    }                                                                                                       \
    static inline T __float2##name##_ru(float x) { return emulator_small_toward<T>(x, 'u'); }               \
    static inline T __int2##name##_ru(int x) { return emulator_small_toward<T>(x, 'u'); }                   \
    static inline T __uint2##name##_ru(unsigned x) { return emulator_small_toward<T>(x, 'u'); }             \
    static inline T __short2##name##_ru(short x) { return emulator_small_toward<T>(x, 'u'); }               \
    static inline T __ushort2##name##_ru(unsigned short x) { return emulator_small_toward<T>(x, 'u'); }     \
    static inline int __##name##2int_ru(T x) { return emulator_to_integer<int>(ceilf(x)); }                 \
    static inline unsigned __##name##2uint_ru(T x) { return emulator_to_integer<unsigned>(ceilf(x)); }      \
    static inline short __##name##2short_ru(T x) { return emulator_to_integer<short>(ceilf(x)); }           \
    static inline unsigned short __##name##2ushort_ru(T x) {                                                \
        return emulator_to_integer<unsigned short>(ceilf(x));                                               \
    }                                                                                                       \
    static inline long long __##name##2ll_ru(T x) { return emulator_to_integer<long long>(ceilf(x)); }      \
    static inline unsigned long long __##name##2ull_ru(T x) {                                               \
        return emulator_to_integer<unsigned long long>(ceilf(x));                                           \
    }

// Two of them in one word.
#define EMULATOR_SMALL_PAIR(T, T2, name)                                                                              \
    struct alignas(4) T2 {                                                                                            \
        T x, y;                                                                                                       \
        T2() = default;                                                                                               \
        T2(T x, T y) : x(x), y(y) {}                                                                                  \
    };                                                                                                                \
    static inline T2 make_##name##2(T x, T y) { return {x, y}; }                                                      \
    static inline T2 __halves2##name##2(T x, T y) { return {x, y}; }                                                  \
    static inline T2 __##name##2##name##2(T x) { return {x, x}; }                                                     \
    static inline T2 __float2##name##2_rn(float x) { return {T(x), T(x)}; }                                           \
    static inline T2 __floats2##name##2_rn(float x, float y) { return {T(x), T(y)}; }                                 \
    static inline T2 __float22##name##2_rn(float2 v) { return {T(v.x), T(v.y)}; }                                     \
    static inline float2 __##name##22float2(T2 v) { return {(float)v.x, (float)v.y}; }                                \
    static inline T __low2##name(T2 v) { return v.x; }                                                                \
    static inline T __high2##name(T2 v) { return v.y; }                                                               \
    static inline T2 __low2##name##2(T2 v) { return {v.x, v.x}; }                                                     \
    static inline T2 __high2##name##2(T2 v) { return {v.y, v.y}; }                                                    \
    static inline T2 __lows2##name##2(T2 a, T2 b) { return {a.x, b.x}; }                                              \
    static inline T2 __highs2##name##2(T2 a, T2 b) { return {a.y, b.y}; }                                             \
    static inline T2 __lowhigh2highlow(T2 v) { return {v.y, v.x}; }                                                   \
    static inline float __low2float(T2 a) { return a.x; }                                                             \
    static inline float __high2float(T2 a) { return a.y; }                                                            \
    static inline T2 operator+(const T2& a, const T2& b) { return {a.x + b.x, a.y + b.y}; }                           \
    static inline T2& operator+=(T2& a, const T2& b) { return a = a + b; }                                            \
    static inline T2 operator-(const T2& a, const T2& b) { return {a.x - b.x, a.y - b.y}; }                           \
    static inline T2& operator-=(T2& a, const T2& b) { return a = a - b; }                                            \
    static inline T2 operator*(const T2& a, const T2& b) { return {a.x * b.x, a.y * b.y}; }                           \
    static inline T2& operator*=(T2& a, const T2& b) { return a = a * b; }                                            \
    static inline T2 operator/(const T2& a, const T2& b) { return {a.x / b.x, a.y / b.y}; }                           \
    static inline T2& operator/=(T2& a, const T2& b) { return a = a / b; }                                            \
    static inline T2 operator-(const T2& a) { return {-a.x, -a.y}; }                                                  \
    static inline T2 __hadd2(T2 a, T2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }                             \
    static inline T2 __hadd2_rn(T2 a, T2 b) { return {__hadd_rn(a.x, b.x), __hadd_rn(a.y, b.y)}; }                    \
    static inline T2 __hadd2_sat(T2 a, T2 b) { return {__hadd_sat(a.x, b.x), __hadd_sat(a.y, b.y)}; }                 \
    static inline T2 __hsub2(T2 a, T2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }                             \
    static inline T2 __hsub2_rn(T2 a, T2 b) { return {__hsub_rn(a.x, b.x), __hsub_rn(a.y, b.y)}; }                    \
    static inline T2 __hsub2_sat(T2 a, T2 b) { return {__hsub_sat(a.x, b.x), __hsub_sat(a.y, b.y)}; }                 \
    static inline T2 __hmul2(T2 a, T2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }                             \
    static inline T2 __hmul2_rn(T2 a, T2 b) { return {__hmul_rn(a.x, b.x), __hmul_rn(a.y, b.y)}; }                    \
    static inline T2 __hmul2_sat(T2 a, T2 b) { return {__hmul_sat(a.x, b.x), __hmul_sat(a.y, b.y)}; }                 \
    static inline T2 __h2div(T2 a, T2 b) { return {__hdiv(a.x, b.x), __hdiv(a.y, b.y)}; }                             \
    static inline T2 __hmax2(T2 a, T2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }                             \
    static inline T2 __hmin2(T2 a, T2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }                             \
    static inline T2 __hmax2_nan(T2 a, T2 b) { return {__hmax_nan(a.x, b.x), __hmax_nan(a.y, b.y)}; }                 \
    static inline T2 __hmin2_nan(T2 a, T2 b) { return {__hmin_nan(a.x, b.x), __hmin_nan(a.y, b.y)}; }                 \
    static inline T2 __heq2(T2 a, T2 b) { return {T((int)__heq(a.x, b.x)), T((int)__heq(a.y, b.y))}; }                \
    static inline bool __hbeq2(T2 a, T2 b) { return __heq(a.x, b.x) && __heq(a.y, b.y); }                             \
    static inline T2 __hequ2(T2 a, T2 b) { return {T((int)__hequ(a.x, b.x)), T((int)__hequ(a.y, b.y))}; }             \
    static inline bool __hbequ2(T2 a, T2 b) { return __hequ(a.x, b.x) && __hequ(a.y, b.y); }                          \
    static inline T2 __hne2(T2 a, T2 b) { return {T((int)__hne(a.x, b.x)), T((int)__hne(a.y, b.y))}; }                \
    static inline bool __hbne2(T2 a, T2 b) { return __hne(a.x, b.x) && __hne(a.y, b.y); }                             \
    static inline T2 __hneu2(T2 a, T2 b) { return {T((int)__hneu(a.x, b.x)), T((int)__hneu(a.y, b.y))}; }             \
    static inline bool __hbneu2(T2 a, T2 b) { return __hneu(a.x, b.x) && __hneu(a.y, b.y); }                          \
    static inline T2 __hlt2(T2 a, T2 b) { return {T((int)__hlt(a.x, b.x)), T((int)__hlt(a.y, b.y))}; }                \
    static inline bool __hblt2(T2 a, T2 b) { return __hlt(a.x, b.x) && __hlt(a.y, b.y); }                             \
    static inline T2 __hltu2(T2 a, T2 b) { return {T((int)__hltu(a.x, b.x)), T((int)__hltu(a.y, b.y))}; }             \
    static inline bool __hbltu2(T2 a, T2 b) { return __hltu(a.x, b.x) && __hltu(a.y, b.y); }                          \
    static inline T2 __hgt2(T2 a, T2 b) { return {T((int)__hgt(a.x, b.x)), T((int)__hgt(a.y, b.y))}; }                \
    static inline bool __hbgt2(T2 a, T2 b) { return __hgt(a.x, b.x) && __hgt(a.y, b.y); }                             \
    static inline T2 __hgtu2(T2 a, T2 b) { return {T((int)__hgtu(a.x, b.x)), T((int)__hgtu(a.y, b.y))}; }             \
    static inline bool __hbgtu2(T2 a, T2 b) { return __hgtu(a.x, b.x) && __hgtu(a.y, b.y); }                          \
    static inline T2 __hle2(T2 a, T2 b) { return {T((int)__hle(a.x, b.x)), T((int)__hle(a.y, b.y))}; }                \
    static inline bool __hble2(T2 a, T2 b) { return __hle(a.x, b.x) && __hle(a.y, b.y); }                             \
    static inline T2 __hleu2(T2 a, T2 b) { return {T((int)__hleu(a.x, b.x)), T((int)__hleu(a.y, b.y))}; }             \
    static inline bool __hbleu2(T2 a, T2 b) { return __hleu(a.x, b.x) && __hleu(a.y, b.y); }                          \
    static inline T2 __hge2(T2 a, T2 b) { return {T((int)__hge(a.x, b.x)), T((int)__hge(a.y, b.y))}; }                \
    static inline bool __hbge2(T2 a, T2 b) { return __hge(a.x, b.x) && __hge(a.y, b.y); }                             \
    static inline T2 __hgeu2(T2 a, T2 b) { return {T((int)__hgeu(a.x, b.x)), T((int)__hgeu(a.y, b.y))}; }             \
    static inline bool __hbgeu2(T2 a, T2 b) { return __hgeu(a.x, b.x) && __hgeu(a.y, b.y); }                          \
    static inline bool operator==(const T2& a, const T2& b) { return __hbeq2(a, b); }                                 \
    static inline bool operator!=(const T2& a, const T2& b) { return __hbneu2(a, b); }                                \
    static inline T2 __hfma2(T2 a, T2 b, T2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }             \
    static inline T2 __hfma2_sat(T2 a, T2 b, T2 c) { return {__hfma_sat(a.x, b.x, c.x), __hfma_sat(a.y, b.y, c.y)}; } \
    static inline T2 __hfma2_relu(T2 a, T2 b, T2 c) {                                                                 \
        return {__hfma_relu(a.x, b.x, c.x), __hfma_relu(a.y, b.y, c.y)};                                              \
    }                                                                                                                 \
    static inline T2 __hneg2(T2 a) { return {__hneg(a.x), __hneg(a.y)}; }                                             \
    static inline T2 __habs2(T2 a) { return {__habs(a.x), __habs(a.y)}; }                                             \
    static inline T2 h2exp(T2 a) { return {hexp(a.x), hexp(a.y)}; }                                                   \
    static inline T2 h2exp2(T2 a) { return {hexp2(a.x), hexp2(a.y)}; }                                                \
    static inline T2 h2exp10(T2 a) { return {hexp10(a.x), hexp10(a.y)}; }                                             \
    static inline T2 h2log(T2 a) { return {hlog(a.x), hlog(a.y)}; }                                                   \
    static inline T2 h2log2(T2 a) { return {hlog2(a.x), hlog2(a.y)}; }                                                \
    static inline T2 h2log10(T2 a) { return {hlog10(a.x), hlog10(a.y)}; }                                             \
    static inline T2 h2sqrt(T2 a) { return {hsqrt(a.x), hsqrt(a.y)}; }                                                \
    static inline T2 h2rsqrt(T2 a) { return {hrsqrt(a.x), hrsqrt(a.y)}; }                                             \
    static inline T2 h2rcp(T2 a) { return {hrcp(a.x), hrcp(a.y)}; }                                                   \
    static inline T2 h2sin(T2 a) { return {hsin(a.x), hsin(a.y)}; }                                                   \
    static inline T2 h2cos(T2 a) { return {hcos(a.x), hcos(a.y)}; }                                                   \
    static inline T2 h2tanh(T2 a) { return {htanh(a.x), htanh(a.y)}; }                                                \
    static inline T2 h2tanh_approx(T2 a) { return {htanh_approx(a.x), htanh_approx(a.y)}; }                           \
    static inline T2 h2floor(T2 a) { return {hfloor(a.x), hfloor(a.y)}; }                                             \
    static inline T2 h2ceil(T2 a) { return {hceil(a.x), hceil(a.y)}; }                                                \
    static inline T2 h2trunc(T2 a) { return {htrunc(a.x), htrunc(a.y)}; }                                             \
    static inline T2 h2rint(T2 a) { return {hrint(a.x), hrint(a.y)}; }                                                \
    static inline T2 __hisnan2(T2 a) { return {T((int)__hisnan(a.x)), T((int)__hisnan(a.y))}; }

#define EMULATOR_SMALL_FLOAT(T, T2, name, from_float, to_float) \
    EMULATOR_SMALL_SCALAR(T, from_float, to_float)              \
    EMULATOR_SMALL_CONVERSIONS(T, name)                         \
    EMULATOR_SMALL_PAIR(T, T2, name)
