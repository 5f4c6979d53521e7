"""Device functions that C++ does not have: each beside a formula of the host's, on numbers that include the awkward ones."""

import math
import struct
from fractions import Fraction

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator import toolchain
from cuda_emulator.curand import curand_header
from cuda_emulator.launch import Module
from cuda_emulator.text import UnsupportedError

F32, F64, I32, U32 = np.float32, np.float64, np.int32, np.uint32
C_TYPES = {
    F32: "float",
    F64: "double",
    I32: "int",
    U32: "unsigned",
    np.int64: "long long",
    np.uint64: "unsigned long long",
}


def on_device(expressions, kind, *inputs, head=""):
    """Evaluate C++ expressions in a, b and c for each element; return one array of `kind` per expression."""
    cuda_emulator.activate_anyway(announce=False)
    names = "abc"[: len(inputs)]
    parameters = [
        f"const {C_TYPES[values.dtype.type]}* {name}_" for name, values in zip(names, inputs, strict=True)
    ]
    loads = [f"const auto {name} = {name}_[i];" for name in names]
    n = len(inputs[0])
    stores = [f"y[{k * n} + i] = {expression};" for k, expression in enumerate(expressions)]
    source = f"""{head}
    extern "C" __global__ void k({", ".join(parameters)}, {C_TYPES[kind]}* y, int n) {{
        const int i = threadIdx.x;
        if (i >= n) return;
        {" ".join(loads)}
        {" ".join(stores)}
    }}"""
    result = np.zeros((len(expressions), n), kind)
    Module(source).launch("k", 1, n, *inputs, result, I32(n))
    return dict(zip(expressions, result, strict=True))


def check(formulas, kind, *inputs, head="", rtol=0.0, atol=0.0):
    """Compare each expression with its formula, which takes the elements as Python numbers."""
    results = on_device(formulas, kind, *inputs, head=head)
    for expression, formula in formulas.items():
        expected = np.array([formula(*values) for values in zip(*(x.tolist() for x in inputs), strict=True)])
        np.testing.assert_allclose(results[expression], expected.astype(kind), rtol, atol, err_msg=expression)


def words(rng, n=60):
    edges = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x80808080, 0x7F7F7F7F, 0x80007FFF, 0x00FF01FF]
    return np.array([*edges, *rng.integers(0, 2**32, n - len(edges))], U32)


def signed(x, bits=32):
    return (x & (2**bits - 1)) - (x >> (bits - 1) & 1) * 2**bits


# --- integers --------------------------------------------------------------------------------------------------------


def byte_perm(a, b, selector):
    data = struct.pack("<II", a, b)
    result = 0
    for i in range(4):
        digit = selector >> 4 * i & 15
        byte = data[digit & 7]
        result |= (255 * (byte >> 7) if digit & 8 else byte) << 8 * i
    return result


def test_integer_intrinsics(rng):
    a, b, c = words(rng), rng.permutation(words(rng)), rng.permutation(words(rng))
    mask, m24 = 2**32 - 1, 2**24 - 1
    formulas = {
        "__umul24(a, b)": lambda a, b, c: (a & m24) * (b & m24) & mask,
        "(unsigned)__mul24((int)a, (int)b)": lambda a, b, c: signed(a & m24, 24) * signed(b & m24, 24) & mask,
        "__byte_perm(a, b, c)": byte_perm,
        "__byte_perm(a, b, 0x0123)": lambda a, b, c: byte_perm(a, b, 0x0123),
        "__usad(a, b, c)": lambda a, b, c: abs(a - b) + c & mask,
        "__sad((int)a, (int)b, c)": lambda a, b, c: abs(signed(a) - signed(b)) + c & mask,
        "(unsigned)__hadd((int)a, (int)b)": lambda a, b, c: signed(a) + signed(b) >> 1 & mask,
        "(unsigned)__rhadd((int)a, (int)b)": lambda a, b, c: signed(a) + signed(b) + 1 >> 1 & mask,
        "__uhadd(a, b)": lambda a, b, c: a + b >> 1,
        "__urhadd(a, b)": lambda a, b, c: a + b + 1 >> 1,
        "__funnelshift_lc(a, b, c & 63)": lambda a, b, c: (b << 32 | a) << min(c & 63, 32) >> 32 & mask,
        "__funnelshift_rc(a, b, c & 63)": lambda a, b, c: (b << 32 | a) >> min(c & 63, 32) & mask,
        "(unsigned)__umul64hi((unsigned long long)a << 32 | b, c)": lambda a, b, c: (
            (a << 32 | b) * c >> 64 & mask
        ),
        "(unsigned)__mul64hi((long long)((unsigned long long)a << 32 | b), c)": (
            lambda a, b, c: signed(a << 32 | b, 64) * c >> 64 & mask
        ),
        "(unsigned)__brevll(a)": lambda a, b, c: 0,
        "(unsigned)(__brevll(a) >> 32)": lambda a, b, c: int(f"{a:032b}"[::-1], 2),
        "umin(a, b) + umax(a, b)": lambda a, b, c: a + b & mask,
    }
    check(formulas, U32, a, b, c)


