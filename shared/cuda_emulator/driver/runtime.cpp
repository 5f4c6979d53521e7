// The runtime API of whole programs (include/runtime.hpp), on top of the driver API: a .cu file with a main, compiled as one program for this
// machine, in which source.py has made calls of emulator_launch_kernel of its launches.
//
// A failed call returns CUDA's code, as on a GPU, and tells the reason and the line on stderr: most programs do not look at the code.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include "api.hpp"

using namespace emulator;
#define EXPORT extern "C" __attribute__((visibility("default")))
#define RUNTIME extern "C" __attribute__((visibility("default"))) int
#define RETURN_ADDRESS reinterpret_cast<uintptr_t>(__builtin_return_address(0))
// Calls the driver, and returns its code to the user after a report.
#define CALL(name, call) return finish(name, prepared() ? static_cast<int>(prepared()) : (call), RETURN_ADDRESS)

extern "C" {
int cuInit(unsigned);
int cuCtxGetCurrent(void**);
int cuCtxPushCurrent_v2(void*);
int cuDevicePrimaryCtxRetain(void**, int);
int cuDeviceGetAttribute(int*, int, int);
int cuMemAlloc_v2(Pointer*, size_t);
int cuMemAllocManaged(Pointer*, size_t, unsigned);
int cuMemAllocPitch_v2(Pointer*, size_t*, size_t, size_t, unsigned);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemFree_v2(Pointer);
int cuMemFreeHost(void*);
int cuMemHostRegister_v2(void*, size_t, unsigned);
int cuMemHostUnregister(void*);
int cuMemHostGetDevicePointer_v2(Pointer*, void*, unsigned);
int cuMemGetInfo_v2(size_t*, size_t*);
int cuMemcpyHtoD_v2(Pointer, const void*, size_t);
int cuMemcpyDtoH_v2(void*, Pointer, size_t);
int cuMemcpyDtoD_v2(Pointer, Pointer, size_t);
int cuMemsetD8_v2(Pointer, unsigned char, size_t);
int cuStreamCreate(void**, unsigned);
int cuStreamDestroy_v2(void*);
int cuStreamSynchronize(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuEventCreate(void**, unsigned);
int cuEventDestroy_v2(void*);
int cuEventRecord(void*, void*);
int cuEventSynchronize(void*);
int cuEventQuery(void*);
int cuEventElapsedTime_v2(float*, void*, void*);
}

constexpr Code INVALID_CONFIGURATION = static_cast<Code>(9), INVALID_SYMBOL = static_cast<Code>(13),
               INVALID_DIRECTION = static_cast<Code>(21), INVALID_FUNCTION = static_cast<Code>(98);

static Module* program;       // what main is in
static int last_error;        // for cudaGetLastError
static int broken;            // after a kernel has failed, every call answers with its code until the device is reset
static std::map<uintptr_t, std::unique_ptr<Function>> functions;  // by the kernel's address

static Pointer device(const void* pointer) { return reinterpret_cast<Pointer>(pointer); }

// The first call of a thread makes the context.
static Code prepared() {
    void* context = nullptr;
    cuInit(0);
    cuCtxGetCurrent(&context);
    if (context) return SUCCESS;
    cuDevicePrimaryCtxRetain(&context, 0);
    return static_cast<Code>(cuCtxPushCurrent_v2(context));
}

static int finish(const char* name, int code, uintptr_t caller) {
    if (!code) return broken;
    last_error = code;
    report_host({static_cast<Code>(code), "failed call", std::string(name) + ": " + last_detail, "", caller}, *program);
    return code;
}

EXPORT int emulator_register_program(const emulator_module* info) {
    program = new Module;
    if (program->load_program(info)) {
        fprintf(stderr, "%s\n", last_detail.c_str());
        exit(2);
    }
    settings_from_environment();
    watch_host(*program);
    return 0;
}

// --- errors ----------------------------------------------------------------------------------------------------------

extern "C" __attribute__((visibility("default"))) const char* cudaGetErrorString(int code) { return cuda_text(code); }
extern "C" __attribute__((visibility("default"))) const char* cudaGetErrorName(int code) {
    static const std::map<int, const char*> names = {
        {0, "cudaSuccess"}, {1, "cudaErrorInvalidValue"}, {2, "cudaErrorMemoryAllocation"}, {9, "cudaErrorInvalidConfiguration"},
        {13, "cudaErrorInvalidSymbol"}, {21, "cudaErrorInvalidMemcpyDirection"}, {98, "cudaErrorInvalidDeviceFunction"},
        {101, "cudaErrorInvalidDevice"}, {400, "cudaErrorInvalidResourceHandle"}, {700, "cudaErrorIllegalAddress"},
        {701, "cudaErrorLaunchOutOfResources"}, {702, "cudaErrorLaunchTimeout"}, {710, "cudaErrorAssert"},
        {715, "cudaErrorIllegalInstruction"}, {716, "cudaErrorMisalignedAddress"}, {719, "cudaErrorLaunchFailure"}, {801, "cudaErrorNotSupported"}};
    const auto found = names.find(code);
    return found == names.end() ? "cudaErrorUnknown" : found->second;
}
RUNTIME cudaPeekAtLastError() { return broken ? broken : last_error; }
RUNTIME cudaGetLastError() {
    const int code = cudaPeekAtLastError();
    last_error = SUCCESS;
    return code;
}

// --- the device ------------------------------------------------------------------------------------------------------

RUNTIME cudaGetDeviceCount(int* count) { return *count = 1, SUCCESS; }
RUNTIME cudaGetDevice(int* number) { return *number = 0, SUCCESS; }
RUNTIME cudaSetDevice(int number) {
    CALL("cudaSetDevice", number ? error(INVALID_DEVICE, "the emulator has one device, number 0") : SUCCESS);
}
RUNTIME cudaDeviceGetAttribute(int* value, int attribute, int number) {
    CALL("cudaDeviceGetAttribute", cuDeviceGetAttribute(value, attribute, number));
}
RUNTIME cudaDeviceSynchronize() { return broken; }
RUNTIME cudaDeviceReset() { return broken = last_error = SUCCESS; }
RUNTIME cudaDeviceSetLimit(int, size_t) { return SUCCESS; }
RUNTIME cudaDeviceGetLimit(size_t* value, int) { return *value = STACK_BYTES, SUCCESS; }
RUNTIME cudaDeviceSetCacheConfig(int) { return SUCCESS; }
RUNTIME cudaDeviceSetSharedMemConfig(int) { return SUCCESS; }
RUNTIME cudaSetDeviceFlags(unsigned) { return SUCCESS; }
RUNTIME cudaDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
RUNTIME cudaRuntimeGetVersion(int* version) { return *version = 13000, SUCCESS; }
RUNTIME cudaProfilerStart() { return SUCCESS; }
RUNTIME cudaProfilerStop() { return SUCCESS; }

static int attribute(int number) {
    int value = 0;
    cuDeviceGetAttribute(&value, number, 0);
    return value;
}
struct Properties {  // cudaDeviceProp of runtime.hpp
    char name[256];
    size_t global_memory, shared_per_block;
    int registers_per_block, warp_size;
    size_t pitch;
    int threads_per_block, block[3], grid[3], clock_khz;
    size_t constant_memory;
    int major, minor, multiprocessors, integrated, can_map, concurrent, ecc, pci[3];
    int engines, unified, memory_clock_khz, bus_width, l2_bytes, threads_per_multiprocessor;
    size_t shared_per_multiprocessor;
    int registers_per_multiprocessor, managed, concurrent_managed, cooperative, blocks_per_multiprocessor, compute_mode, overlap, timeout;
    size_t shared_per_block_optin;
};
RUNTIME cudaGetDeviceProperties(Properties* p, int number) {
    if (number) return finish("cudaGetDeviceProperties", error(INVALID_DEVICE, "the emulator has one device, number 0"), RETURN_ADDRESS);
    memset(p, 0, sizeof *p);
    strcpy(p->name, "CPU emulator");
    p->global_memory = 80ull << 30, p->shared_per_block = DEFAULT_SHARED, p->shared_per_block_optin = MAX_SHARED;
    p->registers_per_block = attribute(12), p->warp_size = WARP, p->pitch = attribute(11), p->threads_per_block = MAX_THREADS;
    for (int i = 0; i < 3; i++) p->block[i] = attribute(2 + i), p->grid[i] = attribute(5 + i);
    p->clock_khz = attribute(13), p->constant_memory = attribute(9), p->major = 9, p->multiprocessors = attribute(16);
    p->can_map = p->concurrent = p->unified = p->managed = p->overlap = p->engines = 1;
    p->memory_clock_khz = attribute(36), p->bus_width = attribute(37), p->l2_bytes = attribute(38), p->threads_per_multiprocessor = attribute(39);
    p->shared_per_multiprocessor = attribute(81), p->registers_per_multiprocessor = attribute(82), p->blocks_per_multiprocessor = attribute(106);
    return SUCCESS;
}

// --- memory ----------------------------------------------------------------------------------------------------------

RUNTIME cudaMalloc(void** pointer, size_t bytes) {
    if (!bytes) return *pointer = nullptr, broken;  // CUDA's runtime, unlike its driver, allows it
    CALL("cudaMalloc", cuMemAlloc_v2(reinterpret_cast<Pointer*>(pointer), bytes));
}
RUNTIME cudaMallocAsync(void** pointer, size_t bytes, void*) { CALL("cudaMallocAsync", cuMemAlloc_v2(reinterpret_cast<Pointer*>(pointer), bytes)); }
RUNTIME cudaMallocPitch(void** pointer, size_t* pitch, size_t width, size_t height) {
    CALL("cudaMallocPitch", cuMemAllocPitch_v2(reinterpret_cast<Pointer*>(pointer), pitch, width, height, 4));
}
RUNTIME cudaMallocManaged(void** pointer, size_t bytes, unsigned flags) {
    CALL("cudaMallocManaged", cuMemAllocManaged(reinterpret_cast<Pointer*>(pointer), bytes, flags));
}
RUNTIME cudaMallocHost(void** pointer, size_t bytes) { CALL("cudaMallocHost", cuMemHostAlloc(pointer, bytes, 0)); }
RUNTIME cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) { CALL("cudaHostAlloc", cuMemHostAlloc(pointer, bytes, flags)); }
RUNTIME cudaFree(void* pointer) {
    if (!pointer) return broken;
    CALL("cudaFree", cuMemFree_v2(device(pointer)));
}
RUNTIME cudaFreeAsync(void* pointer, void*) { CALL("cudaFreeAsync", cuMemFree_v2(device(pointer))); }
RUNTIME cudaFreeHost(void* pointer) {
    if (!pointer) return broken;
    CALL("cudaFreeHost", cuMemFreeHost(pointer));
}
RUNTIME cudaHostRegister(void* pointer, size_t bytes, unsigned flags) { CALL("cudaHostRegister", cuMemHostRegister_v2(pointer, bytes, flags)); }
RUNTIME cudaHostUnregister(void* pointer) { CALL("cudaHostUnregister", cuMemHostUnregister(pointer)); }
RUNTIME cudaHostGetDevicePointer(void** pointer, void* host, unsigned flags) {
    CALL("cudaHostGetDevicePointer", cuMemHostGetDevicePointer_v2(reinterpret_cast<Pointer*>(pointer), host, flags));
}
RUNTIME cudaMemGetInfo(size_t* left, size_t* total) { CALL("cudaMemGetInfo", cuMemGetInfo_v2(left, total)); }
RUNTIME cudaMemPrefetchAsync(const void*, size_t, int, void*) { return broken; }
RUNTIME cudaMemAdvise(const void*, size_t, int, int) { return broken; }

