// The driver API: modules, functions and launches.
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>

#include "api.hpp"

using namespace emulator;

static const unsigned MAX_GRID[3] = {2147483647u, 65535, 65535}, MAX_BLOCK[3] = {1024, 1024, 64};

static Handles<Module> modules;
static Handles<Function> functions;

// --- modules ---------------------------------------------------------------------------------------------------------

// The caller passes buffers for the compiler's log, and reads as many bytes as we say that we have written: none.
static void no_logs(unsigned n, const int* options, void** values) {
    const int INFO_LOG_BYTES = 4, ERROR_LOG_BYTES = 6;
    for (unsigned i = 0; i < n; i++)
        if (options[i] == INFO_LOG_BYTES || options[i] == ERROR_LOG_BYTES) values[i] = nullptr;
}
API cuModuleLoadDataEx(void** module, const void* image, unsigned n_options, const int* options, void** values) {
    no_logs(n_options, options, values);
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
    if (Module* found = modules.find(module))  // the host knew them by name: their memory goes too
        for (const Variable& variable : found->globals) unregister_host(variable.low);
    return modules.destroy(module) ? SUCCESS : error(INVALID_HANDLE, "this module does not exist");
}
// A kernel file is compiled whole here; there is nothing to link.
API cuLinkCreate_v2(unsigned n_options, const int* options, void** values, void**) {
    no_logs(n_options, options, values);
    return emulator_not_supported("cuLinkCreate (separate compilation, device-side launches)");
}

size_t emulator::static_shared(const Module& module, const std::string& function) {
    size_t bytes = 0;
    for (const Variable& variable : module.shared)
        if (variable.function == function || variable.function.rfind(function + "(", 0) == 0) bytes += variable.high - variable.low;
    return bytes;
}

// The name is the symbol's, as in a cubin: plain for extern "C", mangled for C++.
API cuModuleGetFunction(void** function, void* module_handle, const char* name) {
    Module* module = modules.find(module_handle);
    if (!module) return error(INVALID_HANDLE, "this module does not exist, or has been unloaded");
    auto symbol = module->functions.find(name);
    const emulator_kernel* kernel = nullptr;
    for (auto* k = *module->info->kernels; symbol != module->functions.end() && k; k = k->next)
        if (reinterpret_cast<uintptr_t>(k->function) == symbol->second) kernel = k;
    if (!kernel) {
        std::string known;
        for (auto& [other, address] : module->functions)
            for (auto* k = *module->info->kernels; k; k = k->next)
                if (reinterpret_cast<uintptr_t>(k->function) == address) known += " " + other;
        return error(NOT_FOUND, "no __global__ function `" + std::string(name) + "`; this module has:" +
                                    (known.empty() ? " none" : known) + " (extern \"C\" keeps a plain name)");
    }
    auto* made = functions.add(new Function{module, kernel, name});
    made->static_shared = static_shared(*module, demangle(name));
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
    return attribute == 8 ? set_max_dynamic_shared(*function, value) : SUCCESS;
}
Code emulator::set_max_dynamic_shared(Function& function, int bytes) {
    if (bytes < 0 || (size_t)bytes + function.static_shared > MAX_SHARED)
        return error(INVALID_VALUE, "a block can have at most " + number(MAX_SHARED) + " bytes of shared memory");
    function.max_dynamic_shared = bytes;
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
                                        " (sizes " + sizes + "): the types must be the kernel's: np.int32 for int, np.int64 for long long and size_t, "
                                        "np.float32 for float, and for a pointer an array of the device, not of NumPy");
    }
    for (size_t i = 0; i < n; i++) arguments[i] = buffer + layout[1 + n + i];
    return SUCCESS;
}

Code emulator::launch_function(Function& function, Index grid, Index block, size_t shared, void** arguments) {
    if (Code code = check_launch(function, grid, block, shared)) return code;
    if (settings.counting && !function.module->info->checked)
        return error(NOT_SUPPORTED, "counting needs kernels compiled in checked mode; this module was compiled plain");
    return run_grid(function, grid, block, shared, arguments);
}

static Code launch_kernel(Function* function, Index grid, Index block, size_t shared, void** parameters, void** extra) {
    NEED_CONTEXT;
    if (!function) return error(INVALID_HANDLE, "this function does not exist, or its module has been unloaded");
    std::vector<void*> arguments(function->kernel->layout[0]);
    if (parameters) memcpy(arguments.data(), parameters, arguments.size() * sizeof(void*));
    else if (Code code = unpack_arguments(*function, extra, arguments)) return code;
    return launch_function(*function, grid, block, shared, arguments.data());
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
