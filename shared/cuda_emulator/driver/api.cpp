// The driver API: what PyCUDA calls, with CUDA's error codes and strict argument checks.
//
// Everything is synchronous: a call has finished when it returns. Functions that are not here are generated from
// functions.txt (all names in cuda.h) and answer "not supported", with their name.
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>

#include "emulator.hpp"

using namespace emulator;
#define API extern "C" __attribute__((visibility("default"))) int
using Pointer = unsigned long long;

static const unsigned MAX_GRID[3] = {2147483647u, 65535, 65535}, MAX_BLOCK[3] = {1024, 1024, 64};

// --- handles ---------------------------------------------------------------------------------------------------------

struct Stream {};
struct Event {
    double recorded_ms = -1;
    bool timed = true;
};

// The live handles of one kind: whatever is not among them is an error, not a crash.
template <class T>
struct Handles {
    std::set<T*> live;
    T* add(T* handle) { return live.insert(handle).first.operator*(); }
    T* find(void* handle) const {
        auto found = live.find(static_cast<T*>(handle));
        return found == live.end() ? nullptr : *found;
    }
    bool destroy(void* handle) {
        T* found = find(handle);
        if (!found) return false;
        live.erase(found);
        delete found;
        return true;
    }
};
static Handles<Stream> streams;
static Handles<Event> events;
static Handles<Module> modules;
static Handles<Function> functions;

// A context has no state here; what counts is that one is current.
struct Context {
    bool primary;
};
static Handles<Context> contexts;
static Context* primary_context;
static int primary_users;
static thread_local std::vector<Context*> current_contexts;
static bool initialised;

static Code need_context() {
    if (!initialised) return error(NOT_INITIALIZED, "call cuInit first (pycuda.autoprimaryctx does)");
    if (current_contexts.empty())
        return error(INVALID_CONTEXT, "no context is current on this thread (import pycuda.autoprimaryctx)");
    return SUCCESS;
}
#define NEED_CONTEXT                              \
    if (Code missing = need_context()) return missing

static Code need_stream(void* stream) {
    const auto legacy = reinterpret_cast<uintptr_t>(stream);  // 0, 1 and 2 are the default streams
    if (legacy <= 2 || streams.find(stream)) return SUCCESS;
    return error(INVALID_HANDLE, "this stream does not exist, or has been destroyed");
}
#define NEED_STREAM(stream)                                  \
    if (Code missing = need_stream(stream)) return missing

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
    if (code && !last_detail.empty()) answer += ": " + last_detail;
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
API cuProfilerStart() { return SUCCESS; }
API cuProfilerStop() { return SUCCESS; }

// --- memory ----------------------------------------------------------------------------------------------------------

