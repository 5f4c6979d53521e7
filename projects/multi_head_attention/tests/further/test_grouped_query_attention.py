"""What grouped_query_attention.py adds: shared key heads, the fused kernel, queries with nothing to attend to, from_torch.

Oracles: SDPA with ``enable_gqa`` and ``nn.MultiheadAttention`` in float64.
"""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from oracles import D_MODEL, N_HEADS, PROJECTIONS, SIZES, mistakes, randn, random_module, sdpa, torch_twin
from test_multi_head_attention import identity_module, inputs, random_mask
from torch import nn
from torch.nn.attention.bias import causal_lower_right

from grouped_query_attention import MultiHeadAttention
from shared.testing.checks import assert_close, expect_error, refuse_calls, unchanged

pytestmark = pytest.mark.module("grouped_query_attention")

B, Tq, Tk = SIZES.values()
D_HEAD = D_MODEL // N_HEADS
CONSTRUCTOR, FORWARD = "MultiHeadAttention", "MultiHeadAttention.forward"
MAPS, FROM_TORCH = "MultiHeadAttention.attention_maps", "MultiHeadAttention.from_torch"


@pytest.mark.grades(CONSTRUCTOR)
@pytest.mark.parametrize(
    ("arguments", "options", "mentions"),
    [
        ((24, 5), {}, ("24", "5")),
        ((24, 0), {}, ("0",)),
        ((24, -4), {}, ("-4",)),
        ((0, 1), {}, ("0",)),
        ((24, 6), {"n_kv_heads": 4}, ("6", "4")),
        ((24, 4), {"n_kv_heads": 8}, ("4", "8")),
        ((24, 4), {"n_kv_heads": 0}, ("0",)),
        ((24, 4), {"n_kv_heads": -2}, ("-2",)),
        ((24, 4), {"dropout": -0.1}, ("-0.1",)),
        ((24, 4), {"dropout": 1.0}, ("1.0",)),
        ((24, 4), {"dropout": math.nan}, ("nan",)),
        ((24.0, 4), {}, ("24.0",)),
        ((24, 4.0), {}, ("4.0",)),
        ((24, True), {}, ("True",)),
        ((24, "4"), {}, ("'4'",)),
        ((24, 4), {"n_kv_heads": 2.0}, ("2.0",)),
    ],
    ids=str,
)
def test_wrong_options(arguments, options, mentions):
    """Heads that do not divide, and a dropout that is no probability below 1, are refused with their numbers."""
    with expect_error(ValueError, *mentions, otherwise=f"{arguments} {options} is accepted"):
        MultiHeadAttention(*arguments, **options)


@pytest.mark.grades(CONSTRUCTOR, FORWARD)
def test_options_of_numpy():
    """Integers of NumPy are integers."""
    d_model, n_heads, n_kv_heads = map(np.int64, (24, 4, 2))
    try:
        module = MultiHeadAttention(d_model, n_heads, n_kv_heads=n_kv_heads)
    except ValueError as error:
        raise AssertionError(f"np.int64 is refused, and it is an integer: {error}") from error
    assert module(torch.ones(2, 3, 24)).shape == (2, 3, 24)


@pytest.mark.grades(CONSTRUCTOR, FORWARD)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"]
)
def test_a_copy_is_the_same(copied, fused, generator):
    """A copy computes what the module does, with its options."""
    module = random_module(MultiHeadAttention, generator, causal=True, n_kv_heads=2, fused=fused)
    query, _, _ = inputs(generator)
    with torch.no_grad():
        hint = "an option is lost in a copy"
        assert_close(copied(module)(query), module(query), rtol=0.0, what="result of the copy", hint=hint)


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_shape_and_dtype(generator, dtype, fused):
    """(B, Tq, d_model) in the dtype of the module; the inputs stay as they are."""
    module = random_module(MultiHeadAttention, generator, dtype=dtype, fused=fused)
    query, key, value = inputs(generator, dtype)
    mask = random_mask(generator, B, 1, Tq, Tk)
    with torch.no_grad(), unchanged(query, key, value, mask):
        output = module(query, key, value, mask=mask)
    assert isinstance(output, torch.Tensor), f"forward must return one tensor, got {type(output).__name__}"
    assert tuple(output.shape) == (B, Tq, D_MODEL), f"output {tuple(output.shape)}, not {(B, Tq, D_MODEL)}"
    assert output.dtype == dtype, f"{dtype} in, {output.dtype} out"


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 5, 23),),
        ((5, 24),),
        ((2, 3, 5, 24),),
        ((2, 5, 24), (3, 7, 24)),
        ((2, 5, 24), (1, 7, 24)),
        ((2, 5, 24), (2, 7, 12)),
        ((2, 5, 24), (2, 7, 24), (2, 6, 24)),
        ((2, 5, 24), (2, 7, 24), (2, 1, 24)),
        ((2, 5, 24), (2, 7, 24), (1, 7, 24)),
    ],
    ids=str,
)
def test_wrong_shapes(shapes):
    """Inputs are (B, T, d_model), with as many keys as values: nothing is broadcast. The message holds the shapes."""
    module = MultiHeadAttention(D_MODEL, N_HEADS)
    with expect_error(ValueError, *map(str, shapes), otherwise=f"inputs {shapes} are accepted"):
        module(*(torch.ones(shape) for shape in shapes))


