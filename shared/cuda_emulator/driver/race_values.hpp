// A part of races.cpp: writes of the value that is there already.
#pragma once
#include "race_words.hpp"

namespace emulator {

static struct {  // a store to what another thread has just stored or read
    bool waits = false;
    uintptr_t address;
    unsigned size;
    char before[256];
    bool conflict[256];  // per byte
    bool after_read;     // by a thread that has not written the word itself
    Finding finding;
} same_value;
bool same_value_waits;

// What a store writes is seen when it is done: before the thread does anything else that the emulator sees.
static void expect_same_value(const Touch& touch, uintptr_t word, unsigned bytes, const Finding& finding) {
    if (touch.size > sizeof same_value.before) fail(finding);
    if (!same_value.waits) {
        same_value.waits = same_value_waits = true;
        same_value.address = touch.address, same_value.size = touch.size;
        memset(same_value.conflict, 0, touch.size);
        same_value.after_read = false;
        same_value.finding = finding;
        memcpy(same_value.before, reinterpret_cast<void*>(touch.address), touch.size);
    }
    for (unsigned i = 0; i < touch.size; i++)
        if (touch.address + i - word < bytes) same_value.conflict[i] = true;
}

static void finish_settings();
static void warn_of_benign_race(Finding finding, const char* likely);
const char* const IS_SAME = "a missing barrier, which does no harm only because the value that is written is the one that is there: "
                            "try numbers that differ";

void finish_same_value() {
    same_value_waits = false;
    finish_settings();
    if (!same_value.waits) return;
    same_value.waits = false;
    const char* after = reinterpret_cast<char*>(same_value.address);
    for (unsigned i = 0; i < same_value.size && !launch.failed; i++)
        if (same_value.conflict[i] && same_value.before[i] != after[i]) return note(same_value.finding, launch.current);
    if (same_value.after_read && !launch.failed) warn_of_benign_race(same_value.finding, IS_SAME);
}

static inline uint32_t content(uintptr_t word, unsigned bytes) {
    uint32_t value = 0;
    if (bytes == 4) memcpy(&value, reinterpret_cast<void*>(word), 4);
    else memcpy(&value, reinterpret_cast<void*>(word), bytes);
    return value;
}

static bool has_written(const Write& write, const Others* others, const Past& past) {
    if (write.past.thread == past.thread && write.past.epoch == past.epoch) return true;
    if (!others || others->writers_epoch != past.epoch) return false;
    return others->lanes >> past.thread % WARP & 1 && others->warps >> past.thread / WARP & 1;
}

static void add_writer(Others& others) {
    if (others.writers_epoch != epoch) others.writers_epoch = epoch, others.lanes = others.warps = 0;
    others.lanes |= 1u << launch.current % WARP;
    others.warps |= 1u << launch.current / WARP;
}

// May this thread read what another has written, since all have written the same?
template <bool GLOBAL>
static bool harmless_to_read(const Write& write, const Others* others, uintptr_t word, unsigned bytes) {
    if (!write.past.changed && content(word, bytes) == write.before) return true;
    if (!others) return false;
    if (others->writers_epoch == epoch)
        return others->lanes >> launch.current % WARP & 1 && others->warps >> launch.current / WARP & 1;
    return GLOBAL && others->writers_epoch >= block_epoch;
}

}  // namespace emulator