static Code allocate_into(Pointer* pointer, size_t bytes, const char* kind) {
    NEED_CONTEXT;
    if (!bytes) return error(INVALID_VALUE, "an allocation of 0 bytes");
    *pointer = allocate(bytes, kind);
    return *pointer ? SUCCESS : error(OUT_OF_MEMORY, number(bytes) + " bytes do not fit into the emulated 80 GiB");
}
API cuMemAlloc_v2(Pointer* pointer, size_t bytes) { return allocate_into(pointer, bytes, "device"); }
API cuMemAllocManaged(Pointer* pointer, size_t bytes, unsigned) { return allocate_into(pointer, bytes, "managed"); }
API cuMemAllocPitch_v2(Pointer* pointer, size_t* pitch, size_t width, size_t height, unsigned) {
    *pitch = (width + 511) / 512 * 512;
    return allocate_into(pointer, *pitch * height, "device");
}
API cuMemFree_v2(Pointer pointer) {
    NEED_CONTEXT;
    return release(pointer, "device");
}
API cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    NEED_CONTEXT;
    *total = 80ull << 30;
    *free_bytes = *total - used_bytes();
    return SUCCESS;
}
API cuMemGetAddressRange_v2(Pointer* base, size_t* bytes, Pointer pointer) {
    const auto* entry = find_allocation(pointer);
    if (!entry) return error(NOT_FOUND, "this is no device pointer");
    if (base) *base = entry->first;
    if (bytes) *bytes = entry->second.bytes;
    return SUCCESS;
}
API cuPointerGetAttribute(void* value, int attribute, Pointer pointer) {
    const auto* entry = find_allocation(pointer);
    if (!entry) return error(INVALID_VALUE, "this is no device pointer");
    if (attribute == 1) *static_cast<void**>(value) = primary_context;              // CONTEXT
    else if (attribute == 2) *static_cast<unsigned*>(value) = entry->second.kind[0] == 'd' ? 2 : 1;  // MEMORY_TYPE
    else if (attribute == 3 || attribute == 4) *static_cast<Pointer*>(value) = pointer;
    else return error(NOT_SUPPORTED, "cuPointerGetAttribute: this attribute");
    return SUCCESS;
}
API cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    Pointer made = 0;
    if (Code code = allocate_into(&made, bytes, "pinned host")) return code;
    *pointer = reinterpret_cast<void*>(made);
    return SUCCESS;
}
API cuMemAllocHost_v2(void** pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }
API cuMemFreeHost(void* pointer) { return release(reinterpret_cast<uintptr_t>(pointer), "pinned host"); }
API cuMemHostGetDevicePointer_v2(Pointer* device, void* host, unsigned) {
    if (!find_allocation(reinterpret_cast<uintptr_t>(host))) return error(INVALID_VALUE, "this host memory is not pinned");
    *device = reinterpret_cast<uintptr_t>(host);
    return SUCCESS;
}
API cuMemHostGetFlags(unsigned* flags, void*) {
    *flags = 0;
    return SUCCESS;
}
API cuMemHostRegister_v2(void* pointer, size_t bytes, unsigned) {
    register_host(reinterpret_cast<uintptr_t>(pointer), bytes);
    return SUCCESS;
}
API cuMemHostUnregister(void* pointer) {
    return unregister_host(reinterpret_cast<uintptr_t>(pointer)) ? SUCCESS
                                                                 : error(INVALID_VALUE, "this memory is not registered");
}

static void* host(Pointer address) { return reinterpret_cast<void*>(address); }
static Code copy(const char* name, Pointer to, bool device_to, Pointer from, bool device_from, size_t bytes) {
    NEED_CONTEXT;
    if (device_to)
        if (Code code = check_range(name, "the destination", to, bytes)) return code;
    if (device_from)
        if (Code code = check_range(name, "the source", from, bytes)) return code;
    memmove(host(to), host(from), bytes);
    return SUCCESS;
}
API cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) {
    return copy("cuMemcpyHtoD", to, true, reinterpret_cast<Pointer>(from), false, bytes);
}
API cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) {
    return copy("cuMemcpyDtoH", reinterpret_cast<Pointer>(to), false, from, true, bytes);
}
API cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t bytes) {
    return copy("cuMemcpyDtoD", to, true, from, true, bytes);
}
API cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    NEED_STREAM(stream);
    return cuMemcpyHtoD_v2(to, from, bytes);
}
API cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
    NEED_STREAM(stream);
    return cuMemcpyDtoH_v2(to, from, bytes);
}
API cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
    NEED_STREAM(stream);
    return cuMemcpyDtoD_v2(to, from, bytes);
}
API cuMemcpy(Pointer to, Pointer from, size_t bytes) {
    return copy("cuMemcpy", to, find_allocation(to) != nullptr, from, find_allocation(from) != nullptr, bytes);
}

