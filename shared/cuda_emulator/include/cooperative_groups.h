// Cooperative groups inside of a block, on top of warp.hpp: the block, tiles of a warp, the lanes that run together.
//
// A barrier or a warp operation belongs to the line of the kernel that asks for it, so that every function which waits
// passes that line on. What has no emulation is a template that does not compile when it is used, and says so.
#pragma once

#define EMULATOR_REFUSED(what) static_assert(refused, "not supported by the CPU emulator: " what)

namespace cooperative_groups {

// --- the block and the grid ------------------------------------------------------------------------------------------

struct thread_block {
    static void sync(int line = __builtin_LINE()) { __syncthreads(line); }
    static unsigned num_threads() { return blockDim.x * blockDim.y * blockDim.z; }
    static unsigned size() { return num_threads(); }
    static unsigned thread_rank() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }
    static dim3 group_index() { return blockIdx; }
    static dim3 thread_index() { return threadIdx; }
    static dim3 dim_threads() { return blockDim; }
    static dim3 group_dim() { return blockDim; }
    template <bool refused = false> static int barrier_arrive() { EMULATOR_REFUSED("barrier_arrive()"); return 0; }
    template <bool refused = false> static void barrier_wait(int = 0) { EMULATOR_REFUSED("barrier_wait()"); }
};
static inline thread_block this_thread_block() { return {}; }

struct grid_group {
    static bool is_valid() { return false; }  // a launch is never a cooperative one
    static unsigned long long num_blocks() { return (unsigned long long)gridDim.x * gridDim.y * gridDim.z; }
    static unsigned long long block_rank() {
        return ((unsigned long long)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    }
    static unsigned long long num_threads() { return num_blocks() * thread_block::num_threads(); }
    static unsigned long long size() { return num_threads(); }
    static unsigned long long thread_rank() {
        return block_rank() * thread_block::num_threads() + thread_block::thread_rank();
    }
    static dim3 dim_blocks() { return gridDim; }
    static dim3 group_dim() { return gridDim; }
    static dim3 block_index() { return blockIdx; }
    template <bool refused = false> static void sync(int = 0) {
        EMULATOR_REFUSED("this_grid().sync(): blocks run one by one");
    }
};
static inline grid_group this_grid() { return {}; }

struct cluster_group {};
struct multi_grid_group {};
template <bool refused = false>
cluster_group this_cluster() {
    EMULATOR_REFUSED("thread block clusters");
    return {};
}
template <bool refused = false>
multi_grid_group this_multi_grid() {
    EMULATOR_REFUSED("grids over several devices");
    return {};
}

// --- lanes of one warp -----------------------------------------------------------------------------------------------

// What tiles and coalesced groups have in common: a set of lanes, numbered from its lowest.
class emulator_lanes {
public:
    emulator_lanes(unsigned mask, unsigned meta_rank, unsigned meta_size)
        : mask(mask), meta_rank(meta_rank), meta_size(meta_size) {}

    unsigned num_threads() const { return __popc(mask); }
    unsigned size() const { return num_threads(); }
    unsigned thread_rank() const { return rank_of(emulator_lane()); }
    unsigned meta_group_rank() const { return meta_rank; }
    unsigned meta_group_size() const { return meta_size; }
    unsigned emulator_mask() const { return mask; }

    void sync(int line = __builtin_LINE()) const { __syncwarp(mask, line); }
    int any(int predicate, int line = __builtin_LINE()) const { return __any_sync(mask, predicate, line); }
    int all(int predicate, int line = __builtin_LINE()) const { return __all_sync(mask, predicate, line); }
    unsigned ballot(int predicate, int line = __builtin_LINE()) const {
        return packed(__ballot_sync(mask, predicate, line));
    }
    template <class T>
    unsigned match_any(T value, int line = __builtin_LINE()) const {
        return packed(__match_any_sync(mask, value, line));
    }
    template <class T>
    unsigned match_all(T value, int& same, int line = __builtin_LINE()) const {
        same = __match_any_sync(mask, value, line) == mask;
        same = __all_sync(mask, same, line);
        return same ? packed(mask) : 0;
    }

    // Of the thread with that rank. Past the first or the last a thread gets its own value back.
    template <class T>
    T shfl(T value, int rank, int line = __builtin_LINE()) const {
        return from_lane(value, lane_of((unsigned)rank % num_threads()), line);
    }
    template <class T>
    T shfl_up(T value, unsigned delta, int line = __builtin_LINE()) const {
        const unsigned rank = thread_rank();
        return from_lane(value, lane_of(delta <= rank ? rank - delta : rank), line);
    }
    template <class T>
    T shfl_down(T value, unsigned delta, int line = __builtin_LINE()) const {
        const unsigned rank = thread_rank();
        return from_lane(value, lane_of(delta < num_threads() - rank ? rank + delta : rank), line);
    }

protected:
    unsigned mask, meta_rank, meta_size;

