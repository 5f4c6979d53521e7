// Loads an object that the nvcc stand-in made: an ELF shared object of the host, in place of a cubin.
//
// The symbol table says what nothing else does: where the kernels, the __constant__ and __device__ variables and
// the __shared__ variables are. The object is loaded from an anonymous file, so nothing is left behind on disk.
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "emulator.hpp"

namespace emulator {

#if defined(__x86_64__)
constexpr unsigned HOST_MACHINE = EM_X86_64;
#elif defined(__aarch64__)
constexpr unsigned HOST_MACHINE = EM_AARCH64;
#else
#error "the emulator knows x86-64 and arm64"
#endif

std::string demangle(const char* name) {
    if (strncmp(name, "_Z", 2)) return name;  // a variable named w is no wchar_t
    int status = 0;
    char* text = abi::__cxa_demangle(name, nullptr, nullptr, &status);
    std::string result = status == 0 ? text : name;
    free(text);
    return result;
}

// Tells what an image is that cannot be loaded; SUCCESS where it is an object for this machine.
static Code check_image(const char* image) {
    uint32_t magic;
    memcpy(&magic, image, 4);
    const char* advice =
        "; the CPU emulator runs what its own nvcc makes (cuda_emulator.activate() puts it first on PATH)";
    if (magic == 0xBA55ED50) return error(NO_BINARY_FOR_GPU, std::string("this is a fatbin for a real GPU") + advice);
    if (!memcmp(image, ELFMAG, SELFMAG)) {
        const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
        if (header->e_machine == 190)  // EM_CUDA
            return error(NO_BINARY_FOR_GPU, std::string("this is a cubin for a real GPU") + advice);
        if (header->e_machine == HOST_MACHINE && header->e_ident[EI_CLASS] == ELFCLASS64) return SUCCESS;
        return error(NO_BINARY_FOR_GPU, std::string("this object is for another machine") + advice);
    }
    if (strstr(std::string(image, strnlen(image, 4096)).c_str(), ".version"))
        return error(NO_BINARY_FOR_GPU, std::string("this is PTX, which the emulator cannot run") + advice);
    return error(INVALID_IMAGE, std::string("this is no ELF object") + advice);
}

// The driver API passes no length: the section headers, which compilers put last, say where the file ends.
static size_t image_bytes(const char* image) {
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
    size_t end = header->e_shoff + (size_t)header->e_shentsize * header->e_shnum;
    const auto* sections = reinterpret_cast<const Elf64_Shdr*>(image + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++)
        if (sections[i].sh_type != SHT_NOBITS) end = std::max<size_t>(end, sections[i].sh_offset + sections[i].sh_size);
    return end;
}

// "void space::kernel<16>(float*)" is called "kernel".
static std::string base_name(const std::string& function) {
    const std::string bare = function.substr(0, function.find_first_of("(<"));
    return bare.substr(bare.find_last_of(" :") + 1);
}

// Sorts one symbol into the module's tables. A guard (_ZGVZ...) of a static's constructor is a global like any other;
// g++ makes one even for __half, whose constructor does nothing. A constructor or initial value that does something,
// which nvcc refuses, is lost when shared memory is poisoned, and the use is reported as uninitialised.
static Code read_symbol(Module& module, const Elf64_Sym& symbol, const char* name) {
    const int type = ELF64_ST_TYPE(symbol.st_info);
    if (symbol.st_shndx == SHN_UNDEF) {
        // The code has 1- or 2-byte accesses: the race detector needs cells that small.
        const std::string hook = name;
        if (hook.rfind("__tsan_", 0) == 0 && (hook.back() == '1' || hook.back() == '2'))
            module.granule = std::min(module.granule, (unsigned)(hook.back() - '0'));
        return SUCCESS;
    }
    const uintptr_t low = module.base + symbol.st_value, high = low + symbol.st_size;
    if (type == STT_FUNC) {
        module.functions[name] = low;
    } else if (type == STT_OBJECT && !strncmp(name, "_ZZ", 3)) {
        // "void kernel<16>(float*)::tile" or "kernel::tile"
        std::string full = demangle(name);
        size_t cut = full.rfind("::");
        const std::string function = cut == std::string::npos ? "" : full.substr(0, cut);
        const std::string variable = cut == std::string::npos ? full : full.substr(cut + 2);
        const bool shared = strstr(module.info->shared, (" " + base_name(function) + "::" + variable + " ").c_str()) ||
                            strstr(module.info->shared, (" ::" + variable + " ").c_str());
        (shared ? module.shared : module.globals).push_back({variable, function, low, high, 0, shared});
    } else if (type == STT_OBJECT && high > low) {
        const std::string full = demangle(name);
        for (const char* own : {"emulator_", "completed.", "__dso_handle", "_DYNAMIC", "_GLOBAL_OFFSET_TABLE_"})
            if (full.rfind(own, 0) == 0) return SUCCESS;  // the emulator's and the linker's, not the kernel's
        const std::string variable = full.substr(full.rfind(':') + 1);
        const bool device = full.rfind("guard variable", 0) == 0 || strstr(module.info->device, (" ::" + variable + " ").c_str());
        const bool managed = strstr(module.info->managed, (" ::" + variable + " ").c_str());
        module.globals.push_back({full, "", low, high, 0, device, managed});
    }
    return SUCCESS;
}

static Code read_symbols(Module& module, const char* image) {
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
    const auto* sections = reinterpret_cast<const Elf64_Shdr*>(image + header->e_shoff);
    const char* names = image + sections[header->e_shstrndx].sh_offset;
    module.data_low = ~uintptr_t(0);
    for (int i = 0; i < header->e_shnum; i++) {
        const std::string name = names + sections[i].sh_name;
        if (name == ".data" || name == ".bss") {
            module.data_low = std::min<uintptr_t>(module.data_low, module.base + sections[i].sh_addr);
            module.data_high = std::max<uintptr_t>(module.data_high, module.base + sections[i].sh_addr + sections[i].sh_size);
        }
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const char* strings = image + sections[sections[i].sh_link].sh_offset;
        const auto* symbols = reinterpret_cast<const Elf64_Sym*>(image + sections[i].sh_offset);
        for (size_t k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); k++) {
            const Elf64_Sym& symbol = symbols[k];
            // Constants (static constexpr tables in read-only sections) are no shared memory.
            bool writable = symbol.st_shndx >= header->e_shnum || sections[symbol.st_shndx].sh_flags & SHF_WRITE;
            if (ELF64_ST_TYPE(symbol.st_info) == STT_OBJECT && symbol.st_shndx != SHN_UNDEF && !writable) continue;
            if (Code code = read_symbol(module, symbol, strings + symbol.st_name)) return code;
        }
    }
    for (const emulator_kernel* kernel = *module.info->kernels; kernel; kernel = kernel->next) {
        const auto address = reinterpret_cast<uintptr_t>(kernel->function);
        for (auto& [name, low] : module.functions)
            if (low == address)
                for (Variable& v : module.shared)
                    if (v.function == demangle(name.c_str())) v.kernel = address;
    }
    for (const Variable& v : module.globals)
        if (v.device) module.device_variables.push_back(v);
    std::sort(module.shared.begin(), module.shared.end(), [](auto& a, auto& b) { return a.low < b.low; });
    if (!module.shared.empty()) {
        module.shared_low = module.shared.front().low & ~uintptr_t(15);
        module.shared_high = module.shared.back().high;
    }
    return SUCCESS;
}