struct PointerAttributes {
    int type, number;
    void *on_device, *on_host;
};
RUNTIME cudaPointerGetAttributes(PointerAttributes* attributes, const void* pointer) {
    const auto* entry = find_allocation(device(pointer));
    const char kind = entry ? entry->second.kind[0] : 'u';  // device, managed, pinned host, registered host
    attributes->type = kind == 'u' ? 0 : kind == 'd' ? 2 : kind == 'm' ? 3 : 1;
    attributes->number = 0;
    attributes->on_device = entry ? const_cast<void*>(pointer) : nullptr;
    attributes->on_host = kind == 'd' || kind == 'u' ? nullptr : const_cast<void*>(pointer);
    return SUCCESS;
}

// --- copies ----------------------------------------------------------------------------------------------------------

static bool on_device(const void* pointer) { return find_allocation(device(pointer)) != nullptr; }
static const char* where(const void* pointer) { return on_device(pointer) ? "the device's" : "the host's"; }

// Is one of the two where the kind says that it is not? Pinned and managed memory is everywhere.
static const char* misplaced(const void* to, const void* from, int kind) {
    for (const bool target : {true, false}) {
        const void* pointer = target ? to : from;
        const auto* entry = find_allocation(device(pointer));
        const bool wanted = target ? kind & 1 : kind & 2;
        if (find_freed(device(pointer)) || (entry && entry->second.kind[0] != 'd')) continue;
        if (wanted != (entry != nullptr)) return target ? "destination" : "source";
    }
    return nullptr;
}
static int copy(void* to, const void* from, size_t bytes, int kind, uintptr_t caller) {
    if (!bytes) return SUCCESS;
    if (kind < 0 || kind > 4) return error(INVALID_DIRECTION, "cudaMemcpyKind " + std::to_string(kind));
    const bool both = on_device(to) && on_device(from);
    if (kind != 4 && kind != 3 && both && misplaced(to, from, kind)) {  // undefined by CUDA's manual; drivers copy
        report_host({SUCCESS, "kind of copy", "a copy from device to device is declared as another kind", "cudaMemcpyDeviceToDevice", caller},
                    *program);
        kind = 3;
    }
    if (kind == 4) kind = 2 * on_device(from) + on_device(to);
    if (const char* which = kind == 3 || !to || !from ? nullptr : misplaced(to, from, kind))
        return error(INVALID_VALUE, std::string("the ") + which + " is " + where(!strcmp(which, "source") ? from : to) +
                                        " memory, which does not fit the kind of copy (the order is to, from, bytes, kind)");
    switch (kind) {
        case 0: memmove(to, from, bytes); return SUCCESS;
        case 1: return cuMemcpyHtoD_v2(device(to), from, bytes);
        case 2: return cuMemcpyDtoH_v2(to, device(from), bytes);
        default: return cuMemcpyDtoD_v2(device(to), device(from), bytes);
    }
}
RUNTIME cudaMemcpy(void* to, const void* from, size_t bytes, int kind) { CALL("cudaMemcpy", copy(to, from, bytes, kind, RETURN_ADDRESS)); }
RUNTIME cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void*) {
    CALL("cudaMemcpyAsync", copy(to, from, bytes, kind, RETURN_ADDRESS));
}
static int copy_rows(char* to, size_t to_pitch, const char* from, size_t from_pitch, size_t width, size_t height, int kind, uintptr_t caller) {
    if (width > to_pitch || width > from_pitch) return error(static_cast<Code>(12), "rows of " + number(width) + " bytes are longer than a pitch");
    for (size_t row = 0; row < height; row++)
        if (const int code = copy(to + row * to_pitch, from + row * from_pitch, width, kind, caller)) return code;
    return SUCCESS;
}
RUNTIME cudaMemcpy2D(char* to, size_t to_pitch, const char* from, size_t from_pitch, size_t width, size_t height, int kind) {
    CALL("cudaMemcpy2D", copy_rows(to, to_pitch, from, from_pitch, width, height, kind, RETURN_ADDRESS));
}
RUNTIME cudaMemcpy2DAsync(char* to, size_t to_pitch, const char* from, size_t from_pitch, size_t width, size_t height, int kind, void*) {
    CALL("cudaMemcpy2DAsync", copy_rows(to, to_pitch, from, from_pitch, width, height, kind, RETURN_ADDRESS));
}
RUNTIME cudaMemset(void* to, int value, size_t bytes) { CALL("cudaMemset", cuMemsetD8_v2(device(to), value, bytes)); }
RUNTIME cudaMemsetAsync(void* to, int value, size_t bytes, void*) { CALL("cudaMemsetAsync", cuMemsetD8_v2(device(to), value, bytes)); }
static int fill_rows(char* to, size_t pitch, int value, size_t width, size_t height) {
    for (size_t row = 0; row < height; row++)
        if (const int code = cuMemsetD8_v2(device(to + row * pitch), value, width)) return code;
    return SUCCESS;
}
RUNTIME cudaMemset2D(char* to, size_t pitch, int value, size_t width, size_t height) {
    CALL("cudaMemset2D", fill_rows(to, pitch, value, width, height));
}