    unsigned rank_of(unsigned lane) const { return __popc(mask & ((1u << lane) - 1u)); }
    unsigned lane_of(unsigned rank) const {
        unsigned left = mask;
        while (rank--) left &= left - 1u;
        return __ffs(left) - 1;
    }
    // The bits of the group's lanes, without gaps.
    unsigned packed(unsigned lanes) const {
        unsigned result = 0;
        for (unsigned lane = 0, rank = 0; lane < 32; lane++)
            if (mask >> lane & 1u) result |= (lanes >> lane & 1u) << rank++;
        return result;
    }
    // Up to 32 bytes, 8 at a time.
    template <class T>
    T from_lane(T value, unsigned lane, int line) const {
        static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 32, "shfl moves plain data, up to 32 bytes");
        uint64_t parts[(sizeof(T) + 7) / 8] = {};
        memcpy(parts, &value, sizeof(T));
        for (uint64_t& part : parts) part = emulator_shuffle(mask, part, lane, line);
        memcpy(&value, parts, sizeof(T));
        return value;
    }
};

struct coalesced_group : emulator_lanes {
    using emulator_lanes::emulator_lanes;
};
static inline coalesced_group coalesced_threads(int line = __builtin_LINE()) { return {__activemask(line), 0, 1}; }

static inline unsigned emulator_tile_mask(unsigned size) {
    return (size >= 32 ? 0xffffffffu : (1u << size) - 1u) << (emulator_lane() & ~(size - 1u));
}

// Parent is what the tile was cut from; it says no more than that.
template <unsigned Size, class Parent = void>
struct thread_block_tile : emulator_lanes {
    static_assert(Size && (Size & (Size - 1)) == 0, "the size of a tile is a power of two");
    static_assert(Size <= 32, "not supported by the CPU emulator: tiles of more than one warp");
    thread_block_tile(unsigned meta_rank, unsigned meta_size)
        : emulator_lanes(emulator_tile_mask(Size), meta_rank, meta_size) {}
    template <class Other>
    thread_block_tile(const thread_block_tile<Size, Other>& other) : emulator_lanes(other) {}

    static constexpr unsigned num_threads() { return Size; }
    static constexpr unsigned size() { return Size; }
    static unsigned thread_rank() { return emulator_lane() & (Size - 1); }
    template <class T>
    T shfl_xor(T value, unsigned ranks, int line = __builtin_LINE()) const {
        return this->from_lane(value, emulator_lane() ^ (ranks & (Size - 1)), line);
    }
};
static inline thread_block_tile<1> this_thread() { return {0, 1}; }

template <unsigned Size>
thread_block_tile<Size, thread_block> tiled_partition(const thread_block& block) {
    return {block.thread_rank() / Size, (block.num_threads() + Size - 1) / Size};
}
template <unsigned Size, unsigned Whole, class P>
thread_block_tile<Size, thread_block_tile<Whole, P>> tiled_partition(const thread_block_tile<Whole, P>& tile) {
    static_assert(Size <= Whole, "a tile of a tile is no bigger than that");
    return {tile.thread_rank() / Size, Whole / Size};
}

// Any of the groups above, when only the running program knows which.
class thread_group {
public:
    thread_group(const thread_block&) : block(true), lanes(0, 0, 1) {}
    thread_group(const emulator_lanes& lanes) : block(false), lanes(lanes) {}
    unsigned num_threads() const { return block ? thread_block::num_threads() : lanes.num_threads(); }
    unsigned size() const { return num_threads(); }
    unsigned thread_rank() const { return block ? thread_block::thread_rank() : lanes.thread_rank(); }
    void sync(int line = __builtin_LINE()) const {
        if (block) __syncthreads(line);
        else lanes.sync(line);
    }
    // The group's threads by rank, `size` at a time.
    thread_group tile(unsigned size) const {
        const unsigned rank = thread_rank(), number = rank / size, tiles = (num_threads() + size - 1) / size;
        if (block) return emulator_lanes(emulator_tile_mask(size), number, tiles);
        unsigned mask = 0, left = lanes.emulator_mask();
        for (unsigned i = 0; left; i++, left &= left - 1u)
            if (i / size == number) mask |= left & -left;
        return emulator_lanes(mask, number, tiles);
    }
    const emulator_lanes& emulator_group() const { return lanes; }

private:
    bool block;
    emulator_lanes lanes;
};
static inline thread_group tiled_partition(const thread_group& group, unsigned size) { return group.tile(size); }
static inline coalesced_group tiled_partition(const coalesced_group& group, unsigned size) {
    const emulator_lanes part = thread_group(group).tile(size).emulator_group();
    return {part.emulator_mask(), part.meta_group_rank(), part.meta_group_size()};
}

// The threads of a group with the same label.
template <class Label>
coalesced_group labeled_partition(const emulator_lanes& group, Label label, int line = __builtin_LINE()) {
    const unsigned same = __match_any_sync(group.emulator_mask(), label, line), lane = emulator_lane();
    const bool first = (same & ((1u << lane) - 1u)) == 0;
    const unsigned leaders = __ballot_sync(group.emulator_mask(), first, line);  // one per label
    return {same, (unsigned)__popc(leaders & ((same & -same) - 1u)), (unsigned)__popc(leaders)};
}
static inline coalesced_group binary_partition(const emulator_lanes& group, bool which, int line = __builtin_LINE()) {
    return labeled_partition(group, (int)which, line);
}

template <class Group> void sync(const Group& group, int line = __builtin_LINE()) { group.sync(line); }
template <class Group> auto thread_rank(const Group& group) { return group.thread_rank(); }
template <class Group> auto group_size(const Group& group) { return group.size(); }

}  // namespace cooperative_groups