// What the loaded object says of itself, and where it lies.
static Code read_image(Module& module, const char* image) {
    if (!module.info || module.info->abi != EMULATOR_ABI)
        return error(INVALID_IMAGE, "this object was not made by this version of the emulator's nvcc");
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
    const auto* segments = reinterpret_cast<const Elf64_Phdr*>(image + header->e_phoff);
    module.image_low = ~uintptr_t(0);
    for (int i = 0; i < header->e_phnum; i++) {
        if (segments[i].p_type != PT_LOAD) continue;
        const uintptr_t low = module.base + segments[i].p_vaddr;
        module.image_low = std::min(module.image_low, low);
        module.image_high = std::max<uintptr_t>(module.image_high, low + segments[i].p_memsz);
    }
    return read_symbols(module, image);
}

Code Module::load(const void* data) {
    const char* image = static_cast<const char*>(data);
    if (Code code = check_image(image)) return code;
    size_t bytes = image_bytes(image);
    file = memfd_create("emulated.cubin", MFD_CLOEXEC);
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(file, image + done, bytes - done);
        if (n <= 0) return error(OUT_OF_MEMORY, "no room for the module");
        done += n;
    }
    std::string path = "/proc/self/fd/" + std::to_string(file);
    handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) return error(INVALID_IMAGE, dlerror());
    info = static_cast<const emulator_module*>(dlsym(handle, "emulator_module_info"));
    link_map* map = nullptr;
    dlinfo(handle, RTLD_DI_LINKMAP, &map);
    base = map->l_addr;
    return read_image(*this, image);
}

Code Module::load_program(const emulator_module* given) {
    info = given;
    file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat size;
    if (file < 0 || fstat(file, &size)) return error(INVALID_IMAGE, "the program cannot read its own file");
    dl_iterate_phdr([](dl_phdr_info* first, size_t, void* at) { return *static_cast<uintptr_t*>(at) = first->dlpi_addr, 1; }, &base);
    void* image = mmap(nullptr, size.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (image == MAP_FAILED) return error(OUT_OF_MEMORY, "no room for the program's symbols");
    return read_image(*this, static_cast<const char*>(image));
}

Module::~Module() {
    if (handle) dlclose(handle);
    if (file >= 0) close(file);
}

}  // namespace emulator
