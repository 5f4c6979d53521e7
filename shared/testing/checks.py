"""Assertions that name the bug: every message here is written for the person whose answer is wrong."""

from __future__ import annotations

import ast
import contextlib
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mistakes = Mapping[str, Any]
"""Diagnosis -> the value that this mistake would give, or a callable without arguments that computes it."""

SHOWN_MISMATCHES = 4
WAYS_TO_IMPORT = {
    "builtins",
    "ctypes",
    "gc",
    "importlib",
    "inspect",
    "pkgutil",
    "pydoc",
    "runpy",
    "subprocess",
}


def to_numpy(value: Any) -> NDArray[Any]:
    """Return `value` (array, scalar or torch tensor, on any device) as a NumPy array."""
    if hasattr(value, "detach"):  # a torch tensor, recognised without importing torch
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value  # NumPy has no bfloat16
        value = value.numpy()
    return np.asarray(value)


def dtype_name(dtype: Any) -> str:
    """Return the name of a NumPy or torch dtype: both libraries say "float32", only torch has "bfloat16"."""
    name = str(dtype).removeprefix("torch.")
    return name if name == "bfloat16" else np.dtype(name if name != str(dtype) else dtype).name


def tolerance(dtype: Any, n: int = 1) -> float:
    """Relative tolerance 8·eps·sqrt(n) for a result of `dtype` whose entries each sum `n` rounded terms."""
    name = dtype_name(dtype)
    if name == "bfloat16":
        return 8 * 2.0**-7 * math.sqrt(max(n, 1))
    return 8 * float(np.finfo(name).eps) * math.sqrt(max(n, 1)) if np.dtype(name).kind in "fc" else 0.0


def assert_close(
    actual: Any,
    expected: Any,
    *,
    dtype: Any = None,
    n: int = 1,
    rtol: float | None = None,
    atol: float | None = None,
    what: str = "result",
    mistakes: Mistakes | None = None,
    hint: str | None = None,
    vacuous_ok: str | None = None,
) -> None:
    """Assert that `actual` has the shape, dtype and values of the oracle `expected`.

    Parameters
    ----------
    actual, expected : array, scalar or torch tensor
        `expected` comes from an oracle, usually in float64; where it is a tensor, `actual` must be one too. It may not be vacuous: empty, constant, or so small
        that the tolerance covers it, because then a wrong answer could pass.
    dtype : dtype, optional
        What `actual` must have, NumPy's or torch's; the default is the dtype of `expected`.
    n : int
        Reduction length behind each entry; the default `rtol` is ``8·eps(dtype)·sqrt(n)``.
    rtol, atol : float, optional
        ``|actual - expected| <= atol + rtol·|expected|``; the default `atol` is ``rtol·max|expected|``. Pass
        ``atol=0.0`` to demand relative accuracy of every entry.
    what : str
        Name of the compared value in messages.
    mistakes : mapping, optional
        Diagnosis to the value that mistake gives. If `actual` equals one of them, the message opens with it.
    hint : str, optional
        Shown when nothing in `mistakes` matches.
    vacuous_ok : str, optional
        The reason why a vacuous `expected` proves something here.

    Raises
    ------
    AssertionError
        With a message that opens with the likely mistake.
    """
    __tracebackhide__ = True
    oracle = to_numpy(expected)
    wanted_dtype = dtype_name(_dtype_of(expected) if dtype is None else dtype)
    rtol = tolerance(wanted_dtype, n) if rtol is None else rtol
    finite = np.abs(oracle[np.isfinite(oracle)])
    largest = float(finite.max()) if finite.size else 0.0
    atol = rtol * largest if atol is None else atol
    if vacuous_ok is None:
        _refuse_vacuous(oracle, largest, rtol, atol, what)

    if actual is None:
        raise AssertionError(f"{what} is None: is a `return` missing?")
    if isinstance(actual, list | tuple | np.ma.MaskedArray | np.matrix):
        raise AssertionError(f"{what} is a {type(actual).__name__}, expected a plain array")
    if hasattr(expected, "detach") and isinstance(actual, np.ndarray):
        raise AssertionError(f"{what} is a NumPy array, expected a torch tensor")
    got = to_numpy(actual)
    problem = _problem(got, oracle, dtype_name(_dtype_of(actual)), wanted_dtype, rtol, atol)
    if problem is None:
        return
    if problem.startswith("wrong dtype") and _mismatches(got, oracle, rtol, atol) is None:
        mistakes = None  # the numbers are right: a mistake that gives the same here is not what happened
    for diagnosis, value in (mistakes or {}).items():
        mistaken = _evaluate(value)
        if (
            mistaken is not None
            and got.shape == mistaken.shape
            and _mismatches(got, mistaken, max(rtol, 1e-6), atol) is None
        ):
            raise AssertionError(f"{diagnosis}\n{what}: {problem}")
    raise AssertionError(f"{hint}\n{what}: {problem}" if hint else f"{what}: {problem}")


