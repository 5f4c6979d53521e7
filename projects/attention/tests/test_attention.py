"""The core, `attention_weights` and `attention`: contract, worked by hand, isolated parts, options, gradients.

Oracles: values worked by hand, torch's scaled_dot_product_attention in float64, laws (order does not matter, the future is
not seen), finite differences (torch.autograd.gradcheck). test_single_head_attention.py goes on from here.
"""

from __future__ import annotations

import math

import pytest
import torch
from oracles import (
    FUNCTIONS,
    LIBRARY,
    check,
    check_finite_differences,
    gradients,
    oracle,
    output_mistakes,
    random_inputs,
    random_mask,
    run,
    sdpa,
    sdpa_weights,
    weight_mistakes,
)

import attention
from shared.testing.checks import assert_close, assert_imports_only, expect_error, refuse_calls, unchanged

INF = math.inf
both = pytest.mark.parametrize("function", FUNCTIONS)


# --- 1. the contract --------------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_imports():
    """The deliverable uses torch, nothing else."""
    assert_imports_only(attention, {"torch"})


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shape_and_dtype(function, dtype, generator):
    """One row per query, in the dtype that came in."""
    for leading in ((2,), (1,), (), (1, 1)):  # axes of length 1 stay
        for n_queries, n_keys, d, dv in ((5, 7, 4, 3), (4, 4, 4, 4), (1, 6, 2, 8), (1, 1, 1, 1)):
            inputs = random_inputs(
                generator, *leading, n_queries=n_queries, n_keys=n_keys, d=d, dv=dv, dtype=dtype
            )
            got = run(function, *inputs)
            assert isinstance(got, torch.Tensor), (
                f"{function} returns a {type(got).__name__}, expected a tensor"
            )
            expected = (*leading, n_queries, n_keys if function == "attention_weights" else dv)
            assert got.shape == expected, f"{function} has the shape {tuple(got.shape)}, expected {expected}"
            assert got.dtype == dtype, f"{function} of {dtype} has the dtype {got.dtype}"


# --- 2. worked by hand ------------------------------------------------------------------------------------------------
# d = 4, so a score is half a dot product: query 0 gets the scores ln(1), ln(2), ln(5), query 1 gets ln(4), ln(1), ln(3).

QUERY = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0]], dtype=torch.float64)
KEY = torch.tensor([[1.0, 4, 1, 1], [2, 1, 1, 1], [5, 3, 1, 1]], dtype=torch.float64).log()
VALUE = torch.tensor([[8.0, 80], [16, 0], [0, 8]], dtype=torch.float64)
WEIGHTS = torch.tensor([[1 / 8, 2 / 8, 5 / 8], [4 / 8, 1 / 8, 3 / 8]], dtype=torch.float64)


@pytest.mark.grades("attention_weights")
def test_weights_by_hand():
    """Two queries, three keys: the weights are 1:2:5 and 4:1:3."""
    with unchanged(QUERY, KEY):
        got = attention.attention_weights(QUERY, KEY)
    assert_close(got, WEIGHTS, what="weights", mistakes=weight_mistakes(QUERY, KEY))


@pytest.mark.grades("attention")
def test_attention_by_hand():
    """The same weights on two numbers per key: (8 + 2·16)/8, (80 + 5·8)/8 and (4·8 + 16)/8, (4·80 + 3·8)/8."""
    expected = torch.tensor([[5.0, 15], [6, 43]], dtype=torch.float64)
    with unchanged(QUERY, KEY, VALUE):
        got = attention.attention(QUERY, KEY, VALUE)
    assert_close(got, expected, what="output", mistakes=output_mistakes(QUERY, KEY, VALUE))


