// A part of races.cpp: plain reads that are races by the letter, and may turn out to be harmless.
#pragma once
#include "race_words.hpp"

namespace emulator {

// A plain read of a word that other threads change by atomics. Where a CAS loop begins, it is a guess: the CAS that
// expects the value that was read makes it good. A guess that no CAS follows is a race, unless others' guesses at this
// place (pc) were made good: then it has told the thread that there is nothing to do (atomicMax() of floats).
struct Guess {
    unsigned thread;
    Touch read;
    uintptr_t word;
    uint32_t value;
    Past atomic;
};
static std::vector<Guess> guesses;              // of this block
static std::vector<uint32_t> places_of_guesses;  // of this launch: where a guess was made good
bool guesses_wait;

static struct {  // the value that the CAS which is being checked expects
    bool known = false;
    uint64_t value = 0;
} expected;

void expect_for_cas(bool known, uint64_t value) { expected = {known, value}; }

static void warn_of_benign_race(Finding finding, const char* likely) {
    finding.kind = "benign race";
    finding.what += "; it seems to do no harm";
    finding.likely = likely;
    finding.block = blockIdx;
    finding.thread = current().index;
    warn(finding);
}

static bool is_place_of_guesses(uint32_t pc) {
    return std::count(places_of_guesses.begin(), places_of_guesses.end(), pc) != 0;
}

[[gnu::cold, gnu::noinline]] static void add_guess(const Guess& guess) {
    for (const Guess& known : guesses)
        if (known.thread == guess.thread && known.word == guess.word && known.read.pc == guess.read.pc &&
            known.value == guess.value)
            return;
    guesses.push_back(guess);
    guesses_wait = true;
}

// Does the CAS expect these bytes of the word?
static bool is_expected(uint32_t value, uintptr_t word, unsigned bytes, const Touch& cas) {
    for (unsigned i = 0; i < bytes; i++) {
        const uintptr_t at = word + i - cas.address;
        if (at < cas.size && (value >> 8 * i & 255) != (expected.value >> 8 * at & 255)) return false;
    }
    return true;
}

// The CAS has expected what was read there; it succeeds if the word, all bytes of it, still holds that.
static void guess_is_good(uint32_t pc, const Touch& cas) {
    const bool succeeds = !memcmp(reinterpret_cast<void*>(cas.address), &expected.value, cas.size);
    if (succeeds && !is_place_of_guesses(pc)) places_of_guesses.push_back(pc);
}

// A CAS of the thread that runs: drops its last read of the word, if that is what the CAS expects. held: by the word,
// now.
static void make_guesses_good(Others& others, uintptr_t word, unsigned bytes, uint32_t held, const Touch& cas) {
    const unsigned me = launch.current;
    const bool expects_held = is_expected(held, word, bytes, cas);
    for (Past& past : others.read)
        if (expects_held && past.thread == me && past.epoch >= block_epoch && !past.wrote && !past.several) {
            guess_is_good(past.pc, cas);
            past = {};
        }
    auto mine = [&](const Guess& guess) { return guess.thread == me && guess.word == word; };
    const auto last = std::find_if(guesses.rbegin(), guesses.rend(), mine);
    if (last == guesses.rend() || !is_expected(last->value, word, bytes, cas)) return;
    guess_is_good(uint32_t(last->read.pc - launch.module->base), cas);
    guesses.erase(std::prev(last.base()));
    guesses_wait = !guesses.empty();
}

static const char* const IS_GUESS =
    "a guess that a CAS loop verifies, or that says that there is nothing to do: right as long as the value goes "
    "nowhere else (a volatile or an atomic read would say so)";

// The thread that runs comes to a barrier or to its end: no CAS can follow.
void settle_guesses() {
    std::vector<Guess> mine;
    auto is_mine = [](const Guess& guess) { return guess.thread == launch.current; };
    std::copy_if(guesses.begin(), guesses.end(), std::back_inserter(mine), is_mine);
    guesses.erase(std::remove_if(guesses.begin(), guesses.end(), is_mine), guesses.end());
    guesses_wait = !guesses.empty();
    for (const Guess& guess : mine) {
        const auto words = guess.read.shadow ? race<true> : race<false>;
        Finding finding = words(guess.read, guess.word, "atomic access", guess.atomic, false, false);
        if (is_place_of_guesses(uint32_t(guess.read.pc - launch.module->base))) warn_of_benign_race(finding, IS_GUESS);
        else note(finding, launch.current);
    }
}

// May the thread that has read the word still do a CAS on it? It waits for its warp then, not at a barrier.
static bool may_still_verify(const Past& read) {
    if (read.epoch < block_epoch || read.wrote) return false;
    const State state = launch.threads[read.thread].state;
    return state != State::done && state != State::at_barrier;
}

}  // namespace emulator
