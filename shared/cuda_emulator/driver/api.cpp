// The driver API, its devices, contexts, streams and events: what PyCUDA calls, with CUDA's error codes and strict argument checks.
// Memory is in api_memory.cpp, modules and launches in api_modules.cpp.
//
// Everything is synchronous: a call has finished when it returns. Functions that are in none of these files are generated
// from functions.txt (all names in cuda.h) and answer "not supported", with their name.
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "api.hpp"

using namespace emulator;

// --- handles ---------------------------------------------------------------------------------------------------------

struct Stream {};
struct Event {
    double recorded_ms = -1;
    bool timed = true;
};

static Handles<Stream> streams;
static Handles<Event> events;

// A context has no state here; what counts is that one is current.
struct emulator::Context {
    bool primary;
};
Context* emulator::primary_context;
static Handles<Context> contexts;
static int primary_users;
static thread_local std::vector<Context*> current_contexts;
static bool initialised;

Code emulator::need_context() {
    if (!initialised) return error(NOT_INITIALIZED, "call cuInit first (pycuda.autoprimaryctx does)");
    if (current_contexts.empty())
        return error(INVALID_CONTEXT, "no context is current on this thread (import pycuda.autoprimaryctx)");
    return SUCCESS;
}

Code emulator::need_stream(void* stream) {
    const auto legacy = reinterpret_cast<uintptr_t>(stream);  // 0, 1 and 2 are the default streams
    if (legacy <= 2 || streams.find(stream)) return SUCCESS;
    return error(INVALID_HANDLE, "this stream does not exist, or has been destroyed");
}

// --- device and errors -----------------------------------------------------------------------------------------------

API cuInit(unsigned flags) {
    if (flags) return error(INVALID_VALUE, "cuInit: flags must be 0");
    initialised = true;
    return SUCCESS;
}
API cuDriverGetVersion(int* version) {
    *version = 13000;
    return SUCCESS;
}
API cuDeviceGetCount(int* count) {
    if (!initialised) return error(NOT_INITIALIZED, "call cuInit first");
    *count = 1;
    return SUCCESS;
}
API cuDeviceGet(int* device, int ordinal) {
    if (!initialised) return error(NOT_INITIALIZED, "call cuInit first");
    if (ordinal) return error(INVALID_DEVICE, "the emulator has one device, number 0");
    *device = 0;
    return SUCCESS;
}
API cuDeviceGetName(char* name, int length, int) {
    snprintf(name, length, "CPU emulator");
    return SUCCESS;
}
API cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = 80ull << 30;
    return SUCCESS;
}
API cuDeviceComputeCapability(int* major, int* minor, int) {
    *major = 9;
    *minor = 0;
    return SUCCESS;
}
API cuDeviceGetPCIBusId(char* text, int length, int) {
    snprintf(text, length, "0000:00:00.0");
    return SUCCESS;
}
API cuDeviceGetByPCIBusId(int* device, const char*) {
    *device = 0;
    return SUCCESS;
}
API cuDeviceCanAccessPeer(int* yes, int, int) {
    *yes = 0;
    return SUCCESS;
}
// CUdevice_attribute: the limits are those of an H100, whose compute capability the device claims.
API cuDeviceGetAttribute(int* value, int attribute, int) {
    static const std::map<int, int> values = {
        {1, 1024},        {2, 1024},     {3, 1024},   {4, 64},      {5, 2147483647}, {6, 65535},  {7, 65535},
        {8, 48 << 10},    {9, 64 << 10}, {10, 32},    {11, 1 << 30}, {12, 65536},     {13, 1000000}, {14, 512},
        {15, 1},          {16, 1},       {17, 0},     {18, 0},      {19, 1},         {20, 0},     {31, 1},
        {36, 1000000},    {37, 4096},    {38, 50 << 20}, {39, 2048}, {41, 1},        {75, 9},     {76, 0},
        {81, 228 << 10},  {82, 65536},   {83, 1},     {97, 227 << 10}, {106, 32}};
    auto found = values.find(attribute);
    *value = found == values.end() ? 0 : found->second;
    return SUCCESS;
}
// CUDA's own text, and what the emulator knows beyond it. PyCUDA asks for this directly after a call has failed.
API cuGetErrorString(int code, const char** text) {
    static thread_local std::string answer;
    answer = cuda_text(code);
    if (code && code == last_code && !last_detail.empty()) answer += ": " + last_detail;
    *text = answer.c_str();
    return SUCCESS;
}
extern "C" __attribute__((visibility("default"))) int emulator_not_supported(const char* name) {
    return error(NOT_SUPPORTED, std::string(name) + " is not implemented by the CPU emulator");
}

// --- contexts --------------------------------------------------------------------------------------------------------