MASKS_BY_HAND = {
    "boolean": (
        torch.tensor([[True, False, True], [True, True, False]]),
        [[1 / 6, 0, 5 / 6], [4 / 5, 1 / 5, 0]],
    ),
    "float": (  # adding ln(3) to a score triples its share
        torch.tensor([[math.log(3), 0, -INF], [0, math.log(5), 0]], dtype=torch.float64),
        [[3 / 5, 2 / 5, 0], [4 / 12, 5 / 12, 3 / 12]],
    ),
    "float, far below 0": (  # the shares 1 : 2/e : 5/e² and 4/e² : 1/e : 3
        torch.tensor([[-30.0, -31, -32], [-32, -31, -30]], dtype=torch.float64),
        [
            [x / (1 + 2 / math.e + 5 / math.e**2) for x in (1, 2 / math.e, 5 / math.e**2)],
            [x / (4 / math.e**2 + 1 / math.e + 3) for x in (4 / math.e**2, 1 / math.e, 3)],
        ],
    ),
    "float, 0 and 1": (
        torch.tensor([[0.0, 1, 0], [1, 0, 0]], dtype=torch.float64),
        [
            [x / (6 + 2 * math.e) for x in (1, 2 * math.e, 5)],
            [x / (4 + 4 * math.e) for x in (4 * math.e, 1, 3)],
        ],
    ),
    "one row for all queries": (torch.tensor([False, True, True]), [[0, 2 / 7, 5 / 7], [0, 1 / 4, 3 / 4]]),
}


@both
@pytest.mark.parametrize("kind", MASKS_BY_HAND)
def test_mask_by_hand(kind, function):
    """A boolean mask allows where it is True, a float mask is added; the rest of each row is shared out anew."""
    mask, weights = MASKS_BY_HAND[kind]
    expected = torch.tensor(weights, dtype=torch.float64)
    if function == "attention_weights":
        mistakes = weight_mistakes(QUERY, KEY, mask=mask)
    else:
        expected, mistakes = expected @ VALUE, output_mistakes(QUERY, KEY, VALUE, mask=mask)
    with unchanged(mask, QUERY, KEY, VALUE):
        got = run(function, QUERY, KEY, VALUE, mask=mask)
    hint = "a float mask is added, whatever numbers it holds" if "float," in kind else None
    assert_close(got, expected, what=f"{function} with a mask ({kind})", mistakes=mistakes, hint=hint)


@both
def test_causal_by_hand(function):
    """Two queries and four keys: the first sees three keys, the last sees all, as if the queries came last."""
    key = torch.cat([KEY, torch.tensor([[3.0, 2, 1, 1]], dtype=torch.float64).log()])
    value = torch.cat([VALUE, torch.tensor([[40.0, 80]], dtype=torch.float64)])
    expected = torch.tensor([[1 / 8, 2 / 8, 5 / 8, 0], [0.4, 0.1, 0.3, 0.2]], dtype=torch.float64)
    if function == "attention_weights":
        mistakes = weight_mistakes(QUERY, key, causal=True)
    else:
        expected, mistakes = expected @ value, output_mistakes(QUERY, key, value, causal=True)
    got = run(function, QUERY, key, value, causal=True)
    assert_close(got, expected, what=f"causal {function}", mistakes=mistakes)


# --- 3. isolated parts ------------------------------------------------------------------------------------------------


@pytest.mark.grades("attention")
def test_nothing_leaks_between_batches(generator):
    """What happens in one batch element or head does not show in another."""
    query, key, value = random_inputs(generator, 2, 3)
    before = attention.attention(query, key, value)
    changed = [x.detach().clone() for x in (query, key, value)]
    for x in changed:
        x[0, 1] *= -2.0
    after = attention.attention(*changed)
    others = torch.ones(2, 3, dtype=torch.bool)
    others[0, 1] = False
    hint = "one batch element or head changes the result of another: the batch leaks"
    assert_close(after[others], before[others], what="the other elements", hint=hint)
    assert not torch.allclose(after[0, 1], before[0, 1]), "the output does not depend on the input"


@both
@pytest.mark.parametrize("leading", [(), (2,), (2, 3), (2, 1, 3)], ids=str)
def test_leading_axes(leading, function, generator):
    """Any number of leading axes, all other sizes different, and all sizes alike."""
    check(function, *random_inputs(generator, *leading))
    check(function, *random_inputs(generator, *leading, n_queries=4, n_keys=4, d=4, dv=4), what="of squares")


@both
def test_leading_axes_broadcast(function, generator):
    """Leading axes broadcast: three heads of queries may share one key and value."""
    hint = "leading axes must broadcast, as in torch.matmul"
    query, _, _ = random_inputs(generator, 2, 3)
    _, key, value = random_inputs(generator, 2, 1)
    check(function, query, key, value, hint=hint)
    check(function, query[0, 0], key[:1], value, hint=hint)
    if function == "attention":  # the values have axes that nobody else has
        check(function, query[0, 0], key[0, 0], random_inputs(generator, 3, 2)[2], hint=hint)


