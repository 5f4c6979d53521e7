// Warp collectives: shuffles, votes, reductions. The last lane of the mask to arrive computes the results of all.
#include <algorithm>

#include "emulator.hpp"

namespace emulator {

const char* state_name(State state) {
    return state == State::at_barrier ? "waits at __syncthreads" : state == State::in_collective ? "waits at a warp "
           "operation" : state == State::converging ? "waits for its warp" : state == State::done ? "has returned" : "has not arrived";
}

// What __shfl_up_sync and __shfl_down_sync give where they reach past a partial mask: CUDA leaves the value open, and the
// usual code drops it (if (lane + d < n) sum += other). Where it is used after all it shows: it is NaN as float, double,
// half and bfloat16, and a large int, which is seen in the result.
constexpr uint64_t UNDEFINED = 0x7FFC07FC7FC07FC1;

// The last lane of the mask to arrive computes the results of all. Also called by the scheduler, so it may not wait.
static void complete_collective(unsigned warp, unsigned lanes, unsigned mask) {
    Thread* const lane = &launch.threads[warp];
    const int op = current().op;
    auto in = [&](unsigned l) { return (mask >> l & 1) && l < lanes && lane[l].state == State::in_collective; };
    unsigned votes = 0;
    int64_t sum = 0, low = INT64_MAX, high = INT64_MIN;
    for (unsigned l = 0; l < lanes; l++) {
        if (!in(l)) continue;
        if (lane[l].value) votes |= 1u << l;
        sum += (int64_t)lane[l].value;
        low = std::min(low, (int64_t)lane[l].value);
        high = std::max(high, (int64_t)lane[l].value);
    }
    for (unsigned l = 0; l < lanes; l++) {
        if (!in(l)) continue;
        Thread& me = lane[l];
        if (op == WARP_SHUFFLE || op == WARP_SHUFFLE_BY) {
            const unsigned from = me.source_lane & 31;
            if (op == WARP_SHUFFLE_BY && !(mask >> from & 1)) {
                me.result = UNDEFINED;
                continue;
            }
            if (!in(from)) {
                bool exists = from < lanes;
                Finding finding{LAUNCH_FAILED, "absent lane",
                                "shuffle reads lane " + number(from) + ", which " +
                                    (!exists ? "the block does not have" :
                                     !(mask >> from & 1) ? "is not in the mask" : state_name(lane[from].state)),
                                exists ? "the lanes of the mask must all execute the shuffle: no early return and no "
                                         "branch around it; pad with a neutral value instead"
                                       : "the block's size is not a multiple of 32; shuffle within a smaller width, or "
                                         "launch whole warps"};
                finding.pc = me.pc;
                note(finding, warp + l);
                return;
            }
            me.result = lane[from].value;
        } else if (op == WARP_BALLOT) {
            me.result = votes;
        } else if (op == WARP_MATCH) {
            me.result = 0;
            for (unsigned k = 0; k < lanes; k++)
                if (in(k) && lane[k].value == me.value) me.result |= 1u << k;
        } else {
            me.result = op == WARP_ADD ? sum : op == WARP_MIN ? low : high;
        }
    }
    if (op == WARP_SYNC && launch.checked) warp_synced(warp, mask);
    else if (launch.checked && mask == ~0u) warp_met(warp);
    for (unsigned l = 0; l < lanes; l++)
        if (in(l) && &lane[l] != &current()) lane[l].state = State::ready;
    current().state = State::ready;
}

// Are all lanes of the mask that still run here, in the same operation?
static bool all_arrived(unsigned warp, unsigned lanes, unsigned mask) {
    for (unsigned l = 0; l < lanes; l++) {
        const Thread& other = launch.threads[warp + l];
        if (!(mask >> l & 1) || other.state == State::done) continue;
        if (other.state != State::in_collective || other.mask != mask) return false;
        if (other.op != current().op) {
            Finding finding{LAUNCH_FAILED, "warp divergence", "lanes of one mask execute different warp operations",
                            "a branch sends the lanes of a warp to different shuffles or votes", current().pc,
                            thread_name(warp + l) + " waits at", other.pc};
            note(finding, launch.current);
            return false;
        }
    }
    return true;
}

// The lanes at one place go on together: those that are the furthest behind, as hardware does to bring a warp together
// again. The optimiser copies calls, so one line is one place; an access (line 0) has its address only.
bool converge(unsigned warp) {
    const unsigned lanes = std::min<unsigned>(WARP, launch.threads.size() - warp);
    Thread* const lane = &launch.threads[warp];
    const Thread* first = nullptr;
    for (unsigned l = 0; l < lanes; l++) {
        if (lane[l].state == State::ready) return false;
        if (lane[l].state == State::converging && (!first || lane[l].pc < first->pc)) first = &lane[l];
    }
    if (!first) return false;
    static uint32_t steps;
    const uint32_t step = ++steps;
    unsigned mask = 0;
    for (unsigned l = 0; l < lanes; l++)
        if (lane[l].state == State::converging && lane[l].line == first->line && (first->line || lane[l].pc == first->pc))
            mask |= 1u << l;
    for (unsigned l = 0; l < lanes; l++)
        if (mask >> l & 1) {
            lane[l].state = State::ready;
            lane[l].result = mask;
            lane[l].step = step;
        }
    return true;
}

bool converge_warps() {
    bool any = false;
    for (unsigned warp = 0; warp < launch.threads.size(); warp += WARP) any |= converge(warp);
    return any;
}

bool finish_collectives() {
    for (unsigned i = 0; i < launch.threads.size(); i++) {
        Thread& thread = launch.threads[i];
        if (thread.state != State::in_collective) continue;
        const unsigned warp = warp_of(i), lanes = std::min<unsigned>(WARP, launch.threads.size() - warp);
        launch.current = i;
        if (!all_arrived(warp, lanes, thread.mask)) continue;
        complete_collective(warp, lanes, thread.mask);
        return true;
    }
    return false;
}

}  // namespace emulator

// --- what kernels call -----------------------------------------------------------------------------------------------

using namespace emulator;
#define EXPORT extern "C" __attribute__((visibility("default")))
#define RETURN_ADDRESS reinterpret_cast<uintptr_t>(__builtin_return_address(0))

EXPORT uint64_t emulator_collective(int op, unsigned mask, uint64_t value, int source_lane, int line) {
    Thread& thread = current();
    const unsigned warp = warp_of(launch.current), lane = launch.current - warp;
    const unsigned lanes = std::min<unsigned>(WARP, launch.threads.size() - warp);
    thread.pc = RETURN_ADDRESS;
    thread.line = line;
    if (!(mask >> lane & 1))
        fail({LAUNCH_FAILED, "absent lane", "lane " + number(lane) + " calls a warp operation whose mask leaves it out",
              "the mask must name every lane that executes the call", thread.pc});
    if (op != WARP_SYNC && holds_reads[launch.current]) values_leave(nullptr);
    thread.op = op;
    thread.mask = mask;
    thread.value = value;
    thread.source_lane = source_lane;
    thread.state = State::in_collective;
    if (all_arrived(warp, lanes, mask)) complete_collective(warp, lanes, mask);
    if (launch.failed || thread.state == State::in_collective) wait_as(State::in_collective);
    has_read[launch.current] = true;  // what another lane has may be data
    return thread.result;
}

EXPORT unsigned emulator_active_mask(int line) {
    Thread& thread = current();
    thread.pc = RETURN_ADDRESS;
    thread.line = line;
    wait_as(State::converging);
    return thread.result;
}
