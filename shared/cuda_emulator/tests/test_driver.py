"""The driver is strict: what a GPU would refuse is refused, with CUDA's code and a message that says more."""

import ctypes
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint64, c_void_p

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator.launch import DeviceArray, DriverError, Module, call, ensure_context

F32, I32 = np.float32, np.int32
SOURCE = """
extern "C" __global__ void add(const float* x, float* y, long long n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += x[i];
}
extern "C" __global__ void __launch_bounds__(128) bounded(float* y) { y[0] = 1.0f; }
extern "C" __global__ void dynamic(float* y) { extern __shared__ float s[]; s[0] = 1.0f; y[0] = s[0]; }
extern "C" __global__ void static_shared(float* y) { __shared__ float s[8192]; s[0] = 1.0f; y[0] = s[0]; }
extern "C" __global__ void too_much(float* y) { __shared__ float s[12289]; s[0] = 1.0f; y[0] = s[0]; }
__constant__ float table[5];
"""


@pytest.fixture(scope="module")
def module() -> Module:
    cuda_emulator.activate_anyway(announce=False)
    return Module(SOURCE, name="driver.cu")


@pytest.fixture
def device(module):
    array = DeviceArray(np.ones(64, F32))
    yield array
    array.free()


def refused(code: int, words: str):
    return pytest.raises(DriverError, match=rf"\({code}\): .*{words}")


@pytest.mark.parametrize(
    ("grid", "block", "words"),
    [
        (1, 1025, "exceeds"),
        (1, (32, 33), "1056 threads; at most 1024"),
        (1, (1, 1, 65), "exceeds"),
        (1, (0, 1, 1), "has a 0"),
        (0, 32, "an array of size 0 must not be launched"),
        ((1, 65536), 32, "exceeds"),
    ],
)
def test_bad_shapes_are_invalid_values(module, device, grid, block, words):
    with refused(1, words):
        module.launch("add", grid, block, device, device, np.int64(64))


def test_wrong_argument_size(module, device):
    with refused(1, r"the arguments take 20 bytes, but the kernel's 3 parameters take 24 .*np.int32"):
        module.launch("add", 1, 32, device, device, I32(64))
    with refused(1, "the types must be the kernel"):
        module.launch("add", 1, 32, device, device)


def test_launch_bounds(module, device):
    module.launch("bounded", 1, 128, device)
    with refused(701, "__launch_bounds__ says 128"):
        module.launch("bounded", 1, 129, device)


def test_dynamic_shared_memory_needs_the_attribute(module, device):
    module.launch("dynamic", 1, 1, device, shared=48 << 10)
    with refused(1, "MAX_DYNAMIC_SHARED_SIZE_BYTES"):
        module.launch("dynamic", 1, 1, device, shared=(48 << 10) + 4)
    function = module.function("dynamic")
    with refused(1, "at most 232448 bytes"):
        call("cuFuncSetAttribute", function, 8, 228 << 10)


def test_static_and_dynamic_shared_memory_together(module, device):
    with refused(1, "of static shared memory exceed 49152 together"):
        module.launch("static_shared", 1, 1, device, shared=(16 << 10) + 4)
    with refused(200, "ptxas refuses more than 49152"):
        module.launch("too_much", 1, 1, device)


def test_function_attributes(module):
    value = c_int()
    call("cuFuncGetAttribute", byref(value), 0, module.function("bounded"))
    assert value.value == 128
    call("cuFuncGetAttribute", byref(value), 1, module.function("static_shared"))
    assert value.value == 32768


def test_unknown_kernel_lists_the_known(module):
    with refused(500, "no __global__ function `sub`; this module has: add bounded"):
        module.function("sub")