@pytest.mark.grades("attention")
def test_order_of_the_keys_does_not_matter(generator):
    """Attention sees a set: moving keys and values together changes nothing, moving queries moves the output."""
    query, key, value = random_inputs(generator, 2)
    order = torch.randperm(7, generator=generator)
    expected = attention.attention(query, key, value)
    got = attention.attention(query, key[:, order], value[:, order])
    assert_close(got, expected, n=11, hint="the output depends on the order of the keys")
    got = attention.attention(query.flip(-2), key, value)
    assert_close(got, expected.flip(-2), n=11, hint="a query's output depends on the other queries")


@both
@pytest.mark.parametrize(("d", "dv"), [(1, 3), (2, 5), (16, 9)])
def test_scale_comes_from_the_keys(d, dv, function, generator):
    """The default scale is 1/sqrt(d) with d the width of query and key, whatever the width of the values."""
    check(function, *random_inputs(generator, 2, d=d, dv=dv), n=30)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_larger_inputs(dtype, function, generator):
    """Sums of 65 terms: right to 1e-5 and 1e-12."""
    inputs = random_inputs(generator, 2, 3, n_queries=33, n_keys=65, d=16, dv=8, dtype=dtype)
    check(function, *inputs, rtol={torch.float32: 1e-5, torch.float64: 1e-12}[dtype])


@both
def test_views(function, generator):
    """Views with any strides work, and no argument is modified."""
    query = torch.randn(4, 10, 2, generator=generator, dtype=torch.float64).permute(2, 1, 0)[:, ::2]
    key, value = (torch.randn(2, 4, 7, generator=generator, dtype=torch.float64).mT for _ in range(2))
    masks = (
        (torch.rand(7, 5, generator=generator) > 0.3).mT.index_fill(1, torch.tensor([0]), True),
        torch.randn(7, 5, generator=generator, dtype=torch.float64).mT,
        None,
    )
    for mask in masks:
        for causal in (False, True):
            with unchanged(query, key, value, *([] if mask is None else [mask])):
                check(function, query, key, value, mask=mask, causal=causal, what="of views")


@both
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_scores(size, function, generator):
    """Rows of scores near ±1e4 and near 0 beside each other: nothing overflows, each row keeps its differences."""
    query = torch.tensor([[1.0] * 4, [-1.0] * 4, [0.001] * 4]) * math.sqrt(4) / 4
    key = torch.rand(2, 7, 4, generator=generator) + size
    value = torch.randn(2, 7, 3, generator=generator)
    hint = "exp overflows or is 0 in a whole row: subtract each row's largest score before exp (torch.softmax does)"
    # A score is known to eps·size, which the weights inherit.
    check(function, query, key, value, rtol=size * 1e-6, hint=hint)


# --- 4. options -------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("scale", [0.3, 1.0, 0.0, -0.7])
def test_scale_is_an_option(scale, function, generator):
    """The option `scale` replaces 1/sqrt(d); 0 is a scale too: the weights are then all alike."""
    alike = "scale 0 gives 1/7 everywhere, and an ignored scale does not" if scale == 0 else None
    check(function, *random_inputs(generator, 2), scale=scale, vacuous_ok=alike)


KINDS = ("none", "boolean", "float", "key padding", "per query", "per key")


@both
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("kind", KINDS)
def test_masks(kind, causal, function, generator):
    """Masks of every kind, alone and together with causal and a scale, as torch's attention in float64."""
    inputs = random_inputs(generator, 2, 3)
    mask = random_mask(kind, (2, 3), generator)
    check(function, *inputs, mask=mask, causal=causal)
    check(function, *inputs, mask=mask, causal=causal, scale=0.4)


