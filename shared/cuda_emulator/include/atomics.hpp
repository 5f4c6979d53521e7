// Atomics: load, compute, store. No other thread can run in between, since a thread only stops at a barrier.
// The load and the store are the driver's, which checks the address, counts the access and marks it as atomic
// for the race detector (two atomics on one word are no race; an atomic and a plain access are).
#pragma once

template <class T, class Update>
EMULATOR_INLINE T emulator_atomic(T* address, Update update) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "atomics work on 2, 4 or 8 bytes");
    uint64_t bits = emulator_atomic_load(address, sizeof(T));
    T old;
    memcpy(&old, &bits, sizeof(T));
    T value = update(old);
    bits = 0;
    memcpy(&bits, &value, sizeof(T));
    emulator_atomic_store(address, sizeof(T), bits);
    return old;
}

// The operand's type is the pointer's, as in CUDA: atomicAdd(float*, 1) adds 1.0f.
template <class T> struct emulator_same { using type = T; };
template <class T> using emulator_operand = typename emulator_same<T>::type;

// Wraps like the hardware; written on unsigned bits, so that a counter that overflows is no undefined behaviour.
template <class T>
EMULATOR_INLINE T emulator_wrapping_add(T a, T b) {
    if constexpr (std::is_integral<T>::value) {
        using Bits = typename std::make_unsigned<T>::type;
        return (T)((Bits)a + (Bits)b);
    } else {
        return a + b;
    }
}
template <class T> static inline T atomicAdd(T* p, emulator_operand<T> v) {
    return emulator_atomic(p, [=](T old) { return emulator_wrapping_add(old, (T)v); });
}
template <class T> static inline T atomicSub(T* p, emulator_operand<T> v) {
    static_assert(std::is_integral<T>::value, "CUDA has atomicSub for integers only");
    using Bits = typename std::make_unsigned<T>::type;
    return emulator_atomic(p, [=](T old) { return (T)((Bits)old - (Bits)v); });
}
template <class T> static inline T atomicMax(T* p, emulator_operand<T> v) {
    static_assert(std::is_integral<T>::value, "CUDA has atomicMax for integers only");
    return emulator_atomic(p, [=](T old) { return old > v ? old : v; });
}
template <class T> static inline T atomicMin(T* p, emulator_operand<T> v) {
    static_assert(std::is_integral<T>::value, "CUDA has atomicMin for integers only");
    return emulator_atomic(p, [=](T old) { return old < v ? old : v; });
}
template <class T> static inline T atomicAnd(T* p, emulator_operand<T> v) {
    return emulator_atomic(p, [=](T old) { return old & v; });
}
template <class T> static inline T atomicOr(T* p, emulator_operand<T> v) {
    return emulator_atomic(p, [=](T old) { return old | v; });
}
template <class T> static inline T atomicXor(T* p, emulator_operand<T> v) {
    return emulator_atomic(p, [=](T old) { return old ^ v; });
}
template <class T> static inline T atomicExch(T* p, emulator_operand<T> v) {
    return emulator_atomic(p, [=](T) { return v; });
}
template <class T> static inline T atomicCAS(T* p, emulator_operand<T> compare, emulator_operand<T> v) {
    uint64_t bits = 0;
    memcpy(&bits, &compare, sizeof(T));
    emulator_atomic_expect(bits);
    return emulator_atomic(p, [=](T old) { return memcmp(&old, &compare, sizeof(T)) == 0 ? v : old; });
}
EMULATOR_INLINE unsigned atomicInc(unsigned* p, unsigned limit) {
    return emulator_atomic(p, [=](unsigned old) { return old >= limit ? 0u : old + 1; });
}
EMULATOR_INLINE unsigned atomicDec(unsigned* p, unsigned limit) {
    return emulator_atomic(p, [=](unsigned old) { return old == 0 || old > limit ? limit : old - 1; });
}

// Among whom an atomic is one: here among all in any case.
#define EMULATOR_SCOPES(name)                                                                                     \
    template <class T, class... V> EMULATOR_INLINE T name##_block(T* p, V... values) { return name(p, values...); } \
    template <class T, class... V> EMULATOR_INLINE T name##_system(T* p, V... values) { return name(p, values...); }
EMULATOR_SCOPES(atomicAdd)
EMULATOR_SCOPES(atomicSub)
EMULATOR_SCOPES(atomicMax)
EMULATOR_SCOPES(atomicMin)
EMULATOR_SCOPES(atomicAnd)
EMULATOR_SCOPES(atomicOr)
EMULATOR_SCOPES(atomicXor)
EMULATOR_SCOPES(atomicExch)
EMULATOR_SCOPES(atomicCAS)
EMULATOR_SCOPES(atomicInc)
EMULATOR_SCOPES(atomicDec)
#undef EMULATOR_SCOPES
