"""The judge of the module without a cache.

Oracles: a hand-worked example, `nn.MultiheadAttention` and SDPA (with `enable_gqa`) in float64, laws (rows sum to one,
a single key gives its value, samples are independent), central differences.
"""

import math

import pytest
import torch
from oracles import (
    D_MODEL,
    N_HEADS,
    PROJECTIONS,
    SIZES,
    mistakes,
    randn,
    random_module,
    sdpa,
    torch_twin,
    twin_gradients,
)
from torch import nn
from torch.nn.attention.bias import causal_lower_right

import multi_head_attention
from multi_head_attention import MultiHeadAttention
from shared.testing.checks import assert_close, assert_imports_only, expect_error, refuse_calls, unchanged

B, Tq, Tk = SIZES.values()
D_HEAD = D_MODEL // N_HEADS
CONSTRUCTOR, FORWARD = "MultiHeadAttention", "MultiHeadAttention.forward"
MAPS, FROM_TORCH = "MultiHeadAttention.attention_maps", "MultiHeadAttention.from_torch"


def inputs(generator, dtype=torch.float64):
    """Return a query, a key and a value of different numbers."""
    return tuple(randn(B, T, D_MODEL, generator=generator, dtype=dtype) for T in (Tq, Tk, Tk))


def random_mask(generator, *shape):
    """Return a bool mask with True and False in it; key 0 is always allowed."""
    mask = torch.rand(shape, generator=generator) < 0.6
    mask[..., 0] = True
    return mask


# --- contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_imports_torch_only():
    """Nothing but torch and the standard library."""
    assert_imports_only(multi_head_attention, {"torch"})


@pytest.mark.grades(CONSTRUCTOR)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_kv_heads", [None, 2, 1])
def test_projections(n_kv_heads, bias):
    """Four linear layers; keys and values are narrower when heads share them."""
    module = MultiHeadAttention(D_MODEL, N_HEADS, n_kv_heads=n_kv_heads, bias=bias)
    narrow = D_MODEL if n_kv_heads is None else n_kv_heads * D_HEAD
    for name in PROJECTIONS:
        layer = getattr(module, name, None)
        assert isinstance(layer, nn.Linear), f"{name} must be an nn.Linear, got {type(layer).__name__}"
        rows = narrow if name in ("k_proj", "v_proj") else D_MODEL
        assert tuple(layer.weight.shape) == (rows, D_MODEL), (
            f"{name} must map {D_MODEL} to {rows} for {n_kv_heads} kv heads: weight {tuple(layer.weight.shape)}"
        )
        assert (layer.bias is not None) == bias, f"bias={bias} does not reach {name}"
        largest = float(layer.weight.detach().abs().max()) * D_MODEL**0.5
        assert 0.8 < largest <= 1, (
            f"{name} must start as nn.Linear does, between -1/sqrt(d_model) and 1/sqrt(d_model): "
            f"its largest weight is {largest:.2f}/sqrt(d_model)"
        )
    n_parameters = sum(parameter.numel() for parameter in module.parameters())
    expected = 2 * (D_MODEL + narrow) * D_MODEL + bias * 2 * (D_MODEL + narrow)
    assert n_parameters == expected, f"{n_parameters} parameters, expected {expected}: is one not needed?"


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
    ],
    ids=str,
)
def test_wrong_options(arguments, options, mentions):
    """Heads that do not divide, and a dropout that is no probability below 1, are refused with their numbers."""
    with expect_error(ValueError, *mentions, otherwise=f"{arguments} {options} is accepted"):
        MultiHeadAttention(*arguments, **options)


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_shape_and_dtype(generator, dtype, fused):
    """(B, Tq, d_model) in the dtype of the module; the inputs stay as they are."""
    module = random_module(generator, dtype=dtype, fused=fused)
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


# --- by hand ----------------------------------------------------------------------------------------------------------


def identity_module(d_model, n_heads, **options):
    """Return a module whose projections do nothing, in float64."""
    module = MultiHeadAttention(d_model, n_heads, bias=False, **options).double()
    with torch.no_grad():
        for name in PROJECTIONS:
            weight = getattr(module, name).weight
            weight.copy_(torch.eye(d_model)[: len(weight)])
    return module