@both
@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 3, 3)], ids=str)
def test_masks_where_all_sizes_are_alike(shape, function, generator):
    """A mask's axes are counted from the last one, as in all broadcasting: two axes are (Tq, Tk), never (batch, Tk)."""
    mask = torch.rand(shape, generator=generator) > 0.5
    mask[..., 0] = True
    hint = f"a mask {shape} broadcasts to (..., Tq, Tk) from its last axis on; batch, heads, Tq and Tk are all 3 here"
    for leading in ((3,), (3, 3)):
        if len(shape) <= len(leading) + 2:
            inputs = random_inputs(generator, *leading, n_queries=3, n_keys=3, d=3, dv=3)
            check(function, *inputs, mask=mask, hint=hint)


@both
@pytest.mark.parametrize(("n_queries", "n_keys"), [(5, 7), (6, 6), (1, 4)])
def test_causal(n_queries, n_keys, function, generator):
    """The last query is aligned with the last key, whatever the sizes."""
    check(function, *random_inputs(generator, 2, 3, n_queries=n_queries, n_keys=n_keys), causal=True)


@both
def test_causal_remembers_nothing(function, generator):
    """The same number of queries over more keys, then fewer: no mask of an earlier call is used again."""
    for n_keys in (7, 5, 9, 6):
        inputs = random_inputs(generator, n_queries=5, n_keys=n_keys)
        hint = f"5 queries and {n_keys} keys, after another number of keys: is the mask of an earlier call used again?"
        check(function, *inputs, causal=True, hint=hint)


@both
@pytest.mark.parametrize("kind", ["boolean", "causal"])
def test_only_minus_infinity_forbids(kind, function):
    """Scores of -1e10, but a forbidden key with a larger one: a number like -1e9 in its place would win."""
    query = torch.tensor([[1e5], [1e5]], dtype=torch.float64)
    key = torch.tensor([[-1e5], [-1e5], [3]], dtype=torch.float64)
    value = torch.tensor([[2.0, 3], [4, 8], [7, 1]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True] * 3]) if kind == "boolean" else None
    expected = torch.tensor([[0.5, 0.5, 0], [0, 0, 1]], dtype=torch.float64)
    expected = expected if function == "attention_weights" else expected @ value
    hint = "a forbidden key gets a weight: fill its score with -inf, a large negative number is not enough"
    got = run(function, query, key, value, mask=mask, causal=kind == "causal")
    # Scores of 1e10 are known to 1e-6, which the weights may inherit.
    assert_close(got, expected, rtol=1e-4, what=function, hint=hint)


@pytest.mark.grades("attention")
def test_causal_does_not_see_the_future(generator):
    """Whatever stands at later positions does not change earlier outputs."""
    query, key, value = (x.detach() for x in random_inputs(generator, 2, n_queries=6, n_keys=6))
    before = attention.attention(query, key, value, causal=True)
    key, value = key.clone(), value.clone()
    key[:, 4:], value[:, 4:] = 1e6, -1e6
    after = attention.attention(query, key, value, causal=True)
    hint = "earlier positions see later ones: causal leaks"
    assert_close(after[:, :4], before[:, :4], what="output before the change", hint=hint)


@both
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
def test_mask_of_integers(dtype, function):
    """A mask of 0 and 1 as integers could mean two things; it is refused."""
    query, key, mask = torch.ones(5, 4), torch.ones(7, 4), torch.ones(5, 7, dtype=dtype)
    problem = f"a {dtype} mask is accepted: only boolean and float masks have a meaning"
    with expect_error(TypeError, otherwise=problem):
        run(function, query, key, key, mask=mask)


@pytest.mark.grades("attention")
@pytest.mark.parametrize("dropout_p", [-0.1, 1.0, 1.5])
def test_wrong_dropout(dropout_p):
    """A probability outside [0, 1) is refused: with 1 nothing would be left to rescale."""
    x = torch.ones(5, 4)
    with expect_error(ValueError, otherwise=f"dropout_p={dropout_p} is accepted"):
        attention.attention(x, x, x, dropout_p=dropout_p)


# --- dropout


def dropped_weights(p, generator, shape=(8, 3, 20, 30), **options):
    """Return the weights before and after dropout: the identity as values gives them away."""
    query = torch.randn(*shape[:-1], 4, generator=generator, dtype=torch.float64)
    key = torch.randn(*shape[:-2], shape[-1], 4, generator=generator, dtype=torch.float64)
    value = torch.eye(shape[-1], dtype=torch.float64).expand(*shape[:-2], -1, -1)
    got = attention.attention(query, key, value, dropout_p=p, generator=generator, **options)
    return sdpa_weights(query, key, **options), got


