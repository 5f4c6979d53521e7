// A part of races.cpp: a race in words.
#pragma once
#include "race_order.hpp"

namespace emulator {

// "element [3][1] of tile" would need types; the byte offset says enough to find it.
static std::string name_of(const Touch& touch, uintptr_t address) {
    const auto low = reinterpret_cast<uintptr_t>(launch.dynamic_shared);
    if (address - low < launch.dynamic_bytes) return "dynamic shared memory, byte " + number(address - low);
    for (const auto* variables : {&launch.module->shared, &launch.module->globals})
        for (const Variable& v : *variables)
            if (address >= v.low && address < v.high) return v.name + ", byte " + number(address - v.low);
    if (!touch.shadow) return "shared memory";
    const std::string argument = element_of_argument(touch.shadow->low, address);
    return argument.empty() ? "byte " + number(address - touch.shadow->low) + " of an array" : argument;
}

static const char* verb_of(const Touch& touch) {
    if (touch.access == Access::atomic) return touch.relaxed ? "volatile write" : "atomic access";
    return touch.access == Access::store ? "write" : touch.relaxed ? "volatile read" : "read";
}

static std::string likely_shared(const Past& past, bool rewritten) {
    std::string likely = rewritten ? "a missing barrier before shared memory is written again: without it a fast warp "
                                     "overwrites what a slow one still reads (the second __syncthreads() of a loop)"
                                   : "a missing __syncthreads() between the write and its use by other threads";
    if (past.thread / WARP == launch.current / WARP) likely += "; inside one warp __syncwarp() is enough";
    return likely;
}

// updates: both threads have read the word and written it. modified: the one that came first has, the other reads so far.
static std::string likely_global(const Past& past, bool updates, bool modified, bool atomic) {
    std::string likely =
        atomic    ? "a word that atomics change is read and written by all with atomics, or before and after a barrier"
        : updates ? "several threads update one element, and updates get lost: atomicAdd() and its like"
        : modified ? "several threads update one element (atomicAdd() and its like), or an update in place that reads a "
                     "neighbour's element (write to another array)"
                   : "an array that is written in place while other threads still read it (write to another array, or in "
                     "another launch), or two threads with one index";
    if (past.epoch < block_epoch) likely += "; no barrier orders the blocks of a grid, only the end of the launch does";
    else if (!updates && !modified && !atomic) likely += "; inside one block __syncthreads() orders them";
    return likely;
}

template <bool GLOBAL>
static Finding race(const Touch& touch, uintptr_t word, const char* before, const Past& past, bool rewritten, bool updates) {
    const bool other_block = past.epoch < block_epoch;
    Finding finding{LAUNCH_FAILED, "race",
                    std::string(GLOBAL ? "global" : "shared") + " memory race: " + verb_of(touch) + " of " +
                        name_of(touch, GLOBAL ? word : touch.address) + " is not ordered after a" +
                        (*before == 'a' ? "n " : " ") + before + " by " +
                        thread_name(past.thread),
                    "", touch.pc, std::string("that ") + before + " is at", launch.module->base + past.pc};
    if (GLOBAL) {
        const auto at = std::upper_bound(block_epochs.begin(), block_epochs.end(), past.epoch) - block_epochs.begin() - 1;
        const Index block = nth_block(at);
        finding.what += other_block ? " of block (" + number(block.x) + "," + number(block.y) + "," + number(block.z) + ")"
                                    : " of the same block";
        const bool atomic = touch.access == Access::atomic || !strcmp(before, "atomic access");
        finding.likely = likely_global(past, updates, past.modified && touch.access == Access::load, atomic);
    } else {
        finding.likely = likely_shared(past, rewritten);
    }
    return finding;
}

}  // namespace emulator
