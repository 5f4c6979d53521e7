// Counts what a GPU's memory system would be asked to do, per source line.
//
// The lanes of a warp run one after another here, so their accesses arrive far apart. They are put together again as
// one warp request when they are the same lane-th access: the k-th time that each lane executes one instruction
// since the last barrier. Where lanes of a warp take different paths through a loop, this pairs what the hardware may
// not; elsewhere it is exact. The compiler's calls at each branch (-fsanitize-coverage) give the divergence.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "emulator.hpp"

namespace emulator {

std::vector<std::string> counted;

struct Request {
    uint32_t lanes = 0;
    unsigned size = 0;
    uintptr_t address[WARP];
};

struct Totals {
    uint64_t requests = 0, lanes = 0, bytes = 0;
    uint64_t units = 0, ideal_units = 0;  // 32-byte sectors of global memory; wavefronts of shared memory
};

// One load or store instruction: requests that are not complete yet, per warp, and how often each thread was here.
struct Site {
    bool shared = false;
    Access access = Access::load;
    Totals totals;
    std::vector<Request> pending[MAX_THREADS / WARP];
    uint32_t visits[MAX_THREADS] = {};
};

// One conditional branch: where the first lane of the warp went, the k-th time.
struct Branch {
    uint64_t executed = 0, divergent = 0;
    std::vector<std::pair<uintptr_t, bool>> pending[MAX_THREADS / WARP];
    uint32_t visits[MAX_THREADS] = {};
};

static std::unordered_map<uintptr_t, Site> sites;
static std::unordered_map<uintptr_t, Branch> branches;
static uintptr_t last_comparison[MAX_THREADS];  // of each thread, since its last basic block began
static uintptr_t last_pc;  // the site that was counted last: a loop comes back to a handful of them
static Site* last_site;

void begin_counting() {
    sites.clear();
    branches.clear();
    last_pc = 0;
    memset(last_comparison, 0, sizeof last_comparison);
}

void count_access(uintptr_t pc, uintptr_t address, unsigned size, Access access, bool shared) {
    if (pc != last_pc) last_site = &sites[pc], last_pc = pc;
    Site& site = *last_site;
    site.shared = shared;
    site.access = access;
    const unsigned thread = launch.current, visit = site.visits[thread]++;
    auto& pending = site.pending[thread / WARP];
    if (pending.size() <= visit) pending.resize(visit + 1);
    Request& request = pending[visit];
    request.lanes |= 1u << thread % WARP;
    request.size = size;
    request.address[thread % WARP] = address;
}

// Sectors: the distinct 32-byte pieces that the lanes touch. Ideal: the fewest that could hold as many bytes.
static void add_global(Totals& totals, const Request& request) {
    uintptr_t sectors[WARP * 5], words[WARP * 5];
    unsigned n_sectors = 0, n_words = 0;
    auto insert = [](uintptr_t* set, unsigned& n, uintptr_t value) {
        if (n && set[n - 1] == value) return;  // neighbouring lanes, the usual case
        for (unsigned i = 0; i < n; i++)
            if (set[i] == value) return;
        set[n++] = value;
    };
    const unsigned size = std::min(request.size, 16u), unit = size < 4 ? size : 4;
    for (unsigned l = 0; l < WARP; l++) {
        if (!(request.lanes >> l & 1)) continue;
        const uintptr_t low = request.address[l], high = low + size - 1;
        for (uintptr_t s = low / 32; s <= high / 32; s++) insert(sectors, n_sectors, s);
        for (uintptr_t w = low / unit; w <= high / unit; w++) insert(words, n_words, w);
    }
    totals.units += n_sectors;
    totals.ideal_units += (n_words * unit + 31) / 32;
}

// Wavefronts: 32 banks of 4 bytes; lanes that want different words of one bank wait for each other. 8-byte accesses
// go half a warp at a time, 16-byte ones a quarter: those passes are not conflicts.
static void add_shared(Totals& totals, const Request& request) {
    const unsigned size = std::min(request.size, 16u), lanes_at_once = size <= 4 ? 32 : size == 8 ? 16 : 8;
    for (unsigned start = 0; start < WARP; start += lanes_at_once) {
        uintptr_t words[32][WARP];
        unsigned n[32] = {}, most = 0;
        for (unsigned l = start; l < start + lanes_at_once; l++) {
            if (!(request.lanes >> l & 1)) continue;
            for (uintptr_t word = request.address[l] / 4; word <= (request.address[l] + size - 1) / 4; word++) {
                const unsigned bank = word % 32;
                if (std::find(words[bank], words[bank] + n[bank], word) == words[bank] + n[bank])
                    words[bank][n[bank]++] = word;
                most = std::max(most, n[bank]);
            }
        }
        totals.units += most;
        totals.ideal_units += most != 0;
    }
}

void flush_requests() {
    for (auto& [pc, site] : sites) {
        for (auto& warp : site.pending) {
            for (const Request& request : warp) {
                const unsigned lanes = __builtin_popcount(request.lanes);
                if (!lanes) continue;
                site.totals.requests++;
                site.totals.lanes += lanes;
                site.totals.bytes += (uint64_t)lanes * request.size;
                if (site.shared) add_shared(site.totals, request);
                else add_global(site.totals, request);
            }
            warp.clear();
        }
        memset(site.visits, 0, sizeof site.visits);
    }
    for (auto& [pc, branch] : branches) {
        for (auto& warp : branch.pending) {
            for (auto& [target, diverged] : warp)
                if (target) branch.executed++, branch.divergent += diverged;
            warp.clear();
        }
        memset(branch.visits, 0, sizeof branch.visits);
    }
}

static void on_block(uintptr_t target) {
    const unsigned thread = launch.current;
    const uintptr_t comparison = last_comparison[thread];
    if (!comparison) return;
    last_comparison[thread] = 0;
    Branch& branch = branches[comparison];
    const unsigned visit = branch.visits[thread]++;
    auto& pending = branch.pending[thread / WARP];
    if (pending.size() <= visit) pending.resize(visit + 1);
    auto& [first_target, diverged] = pending[visit];
    if (!first_target) first_target = target;
    else if (first_target != target) diverged = true;
}

void end_counting(const std::string& kernel) {
    flush_requests();
    Module& module = *launch.module;
    std::vector<uintptr_t> pcs;
    for (auto& entry : sites) pcs.push_back(entry.first);
    for (auto& entry : branches) pcs.push_back(entry.first);
    module.locate(pcs);
    // Several instructions of one line and kind are one row.
    std::map<std::tuple<std::string, int, std::string>, Totals> rows;
    auto place = [&](uintptr_t pc) {
        const auto& frames = module.frames_of(pc);
        return frames.empty() ? std::pair<std::string, int>("", 0) : std::make_pair(frames[0].file, frames[0].line);
    };
    for (auto& [pc, site] : sites) {
        if (!site.totals.requests) continue;
        const auto [file, line] = place(pc);
        const char* kind = site.access == Access::load ? "load" : site.access == Access::store ? "store" : "atomic";
        Totals& row = rows[{file, line, std::string(site.shared ? "shared " : "global ") + kind}];
        row.requests += site.totals.requests;
        row.lanes += site.totals.lanes;
        row.bytes += site.totals.bytes;
        row.units += site.totals.units;
        row.ideal_units += site.totals.ideal_units;
    }
    for (auto& [pc, branch] : branches) {
        if (!branch.executed) continue;
        const auto [file, line] = place(pc);
        Totals& row = rows[{file, line, "branch"}];
        row.requests += branch.executed;
        row.units += branch.divergent;
    }
    std::string json = "{\"kernel\": " + json_string(kernel) + ", \"rows\": [";
    bool first = true;
    for (auto& [key, row] : rows) {
        json += std::string(first ? "" : ", ") + "[" + json_string(std::get<0>(key)) + ", " +
                std::to_string(std::get<1>(key)) + ", " + json_string(std::get<2>(key)) + ", " + number(row.requests) +
                ", " + number(row.lanes) + ", " + number(row.bytes) + ", " + number(row.units) + ", " +
                number(row.ideal_units) + "]";
        first = false;
    }
    counted.push_back(json + "]}");
}

}  // namespace emulator

