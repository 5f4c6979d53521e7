"""assert_close and its relatives: what they refuse, and what they say."""

import numpy as np
import pytest
import torch

from shared.testing.checks import (
    assert_close,
    assert_imports_only,
    expect_error,
    lazily,
    refuse_calls,
    tolerance,
    unchanged,
)

EXPECTED = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def message(*args, **kwargs):
    with pytest.raises(AssertionError) as raised:
        assert_close(*args, **kwargs)
    return str(raised.value)


def test_equal_values_pass():
    assert_close(EXPECTED.copy(), EXPECTED)
    assert_close(torch.tensor(EXPECTED), EXPECTED)
    assert_close(EXPECTED.astype(np.float32), EXPECTED, dtype=np.float32)
    assert_close(np.float64(2.5), 2.5)
    assert_close(np.array([np.nan, np.inf, -np.inf, 1.0]), np.array([np.nan, np.inf, -np.inf, 1.0]))


@pytest.mark.parametrize(
    ("actual", "says"),
    [
        (EXPECTED.T, "wrong shape (3, 2), expected (2, 3)"),
        (EXPECTED.ravel(), "wrong shape (6,), expected (2, 3)"),
        (EXPECTED.astype(np.float32), "wrong dtype float32, expected float64"),
        (EXPECTED.astype(int), "wrong dtype int64, expected float64"),
        (None, "is a `return` missing?"),
        (np.where(EXPECTED == 2, np.nan, EXPECTED), "1 of them NaN where a number is expected"),
        (np.where(EXPECTED == 2, np.inf, EXPECTED), "[0, 1]: got inf, expected 2"),
        (np.where(EXPECTED == 6, -6, EXPECTED), "1 of 6 values differ"),
        (np.where(EXPECTED == 6, 6 + 1e-9, EXPECTED), "[1, 2]: got 6.000000001, expected 6"),
        (np.zeros((2, 3)), "6 of 6 values differ"),
    ],
)
def test_wrong_values_are_refused_with_their_place(actual, says):
    assert says in message(actual, EXPECTED)


def test_a_number_where_nan_or_inf_is_expected_is_refused():
    special = np.array([1.0, np.nan, np.inf])
    assert "[1]: got 0, expected nan" in message(np.array([1.0, 0.0, np.inf]), special)
    assert "[2]: got -inf, expected inf" in message(np.array([1.0, np.nan, -np.inf]), special)
    assert "[2]: got 1e+308, expected inf" in message(np.array([1.0, np.nan, 1e308]), special)


@pytest.mark.parametrize(
    ("expected", "why"),
    [
        (np.zeros((2, 3)), "no finite value other than zero"),
        (np.full((2, 3), 0.5), "is 0.5 everywhere"),
        (np.full(3, np.nan), "no finite value other than zero"),
        (np.empty((0, 3)), "is empty"),
        (0.0, "no finite value other than zero"),
    ],
)
def test_a_vacuous_expectation_is_a_defect_of_the_test(expected, why):
    assert why in message(expected, expected)
    assert "defect in the test" in message(expected, expected)
    assert_close(expected, expected, vacuous_ok="the refusal itself is tested above")


def test_a_tolerance_that_covers_the_values_is_a_defect_of_the_test():
    assert "nearly covers" in message(EXPECTED, EXPECTED, atol=1.0)


def test_relative_accuracy_of_small_entries_is_demanded_with_atol_zero():
    expected = np.array([1.0, 1e-30])
    assert_close(np.array([1.0, 0.0]), expected)
    assert "[1]: got 0, expected 1e-30" in message(np.array([1.0, 0.0]), expected, atol=0.0)


def test_the_matching_mistake_opens_the_message():
    mistakes = {"looks transposed": lambda: 2 * EXPECTED, "looks doubled": lazily(np.multiply, EXPECTED, 2)}
    assert message(2 * EXPECTED, EXPECTED, mistakes=mistakes).startswith("looks transposed\nresult: 6 of 6")
    assert message(3 * EXPECTED, EXPECTED, mistakes=mistakes, hint="who knows").startswith("who knows\n")
    transposed = message(EXPECTED.T, EXPECTED, mistakes={"looks transposed": EXPECTED.T}, what="weights")
    assert transposed.startswith("looks transposed\nweights: wrong shape")


