// What the Python package calls, beside the driver API (control.py).
#include "emulator.hpp"

using namespace emulator;
#define EXPORT extern "C" __attribute__((visibility("default")))

// Its presence tells the emulator from NVIDIA's driver.
EXPORT int emulator_version() { return EMULATOR_ABI; }

EXPORT void emulator_set_schedule(int schedule, unsigned seed) {
    settings.schedule = static_cast<Schedule>(schedule);
    settings.seed = seed;
}
EXPORT void emulator_set_window(uint64_t first_block, uint64_t n_blocks) {
    settings.first_block = first_block;
    settings.n_blocks = n_blocks;
}
EXPORT void emulator_set_timeout(double seconds) { settings.timeout_s = seconds; }
EXPORT void emulator_set_counting(int on) { settings.counting = on != 0; }

static const char* take(std::vector<std::string>& list) {
    static std::string text;
    text = "[";
    for (size_t i = 0; i < list.size(); i++) text += (i ? ", " : "") + list[i];
    text += "]";
    list.clear();
    return text.c_str();
}
// JSON; each call gives what has come since the one before.
EXPORT const char* emulator_take_reports() { return take(reports); }
EXPORT const char* emulator_take_warnings() { return take(warnings); }
EXPORT const char* emulator_take_counters() { return take(counted); }