// --- __constant__ and __device__ variables ---------------------------------------------------------------------------

static const Variable* variable_at(const void* symbol) {
    for (const Variable& variable : program->device_variables)
        if (variable.low == reinterpret_cast<uintptr_t>(symbol)) return &variable;
    error(INVALID_SYMBOL, "this is no __constant__ or __device__ variable (the variable itself is passed, not a pointer to it)");
    return nullptr;
}
RUNTIME emulator_symbol_address(void** pointer, const void* symbol) {
    const Variable* variable = variable_at(symbol);
    if (variable && !find_allocation(variable->low)) register_host(variable->low, variable->high - variable->low);
    *pointer = const_cast<void*>(symbol);
    CALL("cudaGetSymbolAddress", variable ? SUCCESS : INVALID_SYMBOL);
}
static int copy_symbol(const char* symbol, size_t symbol_bytes, const char* host, size_t bytes, size_t offset, int kind) {
    if (!variable_at(symbol)) return INVALID_SYMBOL;
    if (offset + bytes > symbol_bytes)
        return error(INVALID_VALUE, number(bytes) + " bytes at offset " + number(offset) + " do not fit the variable's " + number(symbol_bytes));
    if (kind == 2 || kind == 3) memcpy(const_cast<char*>(host), symbol + offset, bytes);
    else memcpy(const_cast<char*>(symbol) + offset, host, bytes);
    return SUCCESS;
}
RUNTIME emulator_copy_symbol(const char* symbol, size_t symbol_bytes, const char* host, size_t bytes, size_t offset, int kind) {
    CALL(kind == 2 ? "cudaMemcpyFromSymbol" : "cudaMemcpyToSymbol", copy_symbol(symbol, symbol_bytes, host, bytes, offset, kind));
}