def test_tolerance_grows_with_the_root_of_the_reduction():
    assert tolerance(np.float32, 100) == pytest.approx(10 * tolerance(np.float32))
    assert tolerance(np.int64) == 0.0
    big = np.array([1.0, 2.0])
    assert "values differ" in message(big * (1 + 1e-14), big)
    assert_close(big * (1 + 1e-14), big, n=100_000)


def test_unchanged_sees_a_single_bit():
    x = np.array([1.0, 0.0])
    with unchanged(x):
        x + 1
    with pytest.raises(AssertionError, match="was modified"), unchanged(x):
        x[1] = -0.0


def test_expect_error_wants_the_kind_and_the_value():
    with expect_error(ValueError, "7", otherwise="accepted"):
        raise ValueError("class 7 is out of range")
    with pytest.raises(AssertionError, match="accepted\nexpected ValueError, but nothing"):
        with expect_error(ValueError, otherwise="accepted"):
            pass
    with pytest.raises(AssertionError, match="got IndexError: no"):
        with expect_error(ValueError, otherwise="accepted"):
            raise IndexError("no")
    with pytest.raises(AssertionError, match="should name '7'"):
        with expect_error(ValueError, "7", otherwise="accepted"):
            raise ValueError("bad class")
    with pytest.raises(NotImplementedError):
        with expect_error(ValueError, otherwise="accepted"):
            raise NotImplementedError


@pytest.mark.parametrize(
    ("word", "said", "unsaid"),
    [
        (
            "0",
            "n_calls is 0, not positive|axis=0.|(3, 0)|got 0",
            "shape (10, 3)|-0|0.5|1.0|x0|0x1|the last is -0",
        ),
        ("-1", "size -1|[-1]|(-1,)", "size 1|-10|-1.5"),
        ("2.5", "5 and 2.5|(2.5)|2.5.", "12.5|2.55|-2.5"),
        ("weight", "weight must|'weight'|self.weight|weight[3]", "weights|weight_decay|reweight"),
        ("float16", "torch.float16|float16,", "bfloat16"),
        ("(2, 3)", "shape(2, 3)|(2, 3).", "(2, 3, 4)|(12, 3)"),
        ("must be one", "x must be one of", "x must be ones"),
    ],
)
def test_expect_error_compares_words(word, said, unsaid):
    """A message that says 10 does not name 0."""
    for message in said.split("|"):
        with expect_error(ValueError, word, otherwise="accepted"):
            raise ValueError(message)
    for message in unsaid.split("|"):
        with pytest.raises(AssertionError, match="should name"):
            with expect_error(ValueError, word, otherwise="accepted"):
                raise ValueError(message)


@pytest.mark.parametrize(
    "source",
    [
        "import scipy",
        "from scipy.special import softmax",
        "def f(x):\n    import torch.nn.functional as F\n    return F.softmax(x)",
        "import importlib",
        "f = __import__('scipy')",
        "import sys\nf = sys.modules['torch']",
        "exec('import torch')",
    ],
)
def test_calling_the_library_is_refused(tmp_path, source):
    (tmp_path / "answer.py").write_text("import numpy as np\nimport math\n" + source)
    with pytest.raises(AssertionError, match=r"calls the library instead: answer\.py line"):
        assert_imports_only(tmp_path / "answer.py", {"numpy"})


def test_numpy_and_the_standard_library_are_fine(tmp_path):
    (tmp_path / "answer.py").write_text(
        "from __future__ import annotations\nimport math\nimport numpy.typing as npt\n"
    )
    assert_imports_only(tmp_path / "answer.py", {"numpy"})


@pytest.mark.parametrize("kind", [list, tuple, np.ma.masked_all_like])
def test_only_a_plain_array_is_an_answer(kind):
    assert "expected a plain array" in message(kind(EXPECTED), EXPECTED)


