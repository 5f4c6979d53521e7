// Barriers, shuffles and votes. A thread runs alone until it reaches one of these; the last to arrive computes
// everybody's result (driver/collectives.cpp). The line is taken here, not from the return address: the optimiser
// duplicates calls, and two copies of one __syncthreads() are still one barrier.
#pragma once

EMULATOR_INLINE void __syncthreads(int line = __builtin_LINE()) { emulator_syncthreads(line, BARRIER_PLAIN, 0); }
EMULATOR_INLINE int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
    return emulator_syncthreads(line, BARRIER_COUNT, predicate);
}
EMULATOR_INLINE int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
    return emulator_syncthreads(line, BARRIER_AND, predicate);
}
EMULATOR_INLINE int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
    return emulator_syncthreads(line, BARRIER_OR, predicate);
}
EMULATOR_INLINE void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    emulator_collective(WARP_SYNC, mask, 0, 0, line);
}
// Threads of one block run on one core, one at a time: their accesses are seen in order without a fence.
EMULATOR_INLINE void __threadfence() {}
EMULATOR_INLINE void __threadfence_block() {}
EMULATOR_INLINE void __threadfence_system() {}

// The source lane in `segment` form: the warp is cut into segments of `width` lanes.
EMULATOR_INLINE int emulator_segment(int width) { return (int)emulator_lane() & ~(width - 1); }

template <class T>
EMULATOR_INLINE T emulator_shuffle(unsigned mask, T value, int source_lane, int line, int op = WARP_SHUFFLE) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = emulator_collective(op, mask, bits, source_lane, line);
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T>
EMULATOR_INLINE T __shfl_sync(unsigned mask, T value, int lane, int width = 32, int line = __builtin_LINE()) {
    return emulator_shuffle(mask, value, emulator_segment(width) | (lane & (width - 1)), line);
}
// Past the end of a segment a lane gets its own value back.
template <class T>
EMULATOR_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    int lane = emulator_lane(), source = lane - (int)delta;
    return emulator_shuffle(mask, value, source < emulator_segment(width) ? lane : source, line,
                            WARP_SHUFFLE_BY);
}
template <class T>
EMULATOR_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    int lane = emulator_lane(), source = lane + (int)delta;
    return emulator_shuffle(mask, value, source >= emulator_segment(width) + width ? lane : source, line,
                            WARP_SHUFFLE_BY);
}
template <class T>
EMULATOR_INLINE T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, int line = __builtin_LINE()) {
    int lane = emulator_lane(), source = lane ^ lanes;
    return emulator_shuffle(mask, value, source >= emulator_segment(width) + width ? lane : source, line);
}

EMULATOR_INLINE unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return emulator_collective(WARP_BALLOT, mask, predicate != 0, 0, line);
}
EMULATOR_INLINE int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return emulator_collective(WARP_BALLOT, mask, predicate != 0, 0, line) != 0;
}
EMULATOR_INLINE int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return emulator_collective(WARP_BALLOT, mask, predicate == 0, 0, line) == 0;
}
template <class T>
EMULATOR_INLINE unsigned __match_any_sync(unsigned mask, T value, int line = __builtin_LINE()) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return emulator_collective(WARP_MATCH, mask, bits, 0, line);
}
template <class T>
EMULATOR_INLINE unsigned __match_all_sync(unsigned mask, T value, int* all, int line = __builtin_LINE()) {
    // Lanes that have returned are not asked.
    const unsigned same = __match_any_sync(mask, value, line);
    *all = same == __ballot_sync(mask, 1, line);
    return *all ? same : 0;
}
// The lanes that come to this line together: all of the warp that take this way, once no other can run on.
EMULATOR_INLINE unsigned __activemask(int line = __builtin_LINE()) { return emulator_active_mask(line); }

// __reduce_*_sync: 32-bit integers, as on sm_80. Values travel as int64_t, which orders both kinds rightly.
#define EMULATOR_REDUCE(T)                                                                                 \
    EMULATOR_INLINE T __reduce_add_sync(unsigned mask, T value, int line = __builtin_LINE()) {               \
        return (T)emulator_collective(WARP_ADD, mask, (uint64_t)(int64_t)value, 0, line);                  \
    }                                                                                                      \
    EMULATOR_INLINE T __reduce_min_sync(unsigned mask, T value, int line = __builtin_LINE()) {               \
        return (T)emulator_collective(WARP_MIN, mask, (uint64_t)(int64_t)value, 0, line);                  \
    }                                                                                                      \
    EMULATOR_INLINE T __reduce_max_sync(unsigned mask, T value, int line = __builtin_LINE()) {               \
        return (T)emulator_collective(WARP_MAX, mask, (uint64_t)(int64_t)value, 0, line);                  \
    }
// The bits of __reduce_and_sync and its like, by one vote each.
template <class Vote>
EMULATOR_INLINE unsigned emulator_bits(unsigned value, Vote vote) {
    unsigned result = 0;
    for (int bit = 0; bit < 32; bit++) result |= (unsigned)vote(value >> bit & 1u) << bit;
    return result;
}
EMULATOR_INLINE unsigned __reduce_and_sync(unsigned mask, unsigned value, int line = __builtin_LINE()) {
    return emulator_bits(value, [=](int bit) { return __all_sync(mask, bit, line); });
}
EMULATOR_INLINE unsigned __reduce_or_sync(unsigned mask, unsigned value, int line = __builtin_LINE()) {
    return emulator_bits(value, [=](int bit) { return __any_sync(mask, bit, line); });
}
EMULATOR_INLINE unsigned __reduce_xor_sync(unsigned mask, unsigned value, int line = __builtin_LINE()) {
    return emulator_bits(value, [=](int bit) { return __builtin_popcount(__ballot_sync(mask, bit, line)) & 1; });
}
EMULATOR_REDUCE(int)
EMULATOR_REDUCE(unsigned)
#undef EMULATOR_REDUCE