@pytest.mark.grades(FORWARD)
def test_by_hand():
    """Two heads of one number each.

    Head 0: scores (0, ln 3), weights (1/4, 3/4), 10/4 + 3·20/4 = 17.5. Head 1: scores (ln 2, 0), weights (2/3, 1/3),
    2·1/3 + 4/3 = 2.
    """
    query = torch.tensor([[[math.log(3), math.log(2)]]], dtype=torch.float64)
    key = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    value = torch.tensor([[[10.0, 1.0], [20.0, 4.0]]], dtype=torch.float64)
    module = identity_module(2, 2)
    expected = torch.tensor([[[17.5, 2.0]]], dtype=torch.float64)
    assert_close(
        module(query, key, value),
        expected,
        mistakes={
            **mistakes(module, query, key, value),
            "one head of two numbers: n_heads is ignored": lambda: (
                torch.softmax(
                    torch.tensor([math.log(2), math.log(3)], dtype=torch.float64) / 2**0.5, 0
                ).reshape(1, 1, 2)
                @ value
            ),
        },
    )
    with torch.no_grad():
        module.out_proj.weight.copy_(torch.tensor([[1.0, 3.0], [5.0, 7.0]]))
    expected = torch.tensor([[[17.5 + 3 * 2, 5 * 17.5 + 7 * 2]]], dtype=torch.float64)
    assert_close(
        module(query, key, value),
        expected,
        what="result with an output projection",
        mistakes=mistakes(module, query, key, value),
    )


# --- isolated parts ---------------------------------------------------------------------------------------------------


@pytest.mark.grades(FORWARD)
def test_samples_are_independent(generator):
    """Another sample in the batch changes nothing for this one."""
    module = random_module(generator)
    query, key, value = inputs(generator)
    whole = module(query, key, value)
    for i in range(B):
        alone = module(*(x[i : i + 1] for x in (query, key, value)))
        assert_close(
            alone, whole[i : i + 1], rtol=1e-12, hint="the batch leaks: samples attend to each other"
        )


@pytest.mark.grades(FORWARD)
def test_single_key(generator):
    """With one key every weight is 1: what is left is out_proj(v_proj(value)), the value path alone."""
    module = random_module(generator)
    query, _, _ = inputs(generator)
    key, value = (randn(B, 1, D_MODEL, generator=generator) for _ in range(2))
    expected = module.out_proj(module.v_proj(value)).expand(B, Tq, D_MODEL)
    assert_close(
        module(query, key, value),
        expected,
        rtol=1e-12,
        mistakes=mistakes(module, query, key, value),
        hint="the value path (v_proj, merging the heads, out_proj) is wrong",
    )


@pytest.mark.grades(FORWARD)
def test_equal_scores(generator):
    """With queries of zero all weights are equal: each head gives the mean of its values."""
    module = random_module(generator)
    query, key, value = inputs(generator)
    with torch.no_grad():
        module.q_proj.weight.zero_()
        module.q_proj.bias.zero_()
    mean = module.out_proj(module.v_proj(value.mean(1, keepdim=True))).expand(B, Tq, D_MODEL)
    assert_close(
        module(query, key, value),
        mean,
        rtol=1e-12,
        mistakes=mistakes(module, query, key, value),
        hint="the mean over the keys is wrong: over which axis does the softmax run?",
    )


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("defaults", [0, 1, 2])
def test_default_key_and_value(generator, defaults):
    """`key` is `query` and `value` is `key` where they are left out."""
    module = random_module(generator)
    query, key, value = inputs(generator)
    given = (query, key, value)[: 3 - defaults]
    meant = [(query, key, value), (query, key, key), (query, query, query)][defaults]
    assert_close(
        module(*given),
        sdpa(module, *meant),
        rtol=1e-12,
        mistakes=mistakes(module, *meant),
    )
    if defaults == 1:
        got = module(query, value=query.flip(1))
        assert_close(got, sdpa(module, query, query, query.flip(1)), rtol=1e-12, hint="a value without a key")


