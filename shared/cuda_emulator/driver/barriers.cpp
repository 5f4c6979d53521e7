// __syncthreads(): who waits where, who may go on, and why a block hangs.
#include <string>

#include "emulator.hpp"

namespace emulator {

// A warp operation that no one can complete any more: who is missing?
static void note_deadlock(unsigned waiting) {
    const Thread& thread = launch.threads[waiting];
    const unsigned n = launch.threads.size(), warp = warp_of(waiting);
    std::string absent = "no lane of its mask is missing";
    uintptr_t other_pc = 0;
    for (unsigned l = 0; l < WARP && warp + l < n; l++) {
        const Thread& other = launch.threads[warp + l];
        if (!(thread.mask >> l & 1) || (other.state == State::in_collective && other.mask == thread.mask)) continue;
        absent = "lane " + number(l) + " is in its mask but " + state_name(other.state);
        other_pc = other.pc;
        absent += other.state == State::done ? "" : " at";
        break;
    }
    Finding finding{LAUNCH_FAILED, "deadlock", "deadlock: a warp operation waits for a lane that never comes",
                    "a branch around a shuffle or vote whose mask names every lane: move the operation out of the "
                    "branch, or make the mask with __ballot_sync before it", thread.pc, absent, other_pc};
    note(finding, waiting);
}

static Finding divergence(const std::string& what, const char* likely, unsigned thread) {
    return {LAUNCH_FAILED, "barrier divergence", "barrier divergence: " + what, likely, launch.threads[thread].pc};
}

// What the hardware lets pass though CUDA's guide does not promise it: said, and the block goes on.
static void warn_of_divergence(unsigned waiting, unsigned first, unsigned other_line) {
    const unsigned n = launch.threads.size();
    Finding finding;
    if (other_line < n) {
        finding = divergence("warps of one block wait at different __syncthreads()",
                             "a __syncthreads() inside a branch that only some warps of the block take; it counts as one "
                             "barrier on today's GPUs, but CUDA does not promise it", other_line);
        finding.other = thread_name(first) + " waits at";
        finding.other_pc = launch.threads[first].pc;
    } else {
        finding = divergence("only " + number(waiting) + " of the block's " + number(n) +
                                 " threads reach __syncthreads(); " + number(n - waiting) + " have returned",
                             "an early return (if (i >= n) return;) or a loop that runs a different number of times per "
                             "thread: GPUs since Volta do not wait for those who have returned, older ones hang", first);
    }
    finding.block = blockIdx;
    finding.thread = launch.threads[other_line < n ? other_line : first].index;
    warn(finding);
}

// Nobody is ready: either all that have not returned stand at a barrier and go on, or the block hangs, and here is why.
bool release_barrier() {
    if (confirm_suspicion()) return false;
    const unsigned n = launch.threads.size();
    unsigned waiting = 0, first = n, other_line = n;
    for (unsigned i = 0; i < n; i++) {
        const Thread& thread = launch.threads[i];
        if (thread.state == State::in_collective) {
            note_deadlock(i);
            return false;
        }
        if (thread.state != State::at_barrier) continue;
        waiting++;
        if (first == n) first = i;
        const Thread& one = launch.threads[first];
        if ((thread.line != one.line || thread.barrier_kind != one.barrier_kind) && other_line == n) other_line = i;
    }
    // bar.sync is .aligned: the lanes of a warp execute it together, or the result is undefined. So it is for two kinds.
    unsigned lane = n, leader = n;  // leader: the first lane of its warp that waits
    const char* likely = "a __syncthreads() inside a branch that only some threads of the block take";
    for (unsigned i = first; other_line < n && i < n && lane == n; i++) {
        const Thread& thread = launch.threads[i];
        if (thread.state != State::at_barrier) continue;
        if (leader == n || warp_of(leader) != warp_of(i)) leader = i;
        if (thread.barrier_kind != launch.threads[first].barrier_kind) lane = i, leader = first;
        else if (thread.line != launch.threads[leader].line) lane = i;
    }
    if (lane < n) {
        Finding finding = divergence("threads of one block wait at different __syncthreads()", likely, lane);
        finding.other = thread_name(leader) + " waits at";
        finding.other_pc = launch.threads[leader].pc;
        note(finding, lane);
        return false;
    }
    if (other_line < n || waiting < n) warn_of_divergence(waiting, first, other_line);
    int count = 0;
    if (launch.threads[first].barrier_kind != BARRIER_PLAIN)
        for (const Thread& thread : launch.threads) count += thread.state == State::at_barrier && thread.predicate != 0;
    for (Thread& thread : launch.threads) {
        if (thread.state != State::at_barrier) continue;
        thread.barrier_result = thread.barrier_kind == BARRIER_COUNT ? count
                                : thread.barrier_kind == BARRIER_AND ? count == (int)waiting : count != 0;
        thread.state = State::ready;
    }
    barrier_passed();
    return true;
}

}  // namespace emulator

// --- what kernels call -----------------------------------------------------------------------------------------------

using namespace emulator;

extern "C" __attribute__((visibility("default"))) int emulator_syncthreads(int line, int kind, int predicate) {
    Thread& thread = current();
    thread.pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    thread.line = line;
    thread.barrier_kind = kind;
    thread.predicate = predicate;
    if (kind != BARRIER_PLAIN && holds_reads[launch.current]) values_leave(nullptr);
    wait_as(State::at_barrier);
    return thread.barrier_result;
}