// --- streams and events: everything is done when the call returns ------------------------------------------------------

RUNTIME cudaStreamCreateWithFlags(void** stream, unsigned flags) { CALL("cudaStreamCreate", cuStreamCreate(stream, flags)); }
RUNTIME cudaStreamCreate(void** stream) { CALL("cudaStreamCreate", cuStreamCreate(stream, 0)); }
RUNTIME cudaStreamCreateWithPriority(void** stream, unsigned flags, int) { CALL("cudaStreamCreateWithPriority", cuStreamCreate(stream, flags)); }
RUNTIME cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { return *least = *greatest = 0, SUCCESS; }
RUNTIME cudaStreamDestroy(void* stream) { CALL("cudaStreamDestroy", cuStreamDestroy_v2(stream)); }
RUNTIME cudaStreamSynchronize(void* stream) { CALL("cudaStreamSynchronize", cuStreamSynchronize(stream)); }
RUNTIME cudaStreamQuery(void* stream) { CALL("cudaStreamQuery", cuStreamSynchronize(stream)); }
RUNTIME cudaStreamWaitEvent(void* stream, void* event, unsigned) { CALL("cudaStreamWaitEvent", cuStreamWaitEvent(stream, event, 0)); }
RUNTIME cudaLaunchHostFunc(void*, void (*function)(void*), void* data) { return function(data), broken; }
RUNTIME cudaStreamAddCallback(void* stream, void (*function)(void*, int, void*), void* data, unsigned) {
    return function(stream, broken, data), broken;
}
RUNTIME cudaEventCreateWithFlags(void** event, unsigned flags) { CALL("cudaEventCreate", cuEventCreate(event, flags)); }
RUNTIME cudaEventDestroy(void* event) { CALL("cudaEventDestroy", cuEventDestroy_v2(event)); }
RUNTIME cudaEventRecord(void* event, void* stream) { CALL("cudaEventRecord", cuEventRecord(event, stream)); }
RUNTIME cudaEventSynchronize(void* event) { CALL("cudaEventSynchronize", cuEventSynchronize(event)); }
RUNTIME cudaEventQuery(void* event) { CALL("cudaEventQuery", cuEventQuery(event)); }
RUNTIME cudaEventElapsedTime(float* ms, void* start, void* end) { CALL("cudaEventElapsedTime", cuEventElapsedTime_v2(ms, start, end)); }

