// What -fsanitize=thread makes of std::atomic in a program's host code (shared_ptr, threads): the plain operations.
#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))
#define FETCH(bits, T, name) \
    EXPORT T __tsan_atomic##bits##_fetch_##name(volatile T* p, T v, int) { return __atomic_fetch_##name(p, v, __ATOMIC_SEQ_CST); }
#define ATOMICS(bits, T)                                                                                                               \
    EXPORT T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }                     \
    EXPORT void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }                     \
    EXPORT T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }           \
    FETCH(bits, T, add) FETCH(bits, T, sub) FETCH(bits, T, and) FETCH(bits, T, or) FETCH(bits, T, xor) FETCH(bits, T, nand)            \
    EXPORT int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) {                              \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                 \
    }                                                                                                                                  \
    EXPORT int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* expected, T v, int, int) {                                \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                 \
    }                                                                                                                                  \
    EXPORT T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T expected, T v, int, int) {                                    \
        __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                       \
        return expected;                                                                                                               \
    }
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
EXPORT void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
EXPORT void __tsan_atomic_signal_fence(int) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