// cuda.h, CUDA_MEMCPY2D: memory types are 1 host, 2 device, 3 array, 4 unified.
struct Copy2D {
    size_t from_x, from_y;
    int from_type;
    const void* from_host;
    Pointer from_device;
    void* from_array;
    size_t from_pitch, to_x, to_y;
    int to_type;
    void* to_host;
    Pointer to_device;
    void* to_array;
    size_t to_pitch, width, height;
};
API cuMemcpy2D_v2(const Copy2D* c) {
    if (c->from_type == 3 || c->to_type == 3) return emulator_not_supported("cuMemcpy2D with a CUDA array");
    const Pointer from = c->from_type == 1 ? reinterpret_cast<Pointer>(c->from_host) : c->from_device;
    const Pointer to = c->to_type == 1 ? reinterpret_cast<Pointer>(c->to_host) : c->to_device;
    for (size_t row = 0; row < c->height; row++) {
        const size_t source = (c->from_y + row) * c->from_pitch + c->from_x, target = (c->to_y + row) * c->to_pitch + c->to_x;
        if (Code code = copy("cuMemcpy2D", to + target, c->to_type != 1, from + source, c->from_type != 1, c->width))
            return code;
    }
    return SUCCESS;
}
API cuMemcpy2DUnaligned_v2(const Copy2D* c) { return cuMemcpy2D_v2(c); }
API cuMemcpy2DAsync_v2(const Copy2D* c, void* stream) {
    NEED_STREAM(stream);
    return cuMemcpy2D_v2(c);
}

template <class T>
static Code fill(Pointer to, T value, size_t n) {
    NEED_CONTEXT;
    if (Code code = check_range("cuMemset", "the destination", to, n * sizeof(T))) return code;
    if (to % sizeof(T)) return error(INVALID_VALUE, "cuMemset: the destination is not aligned");
    if (value == 0) fill_zero(to, n * sizeof(T));
    else
        for (size_t i = 0; i < n; i++) static_cast<T*>(host(to))[i] = value;
    return SUCCESS;
}
API cuMemsetD8_v2(Pointer to, unsigned char value, size_t n) { return fill(to, value, n); }
API cuMemsetD16_v2(Pointer to, unsigned short value, size_t n) { return fill(to, value, n); }
API cuMemsetD32_v2(Pointer to, unsigned value, size_t n) { return fill(to, value, n); }
API cuMemsetD8Async(Pointer to, unsigned char value, size_t n, void*) { return fill(to, value, n); }
API cuMemsetD16Async(Pointer to, unsigned short value, size_t n, void*) { return fill(to, value, n); }
API cuMemsetD32Async(Pointer to, unsigned value, size_t n, void*) { return fill(to, value, n); }

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

// --- modules ---------------------------------------------------------------------------------------------------------