@pytest.mark.grades(FORWARD, MAPS)
@pytest.mark.parametrize(
    "shape",
    [(Tq, Tk + 1), (2, Tk), (B + 1, 1, 1, Tk), (B, 2, Tq, Tk), (B, Tk), (1, B, 1, Tq, Tk)],
    ids=str,
)
def test_wrong_mask_shape(shape):
    """A mask that does not broadcast to (B, n_heads, Tq, Tk) is refused, also one that would enlarge it."""
    module = MultiHeadAttention(D_MODEL, N_HEADS)
    query, key = torch.ones(B, Tq, D_MODEL), torch.ones(B, Tk, D_MODEL)
    for call in (lambda **k: module(query, key, **k), lambda **k: module.attention_maps(query, key, **k)):
        with expect_error(ValueError, str(shape), otherwise=f"a mask of shape {shape} is accepted"):
            call(mask=torch.ones(shape, dtype=torch.bool))


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8], ids=str)
def test_wrong_mask_dtype(dtype):
    """Ones and zeros are ambiguous: allowed or added?"""
    module = MultiHeadAttention(D_MODEL, N_HEADS)
    query = torch.ones(B, Tq, D_MODEL)
    with expect_error(TypeError, str(dtype), otherwise=f"a mask of {dtype} is accepted"):
        module(query, mask=torch.ones(Tq, Tq, dtype=dtype))


@pytest.mark.grades(CONSTRUCTOR)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_kv_heads", [2, 1])
def test_narrow_projections(n_kv_heads, bias):
    """Keys and values are narrower when heads share them."""
    module = MultiHeadAttention(D_MODEL, N_HEADS, n_kv_heads=n_kv_heads, bias=bias)
    narrow = n_kv_heads * D_HEAD
    for name in PROJECTIONS:
        layer = getattr(module, name)
        rows = narrow if name in ("k_proj", "v_proj") else D_MODEL
        assert tuple(layer.weight.shape) == (rows, D_MODEL), (
            f"{name} must map {D_MODEL} to {rows} for {n_kv_heads} kv heads: weight {tuple(layer.weight.shape)}"
        )
        assert (layer.bias is not None) == bias, f"bias={bias} does not reach {name}"


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("n_kv_heads", [1, 2, N_HEADS])
def test_grouped_heads(generator, n_kv_heads):
    """Neighbouring query heads share a key head, as in SDPA with `enable_gqa`."""
    module = random_module(MultiHeadAttention, generator, n_kv_heads=n_kv_heads)
    query, key, value = inputs(generator)
    expected = sdpa(module, query, key, value)
    assert_close(
        module(query, key, value), expected, rtol=1e-12, mistakes=mistakes(module, query, key, value)
    )


@pytest.mark.grades(FORWARD)
def test_bfloat16(generator):
    """bfloat16 is as near to float64 as its eight bits allow."""
    module = random_module(MultiHeadAttention, generator, dtype=torch.bfloat16)
    query, key, value = inputs(generator, torch.bfloat16)
    exact = sdpa(*(x.double() for x in (module, query, key, value)))  # the module is float64 from here on
    module.to(torch.bfloat16)
    assert_close(module(query, key, value), exact, dtype=torch.bfloat16, rtol=0.03)


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
def test_nan_is_not_hidden(generator, fused):
    """A NaN in a value spreads in its sample, also from behind a mask, and nowhere else."""
    module = random_module(MultiHeadAttention, generator, fused=fused)
    query, key, value = inputs(generator)
    mask = torch.ones(Tq, Tk, dtype=torch.bool)
    mask[:, 4] = False
    expected = sdpa(module, query, key, value, mask=mask)
    value[1, 4] = math.nan
    got = module(query, key, value, mask=mask)
    assert got[1].isnan().all(), "a NaN in a value is hidden: something replaces it"
    assert_close(got[[0, 2]], expected[[0, 2]], rtol=1e-12, hint="a NaN in a value reaches another sample")