# --- full comparison --------------------------------------------------------------------------------------------------


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_cross_attention_is_torchs(generator, dtype, rtol, bias):
    """The same output as nn.MultiheadAttention with the same weights, all sizes different."""
    module = random_module(generator, dtype=dtype, bias=bias)
    query, key, value = inputs(generator, dtype)
    expected, _ = torch_twin(module)(query, key, value)
    assert_close(module(query, key, value), expected, rtol=rtol, mistakes=mistakes(module, query, key, value))


@pytest.mark.grades(FORWARD)
def test_no_library_call(generator):
    """Without `fused` the attention is written out in matrix products and a softmax."""
    module = random_module(generator, n_kv_heads=2, causal=True)
    query, key, value = inputs(generator)
    mask = random_mask(generator, B, 1, Tq, Tk)
    with refuse_calls("attention"):
        module(query, key, value, mask=mask)
        with torch.no_grad():
            module.eval()(query)


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("n_kv_heads", [1, 2, N_HEADS])
def test_grouped_heads(generator, n_kv_heads):
    """Neighbouring query heads share a key head, as in SDPA with `enable_gqa`."""
    module = random_module(generator, n_kv_heads=n_kv_heads)
    query, key, value = inputs(generator)
    expected = sdpa(module, query, key, value)
    assert_close(
        module(query, key, value), expected, rtol=1e-12, mistakes=mistakes(module, query, key, value)
    )


@pytest.mark.grades(FORWARD)
def test_strided_input(generator):
    """Inputs need not be contiguous: here they are transposed views."""
    module = random_module(generator)
    query, key, value = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in inputs(generator))
    assert_close(module(query, key, value), sdpa(module, query, key, value), rtol=1e-12)


@pytest.mark.grades(FORWARD)
def test_bfloat16(generator):
    """bfloat16 is as near to float64 as its eight bits allow."""
    module = random_module(generator, dtype=torch.bfloat16)
    query, key, value = inputs(generator, torch.bfloat16)
    exact = sdpa(*(x.double() for x in (module, query, key, value)))  # the module is float64 from here on
    module.to(torch.bfloat16)
    assert_close(module(query, key, value), exact, dtype=torch.bfloat16, rtol=0.03)


@pytest.mark.grades(FORWARD)
def test_large_scores(generator):
    """Scores of ±1e4 overflow no exponential."""
    module = random_module(generator, dtype=torch.float32)
    query, key, value = inputs(generator, torch.float32)
    query = query * 1e4
    got = module(query, key, value)
    assert got.isfinite().all(), "exp overflows: subtract the row's maximum first, or use torch.softmax"
    assert_close(got, sdpa(module, query, key, value), rtol=1e-3)


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
def test_key_padding(generator, fused):
    """(B, 1, 1, Tk), True: a real token. nn.MultiheadAttention wants (B, Tk), True: ignore."""
    module = random_module(generator, fused=fused)
    query, key, value = inputs(generator)
    real = torch.arange(Tk) < torch.tensor([6, 3, Tk])[:, None]
    mask = real[:, None, None, :]
    expected, _ = torch_twin(module)(query, key, value, key_padding_mask=~real)
    assert_close(
        module(query, key, value, mask=mask),
        expected,
        rtol=1e-12,
        mistakes=mistakes(module, query, key, value, mask=mask),
    )


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("leading", [(), (1, 1), (B, 1), (1, N_HEADS), (N_HEADS,), (B, N_HEADS)], ids=str)
def test_attention_mask(generator, leading, fused):
    """(Tq, Tk) for all, or one mask per sample, per head, or both. nn.MultiheadAttention wants (B·H, Tq, Tk), inverted."""
    module = random_module(generator, fused=fused)
    query, key, value = inputs(generator)
    mask = random_mask(generator, *leading, Tq, Tk)
    per_head = mask.expand(B, N_HEADS, Tq, Tk)
    expected, _ = torch_twin(module)(query, key, value, attn_mask=~per_head.reshape(-1, Tq, Tk))
    assert_close(
        module(query, key, value, mask=mask),
        expected,
        rtol=1e-12,
        mistakes=mistakes(module, query, key, value, mask=mask),
        hint="the mask reaches the wrong scores: it broadcasts to (B, n_heads, Tq, Tk)",
    )


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
def test_mask_hides_large_scores(generator, fused):
    """A hidden key stays hidden, however large its score is."""
    module = random_module(generator, fused=fused)
    query, key, value = inputs(generator)
    query = query * 1e5
    mask = random_mask(generator, B, 1, Tq, Tk)
    assert_close(
        module(query, key, value, mask=mask),
        sdpa(module, query, key, value, mask=mask),
        rtol=1e-6,
        hint="a hidden key with a large score is seen: hide with -inf, not with a finite number",
    )


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
def test_float_mask(generator, fused):
    """A float mask is added to the scores, for each head its own; -inf forbids."""
    module = random_module(generator, n_kv_heads=2, fused=fused)
    query, key, value = inputs(generator)
    mask = randn(N_HEADS, Tq, Tk, generator=generator)
    mask[1, :, 2] = -math.inf
    assert_close(
        module(query, key, value, mask=mask),
        sdpa(module, query, key, value, mask=mask),
        rtol=1e-12,
        mistakes={
            **mistakes(module, query, key, value, mask=mask),
            "a float mask is added before scaling, or scaled itself": lambda: sdpa(
                module, query, key, value, mask=mask / D_HEAD**0.5
            ),
            "a float mask is added to the scores, not turned into True and False": lambda: sdpa(
                module, query, key, value, mask=mask != 0
            ),
        },
    )