@pytest.mark.grades("attention")
@pytest.mark.parametrize("p", [0.1, 0.4, 0.75])
def test_dropout_zeroes_and_rescales(p, generator):
    """A share p of the weights is 0, the others are divided by 1 - p, so that the mean stays."""
    before, after = dropped_weights(p, generator)
    kept = after != 0
    spread = 5 * math.sqrt(p * (1 - p) / kept.numel())  # five standard deviations
    share = 1 - kept.double().mean().item()
    assert share > 0, "dropout_p is ignored: no weight is dropped"
    assert abs(share - (1 - p)) > spread or abs(p - 0.5) < spread, (
        f"a share {share:.3f} is dropped with dropout_p={p}: this is the probability to keep"
    )
    assert abs(share - p) < spread, f"a share {share:.3f} of the weights is dropped, expected {p}"
    expected = torch.where(kept, before / (1 - p), 0.0)
    mistakes = {
        "dropout without rescaling: divide what is kept by 1 - dropout_p": torch.where(kept, before, 0.0),
        "what dropout keeps is normalised again: only divide by 1 - dropout_p": torch.where(kept, before, 0.0)
        / torch.where(kept, before, 0.0).sum(dim=-1, keepdim=True),
        "dropout multiplies by 1 - dropout_p instead of dividing": torch.where(kept, before * (1 - p), 0.0),
    }
    assert_close(after, expected, n=34, what="weights after dropout", mistakes=mistakes)


@pytest.mark.grades("attention")
def test_dropout_is_independent(generator):
    """Each weight of each batch element, head, query and key is dropped on its own."""
    _, after = dropped_weights(0.5, generator)
    kept = (after != 0).double()
    for axis, name in enumerate(("batch elements", "heads", "queries", "keys")):
        neighbours = (kept.narrow(axis, 0, 1) == kept.narrow(axis, 1, 1)).double()
        spread = 5 * 0.5 / math.sqrt(neighbours.numel())
        assert abs(neighbours.mean().item() - 0.5) < spread, (
            f"dropout is not independent across {name}: draw one number for each weight"
        )
    problem = "always the same number of weights is dropped: each one has a chance of its own"
    assert len(set(kept.sum(dim=-1).flatten().tolist())) > 1, f"{problem} (30 keys, half of them)"
    calls = [dropped_weights(0.5, generator, (2, 3, 4, 5))[1] for _ in range(20)]
    assert len({torch.count_nonzero(weights).item() for weights in calls}) > 1, (
        f"{problem} (120 weights, half of them)"
    )


@pytest.mark.grades("attention")
def test_dropout_draws_from_the_generator(generator):
    """One seed, one result; the generator moves on; torch's global generator is left alone."""
    query, key, value = random_inputs(generator, 2, n_queries=20, n_keys=30)

    def twice(seed):
        own = torch.Generator().manual_seed(seed)
        first = attention.attention(query, key, value, dropout_p=0.5, generator=own)
        return first, attention.attention(query, key, value, dropout_p=0.5, generator=own)

    state = torch.get_rng_state()
    first, second = twice(1)
    again, _ = twice(1)
    other, _ = twice(2)
    assert torch.equal(first, again), "the generator is ignored: the same seed gives another result"
    assert not torch.equal(first, other), "the generator is ignored: another seed gives the same result"
    assert not torch.equal(first, second), "the generator does not move on: two calls drop the same weights"
    assert torch.equal(torch.get_rng_state(), state), (
        "torch's global generator was used although one is given"
    )


@pytest.mark.grades("attention")
def test_dropout_without_a_generator(generator):
    """Without a generator torch's global one is used, so that torch.manual_seed repeats a run."""
    query, key, value = random_inputs(generator, 2, n_queries=20, n_keys=30)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = attention.attention(query, key, value, dropout_p=0.5)
        second = attention.attention(query, key, value, dropout_p=0.5)
        torch.manual_seed(3)
        again = attention.attention(query, key, value, dropout_p=0.5)
    assert torch.equal(first, again), (
        "torch.manual_seed does not repeat the dropout: use the global generator"
    )
    assert not torch.equal(first, second), "two calls drop the same weights"