@pytest.mark.grades(FORWARD)
def test_causal_is_an_attribute(generator):
    """`causal` may be switched after construction."""
    module = random_module(MultiHeadAttention, generator)
    query, _, _ = inputs(generator)
    module.causal = True
    lower = torch.ones(Tq, Tq, dtype=torch.bool).tril()
    assert_close(module(query), sdpa(module, query, query, query, mask=lower), rtol=1e-12)
    for n_queries, n_keys in ((5, 7), (2, 7), (5, 5), (3, 4)):  # one module, many sizes
        q, k = query[:, :n_queries], randn(B, n_keys, D_MODEL, generator=generator)
        lower = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
        hint = "is the causal mask of an earlier call used again?"
        assert_close(module(q, k), sdpa(module, q, k, k, mask=lower), rtol=1e-12, hint=hint)


DEAD = {
    "bool": {"mask": torch.tensor([[True] * Tk, [False] * Tk])[[0, 1, 0, 0, 0]]},
    "one head of one sample": {"mask": torch.ones(B, N_HEADS, Tq, Tk, dtype=torch.bool)},
    "float": {"mask": torch.zeros(Tq, 1, dtype=torch.float64)},
    "causal with more queries than keys": {"causal": True},
}
DEAD["one head of one sample"]["mask"][1, 2, 1] = False
DEAD["float"]["mask"][1] = -math.inf


@pytest.mark.grades(FORWARD, MAPS)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("case", DEAD)
def test_nothing_to_attend_to(generator, case, fused):
    """Such a query gathers zeros; gradients stay finite, those of the others right."""
    module = random_module(MultiHeadAttention, generator, causal=DEAD[case].get("causal", False), fused=fused)
    query, key, value = inputs(generator)
    if module.causal:
        key, value, query = query[:, :3], value[:, :3], query.clone()
    leaves = [query, key, value]
    for leaf in leaves:
        leaf.requires_grad_()
    mask = DEAD[case].get("mask")
    got = module(query, key, value, mask=mask)
    assert got.isfinite().all(), (
        "a row with nothing to attend to gives NaN: the softmax of nothing but -inf is 0/0"
    )
    n_keys = key.shape[1]
    if module.causal:
        mask_seen = torch.ones(Tq, n_keys, dtype=torch.bool).tril(n_keys - Tq)
    else:
        mask_seen = mask if mask.dtype == torch.bool else mask == 0
    seen = mask_seen.expand(B, N_HEADS, Tq, n_keys)
    # Oracle: let the dead rows see everything, then cut what they gathered out by a mask of ones and zeros.
    alive = seen.any(-1)
    merged = sdpa(module, query, key, value, mask=seen | ~alive[..., None], out=False)
    cut = (merged.unflatten(-1, (N_HEADS, -1)) * alive.transpose(1, 2)[..., None]).flatten(2)
    expected = module.out_proj(cut)
    assert_close(
        got,
        expected,
        rtol=1e-12,
        mistakes={
            "a row with nothing to attend to ignores its mask: it must gather zeros": lambda: module.out_proj(
                merged
            ),
        },
    )
    cotangent = randn(*got.shape, generator=generator)
    wanted = torch.autograd.grad(expected, leaves, cotangent)
    gradients = torch.autograd.grad(got, leaves, cotangent, allow_unused=True)
    for name, gradient, right in zip(("query", "key", "value"), gradients, wanted, strict=True):
        assert gradient is not None, f"no gradient reaches {name}: something detaches it"
        assert gradient.isfinite().all(), (
            f"the gradient of {name} is NaN: the NaN was replaced after the softmax, not avoided before it"
        )
        assert_close(gradient, right, rtol=1e-11, what=f"gradient of {name}")
    weights = module.attention_maps(query.detach(), key.detach(), mask=mask)
    assert tuple(weights.shape) == (B, N_HEADS, Tq, n_keys), (
        f"attention_maps must give one map for each head, got {tuple(weights.shape)}: are they averaged?"
    )
    sums = weights.sum(-1)
    assert torch.equal(sums == 0, ~alive), (
        "attention_maps: the weights of a row with nothing to attend to must be 0"
    )


