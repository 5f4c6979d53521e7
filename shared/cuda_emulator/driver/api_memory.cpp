// The driver API: memory, copies and fills.
#include <algorithm>
#include <cstring>

#include "api.hpp"

using namespace emulator;

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
// A stream's own order is the order of the calls: memory is there at once, and gone at once.
API cuMemAllocAsync(Pointer* pointer, size_t bytes, void* stream) {
    NEED_STREAM(stream);
    return cuMemAlloc_v2(pointer, bytes);
}
API cuMemFreeAsync(Pointer pointer, void* stream) {
    NEED_STREAM(stream);
    return cuMemFree_v2(pointer);
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
static bool is_host(const Allocation& allocation) { return strstr(allocation.kind, "host"); }
API cuPointerGetAttribute(void* value, int attribute, Pointer pointer) {
    const auto* entry = find_allocation(pointer);
    if (!entry) return error(INVALID_VALUE, "this is no device pointer");
    if (attribute == 1) *static_cast<void**>(value) = primary_context;              // CONTEXT
    else if (attribute == 2) *static_cast<unsigned*>(value) = is_host(entry->second) ? 1 : 2;  // MEMORY_TYPE
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

static Code check_host(const char* function, const char* what, uintptr_t address, size_t bytes) {
    if (!bytes || (address >= PAGE && !find_freed(address))) return SUCCESS;
    return error(INVALID_VALUE, std::string(function) + ": " + what +
                                    (address < PAGE ? " is a null pointer" : " points to memory that has been freed"));
}
static void* host(Pointer address) { return reinterpret_cast<void*>(address); }
static Code copy(const char* name, Pointer to, bool device_to, Pointer from, bool device_from, size_t bytes) {
    NEED_CONTEXT;
    if (Code code = (device_to ? check_range : check_host)(name, "the destination", to, bytes)) return code;
    if (Code code = (device_from ? check_range : check_host)(name, "the source", from, bytes)) return code;
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

// Memory types in the structures of cuda.h: 1 host, 2 device, 3 CUDA array, 4 unified (any of the first two).
struct Side {
    int type;
    const void* host;
    Pointer device;
    size_t x, y, z, pitch, height;  // a row has `pitch` bytes, a slice `height` rows

    Pointer base() const { return type == 1 ? reinterpret_cast<Pointer>(host) : device; }
    Pointer row(size_t slice, size_t row) const { return base() + ((z + slice) * height + y + row) * pitch + x; }
    bool on_device() const { return type == 2 || (type == 4 && find_allocation(device)); }
};
struct Box {
    size_t width, height, depth;  // in bytes, rows and slices
};
static Code copy_box(const char* name, const Side& to, const Side& from, const Box& box) {
    NEED_CONTEXT;
    for (const Side* side : {&to, &from}) {
        const std::string where = std::string(name) + (side == &to ? ", destination: " : ", source: ");
        if (side->type == 3) return error(NOT_SUPPORTED, where + "a CUDA array is not implemented by the CPU emulator");
        if (side->type != 1 && side->type != 2 && side->type != 4)
            return error(INVALID_VALUE, where + "memory type " + number(side->type) + " does not exist");
        if (box.height * box.depth > 1 && side->pitch < side->x + box.width)
            return error(INVALID_VALUE, where + "rows of " + number(side->x + box.width) + " bytes, but a pitch of " +
                                            number(side->pitch) + " bytes");
        if (box.depth > 1 && side->height < side->y + box.height)
            return error(INVALID_VALUE, where + "slices of " + number(side->y + box.height) + " rows, but a height of " +
                                            number(side->height));
    }
    for (size_t slice = 0; slice < box.depth; slice++)
        for (size_t row = 0; row < box.height; row++)
            if (Code code = copy(name, to.row(slice, row), to.on_device(), from.row(slice, row), from.on_device(),
                                 box.width))
                return code;
    return SUCCESS;
}

struct Copy2D {  // CUDA_MEMCPY2D
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
    return copy_box("cuMemcpy2D", {c->to_type, c->to_host, c->to_device, c->to_x, c->to_y, 0, c->to_pitch, 0},
                    {c->from_type, c->from_host, c->from_device, c->from_x, c->from_y, 0, c->from_pitch, 0},
                    {c->width, c->height, 1});
}
API cuMemcpy2DUnaligned_v2(const Copy2D* c) { return cuMemcpy2D_v2(c); }
API cuMemcpy2DAsync_v2(const Copy2D* c, void* stream) {
    NEED_STREAM(stream);
    return cuMemcpy2D_v2(c);
}

struct Copy3D {  // CUDA_MEMCPY3D
    size_t from_x, from_y, from_z, from_level;
    int from_type;
    const void* from_host;
    Pointer from_device;
    void *from_array, *reserved_0;
    size_t from_pitch, from_height, to_x, to_y, to_z, to_level;
    int to_type;
    void* to_host;
    Pointer to_device;
    void *to_array, *reserved_1;
    size_t to_pitch, to_height, width, height, depth;
};
API cuMemcpy3D_v2(const Copy3D* c) {
    return copy_box(
        "cuMemcpy3D", {c->to_type, c->to_host, c->to_device, c->to_x, c->to_y, c->to_z, c->to_pitch, c->to_height},
        {c->from_type, c->from_host, c->from_device, c->from_x, c->from_y, c->from_z, c->from_pitch, c->from_height},
        {c->width, c->height, c->depth});
}
API cuMemcpy3DAsync_v2(const Copy3D* c, void* stream) {
    NEED_STREAM(stream);
    return cuMemcpy3D_v2(c);
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
API cuMemsetD8Async(Pointer to, unsigned char value, size_t n, void* stream) {
    NEED_STREAM(stream);
    return fill(to, value, n);
}
API cuMemsetD16Async(Pointer to, unsigned short value, size_t n, void* stream) {
    NEED_STREAM(stream);
    return fill(to, value, n);
}
API cuMemsetD32Async(Pointer to, unsigned value, size_t n, void* stream) {
    NEED_STREAM(stream);
    return fill(to, value, n);
}

// A rectangle: `height` rows of n values each, `pitch` bytes apart.
template <class T>
static Code fill_rows(Pointer to, size_t pitch, T value, size_t n, size_t height) {
    if (height > 1 && (pitch < n * sizeof(T) || pitch % sizeof(T)))
        return error(INVALID_VALUE, "cuMemsetD2D: rows of " + number(n * sizeof(T)) + " bytes, but a pitch of " +
                                        number(pitch));
    for (size_t row = 0; row < height; row++)
        if (Code code = fill(to + row * pitch, value, n)) return code;
    return SUCCESS;
}
API cuMemsetD2D8_v2(Pointer to, size_t pitch, unsigned char value, size_t n, size_t height) {
    return fill_rows(to, pitch, value, n, height);
}
API cuMemsetD2D16_v2(Pointer to, size_t pitch, unsigned short value, size_t n, size_t height) {
    return fill_rows(to, pitch, value, n, height);
}
API cuMemsetD2D32_v2(Pointer to, size_t pitch, unsigned value, size_t n, size_t height) {
    return fill_rows(to, pitch, value, n, height);
}