// --- kernels ---------------------------------------------------------------------------------------------------------

static const emulator_kernel* listed(uintptr_t address) {
    for (auto* kernel = *program->info->kernels; kernel; kernel = kernel->next)
        if (reinterpret_cast<uintptr_t>(kernel->function) == address) return kernel;
    return nullptr;
}

// The function at an address. One that is launched with deduced template arguments comes as a wrapper, and `name` says of what.
static Function& function_at(uintptr_t address, const emulator_kernel* given, const char* name) {
    auto& function = functions[address];
    if (function) {
        if (given && !function->kernel->call) function->kernel = new emulator_kernel(*given);
        return *function;
    }
    auto* kernel = new emulator_kernel(given ? *given : emulator_kernel{reinterpret_cast<void (*)()>(address)});
    if (const emulator_kernel* row = listed(address)) *kernel = *row;
    std::string full = name ? name : "a kernel";
    if (!name)
        for (const auto& [symbol, low] : program->functions)
            if (low == address) full = demangle(symbol.c_str());
    function.reset(new Function{program, kernel, full.substr(0, full.find('('))});
    if (const size_t space = function->name.find(' '); space != std::string::npos && space < function->name.find('<'))
        function->name.erase(0, space + 1);  // "void name<...>"
    function->static_shared = static_shared(*program, full);
    return *function;
}

