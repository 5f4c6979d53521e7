// A part of races.cpp: what is remembered of each word, and what orders two accesses of it.
#pragma once
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "emulator.hpp"

namespace emulator {

// --- what is remembered ----------------------------------------------------------------------------------------------

constexpr unsigned STEP_BITS = 16;
struct Past {
    uint32_t epoch, clock;  // the epoch counts barriers and blocks and is never reset: old entries need no clearing
    uint32_t pc;            // relative to the module
    uint32_t thread : 10, step : STEP_BITS;  // step: of a volatile access that the warp does in lockstep
    uint32_t wrote : 1;               // kept as a read, but was a write of what the word held
    uint32_t relaxed : 1;             // a volatile load of global memory
    uint32_t changed : 1;             // an earlier write of this epoch (in global memory: of this block) changed the word
    uint32_t modified : 1;            // the thread has read the word and then written it
    uint32_t several : 1;             // the last of several reads by this thread, at different places
    uint32_t varied : 1;              // of a write to global memory: this launch has written several values
};

struct Write {
    Past past;
    // What the word held: a write that has changed nothing harms no reader. In global memory, once the word is
    // `changed`: the value that it was changed to, to see whether all write the same.
    uint32_t before;
};
// Two readers are kept, of two threads: whoever writes next races with at least one of them. Writers of the value that the
// word has are kept as lanes and warps, all combinations of which count: they may read it, whoever was the first.
struct Others {
    Past read[2], atomic;
    uint32_t writers_epoch, lanes, warps;
    union {
        uint32_t earlier_write;  // shared: of the write before the last (was this cell used before in the block?)
        uint32_t leaked;         // global: when a thread that had read the word went on to store something
    };
};
struct SharedCell {
    Write write;
    Others others;
};

// Of 4 KiB of global memory. Most pages are only written, and few of those are read in the same launch.
struct Page {
    Write* writes;
    Others* others;
};

static uint32_t launch_epoch = 1;
uintptr_t last_load;
uint32_t recorded_from;
static unsigned early_reads;  // that are left
static uint32_t epoch = 1, block_epoch = 1;
// Each thread has a clock, which __syncwarp moves (a shuffle orders no memory). seen[t][l]: up to which of its clock thread
// t has seen lane l of its warp. Never reset either: what was seen before this block is below all clocks of this block.
static uint32_t clocks[MAX_THREADS], seen[MAX_THREADS][WARP];
// The clock of each thread at its warp's last shuffle or vote of all lanes. What was read before it has been read.
static uint32_t met_at[MAX_THREADS];
static bool warps_met;  // since the last barrier
static std::vector<SharedCell> static_cells, dynamic_cells;
static std::vector<uint32_t> block_epochs;  // of this launch's blocks, in the order in which they run
static uint32_t step;                       // of the access that is being checked; 0 where it is not volatile
static bool lockstep;                       // only the lockstep has ordered it
static std::vector<uintptr_t> lockstep_places;

// One access, while it is checked.
struct Touch {
    uintptr_t address;
    unsigned size;
    Access access;
    bool relaxed;
    uintptr_t pc;
    const Shadow* shadow;  // of global memory
};

static Past now(const Touch& touch) {
    const unsigned me = launch.current;
    Past past{};
    past.epoch = epoch, past.clock = clocks[me], past.pc = uint32_t(touch.pc - launch.module->base);
    past.thread = me, past.step = step, past.relaxed = touch.relaxed;
    return past;
}

// --- atomics that order blocks ---------------------------------------------------------------------------------------

// What this block has done an atomic on, or a volatile load of, and when it did first.
struct Acquired {
    uintptr_t word;
    const Others* others;
    uint32_t epoch;
    unsigned thread;
};
static std::vector<Acquired> acquired;

// An atomic of one thread of this block after another's, on one word since the last barrier: perhaps a lock.
struct Handover {
    const Others* word;
    Past from;
};
static std::vector<Handover> handovers;
constexpr size_t MOST_HANDOVERS = 1 << 18;
static std::unordered_map<uintptr_t, std::vector<Past>> released;  // per word: the last atomic of each earlier block

static uint32_t block_start(uint32_t of_epoch) {
    return *std::prev(std::upper_bound(block_epochs.begin(), block_epochs.end(), of_epoch));
}

static bool same_block(uint32_t a, uint32_t b) { return block_start(a) == block_start(b); }

// Was the atomic done after the access? Several threads of a block may share one counter: then it is taken for granted.
static bool follows(const Past& atomic, const Past& past) {
    if (atomic.epoch != past.epoch) return atomic.epoch > past.epoch;
    return atomic.thread != past.thread || atomic.clock >= past.clock;
}

static bool released_after(const Acquired& one, const Past& past) {
    const Past& last = one.others->atomic;
    if (last.epoch < block_epoch && last.epoch >= launch_epoch && same_block(last.epoch, past.epoch))
        return follows(last, past);
    const auto found = released.find(one.word);
    if (found == released.end()) return false;
    const auto& all = found->second;
    auto at = std::lower_bound(all.begin(), all.end(), past.epoch, [](const Past& p, uint32_t e) { return p.epoch < e; });
    return at != all.end() && same_block(at->epoch, past.epoch) && follows(*at, past);
}

// An access and then an atomic there, an atomic on the same word and then an access here. Slow, but only asked in doubt.
static bool ordered_by_atomics(const Past& past) {
    const unsigned me = launch.current;
    for (const Acquired& one : acquired) {
        const Past& last = one.others->atomic;
        const bool mine = last.epoch >= block_epoch && last.thread == me;
        if (past.epoch >= block_epoch) {  // a lock inside of the block
            for (const Handover& handover : handovers)
                if (mine && handover.word == one.others && handover.from.thread == past.thread && follows(handover.from, past))
                    return true;
        } else if ((mine || one.epoch < epoch || one.thread / WARP == me / WARP) && released_after(one, past)) {
            return true;
        }
    }
    return false;
}

// The clock moves at each atomic, so that what is before it can be told from what is after.
static void note_atomic(Others& others, uintptr_t word, const Past& past, bool only_reads) {
    const unsigned me = launch.current;
    const bool first = others.atomic.epoch < block_epoch;
    if (only_reads) {
        if (acquired.empty() || acquired.back().word != word) acquired.push_back({word, &others, epoch, me});
        return;
    }
    if (first) {
        if (others.atomic.epoch >= launch_epoch) released[word].push_back(others.atomic);
        acquired.push_back({word, &others, epoch, me});
    } else if (others.atomic.thread != me && handovers.size() < MOST_HANDOVERS) {
        handovers.push_back({&others, others.atomic});
    }
    others.atomic = past;
    clocks[me]++;
}

// --- what orders two accesses ----------------------------------------------------------------------------------------

template <bool GLOBAL>
static inline bool ordered(const Past& past) {
    if (past.epoch != epoch) {
        if (!GLOBAL || past.epoch >= block_epoch || past.epoch < launch_epoch) return true;
        return ordered_by_atomics(past);
    }
    const unsigned me = launch.current, other = past.thread;
    if (other == me) return true;
    if (other / WARP == me / WARP) {
        if (seen[me][other % WARP] >= past.clock) return true;
        if (step && past.step && step != past.step) return lockstep = true;
    }
    return GLOBAL && ordered_by_atomics(past);
}

void warp_met(unsigned first_thread) {
    const unsigned end = std::min<unsigned>(first_thread + WARP, launch.threads.size());
    for (unsigned i = first_thread; i < end; i++) met_at[i] = ++clocks[i];
    warps_met = true;
}

// A read of this epoch, and then a shuffle or vote of the reader's whole warp: no lane of it can overtake the read.
static inline bool read_before_meeting(const Past& read) {
    return warps_met && read.epoch == epoch && read.clock < met_at[read.thread] && !read.wrote;
}

void warp_synced(unsigned first_thread, unsigned mask) {
    uint32_t joined[WARP] = {};
    const unsigned lanes = std::min<unsigned>(WARP, launch.threads.size() - first_thread);
    for (unsigned l = 0; l < lanes; l++)
        if (mask >> l & 1) {
            for (unsigned k = 0; k < WARP; k++) joined[k] = std::max(joined[k], seen[first_thread + l][k]);
            joined[l] = clocks[first_thread + l]++;
        }
    for (unsigned l = 0; l < lanes; l++)
        if (mask >> l & 1) memcpy(seen[first_thread + l], joined, sizeof joined);
}

}  // namespace emulator