def test_memory_is_checked(module):
    pointer = c_uint64()
    with refused(1, "an allocation of 0 bytes"):
        call("cuMemAlloc_v2", byref(pointer), c_size_t(0))
    with refused(2, "80 GiB"):
        call("cuMemAlloc_v2", byref(pointer), c_size_t(90 << 30))
    call("cuMemAlloc_v2", byref(pointer), c_size_t(100))
    assert pointer.value % 256 == 0
    host = ctypes.create_string_buffer(200)
    with refused(1, "the destination has 100 bytes left, but 104 are to be copied"):
        call("cuMemcpyHtoD_v2", pointer, host, c_size_t(104))
    with refused(1, "the source has 90 bytes left"):
        call("cuMemcpyDtoH_v2", host, c_uint64(pointer.value + 10), c_size_t(91))
    with refused(1, "is not device memory"):
        call("cuMemcpyDtoH_v2", host, c_uint64(ctypes.addressof(host)), c_size_t(4))
    with refused(1, "inside an allocation, not at its start"):
        call("cuMemFree_v2", c_uint64(pointer.value + 4))
    call("cuMemFree_v2", pointer)
    with refused(1, "freed before"):
        call("cuMemFree_v2", pointer)
    with refused(1, "points to memory that has been freed"):
        call("cuMemcpyDtoH_v2", host, pointer, c_size_t(4))
    with refused(1, "null pointer"):
        call("cuMemsetD8_v2", c_uint64(0), 1, c_size_t(4))


def test_copies_from_nowhere(module, device):
    """A null pointer of the host, rows that overlap, a stream that is gone: errors, not crashes or silence."""
    with refused(1, "the source is a null pointer"):
        call("cuMemcpyHtoD_v2", c_uint64(device.address), None, c_size_t(4))
    with refused(1, "the destination is a null pointer"):
        call("cuMemcpyDtoH_v2", None, c_uint64(device.address), c_size_t(4))
    freed = DeviceArray(np.ones(4, F32))
    address = freed.address
    freed.free()
    with refused(1, "the source points to memory that has been freed"):
        call("cuMemcpy", c_uint64(device.address), c_uint64(address), c_size_t(4))
    copy = (c_uint64 * 16)()
    copy[2], copy[4], copy[6] = 2, device.address, 32  # source: type, address, pitch
    copy[9], copy[11], copy[13] = 2, device.address + 128, 8
    copy[14], copy[15] = 16, 2  # width in bytes, height
    with refused(1, "destination: rows of 16 bytes, but a pitch of 8 bytes"):
        call("cuMemcpy2D_v2", byref(copy))
    stream = c_void_p()
    call("cuStreamCreate", byref(stream), 0)
    call("cuStreamDestroy_v2", stream)
    with refused(400, "this stream does not exist"):
        call("cuMemsetD32Async", c_uint64(device.address), 1, c_size_t(4), stream)


class Copy3D(ctypes.Structure):
    """CUDA_MEMCPY3D of cuda.h."""

    SIDE = (
        *(("x", c_size_t), ("y", c_size_t), ("z", c_size_t), ("level", c_size_t)),
        *(
            ("type", c_int),
            ("host", c_void_p),
            ("device", c_uint64),
            ("array", c_void_p),
            ("reserved", c_void_p),
        ),
        *(("pitch", c_size_t), ("height", c_size_t)),
    )
    _fields_ = (
        *((f"from_{name}", kind) for name, kind in SIDE),
        *((f"to_{name}", kind) for name, kind in SIDE),
        *(("width", c_size_t), ("rows", c_size_t), ("slices", c_size_t)),
    )