static void launch_program_kernel(Function& function, const unsigned* sizes, size_t shared, void* stream, void** arguments, uintptr_t caller) {
    if (broken) return;
    int code = prepared();
    if (!code) code = need_stream(stream);
    const size_t already = reports.size();
    if (!code) code = launch_function(function, {sizes[0], sizes[1], sizes[2]}, {sizes[3], sizes[4], sizes[5]}, shared, arguments);
    if (!code) return;
    last_error = code == INVALID_VALUE ? INVALID_CONFIGURATION : code;
    if (reports.size() == already) report_host({static_cast<Code>(last_error), "failed call", last_detail, "", caller}, *program);
    else broken = code;
}
EXPORT void emulator_launch_kernel(const emulator_kernel* kernel, const char* name, const unsigned* sizes, size_t shared, void* stream,
                                   void** arguments) {
    launch_program_kernel(function_at(reinterpret_cast<uintptr_t>(kernel->function), kernel, name), sizes, shared, stream, arguments, RETURN_ADDRESS);
}
struct Dim3 {
    unsigned x, y, z;
};
RUNTIME cudaLaunchKernel(const void* kernel, Dim3 grid, Dim3 block, void** arguments, size_t shared, void* stream) {
    const unsigned sizes[] = {grid.x, grid.y, grid.z, block.x, block.y, block.z};
    Function& function = function_at(device(kernel), nullptr, nullptr);
    if (!function.kernel->call)
        return finish("cudaLaunchKernel", error(NOT_SUPPORTED, "a kernel that is a template: launch it by <<<>>>"), RETURN_ADDRESS);
    launch_program_kernel(function, sizes, shared, stream, arguments, RETURN_ADDRESS);
    return broken ? broken : last_error;
}
RUNTIME cudaFuncSetAttribute(const void* kernel, int attribute, int value) {
    CALL("cudaFuncSetAttribute", attribute == 8 ? set_max_dynamic_shared(function_at(device(kernel), nullptr, nullptr), value) : SUCCESS);
}
struct FunctionAttributes {
    size_t shared_bytes, constant_bytes, local_bytes;
    int max_threads, registers, ptx, binary, max_dynamic;
};
RUNTIME cudaFuncGetAttributes(FunctionAttributes* attributes, const void* kernel) {
    const Function& function = function_at(device(kernel), nullptr, nullptr);
    *attributes = {function.static_shared, 0, 0, (int)function.kernel->max_threads, 0, 90, 90, (int)function.max_dynamic_shared};
    return broken;
}
RUNTIME cudaFuncSetCacheConfig(const void*, int) { return broken; }
static unsigned most_threads(const Function& function) { return function.kernel->max_threads ? function.kernel->max_threads : MAX_THREADS; }
RUNTIME cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int block_size, size_t shared) {
    const Function& function = function_at(device(kernel), nullptr, nullptr);
    const size_t bytes = shared + function.static_shared;
    *blocks = block_size < 1 || (unsigned)block_size > most_threads(function) ? 0 : std::min(32, 2048 / ((block_size + 31) / 32 * 32));
    if (bytes) *blocks = std::min<size_t>(*blocks, (228 << 10) / bytes);
    return broken;
}
RUNTIME emulator_max_potential_block_size(int* grid, int* block, const void* kernel, size_t, int limit) {
    const unsigned most = most_threads(function_at(device(kernel), nullptr, nullptr));
    *block = limit > 0 ? std::min<unsigned>(limit, most) : most;
    *grid = std::max(1, 2048 / *block);
    return broken;
}