// --- the compiler's entry points (-fsanitize-coverage=trace-pc,trace-cmp) ------------------------------------------

using namespace emulator;
#define EXPORT extern "C" __attribute__((visibility("default")))
#define RETURN_ADDRESS reinterpret_cast<uintptr_t>(__builtin_return_address(0))

EXPORT void __sanitizer_cov_trace_pc() {
    if (!launch.running_thread) return;
    check_timeout(RETURN_ADDRESS);  // a loop may be endless without a single access
    if (settings.counting) on_block(RETURN_ADDRESS);
}
#define IS_CONSTANT(name) (name[0] == 'c' && name[1] == 'o')  // const_cmp4 and the like
#define COMPARISON(name, T)                                                               \
    EXPORT void __sanitizer_cov_trace_##name(T, T value) {                                \
        if (IS_CONSTANT(#name) && test_waits) note_constant_test(uint64_t(value));         \
        if (settings.counting) last_comparison[launch.current] = RETURN_ADDRESS;          \
    }
COMPARISON(cmp1, uint8_t)
COMPARISON(cmp2, uint16_t)
COMPARISON(cmp4, uint32_t)
COMPARISON(cmp8, uint64_t)
COMPARISON(const_cmp1, uint8_t)
COMPARISON(const_cmp2, uint16_t)
COMPARISON(const_cmp4, uint32_t)
COMPARISON(const_cmp8, uint64_t)
COMPARISON(cmpf, float)
COMPARISON(cmpd, double)
EXPORT void __sanitizer_cov_trace_switch(uint64_t, void*) {
    if (settings.counting) last_comparison[launch.current] = RETURN_ADDRESS;
}
