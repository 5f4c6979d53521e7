// cg::reduce over a tile or a coalesced group. Every thread gets the same value, of floats too.
#pragma once
#include "../cooperative_groups.h"

namespace cooperative_groups {

template <class T> struct plus { T operator()(T a, T b) const { return a + b; } };
template <class T> struct less { T operator()(T a, T b) const { return b < a ? b : a; } };
template <class T> struct greater { T operator()(T a, T b) const { return a < b ? b : a; } };
template <class T> struct bit_and { T operator()(T a, T b) const { return a & b; } };
template <class T> struct bit_or { T operator()(T a, T b) const { return a | b; } };
template <class T> struct bit_xor { T operator()(T a, T b) const { return a ^ b; } };

// The values in the order of the ranks: for any number of lanes.
template <class T, class Operation>
T reduce(const emulator_lanes& group, T value, Operation operation, int line = __builtin_LINE()) {
    T result = group.shfl(value, 0, line);
    for (unsigned rank = 1; rank < group.num_threads(); rank++)
        result = operation(result, group.shfl(value, rank, line));
    return result;
}

// A tile has a power of two of them: pairs, then pairs of pairs ...
template <unsigned Size, class Parent, class T, class Operation>
T reduce(const thread_block_tile<Size, Parent>& tile, T value, Operation operation, int line = __builtin_LINE()) {
    for (unsigned distance = 1; distance < Size; distance *= 2)
        value = operation(value, tile.shfl_xor(value, distance, line));
    return value;
}

}  // namespace cooperative_groups
