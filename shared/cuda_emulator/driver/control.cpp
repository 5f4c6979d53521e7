// What the Python package calls, beside the driver API (control.py).
#include <cstdlib>
#include <cstring>

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

// The settings of a program that runs on its own: run and check of __main__.py set them.
void emulator::settings_from_environment() {
    const char* const schedules[] = {"forward", "reverse", "random", "warp_greedy"};
    const char *schedule = getenv("CUDA_EMULATOR_SCHEDULE"), *seed = getenv("CUDA_EMULATOR_SEED"), *timeout = getenv("CUDA_EMULATOR_TIMEOUT");
    for (int i = 0; schedule && i < 4; i++)
        if (!strcmp(schedule, schedules[i])) settings.schedule = static_cast<Schedule>(i);
    if (seed) settings.seed = strtoul(seed, nullptr, 10);
    if (timeout) settings.timeout_s = atof(timeout);
    if (const char* fill = getenv("CUDA_EMULATOR_FILL")) settings.fill = strtoul(fill, nullptr, 10);
}

EXPORT void emulator_read_environment() { emulator::settings_from_environment(); }

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