@pytest.mark.grades("attention")
@pytest.mark.parametrize("kind", ["causal", "boolean", "float"])
def test_dropout_beside_other_options(kind, generator):
    """Masks do not switch it off."""
    mask = {
        "boolean": torch.ones(20, 30, dtype=torch.bool).triu(-9),
        "float": torch.linspace(-2, 2, 30, dtype=torch.float64),
    }.get(kind)
    before, after = dropped_weights(0.4, generator, mask=mask, causal=kind == "causal")
    seen = before > 0
    kept = (after != 0) & seen
    share, spread = 1 - kept.sum().item() / seen.sum().item(), 5 * math.sqrt(0.24 / seen.sum().item())
    problem = f"a share {share:.3f} of the weights is dropped with dropout_p=0.4 and {kind}"
    assert abs(share - 0.4) < spread, f"{problem}: the option {kind} changes the dropout"
    assert_close(after, torch.where(kept, before / 0.6, 0.0), rtol=1e-12, what=kind)


@pytest.mark.grades("attention")
def test_no_dropout_draws_nothing(generator):
    """dropout_p=0 is plain attention, and takes no random numbers."""
    inputs = random_inputs(generator, 2)
    state = generator.get_state()
    check("attention", *inputs, generator=generator, dropout_p=0.0)
    assert torch.equal(generator.get_state(), state), "dropout_p=0 draws random numbers"


# --- 5. gradients -----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, causal, function, generator):
    """Gradients of the inputs and of a float mask, for a random cotangent, as torch's to 1e-12."""
    inputs = random_inputs(generator, 2, 3)[: 2 if function == "attention_weights" else 3]
    mask = random_mask(kind, (2, 3), generator)
    leaves, names = list(inputs), ["query", "key", "value"][: len(inputs)]
    if mask is not None and mask.dtype != torch.bool:
        leaves, names = [*leaves, mask], [*names, "mask"]
    options = {"mask": mask, "causal": causal, "scale": 0.4}
    expected = oracle(function, *inputs, **options)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = gradients(expected, leaves, cotangent)
    got = gradients(run(function, *inputs, **options), leaves, cotangent, names)
    for name, mine, theirs in zip(names, got, right, strict=True):
        # One number added to a whole row changes nothing: its gradient is 0, known to rounding only.
        ok = "a mask per query has no effect" if (name, kind) == ("mask", "per query") else None
        assert_close(mine, theirs, rtol=1e-12, atol=1e-13, what=f"gradient of {name}", vacuous_ok=ok)


@pytest.mark.grades("attention")
def test_gradients_in_float32(generator):
    """In float32 to 1e-5."""
    inputs = random_inputs(generator, 2, n_queries=33, n_keys=65, d=16, dv=8, dtype=torch.float32)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = sdpa(*exact)
    cotangent = torch.randn(expected.shape, generator=generator)
    right = gradients(expected, exact, cotangent)
    got = gradients(attention.attention(*inputs), inputs, cotangent)
    for name, mine, theirs in zip(("query", "key", "value"), got, right, strict=True):
        assert_close(mine, theirs, dtype=torch.float32, rtol=1e-5, what=f"gradient of {name}")


@pytest.mark.grades("attention")
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_finite_differences(dropout_p, generator):
    """Finite differences agree, with a float mask, causal, and dropout."""
    inputs = random_inputs(generator, 2, n_queries=3, n_keys=4, d=2, dv=2)
    mask = torch.randn(3, 4, generator=generator, dtype=torch.float64)

    def attend(*tensors):
        own = torch.Generator().manual_seed(5)
        return attention.attention(*tensors, mask=mask, causal=True, dropout_p=dropout_p, generator=own)

    check_finite_differences(attend, inputs, generator=generator)


# --- is it written out? -----------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"mask": torch.ones(5, 7, dtype=torch.bool)}], ids=str
)
def test_does_not_call_the_library(options, function, generator):
    """The work is done by matrix products and a softmax, not by torch's own attention."""
    for dtype in (torch.float32, torch.float64):
        inputs = random_inputs(generator, 2, dtype=dtype)
        with refuse_calls(*LIBRARY):
            run(function, *inputs, **options).sum().backward()
            if function == "attention":
                attention.attention(*inputs, dropout_p=0.5, generator=generator, **options)