@pytest.mark.grades(FORWARD, MAPS)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("sizes", [(0, 5, 7), (2, 0, 7), (2, 5, 0)], ids=str)
def test_empty(sizes, fused):
    """No sample, no query, or no key: then there is nothing to attend to."""
    n_samples, n_queries, n_keys = sizes
    module = MultiHeadAttention(D_MODEL, N_HEADS, n_kv_heads=2, fused=fused)
    query, key = torch.ones(n_samples, n_queries, D_MODEL), torch.ones(n_samples, n_keys, D_MODEL)
    try:
        output, maps = module(query, key), module.attention_maps(query, key)
    except NotImplementedError:  # a RuntimeError too
        raise
    except RuntimeError as error:
        raise AssertionError(f"an empty input fails: -1 in a view has no size to find. {error}") from error
    assert output.shape == query.shape, f"output {tuple(output.shape)}, not {tuple(query.shape)}"
    assert torch.equal(output, module.out_proj.bias.expand_as(output)) or n_keys, (
        "without keys: zeros, then out_proj"
    )
    assert maps.shape == (n_samples, N_HEADS, n_queries, n_keys), f"maps {tuple(maps.shape)}"


@pytest.mark.grades(CONSTRUCTOR, FORWARD)
@pytest.mark.parametrize("n_kv_heads", [1, 2, N_HEADS])
@pytest.mark.parametrize("causal", [False, True])
def test_fused_is_the_same(generator, causal, n_kv_heads):
    """`fused=True` gives the same output, with and without a mask; it may be switched on later."""
    module = random_module(MultiHeadAttention, generator, causal=causal, n_kv_heads=n_kv_heads)
    query, key, value = inputs(generator)
    for given in ((query,), (query, key, value)):
        for mask in (None, random_mask(generator, B, 1, 1, (Tq, Tq, Tk)[len(given) - 1])):
            module.fused = False
            expected = module(*given, mask=mask)
            module.fused = True
            assert_close(module(*given, mask=mask), expected, rtol=1e-12, what="fused result")


@pytest.mark.grades(CONSTRUCTOR, FORWARD)
@pytest.mark.parametrize("switch", ["argument", "attribute"])
def test_fused_calls_sdpa(generator, switch):
    """`fused=True` leaves the core to torch's SDPA."""
    module = random_module(MultiHeadAttention, generator, **({"fused": True} if switch == "argument" else {}))
    module.fused = True
    query, _, _ = inputs(generator)
    try:
        with refuse_calls("scaled_dot_product"):
            module(query)
    except AssertionError:
        return
    raise AssertionError(f"fused=True as {switch} does not call scaled_dot_product_attention")


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
def test_gradients_of_grouped_heads(generator, fused):
    """Each key head gathers the gradients of its query heads: SDPA with `enable_gqa` is the oracle."""
    module = random_module(MultiHeadAttention, generator, n_kv_heads=2, causal=True, fused=fused)
    query, key, value = inputs(generator)
    leaves = [query, key, value, module.k_proj.weight, module.v_proj.weight, module.q_proj.weight]
    for leaf in leaves:
        leaf.requires_grad_()
    expected = sdpa(module, query, key, value, mask=causal_lower_right(Tq, Tk))
    cotangent = randn(*expected.shape, generator=generator)
    wanted = torch.autograd.grad(expected, leaves, cotangent)
    got = torch.autograd.grad(module(query, key, value), leaves, cotangent, allow_unused=True)
    names = ("query", "key", "value", "k_proj.weight", "v_proj.weight", "q_proj.weight")
    for name, gradient, right in zip(names, got, wanted, strict=True):
        assert gradient is not None, f"no gradient reaches {name}: something detaches it"
        assert_close(gradient, right, rtol=1e-11, what=f"gradient of {name}")


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
def test_dropout_of_shared_heads(generator, fused):
    """Query heads that share a key head drop weights independently; `dropout` may be changed at any time."""
    H, T, p = 3, 8, 0.4
    module = identity_module(MultiHeadAttention, H * T, H, n_kv_heads=1, fused=fused)
    module.dropout = p
    query, key = (randn(40, T, H * T, generator=generator) for _ in range(2))
    value = (
        torch.eye(T, dtype=torch.float64).repeat(1, H).expand(40, T, H * T)
    )  # each weight shows in the output
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = module(query, key, value).unflatten(-1, (H, T)) == 0
    share = float(dropped.double().mean())
    assert abs(share - p) < 0.035, f"{share:.1%} of the weights are dropped, expected {p:.0%}"
    same = (dropped == dropped.roll(1, 2)).double().mean()
    assert same < 0.9, "all heads of a group drop the same keys: draw the mask for every weight"