@pytest.mark.grades(CONSTRUCTOR, FORWARD)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(6, 6), (4, 7), (1, 7)])
def test_causal(generator, n_queries, n_keys, fused):
    """The last query sees all keys, each one before it one key less."""
    module = random_module(generator, causal=True, fused=fused)
    query, key, value = (randn(B, T, D_MODEL, generator=generator) for T in (n_queries, n_keys, n_keys))
    top_left = torch.ones(n_queries, n_keys, dtype=torch.bool).tril()
    lower_right = causal_lower_right(n_queries, n_keys)
    assert_close(
        module(query, key, value),
        sdpa(module, query, key, value, mask=lower_right),
        rtol=1e-12,
        mistakes={
            "the first query is aligned with the first key: align the last with the last": lambda: sdpa(
                module, query, key, value, mask=top_left
            ),
            "the causal mask also hides a token from itself": lambda: sdpa(
                module, query, key, value, mask=top_left.tril(n_keys - n_queries - 1)
            ),
            "a token sees the one after it: the causal mask is off by one": lambda: sdpa(
                module,
                query,
                key,
                value,
                mask=top_left.new_ones(n_queries, n_keys).tril(n_keys - n_queries + 1),
            ),
            "causal=True is ignored": lambda: sdpa(module, query, key, value),
        },
    )


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_causal_and_mask(generator, kind, fused):
    """`mask` and `causal` both hold."""
    module = random_module(generator, causal=True, fused=fused)
    query, _, _ = inputs(generator)
    mask = random_mask(generator, B, 1, 1, Tq)
    causal = torch.ones(Tq, Tq, dtype=torch.bool).tril()
    if kind == "bool":  # as large as the scores, so that it could be changed in place
        mask = mask.expand(B, N_HEADS, Tq, Tq).clone()
    both = mask & causal
    if kind == "float":
        mask = randn(N_HEADS, Tq, Tq, generator=generator)
        both = mask.masked_fill(~causal, -math.inf)
    with unchanged(mask):
        got = module(query, mask=mask)
    assert_close(
        got,
        sdpa(module, query, query, query, mask=both),
        rtol=1e-12,
        mistakes={
            "with a mask, causal=True is forgotten": lambda: sdpa(module, query, query, query, mask=mask),
            "with causal=True, the mask is forgotten": lambda: sdpa(module, query, query, query, mask=causal),
        },
    )


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
def test_nan_is_not_hidden(generator, fused):
    """A NaN in a value spreads in its sample, also from behind a mask, and nowhere else."""
    module = random_module(generator, fused=fused)
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
    module = random_module(generator)
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
    module = random_module(generator, causal=DEAD[case].get("causal", False), fused=fused)
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


# --- fused ------------------------------------------------------------------------------------------------------------