def lanes(bits, is_signed, operation):
    """Return a formula that applies `operation` to each lane of two words."""

    def formula(a, b):
        result = 0
        for shift in range(0, 32, bits):
            x, y = (word >> shift & (2**bits - 1) for word in (a, b))
            pair = (signed(x, bits), signed(y, bits)) if is_signed else (x, y)
            result |= (int(operation(*pair)) & (2**bits - 1)) << shift
        return result

    return formula


@pytest.mark.parametrize("count", [2, 4])
def test_lanes_of_a_word(rng, count):
    bits = 32 // count
    low, high, top = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 2**bits - 1
    operations = {  # name: is the lane signed, operation
        "add": (False, lambda x, y: x + y),
        "sub": (False, lambda x, y: x - y),
        "addss": (True, lambda x, y: min(max(x + y, low), high)),
        "addus": (False, lambda x, y: min(x + y, top)),
        "subss": (True, lambda x, y: min(max(x - y, low), high)),
        "subus": (False, lambda x, y: max(x - y, 0)),
        "maxs": (True, max),
        "maxu": (False, max),
        "mins": (True, min),
        "minu": (False, min),
        "avgu": (False, lambda x, y: x + y + 1 >> 1),
        "haddu": (False, lambda x, y: x + y >> 1),
        "absdiffs": (True, lambda x, y: abs(x - y)),
        "absdiffu": (False, lambda x, y: abs(x - y)),
        "cmpeq": (False, lambda x, y: -(x == y)),
        "cmpne": (False, lambda x, y: -(x != y)),
        "cmpgts": (True, lambda x, y: -(x > y)),
        "cmpltu": (False, lambda x, y: -(x < y)),
        "setges": (True, lambda x, y: x >= y),
        "setleu": (False, lambda x, y: x <= y),
    }
    formulas = {f"__v{name}{count}(a, b)": lanes(bits, *operation) for name, operation in operations.items()}
    formulas |= {
        f"__vabs{count}(a)": lanes(bits, True, lambda x, y: abs(x)),
        f"__vabsss{count}(a)": lanes(bits, True, lambda x, y: min(abs(x), high)),
        f"__vneg{count}(a)": lanes(bits, True, lambda x, y: -x),
        f"__vsadu{count}(a, b)": lambda a, b: sum(
            abs((a >> shift & top) - (b >> shift & top)) for shift in range(0, 32, bits)
        ),
    }
    check(formulas, U32, words(rng), rng.permutation(words(rng)))


def test_dot_products(rng):
    def dot(a, b, c, a_format, b_format, first=0):
        xs = struct.unpack(a_format, struct.pack("<I", a))
        ys = struct.unpack(b_format, struct.pack("<I", b))[first:]
        return sum(x * y for x, y in zip(xs, ys, strict=False)) + c & 2**32 - 1

    formulas = {
        "__dp4a(a, b, c)": lambda a, b, c: dot(a, b, c, "<4B", "<4B"),
        "(unsigned)__dp4a((int)a, (int)b, (int)c)": lambda a, b, c: dot(a, b, c, "<4b", "<4b"),
        "__dp2a_lo(a, b, c)": lambda a, b, c: dot(a, b, c, "<2H", "<4B"),
        "(unsigned)__dp2a_hi((int)a, (int)b, (int)c)": lambda a, b, c: dot(a, b, c, "<2h", "<4b", 2),
    }
    check(formulas, U32, words(rng), rng.permutation(words(rng)), rng.permutation(words(rng)))