@pytest.mark.grades(MAPS)
@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_attention_maps_of_grouped_heads(generator, n_kv_heads):
    """Every query head has a map of its own, causal as the module is; together with the values they make the output."""
    module = random_module(MultiHeadAttention, generator, n_kv_heads=n_kv_heads, causal=True)
    x, _, _ = inputs(generator)
    maps = module.attention_maps(x)
    assert tuple(maps.shape) == (B, N_HEADS, Tq, Tq), (
        f"one map for each of {N_HEADS} query heads, got {tuple(maps.shape)}"
    )
    assert not maps.triu(1).any(), "the maps are not causal although the module is"
    for mask in (random_mask(generator, B, 1, 1, Tq), randn(N_HEADS, Tq, Tq, generator=generator)):
        later = module.attention_maps(x, mask=mask).triu(1)
        assert not later.any(), "with a mask, the maps are not causal although the module is"
    assert_close(maps.sum(-1), torch.ones(B, N_HEADS, Tq), dtype=torch.float64, vacuous_ok="rows sum to one")
    v = module.v_proj(x).unflatten(-1, (n_kv_heads, -1)).repeat_interleave(N_HEADS // n_kv_heads, 2)
    gathered = torch.einsum("bhij,bjhd->bihd", maps, v).flatten(2)
    expected = sdpa(module, x, x, x, mask=causal_lower_right(Tq, Tq))
    assert_close(module.out_proj(gathered), expected, rtol=1e-12, what="output rebuilt from the maps")


@pytest.mark.grades(FROM_TORCH)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_from_torch(generator, dtype, batch_first, bias):
    """Weights, dtype, dropout and training mode are taken over."""
    twin = torch_twin(random_module(MultiHeadAttention, generator, dtype=dtype, bias=bias))
    module = nn.MultiheadAttention(
        D_MODEL, N_HEADS, dropout=0.3, bias=bias, batch_first=batch_first, dtype=dtype
    ).eval()
    module.load_state_dict(twin.state_dict())
    ours = MultiHeadAttention.from_torch(module)
    assert isinstance(ours, MultiHeadAttention), f"from_torch gives a {type(ours).__name__}"
    assert not ours.training, "the training mode is not taken over"
    assert ours.dropout == 0.3, f"dropout is {ours.dropout}, not 0.3"
    assert MultiHeadAttention.from_torch(module.train()).training, "the training mode is not taken over"
    module.eval()
    assert not ours.causal, "nn.MultiheadAttention is not causal by itself"
    assert not ours.fused, "fused is False unless one asks for it"
    query, key, value = inputs(generator, dtype)
    expected, _ = twin.eval()(query, key, value)
    in_proj = module.in_proj_weight.chunk(3)
    for name, part in zip(PROJECTIONS[:3], in_proj, strict=True):
        assert_close(
            getattr(ours, name).weight,
            part,
            rtol=0.0,
            what=f"{name}.weight",
            mistakes={f"{name} got the rows of {other}": w for other, w in zip("qkv", in_proj, strict=True)},
            hint="in_proj_weight stacks the rows of q, k and v",
        )
    assert (ours.q_proj.bias is not None) == bias, f"bias={bias} is not taken over"
    assert_close(
        ours(query, key, value),
        expected,
        rtol=1e-12 if dtype == torch.float64 else 1e-5,
        hint="is a bias not copied?",
    )


@pytest.mark.grades(FROM_TORCH)
def test_from_torch_copies(generator):
    """Training one module does not change the other."""
    module = torch_twin(random_module(MultiHeadAttention, generator)).eval()
    ours = MultiHeadAttention.from_torch(module)
    query, _, _ = inputs(generator)
    before = ours(query).detach().clone()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert_close(ours(query), before, rtol=0.0, hint="the weights are shared with torch's module: copy them")
    assert all(parameter.requires_grad for parameter in ours.parameters()), (
        "the copies cannot be trained: parameters without requires_grad"
    )


@pytest.mark.grades(FROM_TORCH)
@pytest.mark.parametrize(
    ("options", "mention"),
    [
        ({"kdim": 10}, "kdim"),
        ({"vdim": 10}, "vdim"),
        ({"add_bias_kv": True}, "add_bias_kv"),
        ({"add_zero_attn": True}, "add_zero_attn"),
    ],
    ids=str,
)
def test_from_torch_refuses(options, mention):
    """What has no counterpart is refused by name, not dropped."""
    with expect_error(ValueError, mention, otherwise=f"{options} is dropped without a word"):
        MultiHeadAttention.from_torch(nn.MultiheadAttention(D_MODEL, N_HEADS, **options))


@pytest.mark.grades(FROM_TORCH)
def test_from_torch_wrong_type():
    """Anything else than an nn.MultiheadAttention is a TypeError."""
    with expect_error(TypeError, "Linear", otherwise="an nn.Linear is accepted"):
        MultiHeadAttention.from_torch(nn.Linear(4, 4))