static Code create_context(void** context, int device) {
    if (!initialised) return error(NOT_INITIALIZED, "call cuInit first");
    if (device) return error(INVALID_DEVICE, "the emulator has one device, number 0");
    Context* made = contexts.add(new Context{false});
    current_contexts.push_back(made);
    *context = made;
    return SUCCESS;
}
API cuCtxCreate_v2(void** context, unsigned, int device) { return create_context(context, device); }
API cuCtxCreate_v3(void** context, void*, int, unsigned, int device) { return create_context(context, device); }
API cuCtxCreate_v4(void** context, void*, unsigned, int device) { return create_context(context, device); }
API cuCtxDestroy_v2(void* context) {
    for (auto& current : current_contexts)
        if (current == context) current = nullptr;
    std::vector<Context*> kept;
    for (Context* current : current_contexts)
        if (current) kept.push_back(current);
    current_contexts = kept;
    return contexts.destroy(context) ? SUCCESS : error(INVALID_CONTEXT, "this context does not exist");
}
API cuCtxAttach(void** context, unsigned) {
    NEED_CONTEXT;
    *context = current_contexts.back();
    return SUCCESS;
}
API cuCtxDetach(void* context) { return cuCtxDestroy_v2(context); }
API cuDevicePrimaryCtxRetain(void** context, int device) {
    if (!initialised) return error(NOT_INITIALIZED, "call cuInit first");
    if (device) return error(INVALID_DEVICE, "the emulator has one device, number 0");
    if (!primary_context) primary_context = contexts.add(new Context{true});
    primary_users++;
    *context = primary_context;
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) {
    if (primary_users > 0) primary_users--;
    return SUCCESS;
}
API cuCtxPushCurrent_v2(void* context) {
    if (!contexts.find(context)) return error(INVALID_CONTEXT, "this context does not exist, or has been destroyed");
    current_contexts.push_back(static_cast<Context*>(context));
    return SUCCESS;
}
API cuCtxPopCurrent_v2(void** context) {
    NEED_CONTEXT;
    if (context) *context = current_contexts.back();
    current_contexts.pop_back();
    return SUCCESS;
}
API cuCtxGetCurrent(void** context) {
    *context = current_contexts.empty() ? nullptr : current_contexts.back();
    return SUCCESS;
}
API cuCtxSetCurrent(void* context) {
    if (context && !contexts.find(context)) return error(INVALID_CONTEXT, "this context does not exist");
    if (!current_contexts.empty()) current_contexts.pop_back();
    if (context) current_contexts.push_back(static_cast<Context*>(context));
    return SUCCESS;
}
API cuCtxGetDevice(int* device) {
    NEED_CONTEXT;
    *device = 0;
    return SUCCESS;
}
API cuCtxSynchronize() {
    NEED_CONTEXT;
    return SUCCESS;
}
API cuCtxGetApiVersion(void*, unsigned* version) {
    *version = 3020;
    return SUCCESS;
}
API cuCtxSetCacheConfig(int) { return SUCCESS; }
API cuCtxGetCacheConfig(int* config) {
    *config = 0;
    return SUCCESS;
}
// Stack, heap and printf buffer: a limit is remembered, and is none here. 0 is the stack of a thread, which is bigger.
static std::map<int, size_t> limits = {{0, 1024}, {1, 1 << 20}, {2, 8 << 20}};
API cuCtxGetLimit(size_t* value, int limit) {
    NEED_CONTEXT;
    if (!limits.count(limit)) return error(NOT_SUPPORTED, "cuCtxGetLimit: limit " + number(limit));
    *value = limits[limit];
    return SUCCESS;
}
API cuCtxSetLimit(int limit, size_t value) {
    NEED_CONTEXT;
    if (!limits.count(limit)) return error(NOT_SUPPORTED, "cuCtxSetLimit: limit " + number(limit));
    limits[limit] = value;
    return SUCCESS;
}
API cuProfilerStart() { return SUCCESS; }
API cuProfilerStop() { return SUCCESS; }

// --- streams and events ----------------------------------------------------------------------------------------------

API cuStreamCreate(void** stream, unsigned) {
    NEED_CONTEXT;
    *stream = streams.add(new Stream);
    return SUCCESS;
}
API cuStreamDestroy_v2(void* stream) {
    return streams.destroy(stream) ? SUCCESS : error(INVALID_HANDLE, "this stream does not exist");
}
API cuStreamSynchronize(void* stream) { return need_stream(stream); }
API cuStreamQuery(void* stream) { return need_stream(stream); }
API cuStreamWaitEvent(void* stream, void* event, unsigned) {
    NEED_STREAM(stream);
    return events.find(event) ? SUCCESS : error(INVALID_HANDLE, "this event does not exist");
}
API cuEventCreate(void** event, unsigned flags) {
    NEED_CONTEXT;
    Event* made = events.add(new Event);
    made->timed = !(flags & 2);  // CU_EVENT_DISABLE_TIMING
    *event = made;
    return SUCCESS;
}
API cuEventDestroy_v2(void* event) {
    return events.destroy(event) ? SUCCESS : error(INVALID_HANDLE, "this event does not exist");
}
API cuEventRecord(void* event, void* stream) {
    NEED_STREAM(stream);
    Event* found = events.find(event);
    if (!found) return error(INVALID_HANDLE, "this event does not exist");
    found->recorded_ms = now_s() * 1e3;
    return SUCCESS;
}
static Code need_event(void* event) {
    return events.find(event) ? SUCCESS : error(INVALID_HANDLE, "this event does not exist, or has been destroyed");
}
API cuEventSynchronize(void* event) { return need_event(event); }
API cuEventQuery(void* event) { return need_event(event); }
API cuEventElapsedTime_v2(float* ms, void* start, void* end) {
    Event *a = events.find(start), *b = events.find(end);
    if (!a || !b) return error(INVALID_HANDLE, "this event does not exist");
    if (a->recorded_ms < 0 || b->recorded_ms < 0) return error(INVALID_HANDLE, "an event that was never recorded");
    if (!a->timed || !b->timed) return error(INVALID_HANDLE, "an event that was made without timing");
    *ms = b->recorded_ms - a->recorded_ms;
    return SUCCESS;
}
API cuEventElapsedTime(float* ms, void* start, void* end) { return cuEventElapsedTime_v2(ms, start, end); }