# --- floats ----------------------------------------------------------------------------------------------------------


def bisect(function, y, low, high):
    """Solve function(x) = y for a rising function."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < y else (low, middle)
    return (low + high) / 2


@pytest.mark.parametrize(("kind", "suffix", "rtol"), [(F32, "f", 1e-6), (F64, "", 1e-13)])
def test_special_functions(rng, kind, suffix, rtol):
    x = np.concatenate([rng.uniform(-3, 3, 40), [0.25, 0.5, 1.0, 1.5, -1.0]]).astype(kind)
    y, z = rng.uniform(0.1, 3, (2, x.size)).astype(kind)
    formulas = {
        f"norm3d{suffix}(a, b, c)": math.hypot,
        f"rnorm3d{suffix}(a, b, c)": lambda a, b, c: 1 / math.hypot(a, b, c),
        f"norm4d{suffix}(a, b, c, a)": lambda a, b, c: math.hypot(a, b, c, a),
        f"rnorm4d{suffix}(a, b, c, a)": lambda a, b, c: 1 / math.hypot(a, b, c, a),
        f"rhypot{suffix}(a, b)": lambda a, b, c: 1 / math.hypot(a, b),
        f"rcbrt{suffix}(b)": lambda a, b, c: b ** (-1 / 3),
        f"rsqrt{suffix}(b)": lambda a, b, c: b**-0.5,
        f"exp10{suffix}(a)": lambda a, b, c: 10.0**a,
        f"normcdf{suffix}(a)": lambda a, b, c: math.erfc(-a / math.sqrt(2)) / 2,
        f"erfcx{suffix}(a)": lambda a, b, c: math.exp(a * a) * math.erfc(a),
    }
    if kind is F32:
        formulas |= {
            "__fdividef(a, b)": lambda a, b, c: a / b,
            "fdividef(a, b)": lambda a, b, c: a / b,
            "__tanhf(a)": lambda a, b, c: math.tanh(a),
            "__frsqrt_rn(b)": lambda a, b, c: b**-0.5,
        }
    check(formulas, kind, x, y, z, rtol=rtol)
    # Near a zero of the function the argument's own reduction, not the result, has to be exact.
    trigonometric = {
        f"sinpi{suffix}(a)": lambda a: math.sin(math.pi * a),
        f"cospi{suffix}(a)": lambda a: math.cos(math.pi * a),
        f"[=] {{ {C_TYPES[kind]} s, c; sincospi{suffix}(a, &s, &c); return s + 2 * c; }}()": (
            lambda a: math.sin(math.pi * a) + 2 * math.cos(math.pi * a)
        ),
    }
    check(trigonometric, kind, x, atol=4e-7 if kind is F32 else 4e-15)
    exact = on_device(
        [f"sinpi{suffix}(a)", f"cospi{suffix}(a)"], kind, np.array([0, 1, -2, 0.5, 1.5, 1e6], kind)
    )
    np.testing.assert_array_equal(np.abs(list(exact.values())), [[0, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 1]])


@pytest.mark.parametrize(("kind", "suffix", "rtol"), [(F32, "f", 3e-7), (F64, "", 1e-13)])
def test_inverse_error_functions(kind, suffix, rtol):
    p = np.array([1e-30, 1e-9, 0.001, 0.02, 0.3, 0.7, 1.0, 1.3, 1.9], kind)
    formulas = {f"erfcinv{suffix}(a)": lambda p: bisect(lambda y: -math.erfc(y), -p, -10, 30)}
    check(formulas, kind, p, rtol=rtol, atol=1e-16)
    x = np.array([-0.999, -0.6, -0.5, -0.1, 0.0, 1e-20, 0.4, 0.501, 0.97], kind)
    check({f"erfinv{suffix}(a)": lambda x: bisect(math.erf, x, -5, 5) if abs(x) > 1e-9 else x * math.sqrt(math.pi) / 2},
          kind, x, rtol=rtol)  # fmt: skip
    p = np.array([1e-30, 1e-4, 0.2, 0.5, 0.9], kind)
    check({f"normcdfinv{suffix}(a)": lambda p: bisect(lambda y: math.erfc(-y / math.sqrt(2)) / 2, p, -30, 30)},
          kind, p, rtol=rtol, atol=1e-15)  # fmt: skip
    edges = on_device(
        [f"erfcinv{suffix}(a)", f"erfinv{suffix}(a)"], kind, np.array([0, 2, 1, -1, 3, np.nan], kind)
    )
    inf, nan = np.inf, np.nan
    np.testing.assert_array_equal(
        list(edges.values()), [[inf, -inf, 0, nan, nan, nan], [0, nan, inf, -inf, nan, nan]]
    )


def rounded(value, mode):
    """Return the float32 that a fraction is rounded to, as in IEEE 754 (no zero, no overflow)."""
    nearest = F32(float(value))  # close enough: at most one step off, which the next lines mend
    below = nearest if Fraction(float(nearest)) <= value else np.nextafter(nearest, F32(-np.inf))
    above = below if Fraction(float(below)) == value else np.nextafter(below, F32(np.inf))
    return {"d": below, "u": above, "z": below if value > 0 else above}[mode]


@pytest.mark.parametrize("mode", "zdu")
def test_directed_rounding(rng, mode):
    a, b, c = (rng.standard_normal((3, 60)) * 10.0 ** rng.integers(-8, 8, (3, 60))).astype(F32)
    b[:4], a[:4] = [1, -1, 1e-20, 3], [1, 1, 1, -1]
    formulas = {
        f"__fadd_r{mode}(a, b)": lambda a, b, c: a + b,
        f"__fsub_r{mode}(a, b)": lambda a, b, c: a - b,
        f"__fmul_r{mode}(a, b)": lambda a, b, c: a * b,
        f"__fmaf_r{mode}(a, b, c)": lambda a, b, c: a * b + c,
        f"__fdiv_r{mode}(a, b)": lambda a, b, c: a / b,
        f"__frcp_r{mode}(a)": lambda a, b, c: 1 / a,
        f"__double2float_r{mode}((double)a * b)": lambda a, b, c: a * b,
    }
    results = on_device(formulas, F32, a, b, c)
    for expression, formula in formulas.items():
        exact = [formula(*(Fraction(float(x)) for x in values)) for values in zip(a, b, c, strict=True)]
        expected = [rounded(value, mode) if value else F32(0) for value in exact]
        np.testing.assert_array_equal(results[expression], expected, err_msg=expression)
    roots = on_device([f"__fsqrt_r{mode}(a)"], F32, np.abs(a))[f"__fsqrt_r{mode}(a)"]
    for x, root in zip(np.abs(a), roots, strict=True):
        x, low, high = (
            Fraction(float(v)) for v in (x, root, np.nextafter(root, F32(np.inf if mode != "u" else 0)))
        )
        assert (high**2 < x <= low**2) if mode == "u" else (low**2 <= x < high**2)
    huge = on_device([f"__fmul_r{mode}(a, a)", f"__fdiv_r{mode}(a, 1e-20f)"], F32, np.array([3e38], F32))
    most = np.finfo(F32).max
    np.testing.assert_array_equal(list(huge.values()), [[np.inf if mode == "u" else most]] * 2)


def test_conversions(rng):
    x = np.array([0.5, 1.5, -0.5, -2.5, 7.9, -7.9, 1e30, -1e30, np.nan, 3e9, 1e19], F32)

    def to(bits, is_signed, rounding):
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)

        def formula(x):
            if x != x or math.isinf(x):
                return 0
            return min(max(rounding(x), low), high)

        return formula

    roundings = {"rn": round, "rz": math.trunc, "rd": math.floor, "ru": math.ceil}
    for kind, bits, is_signed, name in (
        (I32, 32, True, "int"),
        (U32, 32, False, "uint"),
        (np.int64, 64, True, "ll"),
        (np.uint64, 64, False, "ull"),
    ):
        formulas = {
            f"__float2{name}_{r}(a)": to(bits, is_signed, rounding) for r, rounding in roundings.items()
        }
        formulas |= {
            f"__double2{name}_{r}(a)": to(bits, is_signed, rounding) for r, rounding in roundings.items()
        }
        results = on_device(formulas, kind, x)
        for expression, formula in formulas.items():
            assert results[expression].tolist() == [formula(value) for value in x.tolist()], expression
    numbers = rng.standard_normal(20)
    again = on_device(["__hiloint2double(__double2hiint(a), __double2loint(a))"], F64, numbers)
    np.testing.assert_array_equal(next(iter(again.values())), numbers)


def test_constants():
    values = {
        "PI": math.pi,
        "PIO2": math.pi / 2,
        "L2E": math.log2(math.e),
        "LN2": math.log(2),
        "LNPI": math.log(math.pi),
    }
    values |= {"SQRT_TWO": math.sqrt(2), "2_OVER_PI": 2 / math.pi, "LGE": math.log10(math.e), "NAN": math.nan}
    values |= {"INF": math.inf, "MAX_NORMAL": np.finfo(F64).max, "MIN_DENORM": np.nextafter(0.0, 1.0)}
    names = [f"CUDART_{name}" for name in values]
    results = on_device(names, F64, np.zeros(1), head="#include <math_constants.h>")
    np.testing.assert_array_equal(list(results.values()), [[value] for value in values.values()])
    results = on_device(
        [f"{name}_F" for name in names[:9]], F32, np.zeros(1), head="#include <math_constants.h>"
    )
    np.testing.assert_array_equal(
        list(results.values()), [[F32(value)] for value in list(values.values())[:9]]
    )


def test_a_kernel_named_like_a_function_of_the_c_library():
    cuda_emulator.activate_anyway(announce=False)
    y = np.zeros(1, F32)
    Module('extern "C" __global__ void conj(float* y) { y[0] = 2; }').launch("conj", 1, 1, y)
    assert y[0] == 2


def test_loads_of_vectors(rng):
    head = "struct alignas(16) Four { float x, y, z, w; };"
    x = rng.standard_normal(64).astype(F32)
    pointer = "reinterpret_cast<const float4*>(a_)"
    results = on_device([f"__ldg({pointer} + i / 4).y", f"__ldcs({pointer} + i / 4).w"], F32, x, head=head)
    np.testing.assert_array_equal(list(results.values()), [np.repeat(x[1::4], 4), np.repeat(x[3::4], 4)])


# --- half precision --------------------------------------------------------------------------------------------------


def to_bits16(name):
    """Return a function that rounds a float64 to float16 or bfloat16 once, to nearest even."""
    if name == "half":
        return lambda x: float(np.float16(x))

    def bfloat16(x):
        if x == 0 or math.isnan(x) or math.isinf(x):
            return x
        unit = 2.0 ** (max(math.floor(math.log2(abs(x))), -126) - 7)
        return float(round(Fraction(x) / Fraction(unit))) * unit

    return bfloat16


TYPES = {
    "half": ("cuda_fp16.h", "half", "half2"),
    "bfloat16": ("cuda_bf16.h", "__nv_bfloat16", "__nv_bfloat162"),
}


@pytest.mark.parametrize("name", TYPES)
class TestHalfPrecision:
    def test_rounded_once(self, name):
        """From double and int the result is rounded once: through float, ties would be made that were none."""
        header, scalar, _ = TYPES[name]
        step = 2.0**-11 if name == "half" else 2.0**-8
        x = np.array(
            [1 + step + 2**-40, 1 + 3 * step - 2**-40, 1 + step, -(1 + step + 2**-40), 1e-9, 0.1, 1e300]
        )
        with np.errstate(over="ignore"):
            expected = [to_bits16(name)(v) if v < 1e39 else np.inf for v in x]
        results = on_device(
            [f"(float){scalar}(a)", f"(float)__double2{name}(a)"], F32, x, head=f"#include <{header}>"
        )
        np.testing.assert_array_equal(list(results.values()), [np.array(expected, F32)] * 2)
        i = np.array([16843009, 2147483647, 33685505, -33685505, 5, 0, 65519], I32)
        results = on_device([f"(float)__int2{name}_rn(a)", f"(float){scalar}((long long)a)"], F32, i,
                            head=f"#include <{header}>")  # fmt: skip
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(
                list(results.values()), [[F32(to_bits16(name)(float(v))) for v in i]] * 2
            )

    def test_directed_conversions(self, name):
        header, _, _ = TYPES[name]
        x = np.array([0.1, -0.1, 1.0, 70000.0 if name == "half" else 3.4e38, 1e-10, -1e-10], F32)
        results = on_device(
            [f"(float)__float2{name}_r{mode}(a)" for mode in "zdu"], F32, x, head=f"#include <{header}>"
        )
        toward_zero, down, up = results.values()
        assert (np.abs(toward_zero) <= np.abs(x)).all()
        assert (down <= x).all()
        assert (x <= up).all()
        np.testing.assert_array_equal((down == up), x == 1.0)
        assert np.isfinite(toward_zero).all()
        assert np.isinf(up[3])

    def test_scalar_functions(self, name, rng):
        header, scalar, _ = TYPES[name]
        to16 = to_bits16(name)
        x, y, z = (np.array([to16(v) for v in row], F32) for row in rng.uniform(-2, 2, (3, 40)))
        p, q, r = (f"{scalar}({v})" for v in "abc")
        formulas = {
            f"(float)__hadd_rn({p}, {q})": lambda a, b, c: to16(a + b),
            f"(float)__hsub_sat({p}, {q})": lambda a, b, c: to16(min(max(a - b, 0), 1)),
            f"(float)__hfma_relu({p}, {q}, {r})": lambda a, b, c: max(to16(a * b + c), 0),
            f"(float)hfloor({p})": lambda a, b, c: math.floor(a),
            f"(float)hrint({p})": lambda a, b, c: round(a),
            f"(float)__{name}2int_rz({p})": lambda a, b, c: math.trunc(a),
            f"(float)__hltu({p}, {q})": lambda a, b, c: a < b,
            f"(float)__hne({p}, {scalar}(NAN))": lambda a, b, c: 0,
            f"(float)__hneu({p}, {scalar}(NAN))": lambda a, b, c: 1,
            f"(float)__hisnan(__hmax_nan({p}, {scalar}(NAN)))": lambda a, b, c: 1,
        }
        check(formulas, F32, x, y, z, head=f"#include <{header}>")
        rounded_results = {
            f"(float)hsin({p})": lambda a, b, c: math.sin(a),
            f"(float)htanh({p})": lambda a, b, c: math.tanh(a),
            f"(float)hexp10({p})": lambda a, b, c: 10.0**a,
        }
        check(
            rounded_results, F32, x, y, z, head=f"#include <{header}>", rtol=1e-3 if name == "half" else 8e-3
        )

    def test_pairs(self, name, rng):
        header, scalar, pair = TYPES[name]
        to16 = to_bits16(name)
        x, y, z = (np.array([to16(v) for v in row], F32) for row in rng.uniform(-2, 2, (3, 40)))
        p, q = f"{pair}({scalar}(a), {scalar}(b))", f"{pair}({scalar}(c), {scalar}(1.0f))"
        both = {
            f"{p} + {q}": lambda a, b, c: (to16(a + c), to16(b + 1)),
            f"-{p} * {q}": lambda a, b, c: (to16(-a * c), -b),
            f"[=] {{ {pair} v = {p}; v -= {q}; return v; }}()": lambda a, b, c: (to16(a - c), to16(b - 1)),
            f"__hadd2_rn({p}, {q})": lambda a, b, c: (to16(a + c), to16(b + 1)),
            f"__hmul2_sat({p}, {q})": lambda a, b, c: (min(max(to16(a * c), 0), 1), min(max(b, 0), 1)),
            f"__hfma2_relu({p}, {q}, {q})": lambda a, b, c: (max(to16(a * c + c), 0), max(to16(b + 1), 0)),
            f"__habs2({p})": lambda a, b, c: (abs(a), abs(b)),
            f"__hneg2({p})": lambda a, b, c: (-a, -b),
            f"__hgt2({p}, {q})": lambda a, b, c: (a > c, b > 1),
            f"h2ceil({p})": lambda a, b, c: (math.ceil(a), math.ceil(b)),
            f"__lowhigh2highlow({p})": lambda a, b, c: (b, a),
            f"__lows2{name}2({p}, {q})": lambda a, b, c: (a, c),
            f"__high2{name}2({p})": lambda a, b, c: (b, b),
            f"{pair}(1.5f, 2.0)": lambda a, b, c: (1.5, 2),
        }
        formulas = {
            f"__low2float({expression})": lambda a, b, c, f=f: f(a, b, c)[0] for expression, f in both.items()
        }
        formulas |= {
            f"__high2float({expression})": lambda a, b, c, f=f: f(a, b, c)[1]
            for expression, f in both.items()
        }
        formulas |= {
            f"(float)__hbgt2({p}, {q})": lambda a, b, c: a > c and b > 1,
            f"(float)({p} == {p})": lambda a, b, c: 1,
        }
        check(formulas, F32, x, y, z, head=f"#include <{header}>")

    def test_pairs_in_shared_memory_and_atomics(self, name):
        header, scalar, pair = TYPES[name]
        source = f"""
        #include <{header}>
        extern "C" __global__ void k({pair}* y) {{
            __shared__ {pair} s[32];  // needs a type without a constructor of its own
            s[threadIdx.x] = {pair}({scalar}((int)threadIdx.x), {scalar}(1.0f));
            __syncthreads();
            atomicAdd(y, s[31 - threadIdx.x]);
        }}"""
        cuda_emulator.activate_anyway(announce=False)
        y = np.zeros(2, np.uint16)
        Module(source).launch("k", 1, 32, y)
        values = y.view(np.float16) if name == "half" else (y.astype(U32) << 16).view(F32)
        total = 0.0
        for i in range(31, -1, -1):
            total = to_bits16(name)(total + i)
        np.testing.assert_array_equal(values, [total, 32])


# --- what is refused by name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "dtype"), [("f", np.complex64), ("", np.complex128)])
def test_cu_complex(suffix, dtype, rng):
    cuda_emulator.activate_anyway(announce=False)
    kind = "cuFloatComplex" if suffix else "cuDoubleComplex"
    source = f"""#include <cuComplex.h>
    extern "C" __global__ void k(const {kind}* a, const {kind}* b, {kind}* y) {{
        int i = threadIdx.x, n = blockDim.x;
        y[i] = cuCadd{suffix}(a[i], b[i]), y[n + i] = cuCmul{suffix}(a[i], b[i]), y[2 * n + i] = cuCdiv{suffix}(a[i], b[i]);
        y[3 * n + i] = make_{kind}(cuCabs{suffix}(a[i]), cuCreal{suffix}(cuConj{suffix}(b[i])));
        y[4 * n + i] = cuCfma{suffix}(a[i], b[i], cuCsub{suffix}(a[i], b[i]));
    }}"""
    a, b = rng.standard_normal((2, 32, 2)).view(np.complex128)[..., 0].astype(dtype)
    y = np.zeros((5, 32), dtype)
    Module(source).launch("k", 1, 32, a, b, y)
    expected = [a + b, a * b, a / b, abs(a) + 1j * b.real, a * b + a - b]
    np.testing.assert_allclose(y, expected, rtol=1e-4 if suffix else 1e-12, atol=1e-5 if suffix else 1e-12)


def test_bits_and_equality_of_a_warp(rng):
    """__reduce_and_sync, or, xor and __match_all_sync; the last lanes of the second warp have returned."""
    cuda_emulator.activate_anyway(announce=False)
    source = """extern "C" __global__ void k(const unsigned* x, unsigned* y, int n) {
        int i = threadIdx.x, all;
        if (i >= n) return;
        y[4 * i] = __reduce_and_sync(0xffffffffu, x[i]);
        y[4 * i + 1] = __reduce_or_sync(0xffffffffu, x[i]);
        y[4 * i + 2] = __reduce_xor_sync(0xffffffffu, x[i]);
        unsigned same = __match_all_sync(0xffffffffu, x[i] >> 31, &all);
        y[4 * i + 3] = same * all;
    }"""
    x = rng.integers(0, 2**32, 50, dtype=U32) | U32(5)
    x[32:] |= U32(1 << 31)
    x[:2] = 5, 5 | 1 << 31
    y = np.zeros((50, 4), U32)
    Module(source).launch("k", 1, 64, x, y, I32(50))
    for warp, lanes in ((slice(0, 32), 0), (slice(32, 50), (1 << 18) - 1)):
        part = [operation.reduce(x[warp]) for operation in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)]
        np.testing.assert_array_equal(y[warp], np.tile(np.array([*part, lanes], U32), (len(x[warp]), 1)))


@pytest.mark.parametrize(
    "header", ["cuda_fp8.h", "cuda_fp6.h", "cuda_fp4.h", "nv/target", "mma.h", "cub/cub.cuh", "cublas_v2.h"]
)
def test_headers_that_are_refused(header):
    source = f'\n#include <{header}>\nextern "C" __global__ void k(float* y) {{ y[0] = 1; }}'
    with pytest.raises(
        UnsupportedError, match=f"^k.cu:2: error: not supported by the CPU emulator: <{header}>, "
    ):
        toolchain.compile_kernels(source, "k.cu")


# --- cuRAND ----------------------------------------------------------------------------------------------------------

CURAND = """#include <curand_kernel.h>
extern "C" __global__ void k(float* uniform, unsigned* bits) {
    curandState state;
    curand_init(1234, threadIdx.x, 0, &state);
    uniform[threadIdx.x] = curand_uniform(&state);
    bits[threadIdx.x] = curand(&state);
}"""


@pytest.mark.skipif(
    not curand_header(), reason="NVIDIA's curand_kernel.h is not installed: pip install nvidia-curand"
)
@pytest.mark.parametrize("mode", ["checked", "plain"])
def test_curand(mode):
    """The first numbers of XORWOW's first sequences, which are the same on every device."""
    cuda_emulator.activate_anyway(announce=False)
    uniform, bits = np.zeros(3, F32), np.zeros(3, U32)
    Module(CURAND, mode=mode).launch("k", 1, 3, uniform, bits)
    np.testing.assert_allclose(uniform, [0.145468, 0.820181, 0.550399], rtol=1e-5)
    np.testing.assert_array_equal(bits, [1867875844, 3978931785, 3486847504])


