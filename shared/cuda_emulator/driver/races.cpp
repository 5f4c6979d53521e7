// The race detector: who has touched a word of shared or global memory, and what orders the two.
//
// Two accesses race when they touch one word, at least one writes, they are by different threads, and nothing orders them:
// no __syncthreads() between (the epoch is the same), in one warp no __syncwarp() (the clocks), and between blocks no
// atomic on a third word that both have done. A write that leaves the word as it was is no more than a read.
//
// race_order.hpp: what is remembered, and what orders two accesses. race_words.hpp: a race in words. race_values.hpp:
// writes of the value that is there. race_doubts.hpp and race_tests.hpp:
// races by the letter that do no harm.
#include <sys/mman.h>

#include "race_tests.hpp"

namespace emulator {

// --- one word --------------------------------------------------------------------------------------------------------

// The readers that no barrier has ordered: in shared memory those of this epoch, in global memory of this launch.
template <bool GLOBAL>
static inline uint32_t since() { return GLOBAL ? launch_epoch : epoch; }

// Keeps two readers, of two warps where there are two: no barrier orders those.
template <bool GLOBAL>
static inline void remember_read(Others& others, const Past& reader) {
    for (Past& past : others.read) {
        const bool open = GLOBAL ? past.epoch >= launch_epoch && (past.epoch < block_epoch || past.epoch == epoch)
                                 : past.epoch == epoch;
        if (!open) {
            past = reader;
            return;
        }
        if (past.thread == reader.thread && past.epoch == epoch) {
            const bool several = past.several || past.pc != reader.pc;
            past = reader;
            past.several = several;
            return;
        }
    }
    if (warps_met)
        for (Past& past : others.read)
            if (read_before_meeting(past)) {
                past = reader;
                return;
            }
    if ((GLOBAL && others.read[0].epoch < block_epoch) || others.read[0].thread / WARP == others.read[1].thread / WARP)
        others.read[1] = reader;
}

template <bool GLOBAL>
static inline void record_write(Write& write, Others* others, const Past& writer, uintptr_t word, unsigned bytes) {
    const uint32_t held = content(word, bytes);
    bool changed = false, varied = false;
    if (write.past.epoch >= (GLOBAL ? block_epoch : epoch)) {
        changed = write.past.changed || held != write.before;
        varied = GLOBAL && (write.past.varied || (write.past.changed && held != write.before));
        if (GLOBAL && changed && !write.past.changed) write.before = held;
    } else {
        varied = GLOBAL && write.past.epoch >= launch_epoch;
        write.before = held;
    }
    write.past = writer;
    write.past.changed = changed;
    write.past.varied = varied;
    if (others && others->writers_epoch == epoch) others->writers_epoch = 0;
}

// Was the word written before in this block, and before the last barrier?
static bool rewritten(const Others& others) { return others.earlier_write >= block_epoch && others.earlier_write < epoch; }

[[noreturn, gnu::cold, gnu::noinline]] static void fail_race(const Touch& touch, uintptr_t word, const char* before, const Past& past,
                                                             bool rewritten) {
    if (touch.shadow) fail(race<true>(touch, word, before, past, rewritten, false));
    fail(race<false>(touch, word, before, past, rewritten, false));
}

static inline bool is_written(const Write& write, const Others& others) {
    return write.past.epoch >= block_epoch || others.atomic.epoch >= block_epoch;
}

[[gnu::cold, gnu::noinline]] static void suspect_uninitialised(const Touch& touch) {
    suspect({LAUNCH_FAILED, "uninitialised shared memory",
             "use of uninitialised shared memory: " + name_of(touch, touch.address) + " was not written before in this block",
             "an element that no thread fills before the next barrier (edge tiles need zeros), or a reduction that "
             "reads more partial results than there are warps", touch.pc});
}

template <bool GLOBAL>
static inline void check_load(Write& write, Others& others, uintptr_t word, unsigned bytes, const Touch& touch) {
    if (!GLOBAL && !is_written(write, others)) suspect_uninitialised(touch);
    if (!ordered<GLOBAL>(others.atomic) && !touch.relaxed)
        add_guess({launch.current, touch, word, content(word, bytes), others.atomic});
    if (!ordered<GLOBAL>(write.past) && !harmless_to_read<GLOBAL>(write, &others, word, bytes)) {
        const uint32_t held = content(word, bytes);
        if (!GLOBAL || touch.relaxed || !may_be_test(write, others, held))
            fail_race(touch, word, "write", write.past, rewritten(others));
        add_test(touch, write, word, held);
    } else if (GLOBAL && !touch.relaxed && (write.past.thread != launch.current || write.past.epoch < block_epoch)) {
        note_open_read(others, word, touch);
    }
    remember_read<GLOBAL>(others, now(touch));
}

// The read may be a guess of a CAS loop, which is only known when its thread goes on.
[[gnu::cold, gnu::noinline]]
static void atomic_after_read(const Touch& touch, uintptr_t word, unsigned bytes, Past& read, bool rewritten) {
    const uintptr_t pc = launch.module->base + read.pc;
    if (may_still_verify(read)) {
        const Touch guess{word, bytes, Access::load, false, pc, touch.shadow};
        add_guess({read.thread, guess, word, content(word, bytes), now(touch)});
        read = {};
    } else if (is_place_of_guesses(read.pc)) {
        warn_of_benign_race(touch.shadow ? race<true>(touch, word, "read", read, rewritten, false)
                                         : race<false>(touch, word, "read", read, rewritten, false), IS_GUESS);
    } else {
        fail_race(touch, word, read.wrote ? "write" : "read", read, rewritten);
    }
}

template <bool GLOBAL>
static inline void check_atomic(Write& write, Others& others, uintptr_t word, unsigned bytes, const Touch& touch) {
    const bool written = is_written(write, others);
    if (!GLOBAL && !written) suspect_uninitialised(touch);
    if (expected.known) make_guesses_good(others, word, bytes, content(word, bytes), touch);
    for (Past& past : others.read)
        if (past.epoch >= since<GLOBAL>() && !past.relaxed && !ordered<GLOBAL>(past))
            atomic_after_read(touch, word, bytes, past, written);
    if (!ordered<GLOBAL>(write.past)) fail_race(touch, word, "write", write.past, rewritten(others));
    if (GLOBAL) note_atomic(others, word, now(touch), false);
    else others.atomic = now(touch);
}

template <bool GLOBAL>
static inline bool write_after_meeting(const Touch& touch, uintptr_t word, const Past& read) {
    if (!read_before_meeting(read) || read.thread / WARP != launch.current / WARP) return false;
    warn_of_benign_race(race<GLOBAL>(touch, word, "read", read, false, false),
                        "a shuffle orders no memory: __syncwarp() is missing between the read and the write");
    return true;
}

// What a store races with, if anything; an unordered store of what the word holds already is none.
template <bool GLOBAL>
static inline const Past* conflict_of_store(const Touch& touch, uintptr_t word, const Write& write,
                                            const Others* others) {
    if (!ordered<GLOBAL>(write.past)) return &write.past;
    if (others)
        for (const Past& past : others->read)
            if (past.epoch >= since<GLOBAL>() && !ordered<GLOBAL>(past) &&
                !write_after_meeting<GLOBAL>(touch, word, past) &&
                !(GLOBAL && write_after_test(touch, word, write, *others, past)))
                return &past;
    return nullptr;
}

template <bool GLOBAL>
[[gnu::noinline]] static void store_in_conflict(const Touch& touch, const Past& other, Past writer, Write& write, Others* others,
                                                uintptr_t word, unsigned bytes) {
    const bool after_write = &other == &write.past, wrote = after_write || other.wrote;
    const bool updates = writer.modified && (wrote ? other.modified
                                                     : write.past.epoch >= launch_epoch && write.past.thread == other.thread &&
                                                           write.past.modified);
    const bool again = others && (after_write ? rewritten(*others) : is_written(write, *others));
    expect_same_value(touch, word, bytes, race<GLOBAL>(touch, word, wrote ? "write" : "read", other, again, updates));
    if (!wrote && !has_written(write, others, other)) same_value.after_read = true;
    if (others) {
        Past same = writer;
        same.wrote = 1;
        remember_read<GLOBAL>(*others, same);
        add_writer(*others);
    }
    // Whoever has changed the word is still the one to report.
    if (write.past.epoch < since<GLOBAL>()) record_write<GLOBAL>(write, nullptr, writer, word, bytes);
}

template <bool GLOBAL>
static inline void check_store(Write& write, Others* others, uintptr_t word, unsigned bytes, const Touch& touch) {
    if (others && !ordered<GLOBAL>(others->atomic))
        fail_race(touch, word, "atomic access", others->atomic, rewritten(*others));
    Past writer = now(touch);
    writer.modified = GLOBAL && last_load == touch.address;
    if (const Past* other = conflict_of_store<GLOBAL>(touch, word, write, others)) {
        store_in_conflict<GLOBAL>(touch, *other, writer, write, others, word, bytes);
        return;
    }
    if (!GLOBAL && write.past.epoch != epoch) others->earlier_write = write.past.epoch;
    record_write<GLOBAL>(write, others, writer, word, bytes);
}

static inline void check_shared_word(SharedCell& cell, uintptr_t word, unsigned bytes, const Touch& touch) {
    if (touch.access == Access::load) check_load<false>(cell.write, cell.others, word, bytes, touch);
    else if (touch.access == Access::store) check_store<false>(cell.write, &cell.others, word, bytes, touch);
    else check_atomic<false>(cell.write, cell.others, word, bytes, touch);
}

void check_shared(bool dynamic, uintptr_t offset, uintptr_t address, unsigned size, Access access, uintptr_t pc) {
    const unsigned granule = launch.module->granule, shift = granule == 4 ? 2 : granule - 1;
    SharedCell* const cells = dynamic ? dynamic_cells.data() : static_cells.data();
    const Touch touch{address, size, access, false, pc, nullptr};
    if (access == Access::load && size == granule && !(offset & (granule - 1))) {
        // The usual case: a word that was written in this block before the last barrier.
        SharedCell& cell = cells[offset >> shift];
        if (cell.write.past.epoch >= block_epoch && cell.write.past.epoch < epoch && cell.others.atomic.epoch != epoch) {
            remember_read<false>(cell.others, now(touch));
            return;
        }
    }
    if (access != Access::load && holds_reads[launch.current]) values_leave(nullptr);
    const uintptr_t base = address - offset;
    for (uintptr_t i = offset >> shift; i <= (offset + size - 1) >> shift; i++)
        check_shared_word(cells[i], base + (i << shift), granule, touch);
}

// A volatile access: the lanes of the warp do it together, as code from before Volta expects.
void check_volatile_shared(bool dynamic, uintptr_t offset, uintptr_t address, unsigned size, Access access, uintptr_t pc,
                           uint32_t of_step) {
    step = of_step & ((1u << STEP_BITS) - 1);
    step += step == 0;
    lockstep = false;
    check_shared(dynamic, offset, address, size, access, pc);
    step = 0;
    if (!lockstep || std::count(lockstep_places.begin(), lockstep_places.end(), pc)) return;
    lockstep_places.push_back(pc);
    Finding finding{SUCCESS, "lockstep", "relies on warps that run in lockstep, which no GPU since Volta promises",
                    "__syncwarp() is missing between the steps of a volatile shared array", pc};
    finding.block = blockIdx;
    finding.thread = current().index;
    warn(finding);
}

// --- global memory ---------------------------------------------------------------------------------------------------

constexpr unsigned MOST_EARLY_READS = 1 << 15, MOST_EARLY_PAGES = 1 << 10;  // whichever comes first: a page's records are 100 KiB
constexpr size_t MOST_PAGE_BYTES = size_t(1) << 30;  // of records; a warning says so when they do not reach
static size_t page_bytes;
static unsigned new_pages;  // of this launch
static std::vector<char*> spare[2][3];  // [writes or others][granule 1, 2, 4]
static Shadow module_shadow;            // of __device__ variables

static unsigned log2_of(unsigned granule) { return granule == 4 ? 2 : granule - 1; }

static char* new_records(unsigned kind, unsigned granule) {
    auto& list = spare[kind][log2_of(granule)];
    if (!list.empty()) {
        char* records = list.back();
        list.pop_back();
        return records;
    }
    const size_t bytes = PAGE / granule * (kind ? sizeof(Others) : sizeof(Write));
    if (page_bytes + bytes > MOST_PAGE_BYTES) return nullptr;
    page_bytes += bytes;
    return static_cast<char*>(calloc(1, bytes));
}

static void warn_of_no_room(uintptr_t pc) {
    static uint32_t told;
    if (told == launch_epoch) return;
    told = launch_epoch;
    Finding finding{SUCCESS, "unchecked", "races in global memory are looked for only in a part of what this launch writes",
                    "the launch writes too much for the emulator's records: run some blocks only "
                    "(cuda_emulator.settings(window=...))", pc};
    finding.block = blockIdx;
    finding.thread = current().index;
    warn(finding);
}

void forget_shadow(Shadow& shadow) {
    for (uint32_t i : shadow.used) {
        Page& page = shadow.pages[i];
        const unsigned g = log2_of(shadow.granule);
        if (page.writes) spare[0][g].push_back(reinterpret_cast<char*>(page.writes));
        if (page.others) spare[1][g].push_back(reinterpret_cast<char*>(page.others));
        page = {};
    }
    shadow.used.clear();
    if (shadow.pages) munmap(shadow.pages, (shadow.bytes / PAGE + 1) * sizeof(Page));
    shadow.pages = nullptr;
}

// The first write of a launch: from now on reads of the array are recorded as well.
static void note_first_write(Shadow& shadow) {
    shadow.written = launch_epoch;
    for (Range& range : recent)
        if (range.shadow == &shadow) range.written = launch_epoch;
}

static void make_pages(Shadow& shadow) {
    if (shadow.pages && shadow.granule == launch.module->granule) return;
    forget_shadow(shadow);
    shadow.granule = launch.module->granule;
    void* memory = mmap(nullptr, (shadow.bytes / PAGE + 1) * sizeof(Page), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    shadow.pages = memory == MAP_FAILED ? nullptr : static_cast<Page*>(memory);
}

[[gnu::noinline]] static Page* fill_page(Shadow& shadow, size_t i, bool needs_others, uintptr_t pc) {
    Page& page = shadow.pages[i];
    new_pages++;
    if (!page.writes) {
        page.writes = reinterpret_cast<Write*>(new_records(0, shadow.granule));
        if (page.writes) shadow.used.push_back(i);
    }
    if (page.writes && needs_others && !page.others)
        page.others = reinterpret_cast<Others*>(new_records(1, shadow.granule));
    if (page.writes && (page.others || !needs_others)) return &page;
    warn_of_no_room(pc);
    return nullptr;
}

static inline Page* page_of(Shadow& shadow, size_t i, bool needs_others, uintptr_t pc) {
    if (!shadow.pages) return nullptr;
    Page& page = shadow.pages[i];
    return page.writes && (page.others || !needs_others) ? &page : fill_page(shadow, i, needs_others, pc);
}

void check_global(Shadow& shadow, uintptr_t address, unsigned size, Access access, bool relaxed, uintptr_t pc) {
    if (relaxed && access == Access::store) access = Access::atomic;
    const bool atomic = access == Access::atomic;
    if (shadow.written < launch_epoch) {
        // A volatile load may be what orders the blocks, so it always counts.
        if (access != Access::load) note_first_write(shadow);
        else if (!relaxed && !early_reads) return;
        else if (!relaxed && (--early_reads == 0 || new_pages > MOST_EARLY_PAGES)) early_reads = 0, recorded_from = launch_epoch;
        make_pages(shadow);
    }
    const unsigned granule = shadow.granule, shift = log2_of(granule), cells = PAGE >> shift;
    const uintptr_t offset = address - shadow.low;
    const Touch touch{address, size, access, relaxed, pc, &shadow};
    if (access != Access::load && holds_reads[launch.current]) values_leave(atomic ? nullptr : &touch);
    for (uintptr_t i = offset >> shift; i <= (offset + size - 1) >> shift; i++) {
        Page* page = page_of(shadow, i / cells, access != Access::store, pc);
        if (!page) return;
        const uintptr_t word = shadow.low + (i << shift);
        Write& write = page->writes[i % cells];
        if (access == Access::store) {
            // Several threads that write one element need the rest of the record.
            if (!page->others && write.past.epoch >= launch_epoch &&
                (write.past.thread != launch.current || write.past.epoch < block_epoch) &&
                !page_of(shadow, i / cells, true, pc))
                return;
            check_store<true>(write, page->others ? page->others + i % cells : nullptr, word, granule, touch);
        } else if (atomic) {
            check_atomic<true>(write, page->others[i % cells], word, granule, touch);
        } else {
            check_load<true>(write, page->others[i % cells], word, granule, touch);
            if (relaxed) note_atomic(page->others[i % cells], word, now(touch), true);
        }
    }
}

void check_device_variable(uintptr_t address, unsigned size, Access access, bool relaxed, uintptr_t pc) {
    check_global(module_shadow, address, size, access, relaxed, pc);
}

// --- launches, blocks, barriers --------------------------------------------------------------------------------------

void begin_races() {
    const Module& module = *launch.module;
    static_cells.resize(std::max(static_cells.size(), (module.shared_high - module.shared_low) / module.granule + 1));
    dynamic_cells.resize(std::max(dynamic_cells.size(), launch.dynamic_bytes / module.granule + 1));
    launch_epoch = ++epoch;  // nothing of another launch is of this one
    for (uint32_t& clock : clocks) clock++;
    same_value.waits = same_value_waits = false;
    step = 0;
    lockstep_places.clear();
    block_epochs.clear();
    places_of_guesses.clear();
    begin_tests();
    released.clear();
    acquired.clear();
    last_load = 0;
    early_reads = MOST_EARLY_READS;
    new_pages = 0;
    recorded_from = 0;
    const uintptr_t low = module.data_low & ~uintptr_t(15);
    if (module_shadow.low == low && module_shadow.bytes == module.data_high - low) return;
    forget_shadow(module_shadow);
    module_shadow.low = low;
    module_shadow.bytes = module.data_high > low ? module.data_high - low : 0;
}

void begin_block_races() {
    block_epoch = ++epoch;
    warps_met = false;
    block_epochs.push_back(epoch);
    acquired.clear();
    handovers.clear();
    guesses.clear();
    guesses_wait = false;
    expected = {};
    begin_block_tests();
}

void barrier_of_races() {
    epoch++;
    warps_met = false;
    handovers.clear();
}

}  // namespace emulator
