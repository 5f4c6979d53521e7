// A part of races.cpp: reads of global memory that only decide whether to write (test, then set).
//
// if (dist[j] == -1) { dist[j] = level + 1; ... } in many threads is a race by the letter, and right: all write one
// value, and whoever reads too early writes it once more. Such a read is told from others by what its thread does next.
// It ends, or it sets a word that it has tested at the same place: a warning. It stores anything else, hands it to
// another lane or does an atomic: then the value may have gone there, and the race is an error.
#pragma once
#include "race_doubts.hpp"
#include "race_values.hpp"

namespace emulator {

// A read that nothing has followed so far, of a word that no other thread has written when it was read.
struct OpenRead {
    Others* others;
    uintptr_t word;
    uint32_t pc, epoch;
};
static std::vector<OpenRead> open_reads[MAX_THREADS];
bool holds_reads[MAX_THREADS];  // open reads or tests
constexpr size_t MOST_OPEN_READS = 1024;

// A read that is not ordered with a write: of what this thread has read, or what it has written afterwards.
struct Test {
    Touch read;
    uintptr_t word;
    Past writer;
    bool knows_unset;
    uint32_t unset, set;  // the two values of the word
};
static std::vector<Test> tests[MAX_THREADS];

// A word that was read and then written by another thread, between two barriers of this block.
struct LateWrite {
    const Others* others;
    uint32_t epoch;
    Touch touch;
    uintptr_t word;
    Past read;
};
static std::vector<LateWrite> late_writes;

// A store of a thread that holds a test: right if the word has this value afterwards.
struct Setting {
    uintptr_t word;
    uint32_t value;
    Test test;
};
static std::vector<Setting> settings_of_store;

// Places (pcs), of this launch.
static std::vector<uintptr_t> told_tests;
static std::vector<uintptr_t> tests_of_constants;  // where what is read is compared with a constant
struct SetPlace {  // where threads read a word that they then store to
    uint32_t pc;
    bool has_value, varied;  // varied: they store several values
    uint64_t value;
    bool warned;
    Finding warning;
};
static std::vector<SetPlace> places_of_sets;
static Touch own_store;  // a store to what the thread has read, until it is done
static uint32_t place_of_own_store;
static Touch last_test;                             // the last load of global memory that was recorded
bool test_waits;

static bool has_place(const std::vector<uintptr_t>& places, uintptr_t pc) {
    return std::count(places.begin(), places.end(), pc) != 0;
}
static void add_place(std::vector<uintptr_t>& places, uintptr_t pc) {
    if (!has_place(places, pc)) places.push_back(pc);
}

static SetPlace* find_set_place(uint32_t pc) {
    for (SetPlace& place : places_of_sets)
        if (place.pc == pc) return &place;
    return nullptr;
}

// if (x > *best) *best = x; is no test then set, nor is if (!*owner) *owner = i; though only one thread has stored so
// far.
static bool is_no_test(uint32_t pc) {
    const SetPlace* place = find_set_place(pc);
    return place && (place->varied || !has_place(tests_of_constants, pc));
}

static void note_own_store(uint32_t pc, const Touch& store) {
    SetPlace* place = find_set_place(pc);
    if (!place) places_of_sets.push_back({pc, false, false, 0, false, {}}), place = &places_of_sets.back();
    if (place->varied || store.size > sizeof place->value) return;
    own_store = store, place_of_own_store = pc;
    same_value_waits = true;
}

// Which value has it stored, and do others store the same?
static void finish_own_store() {
    if (!own_store.size) return;
    uint64_t value = 0;
    memcpy(&value, reinterpret_cast<void*>(own_store.address), own_store.size);
    own_store.size = 0;
    SetPlace& place = *find_set_place(place_of_own_store);
    place.varied |= place.has_value && place.value != value;
    place.has_value = true, place.value = value;
    if (!place.varied || !place.warned || launch.failed) return;
    launch.finding = place.warning;  // no warning after all
    launch.failed = true;
}

// The kernel compares a value with a constant: is it what it has just read?
void note_constant_test(uint64_t value) {
    test_waits = false;
    uint64_t read = 0;
    if (last_test.size > sizeof read) return;
    memcpy(&read, reinterpret_cast<void*>(last_test.address), last_test.size);
    if (!memcmp(&read, &value, last_test.size)) add_place(tests_of_constants, last_test.pc - launch.module->base);
}

static const char* const IS_TEST =
    "a test before all write one and the same value: right as long as either value will do for whoever reads "
    "(a volatile or an atomic access would say so)";

static uint32_t place_of(const Test& test) { return uint32_t(test.read.pc - launch.module->base); }

static Finding finding_of(const Test& test) {
    return race<true>(test.read, test.word, "write", test.writer, false, false);
}

// read: the place of the read that is in doubt.
static void warn_of_test(Finding finding, uint32_t read) {
    told_tests.push_back(finding.pc);
    finding.block = blockIdx, finding.thread = current().index;
    if (SetPlace* place = find_set_place(read)) {
        if (!place->warned) place->warning = finding;
        place->warned = true;
    }
    warn_of_benign_race(finding, IS_TEST);
}

static void settle_test(const Test& test, bool right) {
    if (!right || is_no_test(place_of(test))) {
        Finding finding = finding_of(test);
        note(finding, launch.current);
    } else if (!has_place(told_tests, test.read.pc)) {
        warn_of_test(finding_of(test), place_of(test));
    }
}

// Have all writes of this launch left one value in the word, and has no one who read it stored anything?
static bool may_be_test(const Write& write, const Others& others, uint32_t held) {
    if (others.leaked >= launch_epoch) return false;
    return write.past.epoch >= launch_epoch && !write.past.varied && (!write.past.changed || held == write.before);
}

[[gnu::cold, gnu::noinline]]
static void add_test(const Touch& read, const Write& write, uintptr_t word, uint32_t held) {
    last_test = read, test_waits = true;
    auto& mine = tests[launch.current];
    for (const Test& known : mine)  // a loop that looks again and again
        if (known.word == word && known.read.pc == read.pc) return;
    mine.push_back({read, word, write.past, !write.past.changed, write.before, held});
    holds_reads[launch.current] = true;
}

static void leave_read(const OpenRead& read) {
    read.others->leaked = epoch;
    for (const LateWrite& late : late_writes)
        if (late.others == read.others && late.epoch == read.epoch)
            fail(race<true>(late.touch, late.word, "read", late.read, false, false));
}

static inline void note_open_read(Others& others, uintptr_t word, const Touch& read) {
    if (others.leaked >= launch_epoch) return;  // an error in any case, if a write comes
    last_test = read, test_waits = true;
    auto& open = open_reads[launch.current];
    if (open.size() == MOST_OPEN_READS) {
        for (const OpenRead& old : open) leave_read(old);
        open.clear();
    }
    open.push_back({&others, word, uint32_t(read.pc - launch.module->base), epoch});
    holds_reads[launch.current] = true;
}

// The thread's read, at this place, of the word that it now stores to.
static const OpenRead* own_read(uintptr_t word, uint32_t pc) {
    for (const OpenRead& read : open_reads[launch.current])
        if (read.word == word && read.pc == pc) return &read;
    return nullptr;
}

// What becomes of a test when its thread stores something (null: or hands it on otherwise).
static void store_after_test(const Test& test, const Touch* store) {
    const unsigned bytes = launch.module->granule;
    if (store && test.word + bytes > store->address && test.word < store->address + store->size) {
        settings_of_store.push_back({test.word, content(test.word, bytes), test});
        note_own_store(place_of(test), *store);
        return;
    }
    const uintptr_t other = store ? store->address + (test.word - test.read.address) : 0;
    if (!test.knows_unset || !own_read(other, place_of(test)) || content(other, bytes) != test.unset)
        fail(finding_of(test));
    settings_of_store.push_back({other, test.set, test});
}

static void forget_tests() {
    const unsigned me = launch.current;
    tests[me].clear();
    open_reads[me].clear();
    holds_reads[me] = false;
}

// The store, atomic or warp operation that follows reads of this thread. store: null unless it is a store to global
// memory.
void values_leave(const Touch* store) {
    for (const Test& test : tests[launch.current]) store_after_test(test, store);
    for (const OpenRead& read : open_reads[launch.current]) {
        const bool own = store && read.word + launch.module->granule > store->address &&
                         read.word < store->address + store->size;
        if (!own) leave_read(read);
        else note_own_store(read.pc, *store);
    }
    forget_tests();
    if (!settings_of_store.empty()) same_value_waits = true;
}

// The store is done.
static void finish_settings() {
    for (const Setting& one : settings_of_store)
        settle_test(one.test, content(one.word, launch.module->granule) == one.value);
    settings_of_store.clear();
    finish_own_store();
}

// The thread that runs ends: what it has read has gone nowhere.
void drop_reads() {
    for (const Test& test : tests[launch.current])
        if (!launch.failed) settle_test(test, true);
    forget_tests();
}

// The word's first write in this launch, after a read of another thread's from which nothing has followed: no error so
// far.
static bool write_after_test(const Touch& touch, uintptr_t word, const Write& write, const Others& others,
                             const Past& read) {
    if (read.wrote || read.relaxed || write.past.epoch >= launch_epoch || others.leaked >= launch_epoch) return false;
    if (is_no_test(read.pc)) return false;
    if (read.epoch == epoch) late_writes.push_back({&others, epoch, touch, word, read});
    if (!has_place(told_tests, touch.pc)) warn_of_test(race<true>(touch, word, "read", read, false, false), read.pc);
    return true;
}

static void begin_block_tests() {
    for (unsigned i = 0; i < launch.threads.size(); i++) {
        open_reads[i].clear();
        tests[i].clear();
        holds_reads[i] = false;
    }
    late_writes.clear();
    settings_of_store.clear();
    test_waits = false;
    own_store.size = 0;
}

static void begin_tests() {
    told_tests.clear();
    places_of_sets.clear();
    tests_of_constants.clear();
}

}  // namespace emulator