def test_curand_takes_the_hosts_code(monkeypatch, tmp_path):
    """Of a header with NVIDIA's macros: plain C++ is kept, PTX and what belongs to an architecture is not."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "curand_kernel.h").write_text("""#include <nv/target>
    static __device__ int choose(int x) {
        NV_IF_TARGET(NV_IS_DEVICE, asm("bad" : "=r"(x)); x = -1;)
        NV_IF_ELSE_TARGET(NV_PROVIDES_SM_61,
            asm("bad" : "=r"(x));
        ,
            int pair[2] = {x, 1};
            x = pair[0] + pair[1];
        )
    #ifdef __CUDA_ARCH__
        x = -2;
    #endif
        return x;
    }""")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert curand_header() == tmp_path / "include" / "curand_kernel.h"
    source = """#include <curand_kernel.h>
    extern "C" __global__ void k(int* y) { y[threadIdx.x] = choose(threadIdx.x) + 100 * (__CUDA_ARCH__ > 0); }"""
    cuda_emulator.activate_anyway(announce=False)
    y = np.zeros(2, I32)
    Module(source).launch("k", 1, 2, y)
    np.testing.assert_array_equal(y, [101, 102])


def test_curand_without_nvidias_header_is_refused(monkeypatch):
    monkeypatch.setattr(toolchain, "curand_options", list)
    with pytest.raises(
        UnsupportedError, match=r"^k.cu:1: error: .*emulator: <curand_kernel.h> .*pip install nvidia-curand"
    ):
        toolchain.compile_kernels(CURAND, "k.cu")