@pytest.mark.parametrize("unified", [False, True])
def test_copies_in_three_dimensions(module, rng, unified):
    """A box of 2 slices, 3 rows and 4 columns out of an array of the host's into the middle of one of the device's."""
    source, target = rng.standard_normal((4, 5, 6)).astype(F32), np.zeros((3, 7, 8), F32)
    array = DeviceArray(target)
    copy = Copy3D(width=16, rows=3, slices=2)
    copy.from_x, copy.from_y, copy.from_z = 4, 2, 1
    copy.from_pitch, copy.from_height = 24, 5
    copy.from_type, copy.from_host = 1, source.ctypes.data
    if unified:
        copy.from_type, copy.from_device = 4, source.ctypes.data
    copy.to_x, copy.to_y, copy.to_z, copy.to_type, copy.to_device = 8, 3, 0, 2, array.address
    copy.to_pitch, copy.to_height = 32, 7
    call("cuMemcpy3D_v2", byref(copy))
    array.read(target)
    expected = np.zeros_like(target)
    expected[0:2, 3:6, 2:6] = source[1:3, 2:5, 1:5]
    np.testing.assert_array_equal(target, expected)
    copy.to_z = 2
    with refused(1, "cuMemcpy3D: the destination is not device memory"):
        call("cuMemcpy3D_v2", byref(copy))  # a slice past the end
    copy.to_z, copy.to_height = 0, 5
    with refused(1, "destination: slices of 6 rows, but a height of 5"):
        call("cuMemcpy3D_v2", byref(copy))
    copy.to_height, copy.from_pitch = 7, 16
    with refused(1, "source: rows of 20 bytes, but a pitch of 16 bytes"):
        call("cuMemcpy3D_v2", byref(copy))
    copy.from_type = 3
    with refused(801, "source: a CUDA array is not implemented by the CPU emulator"):
        call("cuMemcpy3D_v2", byref(copy))
    array.free()


def test_fills_of_a_rectangle(module):
    content = np.zeros((4, 8), np.uint32)
    array = DeviceArray(content)
    address, pitch = c_uint64(array.address + 32), c_size_t(32)
    call("cuMemsetD2D32_v2", address, pitch, ctypes.c_uint(7), c_size_t(3), c_size_t(2))
    array.read(content)
    expected = np.zeros_like(content)
    expected[1:3, :3] = 7
    np.testing.assert_array_equal(content, expected)
    with refused(1, "rows of 36 bytes, but a pitch of 32"):
        call("cuMemsetD2D32_v2", address, pitch, ctypes.c_uint(7), c_size_t(9), c_size_t(2))
    array.free()


def test_memory_of_a_stream(module):
    pointer, kind = c_uint64(), ctypes.c_uint()
    call("cuMemAllocAsync", byref(pointer), c_size_t(100), None)
    call("cuMemFreeAsync", pointer, None)
    with refused(1, "freed before"):
        call("cuMemFreeAsync", pointer, None)
    for function, flags, expected in (("cuMemAllocManaged", (1,), 2), ("cuMemHostAlloc", (0,), 1)):
        call(function, byref(pointer), c_size_t(100), *flags)
        call("cuPointerGetAttribute", byref(kind), 2, pointer)
        assert kind.value == expected  # where it lies: 1 host, 2 device


def test_limits_are_remembered(module):
    value = c_size_t()
    call("cuCtxSetLimit", 1, c_size_t(1 << 22))
    call("cuCtxGetLimit", byref(value), 1)
    assert value.value == 1 << 22
    with refused(801, "limit 6"):
        call("cuCtxGetLimit", byref(value), 6)


def test_a_refused_linker_leaves_no_log(module):
    """The caller reads as many bytes of its buffers as the driver says it has written."""
    options, values = (c_int * 2)(4, 6), (c_void_p * 2)(32768, 32768)
    with refused(801, "cuLinkCreate .* is not implemented by the CPU emulator"):
        call("cuLinkCreate_v2", 2, options, values, byref(c_void_p()))
    assert list(values) == [None, None]
    values = (c_void_p * 2)(32768, 32768)
    with refused(200, "this is no ELF object"):
        call("cuModuleLoadDataEx", byref(c_void_p()), b"garbage" + bytes(60), 2, options, values)
    assert list(values) == [None, None]


def test_error_text_belongs_to_its_code(module):
    """What was wrong before is not the reason for another code."""
    from cuda_emulator.control import library

    with refused(1, "an allocation of 0 bytes"):
        call("cuMemAlloc_v2", byref(c_uint64()), c_size_t(0))
    text = c_char_p()
    library().cuGetErrorString(700, byref(text))
    assert text.value == b"an illegal memory access was encountered"