@pytest.mark.grades(CONSTRUCTOR, FORWARD)
@pytest.mark.parametrize("n_kv_heads", [1, 2, N_HEADS])
@pytest.mark.parametrize("causal", [False, True])
def test_fused_is_the_same(generator, causal, n_kv_heads):
    """`fused=True` gives the same output, with and without a mask; it may be switched on later."""
    module = random_module(generator, causal=causal, n_kv_heads=n_kv_heads)
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
    module = random_module(generator, **({"fused": True} if switch == "argument" else {}))
    module.fused = True
    query, _, _ = inputs(generator)
    try:
        with refuse_calls("scaled_dot_product"):
            module(query)
    except AssertionError:
        return
    raise AssertionError(f"fused=True as {switch} does not call scaled_dot_product_attention")


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_gradients_are_torchs(generator, dtype, rtol, fused):
    """The gradients of inputs and parameters equal those of nn.MultiheadAttention, with a mask."""
    module = random_module(generator, dtype=dtype, fused=fused)
    twin = torch_twin(module)
    given = inputs(generator, dtype)
    ours, theirs = ([x.clone().requires_grad_() for x in given] for _ in range(2))
    mask = random_mask(generator, Tq, Tk)
    cotangent = randn(B, Tq, D_MODEL, generator=generator, dtype=dtype)
    output = module(*ours, mask=mask)
    assert output.requires_grad, "the output has no gradient: something detaches it"
    output.backward(cotangent)
    twin(*theirs, attn_mask=~mask)[0].backward(cotangent)
    for name, got, expected in zip(("query", "key", "value"), ours, theirs, strict=True):
        assert got.grad is not None, f"no gradient reaches {name}: something detaches it"
        assert_close(got.grad, expected.grad, rtol=rtol, what=f"gradient of {name}")
    largest = max(float(g.abs().max()) for g in twin_gradients(twin).values())
    for name, expected in twin_gradients(twin).items():
        got = module.get_parameter(name).grad
        assert got is not None, f"no gradient reaches {name}: something detaches it"
        zero = name == "k_proj.bias"  # shifts all scores of a row alike, so its gradient is 0
        reason = "the softmax does not see a shift of all scores" if zero else None
        assert_close(
            got, expected, rtol=rtol, atol=rtol * largest, what=f"gradient of {name}", vacuous_ok=reason
        )


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
def test_gradients_of_grouped_heads(generator, fused):
    """Each key head gathers the gradients of its query heads: SDPA with `enable_gqa` is the oracle."""
    module = random_module(generator, n_kv_heads=2, causal=True, fused=fused)
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
def test_gradient_of_a_float_mask(generator):
    """A learned bias (T5, ALiBi with slopes) gets its gradient: central differences agree."""
    module = random_module(generator, d_model=4, n_heads=2, n_kv_heads=1)
    x = randn(2, 3, 4, generator=generator)
    mask = randn(2, 3, 3, generator=generator).requires_grad_()
    torch.autograd.gradcheck(lambda m: module(x, mask=m), (mask,))


# --- dropout ----------------------------------------------------------------------------------------------------------