def test_a_wide_relative_tolerance_is_a_defect_of_the_test():
    assert "relative tolerance of 1" in message(np.zeros((2, 3)), EXPECTED, rtol=1.0)
    assert "is True everywhere" in message(np.ones(3, bool), np.ones(3, bool))


def test_a_mistake_that_fails_itself_hides_nothing():
    def overflows():
        return np.exp(EXPECTED * 1e4)

    def raises():
        raise ValueError("shapes")

    mistakes = {"overflows": overflows, "raises": raises, "off by one": EXPECTED + 1}
    assert message(EXPECTED + 1, EXPECTED, mistakes=mistakes).startswith("off by one")


@pytest.mark.parametrize(
    "source",
    [
        "from sys import modules",
        "import sys as s\nf = s.modules['torch']",
        "f = np.sys.modules['torch']",
        "from numpy import sys as s\nf = s.modules['torch']",
        "import builtins",
        "f = __builtins__['__import__']('torch')",
        "from pydoc import locate",
        "import ctypes",
    ],
)
def test_side_doors_to_the_library_are_refused(tmp_path, source):
    (tmp_path / "answer.py").write_text("import numpy as np\n" + source)
    with pytest.raises(AssertionError, match="calls the library instead"):
        assert_imports_only(tmp_path / "answer.py", {"numpy"})


@pytest.mark.parametrize(
    "source",
    [
        "class Net(torch.nn.Module): pass\nfor module in Net().modules(): pass",
        "import numpy as np\nx = np.zeros(3)",
        "modules = [1]\nfirst = modules[0]",
    ],
)
def test_what_no_blank_forbids_is_allowed(tmp_path, source):
    """`model.modules()` failed all units of quantization, and so did NumPy in a torch project."""
    (tmp_path / "answer.py").write_text("import torch\n" + source)
    assert_imports_only(tmp_path / "answer.py", allowed={"torch"})


def test_another_coding_is_read_as_python_reads_it(tmp_path):
    (tmp_path / "answer.py").write_bytes("# -*- coding: latin-1 -*-\n# é\nimport scipy\n".encode("latin-1"))
    with pytest.raises(AssertionError, match="line 3 uses scipy"):
        assert_imports_only(tmp_path / "answer.py", allowed={"numpy"})


def test_right_numbers_of_another_dtype_get_no_diagnosis():
    with pytest.raises(AssertionError) as error:
        assert_close(
            np.array([1.0, 2.5]),
            np.array([1.0, 2.5], dtype=np.float32),
            mistakes={"ties": np.array([1.0, 2.5])},
        )
    assert "ties" not in str(error.value)
    assert "wrong dtype float64, expected float32" in str(error.value)


def test_torch_dtypes_are_compared_by_name():
    half = torch.tensor([1.0, 2.5], dtype=torch.bfloat16)
    assert_close(half, half)
    assert_close(half, half.double(), dtype=torch.bfloat16)
    assert "wrong dtype float32, expected bfloat16" in message(half.float(), half)
    assert "wrong dtype bfloat16, expected float64" in message(half, half.double())
    with pytest.raises(AssertionError, match="is a NumPy array, expected a torch tensor"):
        assert_close(EXPECTED.copy(), torch.from_numpy(EXPECTED))
    assert tolerance(torch.bfloat16) == 8 * torch.finfo(torch.bfloat16).eps
    assert tolerance(torch.float16, 4) == tolerance(np.float16, 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x),
        lambda x: torch.nn.MultiheadAttention(8, 2)(x, x, x),
        torch.nn.LayerNorm(8),
        lambda x: torch.layer_norm(x, (8,)),
        lambda x: torch.ops.aten.native_layer_norm(x, (8,), None, None, 1e-5),
    ],
)
def test_calling_torch_instead_is_refused_under_any_name(call):
    x = torch.ones(3, 4, 8)
    with pytest.raises(AssertionError, match=r"calls the library instead: .*(attention|layer_norm)"):
        with refuse_calls("scaled_dot_product", "multi_head_attention", "layer_norm"):
            call(x)
    with refuse_calls("scaled_dot_product", "layer_norm"):
        torch.softmax(x @ x.mT, -1)