def test_a_modules_variables_go_with_it():
    ensure_context()
    module = Module('__constant__ float gone[4]; extern "C" __global__ void k(float* y) { y[0] = gone[0]; }')
    address, size = module.global_address("gone")
    call("cuModuleUnload", module.handle)
    with refused(1, "is not device memory"):
        call("cuMemcpyHtoD_v2", c_uint64(address), ctypes.create_string_buffer(16), c_size_t(size))


def test_fresh_memory_is_poisoned(module):
    pointer, content = c_uint64(), np.zeros(8, F32)
    call("cuMemAlloc_v2", byref(pointer), c_size_t(32))
    call("cuMemcpyDtoH_v2", c_void_p(content.ctypes.data), pointer, c_size_t(32))
    call("cuMemFree_v2", pointer)
    assert np.isnan(content).all()


@pytest.mark.parametrize(
    ("image", "code", "words"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xbe\x00" + bytes(60), 209, "a cubin for a real GPU"),
        (b"\x50\xed\x55\xba" + bytes(60), 209, "a fatbin for a real GPU"),
        (b"//\n.version 8.0\n.target sm_90\n" + bytes(60), 209, "this is PTX"),
        (b"garbage" + bytes(60), 200, "this is no ELF object"),
    ],
)
def test_images_that_are_not_the_emulators(module, image, code, words):
    with refused(code, words):
        call("cuModuleLoadData", byref(c_void_p()), image)


def test_handles_are_checked(module):
    stream, event, milliseconds = c_void_p(), c_void_p(), c_float()
    call("cuStreamCreate", byref(stream), 0)
    call("cuEventCreate", byref(event), 0)
    with refused(400, "never recorded"):
        call("cuEventElapsedTime_v2", byref(milliseconds), event, event)
    call("cuEventRecord", event, stream)
    call("cuEventElapsedTime_v2", byref(milliseconds), event, event)
    assert milliseconds.value == 0
    call("cuStreamDestroy_v2", stream)
    with refused(400, "this stream does not exist"):
        call("cuStreamSynchronize", stream)
    call("cuEventDestroy_v2", event)
    with refused(400, "this event does not exist"):
        call("cuEventSynchronize", event)
    with refused(400, "this module does not exist"):
        call("cuModuleUnload", c_void_p(12345))


def test_a_context_is_needed(module):
    context = c_void_p()
    call("cuCtxPopCurrent_v2", byref(context))
    try:
        with refused(201, "no context is current"):
            call("cuMemAlloc_v2", byref(c_uint64()), c_size_t(4))
    finally:
        call("cuCtxPushCurrent_v2", context)
    with refused(101, "one device"):
        call("cuDeviceGet", byref(c_int()), 1)


def test_other_functions_answer_with_their_name(module):
    with refused(801, "cuArrayCreate_v2 is not implemented by the CPU emulator"):
        call("cuArrayCreate_v2", None, None)
    with refused(801, "cuGraphLaunch is not implemented"):
        call("cuGraphLaunch", None, None)


def test_constants_are_found_by_name(module):
    _, size = module.global_address("table")
    assert size == 20
    with refused(500, "no __constant__ or __device__ variable `missing`"):
        module.global_address("missing")


def test_unloaded_modules_are_gone():
    ensure_context()
    module = Module('extern "C" __global__ void k(float* y) { y[0] = 1; }')
    function = module.function("k")
    call("cuModuleUnload", module.handle)
    with refused(400, "its module has been unloaded"):
        call("cuFuncGetAttribute", byref(c_int()), 0, function)


def test_error_text_starts_with_cudas_own():
    cuda_emulator.activate_anyway(announce=False)
    from cuda_emulator.control import library

    text = c_char_p()
    library().cuGetErrorString(0, byref(text))
    assert text.value == b"no error"
    ensure_context()
    with pytest.raises(DriverError, match="invalid argument: an allocation of 0 bytes"):
        call("cuMemAlloc_v2", byref(c_uint64()), c_size_t(0))