def _dtype_of(value: Any) -> Any:
    return getattr(value, "dtype", None) or np.asarray(value).dtype


def _evaluate(mistake: Any) -> NDArray[Any] | None:
    """Return the value of a mistake, or None where this input makes even the mistake fail."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return to_numpy(mistake() if callable(mistake) else mistake)
    except Exception:
        return None


def _refuse_vacuous(oracle: NDArray[Any], largest: float, rtol: float, atol: float, what: str) -> None:
    __tracebackhide__ = True
    reason = None
    if oracle.size == 0:
        reason = "is empty"
    elif rtol >= 0.1:
        reason = f"would be compared with a relative tolerance of {rtol:.2g}"
    elif oracle.dtype.kind in "fciub":
        if largest == 0:
            reason = "has no finite value other than zero"
        elif largest <= 100 * atol and atol > rtol * largest:
            reason = f"is at most {largest:.3g}, which the tolerance {atol:.3g} nearly covers"
        elif oracle.size > 1 and np.all(oracle == oracle.flat[0]):
            reason = f"is {oracle.flat[0]} everywhere"
    if reason:
        raise AssertionError(
            f"defect in the test, not in the answer: the expected {what} {reason}, so a wrong answer could pass. "
            "Use other inputs, or say in vacuous_ok why it proves something."
        )


def _problem(
    got: NDArray[Any], oracle: NDArray[Any], dtype: str, wanted_dtype: str, rtol: float, atol: float
) -> str | None:
    """Say what is wrong with `got`, most basic thing first, or None."""
    if got.shape != oracle.shape:
        return f"wrong shape {got.shape}, expected {oracle.shape}"
    if dtype != wanted_dtype:
        return f"wrong dtype {dtype}, expected {wanted_dtype}"
    return _mismatches(got, oracle, rtol, atol)


def _mismatches(got: NDArray[Any], oracle: NDArray[Any], rtol: float, atol: float) -> str | None:
    """List the first entries outside the tolerance; NaN equals NaN and inf equals the same inf only."""
    wide = np.complex128 if "c" in (got.dtype.kind, oracle.dtype.kind) else np.float64
    exact = got.dtype.kind not in "fc" and oracle.dtype.kind not in "fc"
    a, e = (got, oracle) if exact else (got.astype(wide), oracle.astype(wide))
    if exact:
        bad = a != e
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(a - e)
            bad = ~(
                (error <= atol + rtol * np.abs(e)) & np.isfinite(e) | (a == e) | (np.isnan(a) & np.isnan(e))
            )
    if not bad.any():
        return None
    lines = [f"{int(bad.sum())} of {bad.size} values differ (rtol {rtol:.2g}, atol {atol:.2g})"]
    nans = int((np.isnan(a) & ~np.isnan(e)).sum()) if not exact else 0
    if nans:
        lines[0] += f", {nans} of them NaN where a number is expected"
    for index in np.argwhere(bad)[:SHOWN_MISMATCHES]:
        position = tuple(int(i) for i in index)
        where = f"[{', '.join(map(str, position))}]" if position else "value"
        lines.append(f"  {where}: got {a[position]:.10g}, expected {e[position]:.10g}")
    return "\n".join(lines)


@contextlib.contextmanager
def unchanged(*arrays: Any) -> Iterator[None]:
    """Assert that the block leaves `arrays` bitwise as they were."""
    __tracebackhide__ = True
    before = [to_numpy(array).copy() for array in arrays]
    yield
    for number, (array, saved) in enumerate(zip(arrays, before, strict=True), start=1):
        if to_numpy(array).tobytes() != saved.tobytes():
            which = f"input {number} of {len(before)}" if len(before) > 1 else "the input"
            raise AssertionError(f"{which} was modified: work on a copy, the caller still needs the array")


@contextlib.contextmanager
def expect_error(
    error: type[Exception] | tuple[type[Exception], ...], *mentions: str, otherwise: str
) -> Iterator[None]:
    """Assert that the block raises `error` and that its message contains each of `mentions` as a word of its own.

    "0" is not named by "10", "-0" or "0.5", nor "weight" by "weights"; a shape may name its sizes. `otherwise` is the
    diagnosis for an answer that accepts the bad input or fails with another error.
    """
    __tracebackhide__ = True
    names = " or ".join(kind.__name__ for kind in (error if isinstance(error, tuple) else (error,)))
    try:
        yield
    except NotImplementedError:  # a blank: not an answer yet, so not diagnosed
        raise
    except error as raised:
        missing = [text for text in mentions if not _has_word(str(raised), text)]
        if missing:
            raise AssertionError(
                f"the {type(raised).__name__} should name {' and '.join(map(repr, missing))}, "
                f"so that the caller finds the bad value; it says: {raised}"
            ) from raised
    except Exception as raised:
        raise AssertionError(
            f"{otherwise}\nexpected {names}, got {type(raised).__name__}: {raised}"
        ) from raised
    else:
        raise AssertionError(f"{otherwise}\nexpected {names}, but nothing was raised")


def _has_word(message: str, word: str) -> bool:
    """Say whether `word`, a name, a number or a phrase, stands in `message` and is not part of a longer name or number."""
    before = r"(?<!\w)" if re.match(r"\w", word) else ""
    before += r"(?<!\d\.)(?<!^-)(?<!\W-)" if re.match(r"\d", word) else ""
    after = r"(?!\w)" if re.search(r"\w$", word) else ""
    after += r"(?!\.\d)" if re.search(r"\d$", word) else ""
    return re.search(before + re.escape(word) + after, message) is not None


def assert_imports_only(module: ModuleType | str | Path, allowed: set[str]) -> None:
    """Assert that a deliverable imports nothing but the standard library and `allowed` packages.

    Catches answers that call the library instead of implementing it: an import anywhere in the file, the standard
    library's other ways to import, ``__import__``, or reaching into ``sys.modules``.
    """
    __tracebackhide__ = True
    path = Path(module.__file__ or "") if isinstance(module, ModuleType) else Path(module)
    allowed = allowed | {"numpy"} if "torch" in allowed else allowed  # torch itself needs it
    fine = (set(sys.stdlib_module_names) - WAYS_TO_IMPORT) | allowed
    nodes = list(ast.walk(ast.parse(path.read_bytes())))
    imports = [
        alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    ]
    is_sys = {"sys", *(alias.asname for alias in imports if alias.name == "sys")}
    for node in nodes:
        if isinstance(node, ast.Import):
            found = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found = {(node.module or "").split(".")[0]}
            if node.module == "sys" and any(alias.name == "modules" for alias in node.names):
                found = {"sys.modules"}
        elif isinstance(node, ast.Name) and node.id in {"__import__", "__builtins__", "exec", "eval"}:
            found = {node.id}
        elif isinstance(node, ast.Attribute) and (
            node.attr == "__import__"
            or (node.attr == "modules" and ast.unparse(node.value).split(".")[-1] in is_sys)
        ):
            found = {ast.unparse(node)}
        else:
            continue
        if found - fine:
            raise AssertionError(
                f"calls the library instead: {path.name} line {node.lineno} uses {', '.join(sorted(found - fine))}; "
                f"only {', '.join(sorted(allowed))} and the standard library are allowed"
            )


@contextlib.contextmanager
def refuse_calls(*names: str) -> Iterator[None]:
    """Assert that the block calls no torch function or operator whose name contains one of `names`.

    Catches answers that call the library instead of implementing it. Looks at what runs, not at the source, so an alias
    does not hide: torch's functions (``softmax``) are seen as they are called, its operators (``native_layer_norm``) as
    they are dispatched.
    """
    __tracebackhide__ = True
    from torch.overrides import TorchFunctionMode, resolve_name
    from torch.utils._python_dispatch import TorchDispatchMode

    def refuse(called: str) -> None:
        __tracebackhide__ = True
        if any(name in called for name in names):
            raise AssertionError(f"calls the library instead: {called} does the work that is asked of you")

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            refuse(resolve_name(func) or getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # else torch imports its compiler here, which takes seconds

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            refuse(str(func))
            return func(*args, **(kwargs or {}))

    with Functions(), Operators():  # type: ignore[no-untyped-call]
        yield


def lazily(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    """Delay ``function(*args, **kwargs)`` so that a mistake is only computed once something has failed."""
    return lambda: function(*args, **kwargs)