def weights_through_dropout(generator, p, *, fused=False, training=True, masked=False, n_kv_heads=3):
    """Return (weights, output) where output[..., j] and output[..., Tk + j] of a head both are its weight of key j.

    The values are one-hot, so every weight can be read off the output twice.
    """
    H, T = 3, 8
    d_model = H * 2 * T
    module = identity_module(d_model, H, n_kv_heads=n_kv_heads, dropout=0.1, fused=fused).train(training)
    module.dropout = p  # it may be changed at any time
    mask = torch.ones(T, T, dtype=torch.bool).triu(-5) if masked else None
    query, key = (randn(40, T, d_model, generator=generator) for _ in range(2))
    value = torch.eye(T, dtype=torch.float64).repeat(1, 2 * H).expand(40, T, d_model)
    with torch.no_grad():
        output = (
            module(query, key, value, mask=mask).unflatten(-1, (H, 2, T)).permute(3, 0, 2, 1, 4)
        )  # (2, B, H, Tq, Tk)
        q, k = (x.unflatten(-1, (H, -1)) for x in (query, key))
        k = k[:, :, :n_kv_heads].expand_as(k)  # one key head for all, or each its own
        scores = torch.einsum("bihd,bjhd->bhij", q, k)
        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        weights = torch.softmax(scores / math.sqrt(2 * T), dim=-1)
    return weights, output


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("fused", [False, True])
def test_no_dropout_in_eval(generator, fused):
    """In evaluation dropout does nothing."""
    weights, output = weights_through_dropout(generator, 0.4, fused=fused, training=False)
    assert_close(output[0], weights, rtol=1e-12, hint="dropout is active in eval(): look at self.training")


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("options", [{}, {"masked": True}, {"n_kv_heads": 1}], ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_dropout_of_weights(generator, fused, options):
    """In training each weight is 0 with probability p, or 1/(1 - p) as large: of 7680 weights 40 % ± 3 %."""
    p = 0.4
    weights, output = weights_through_dropout(generator, p, fused=fused, **options)
    first, second = output
    dropped = (first == 0) & (weights > 0)
    assert dropped.any(), f"dropout is ignored in training{f' with {options}' if options else ''}"
    assert torch.equal(dropped, (second == 0) & (weights > 0)), (
        "dropout is applied to what the heads gather: it belongs on the attention weights"
    )
    kept = ~dropped
    assert_close(
        first[kept],
        (weights / (1 - p))[kept],
        rtol=1e-12,
        what="weights that were kept",
        mistakes={
            "the weights that were kept are not scaled by 1/(1 - p)": weights[kept],
        },
        hint="dropout belongs after the softmax, and the kept weights grow by 1/(1 - p)",
    )
    share = float(dropped[weights > 0].double().mean())
    assert abs(share - p) < 0.035, f"{share:.1%} of the weights are dropped, expected {p:.0%}"
    for axis, what in ((0, "samples"), (1, "heads"), (2, "queries")):
        same = (dropped == dropped.roll(1, axis)).double().mean()
        assert same < 0.9, f"all {what} drop the same keys: draw the mask for every weight"


# --- attention maps ---------------------------------------------------------------------------------------------------


@pytest.mark.grades(MAPS)
@pytest.mark.parametrize("fused", [False, True])
def test_attention_maps_are_torchs(generator, fused):
    """(B, n_heads, Tq, Tk), as nn.MultiheadAttention gives them for each head; no dropout, no gradient."""
    module = random_module(generator, dropout=0.5, fused=fused).train()
    query, key, _ = inputs(generator)
    mask = random_mask(generator, N_HEADS, Tq, Tk)
    per_head = mask.expand(B, N_HEADS, Tq, Tk)
    bias = randn(B, N_HEADS, Tq, Tk, generator=generator)
    twin = torch_twin(module).eval()
    for arguments, options, attn_mask in (
        ((query, key), {"mask": mask}, ~per_head.reshape(-1, Tq, Tk)),
        ((query, key), {"mask": bias}, bias.reshape(-1, Tq, Tk)),
        ((query,), {}, None),
    ):
        context = arguments[-1]
        _, expected = twin(query, context, context, attn_mask=attn_mask, average_attn_weights=False)
        got = module.attention_maps(*arguments, **options)
        assert module.training, "attention_maps leaves the module in evaluation mode"
        assert not got.requires_grad, "maps are for plotting: compute them under torch.no_grad()"
        assert_close(
            got,
            expected.detach(),
            rtol=1e-12,
            what="attention maps",
            mistakes={
                "the maps are averaged over the heads": lambda e=expected: e.mean(1, keepdim=True),
                "the maps are transposed: rows are queries": lambda e=expected: e.mT,
            },
            hint="is dropout active in the maps?",
        )


@pytest.mark.grades(MAPS)
@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_attention_maps_of_grouped_heads(generator, n_kv_heads):
    """Every query head has a map of its own, causal as the module is; together with the values they make the output."""
    module = random_module(generator, n_kv_heads=n_kv_heads, causal=True)
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


# --- from torch -------------------------------------------------------------------------------------------------------


@pytest.mark.grades(FROM_TORCH)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_from_torch(generator, dtype, batch_first, bias):
    """Weights, dtype, dropout and training mode are taken over."""
    twin = torch_twin(random_module(generator, dtype=dtype, bias=bias))
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
    module = torch_twin(random_module(generator)).eval()
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