API cuModuleLoadDataEx(void** module, const void* image, unsigned, void*, void*) {
    NEED_CONTEXT;
    if (!image) return error(INVALID_VALUE, "no image");
    auto made = std::make_unique<Module>();
    if (Code code = made->load(image)) return code;
    *module = modules.add(made.release());
    return SUCCESS;
}
API cuModuleLoadData(void** module, const void* image) { return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr); }
API cuModuleLoad(void** module, const char* path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) return error(FILE_NOT_FOUND, path);
    std::vector<char> image((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    image.resize(image.size() + 64);  // a file shorter than an ELF header is read as zeros
    return cuModuleLoadData(module, image.data());
}
API cuModuleUnload(void* module) {
    for (auto i = functions.live.begin(); i != functions.live.end();)
        if ((*i)->module == module) delete *i, i = functions.live.erase(i);
        else ++i;
    return modules.destroy(module) ? SUCCESS : error(INVALID_HANDLE, "this module does not exist");
}

// The name is the symbol's, as in a cubin: plain for extern "C", mangled for C++.
API cuModuleGetFunction(void** function, void* module_handle, const char* name) {
    Module* module = modules.find(module_handle);
    if (!module) return error(INVALID_HANDLE, "this module does not exist, or has been unloaded");
    auto symbol = module->functions.find(name);
    const emulator_kernel* kernel = nullptr;
    for (unsigned i = 0; symbol != module->functions.end() && i < module->info->n_kernels; i++)
        if (reinterpret_cast<uintptr_t>(module->info->kernels[i].function) == symbol->second)
            kernel = &module->info->kernels[i];
    if (!kernel) {
        std::string known;
        for (auto& [other, address] : module->functions)
            for (unsigned i = 0; i < module->info->n_kernels; i++)
                if (reinterpret_cast<uintptr_t>(module->info->kernels[i].function) == address) known += " " + other;
        return error(NOT_FOUND, "no __global__ function `" + std::string(name) + "`; this module has:" +
                                    (known.empty() ? " none" : known) + " (extern \"C\" keeps a plain name)");
    }
    auto* made = functions.add(new Function{module, kernel, name});
    const std::string full = demangle(name);
    for (const Variable& variable : module->shared)
        if (variable.function == full || variable.function.rfind(full + "(", 0) == 0)
            made->static_shared += variable.high - variable.low;
    if (made->static_shared > DEFAULT_SHARED) {
        std::string text = std::string(name) + " declares " + number(made->static_shared) +
                           " bytes of __shared__ variables; ptxas refuses more than 49152 (use dynamic shared memory)";
        functions.destroy(made);
        return error(INVALID_IMAGE, text);
    }
    *function = made;
    return SUCCESS;
}

API cuModuleGetGlobal_v2(Pointer* pointer, size_t* bytes, void* module_handle, const char* name) {
    Module* module = modules.find(module_handle);
    if (!module) return error(INVALID_HANDLE, "this module does not exist, or has been unloaded");
    for (const Variable& variable : module->globals) {
        if (variable.name != name) continue;
        // The host may copy to it; it belongs to the module, not to an allocation of the user's.
        if (!find_allocation(variable.low)) register_host(variable.low, variable.high - variable.low);
        if (pointer) *pointer = variable.low;
        if (bytes) *bytes = variable.high - variable.low;
        return SUCCESS;
    }
    return error(NOT_FOUND, "no __constant__ or __device__ variable `" + std::string(name) + "` in this module");
}

// --- functions and launches ------------------------------------------------------------------------------------------

API cuFuncGetAttribute(int* value, int attribute, void* handle) {
    Function* function = functions.find(handle);
    if (!function) return error(INVALID_HANDLE, "this function does not exist, or its module has been unloaded");
    switch (attribute) {
        case 0: *value = function->kernel->max_threads; return SUCCESS;
        case 1: *value = function->static_shared; return SUCCESS;
        case 5: case 6: *value = 90; return SUCCESS;  // PTX and binary version
        case 8: *value = function->max_dynamic_shared; return SUCCESS;
        default: *value = 0; return SUCCESS;  // registers, local and constant bytes: only a real compiler knows
    }
}
API cuFuncSetAttribute(void* handle, int attribute, int value) {
    Function* function = functions.find(handle);
    if (!function) return error(INVALID_HANDLE, "this function does not exist, or its module has been unloaded");
    if (attribute == 8) {
        if (value < 0 || (size_t)value + function->static_shared > MAX_SHARED)
            return error(INVALID_VALUE, "a block can have at most " + number(MAX_SHARED) + " bytes of shared memory");
        function->max_dynamic_shared = value;
    }
    return SUCCESS;
}
API cuFuncSetCacheConfig(void*, int) { return SUCCESS; }

static std::string shape(Index i) { return "(" + number(i.x) + ", " + number(i.y) + ", " + number(i.z) + ")"; }

static Code check_launch(const Function& function, Index grid, Index block, size_t shared) {
    const std::string name = "launch of " + function.name + ": ";
    const unsigned grids[3] = {grid.x, grid.y, grid.z}, blocks[3] = {block.x, block.y, block.z};
    for (int i = 0; i < 3; i++) {
        if (!grids[i]) return error(INVALID_VALUE, name + "grid " + shape(grid) + " has a 0: an array of size 0 must not be launched");
        if (!blocks[i]) return error(INVALID_VALUE, name + "block " + shape(block) + " has a 0");
        if (grids[i] > MAX_GRID[i])
            return error(INVALID_VALUE, name + "grid " + shape(grid) + " exceeds (2147483647, 65535, 65535)");
        if (blocks[i] > MAX_BLOCK[i]) return error(INVALID_VALUE, name + "block " + shape(block) + " exceeds (1024, 1024, 64)");
    }
    const unsigned long long threads = (unsigned long long)block.x * block.y * block.z;
    if (threads > MAX_THREADS)
        return error(INVALID_VALUE, name + "block " + shape(block) + " has " + number(threads) + " threads; at most 1024");
    if (threads > function.kernel->max_threads)
        return error(LAUNCH_OUT_OF_RESOURCES, name + number(threads) + " threads per block, but __launch_bounds__ says " +
                                                  number(function.kernel->max_threads));
    if (shared > function.max_dynamic_shared || shared + function.static_shared > MAX_SHARED)
        return error(INVALID_VALUE, name + number(shared) + " bytes of dynamic shared memory; the limit is " +
                                        number(function.max_dynamic_shared) +
                                        " (more than 49152 needs the attribute MAX_DYNAMIC_SHARED_SIZE_BYTES)");
    if (shared + function.static_shared > DEFAULT_SHARED && function.max_dynamic_shared <= DEFAULT_SHARED)
        return error(INVALID_VALUE, name + number(shared) + " bytes of dynamic and " + number(function.static_shared) +
                                        " of static shared memory exceed 49152 together");
    return SUCCESS;
}

// `extra` is CUDA's list {1, buffer, 2, &bytes, 0}: the arguments packed like a struct, which is how PyCUDA passes them.
static Code unpack_arguments(const Function& function, void** extra, std::vector<void*>& arguments) {
    char* buffer = nullptr;
    size_t bytes = 0;
    for (; extra && *extra; extra += 2) {
        if (reinterpret_cast<uintptr_t>(extra[0]) == 1) buffer = static_cast<char*>(extra[1]);
        if (reinterpret_cast<uintptr_t>(extra[0]) == 2) bytes = *static_cast<size_t*>(extra[1]);
    }
    const size_t *layout = function.kernel->layout, n = layout[0], needed = layout[2 * n + 1];
    if (bytes != needed) {
        std::string sizes;
        for (size_t i = 0; i < n; i++) sizes += (i ? ", " : "") + number(layout[1 + i]);
        return error(INVALID_VALUE, "launch of " + function.name + ": the arguments take " + number(bytes) +
                                        " bytes, but the kernel's " + number(n) + " parameters take " + number(needed) +
                                        " (sizes " + sizes + "): an argument is missing, or np.int32 stands where the "
                                        "kernel has long long or size_t");
    }
    for (size_t i = 0; i < n; i++) arguments[i] = buffer + layout[1 + n + i];
    return SUCCESS;
}

static Code launch_kernel(Function* function, Index grid, Index block, size_t shared, void** parameters, void** extra) {
    NEED_CONTEXT;
    if (!function) return error(INVALID_HANDLE, "this function does not exist, or its module has been unloaded");
    if (Code code = check_launch(*function, grid, block, shared)) return code;
    std::vector<void*> arguments(function->kernel->layout[0]);
    if (parameters) memcpy(arguments.data(), parameters, arguments.size() * sizeof(void*));
    else if (Code code = unpack_arguments(*function, extra, arguments)) return code;
    if (settings.counting && !function->module->info->checked)
        return error(NOT_SUPPORTED, "counting needs kernels compiled in checked mode; this module was compiled plain");
    return run_grid(*function, grid, block, shared, arguments.data());
}
API cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** parameters, void** extra) {
    NEED_STREAM(stream);
    return launch_kernel(functions.find(function), {gx, gy, gz}, {bx, by, bz}, shared, parameters, extra);
}

// The API of before CUDA 4, which PyCUDA still offers: block shape and arguments are set on the function.
API cuFuncSetBlockShape(void* handle, int x, int y, int z) {
    Function* function = functions.find(handle);
    if (!function) return error(INVALID_HANDLE, "this function does not exist");
    function->block[0] = x, function->block[1] = y, function->block[2] = z;
    return SUCCESS;
}
