"""The core: its contract, values worked by hand, isolated parts, torch beside it, masks, gradients, dropout, maps.

Oracles: ``nn.MultiheadAttention`` and SDPA in float64, laws (rows sum to one, a single key gives its value, samples are
independent), central differences. The fixture `attention` is the class that is judged; tests/further/ puts that of
grouped_query_attention.py in its place.
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

import multi_head_attention
from shared.testing.checks import assert_close, assert_imports_only, expect_error, refuse_calls, unchanged

B, Tq, Tk = SIZES.values()
D_HEAD = D_MODEL // N_HEADS
CONSTRUCTOR, FORWARD = "MultiHeadAttention", "MultiHeadAttention.forward"
MAPS = "MultiHeadAttention.attention_maps"


@pytest.fixture
def attention():
    return multi_head_attention.MultiHeadAttention


def inputs(generator, dtype=torch.float64):
    """Return a query, a key and a value of different numbers."""
    return tuple(randn(B, T, D_MODEL, generator=generator, dtype=dtype) for T in (Tq, Tk, Tk))


def random_mask(generator, *shape):
    """Return a bool mask with True and False in it; key 0 is always allowed."""
    mask = torch.rand(shape, generator=generator) < 0.6
    mask[..., 0] = True
    return mask


# --- contract -----------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_imports_torch_only():
    """Nothing but torch and the standard library."""
    assert_imports_only(multi_head_attention, {"torch"})


@pytest.mark.grades(CONSTRUCTOR)
@pytest.mark.parametrize("bias", [True, False])
def test_projections(bias, attention):
    """Four linear layers from d_model to d_model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = attention(D_MODEL, N_HEADS, bias=bias)
    for name in PROJECTIONS:
        layer = getattr(module, name, None)
        assert isinstance(layer, nn.Linear), f"{name} must be an nn.Linear, got {type(layer).__name__}"
        assert tuple(layer.weight.shape) == (D_MODEL, D_MODEL), (
            f"{name} must map {D_MODEL} to {D_MODEL}: weight {tuple(layer.weight.shape)}"
        )
        assert (layer.bias is not None) == bias, f"bias={bias} does not reach {name}"
        largest = float(layer.weight.detach().abs().max()) * D_MODEL**0.5
        assert 0.8 < largest < 1 + 4 * torch.finfo(torch.float32).eps, (  # a draw at the bound is rounded
            f"{name} must start as nn.Linear does, between -1/sqrt(d_model) and 1/sqrt(d_model): "
            f"its largest weight is {largest:.2f}/sqrt(d_model)"
        )
        assert not bias or layer.bias.any(), f"the bias of {name} starts at 0: nn.Linear draws it"
    n_parameters = sum(parameter.numel() for parameter in module.parameters())
    expected = 4 * D_MODEL * D_MODEL + bias * 4 * D_MODEL
    assert n_parameters == expected, f"{n_parameters} parameters, expected {expected}: is one not needed?"


@pytest.mark.grades(CONSTRUCTOR)
@pytest.mark.parametrize("sizes", [(24, 5), (24, 48), (24, 0), (24, -4)], ids=str)
def test_heads_that_do_not_divide(sizes, attention):
    """`n_heads` divides `d_model`."""
    with expect_error(ValueError, otherwise=f"no ValueError for d_model={sizes[0]} and n_heads={sizes[1]}"):
        attention(*sizes)


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shape_and_dtype(attention, generator, dtype):
    """(B, Tq, d_model) in the dtype of the module; the inputs stay as they are."""
    module = random_module(attention, generator, dtype=dtype)
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
        ((5, 24),),
        ((2, 3, 5, 24),),
        ((2, 5, 24), (3, 7, 24)),
        ((2, 5, 24), (1, 7, 24)),
        ((2, 5, 24), (2, 7, 12)),
        ((2, 5, 24), (2, 7)),
        ((2, 5, 24), (2, 7, 24, 1)),
        ((2, 5, 24), (2, 7, 24), (2, 6, 24)),
        ((2, 5, 24), (2, 7, 24), (2, 1, 24)),
        ((2, 5, 24), (2, 7, 24), (1, 7, 24)),
    ],
    ids=str,
)
def test_wrong_shapes(shapes, attention):
    """Inputs are (B, T, d_model), with as many keys as values: nothing is broadcast."""
    module = attention(D_MODEL, N_HEADS)
    with expect_error(ValueError, otherwise=f"inputs {shapes} are accepted"):
        module(*(torch.ones(shape) for shape in shapes))


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8], ids=str)
def test_wrong_mask_dtype(dtype, attention):
    """Ones and zeros are ambiguous: allowed or added?"""
    module = attention(D_MODEL, N_HEADS)
    query = torch.ones(B, Tq, D_MODEL)
    with expect_error(TypeError, otherwise=f"a mask of {dtype} is accepted"):
        module(query, mask=torch.ones(Tq, Tq, dtype=dtype))


# --- by hand ------------------------------------------------------------------------------------------------


def identity_module(attention, d_model, n_heads, **options):
    """Return a module whose projections do nothing, in float64."""
    module = attention(d_model, n_heads, bias=False, **options).double()
    with torch.no_grad():
        for name in PROJECTIONS:
            weight = getattr(module, name).weight
            weight.copy_(torch.eye(d_model)[: len(weight)])
    return module


@pytest.mark.grades(FORWARD)
def test_by_hand(attention):
    """Two heads of one number each.

    Head 0: scores (0, ln 3, 0), weights (1, 3, 1) / 5, (10 + 3·20 + 40) / 5 = 22. Head 1: scores (ln 2, 0, 0), weights
    (2, 1, 1) / 4, (2·1 + 4 + 6) / 4 = 3.
    """
    query = torch.tensor([[[math.log(3), math.log(2)]]], dtype=torch.float64)
    key = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    value = torch.tensor([[[10.0, 1.0], [20.0, 4.0], [40.0, 6.0]]], dtype=torch.float64)
    module = identity_module(attention, 2, 2)
    expected = torch.tensor([[[22.0, 3.0]]], dtype=torch.float64)
    assert_close(
        module(query, key, value),
        expected,
        mistakes={
            **mistakes(module, query, key, value, n_heads=2),
            "one head of two numbers: n_heads is ignored": lambda: (
                torch.softmax(
                    torch.tensor([math.log(2), math.log(3), 0.0], dtype=torch.float64) / 2**0.5, 0
                ).reshape(1, 1, 3)
                @ value
            ),
        },
    )
    with torch.no_grad():
        module.out_proj.weight.copy_(torch.tensor([[1.0, 3.0], [5.0, 7.0]]))
    expected = torch.tensor([[[22.0 + 3 * 3, 5 * 22 + 7 * 3]]], dtype=torch.float64)
    assert_close(
        module(query, key, value),
        expected,
        what="result with an output projection",
        mistakes=mistakes(module, query, key, value, n_heads=2),
    )


# --- isolated parts -----------------------------------------------------------------------------------------


@pytest.mark.grades(FORWARD)
def test_samples_are_independent(attention, generator):
    """Another sample in the batch changes nothing for this one."""
    module = random_module(attention, generator)
    query, key, value = inputs(generator)
    whole = module(query, key, value)
    for i in range(B):
        alone = module(*(x[i : i + 1] for x in (query, key, value)))
        assert_close(
            alone, whole[i : i + 1], rtol=1e-12, hint="the batch leaks: samples attend to each other"
        )


@pytest.mark.grades(FORWARD)
def test_single_key(attention, generator):
    """With one key every weight is 1: what is left is out_proj(v_proj(value)), the value path alone."""
    module = random_module(attention, generator)
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
def test_equal_scores(attention, generator):
    """With queries of zero all weights are equal: each head gives the mean of its values."""
    module = random_module(attention, generator)
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
def test_default_key_and_value(attention, generator, defaults):
    """`key` is `query` and `value` is `key` where they are left out."""
    module = random_module(attention, generator)
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


# --- full comparison ----------------------------------------------------------------------------------------


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_cross_attention_is_torchs(attention, generator, dtype, rtol, bias):
    """The same output as nn.MultiheadAttention with the same weights, all sizes different."""
    module = random_module(attention, generator, dtype=dtype, bias=bias)
    query, key, value = inputs(generator, dtype)
    expected, _ = torch_twin(module)(query, key, value)
    assert_close(module(query, key, value), expected, rtol=rtol, mistakes=mistakes(module, query, key, value))


@pytest.mark.grades(FORWARD)
def test_equal_shapes(attention, generator):
    """A key and a value of the query's shape are still a key and a value of their own."""
    module = random_module(attention, generator)
    query, key, value = (randn(B, Tq, D_MODEL, generator=generator) for _ in range(3))
    assert_close(
        module(query, key, value),
        sdpa(module, query, key, value),
        rtol=1e-12,
        mistakes={
            **mistakes(module, query, key, value),
            "a key of the query's shape is taken for the query": lambda: sdpa(module, query, query, value),
        },
    )


@pytest.mark.grades(FORWARD)
def test_no_library_call(attention, generator):
    """The attention is written out in matrix products and a softmax."""
    module = random_module(attention, generator, causal=True)
    query, key, value = inputs(generator)
    mask = random_mask(generator, B, 1, Tq, Tk)
    with refuse_calls("attention"):
        module(query, key, value, mask=mask)
        with torch.no_grad():
            module.eval()(query)


@pytest.mark.grades(CONSTRUCTOR, FORWARD)
@pytest.mark.parametrize("d_model", [1, 6])
def test_one_head(attention, generator, d_model):
    """One head is plain attention: SDPA on the projections."""
    module = random_module(attention, generator, d_model, 1)
    query, key, value = (randn(B, T, d_model, generator=generator) for T in (Tq, Tk, Tk))
    expected = sdpa(module, query, key, value, n_heads=1)
    assert_close(module(query, key, value), expected, rtol=1e-12, what="result of one head")


@pytest.mark.grades(FORWARD)
def test_strided_input(attention, generator):
    """Inputs need not be contiguous: here they are transposed views."""
    module = random_module(attention, generator)
    query, key, value = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in inputs(generator))
    assert_close(module(query, key, value), sdpa(module, query, key, value), rtol=1e-12)


@pytest.mark.grades(FORWARD)
def test_large_scores(attention, generator):
    """Scores of ±1e4 overflow no exponential."""
    module = random_module(attention, generator, dtype=torch.float32)
    query, key, value = inputs(generator, torch.float32)
    query = query * 1e4
    got = module(query, key, value)
    assert got.isfinite().all(), "exp overflows: subtract the row's maximum first, or use torch.softmax"
    assert_close(got, sdpa(module, query, key, value), rtol=1e-3)


# --- masks --------------------------------------------------------------------------------------------------


@pytest.mark.grades(FORWARD)
def test_key_padding(attention, generator):
    """(B, 1, 1, Tk), True: a real token. nn.MultiheadAttention wants (B, Tk), True: ignore."""
    module = random_module(attention, generator)
    query, key, value = inputs(generator)
    real = torch.arange(Tk) < torch.tensor([6, 3, 5])[:, None]
    mask = real[:, None, None, :]
    expected, _ = torch_twin(module)(query, key, value, key_padding_mask=~real)
    assert_close(
        module(query, key, value, mask=mask),
        expected,
        rtol=1e-12,
        mistakes=mistakes(module, query, key, value, mask=mask),
    )


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize(
    "shape",
    [
        (Tk,),
        (Tq, Tk),
        (1, 1, Tq, Tk),
        (B, 1, Tq, Tk),
        (1, N_HEADS, Tq, Tk),
        (N_HEADS, Tq, Tk),
        (B, N_HEADS, Tq, Tk),
    ],
    ids=str,
)
def test_attention_mask(attention, generator, shape):
    """(Tq, Tk) for all, or one mask per sample, per head, or both. nn.MultiheadAttention wants (B·H, Tq, Tk), inverted."""
    module = random_module(attention, generator)
    query, key, value = inputs(generator)
    mask = random_mask(generator, *shape)
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
def test_mask_of_equal_sizes(attention, generator):
    """Where B, n_heads and T are equal, shapes say nothing: a mask is still read from the right."""
    module = random_module(attention, generator)
    x = randn(N_HEADS, N_HEADS, D_MODEL, generator=generator)
    for mask, as_read, what in (
        (
            random_mask(generator, N_HEADS, N_HEADS),
            lambda mask: mask[:, None, None],
            "a mask of two axes is read as (B, Tk): it is (Tq, Tk)",
        ),
        (
            random_mask(generator, N_HEADS, N_HEADS, N_HEADS),
            lambda mask: mask[:, None],
            "a mask of three axes is read as (B, Tq, Tk): it is (n_heads, Tq, Tk)",
        ),
    ):
        assert_close(
            module(x, mask=mask),
            sdpa(module, x, x, x, mask=mask),
            rtol=1e-12,
            mistakes={what: sdpa(module, x, x, x, mask=as_read(mask))},
        )


@pytest.mark.grades(FORWARD)
def test_mask_hides_large_scores(attention, generator):
    """A hidden key stays hidden, however large its score is."""
    module = random_module(attention, generator)
    query, key, value = inputs(generator)
    query = query * 1e10
    mask = random_mask(generator, B, 1, Tq, Tk)
    assert_close(
        module(query, key, value, mask=mask),
        sdpa(module, query, key, value, mask=mask),
        rtol=1e-6,
        hint="a hidden key with a large score is seen: hide with -inf, not with a finite number",
    )


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("kind", ["any numbers", "ones and zeros"])
def test_float_mask(attention, generator, kind):
    """A float mask is added to the scores, for each head its own; -inf forbids."""
    module = random_module(attention, generator)
    query, key, value = inputs(generator)
    if kind == "any numbers":
        mask = randn(N_HEADS, Tq, Tk, generator=generator)
        mask[1, :, 2] = -math.inf
    else:
        mask = random_mask(generator, N_HEADS, Tq, Tk).double()
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
@pytest.mark.parametrize(("n_queries", "n_keys"), [(6, 6), (4, 7), (1, 7)])
def test_causal(attention, generator, n_queries, n_keys):
    """The last query sees all keys, each one before it one key less."""
    module = random_module(attention, generator, causal=True)
    query, key, value = (randn(B, T, D_MODEL, generator=generator) for T in (n_queries, n_keys, n_keys))
    top_left = torch.ones(n_queries, n_keys, dtype=torch.bool).tril()
    lower_right = torch.arange(n_keys) <= torch.arange(n_queries)[:, None] + (n_keys - n_queries)
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
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_causal_and_mask(attention, generator, kind):
    """`mask` and `causal` both hold."""
    module = random_module(attention, generator, causal=True)
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


@pytest.mark.grades(CONSTRUCTOR, FORWARD)
def test_causal_hides_large_scores(attention, generator):
    """A later token stays hidden, however large its score is."""
    module = random_module(attention, generator, causal=True)
    query, key, value = inputs(generator)
    query = query * 1e10
    visible = torch.ones(Tq, Tk, dtype=torch.bool).tril(Tk - Tq)
    assert_close(
        module(query, key, value),
        sdpa(module, query, key, value, mask=visible),
        rtol=1e-6,
        hint="a later token with a large score is seen: hide with -inf, not with a finite number",
    )


@pytest.mark.grades(CONSTRUCTOR, FORWARD)
def test_many_tokens(attention, generator):
    """2100 tokens, more than a table of 2048. With queries of zero, each token gets the mean of the values so far."""
    module = random_module(attention, generator, 2, 1, causal=True)
    x = randn(1, 2100, 2, generator=generator)
    with torch.no_grad():
        module.q_proj.weight.zero_()
        module.q_proj.bias.zero_()
        mean = module.v_proj(x).cumsum(1) / torch.arange(1.0, 2101, dtype=x.dtype)[:, None]
        expected, got = module.out_proj(mean), module(x)
    assert_close(got, expected, rtol=1e-12, n=2100, hint="the mean of the values so far is wrong")


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_gradients_are_torchs(attention, generator, dtype, rtol):
    """The gradients of inputs and parameters equal those of nn.MultiheadAttention, with a mask."""
    module = random_module(attention, generator, dtype=dtype)
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
def test_gradient_of_a_float_mask(attention, generator):
    """A learned bias (T5, ALiBi with slopes) gets its gradient: central differences agree."""
    module = random_module(attention, generator, d_model=4, n_heads=2)
    x = randn(2, 3, 4, generator=generator)
    mask = randn(2, 3, 3, generator=generator).requires_grad_()
    torch.autograd.gradcheck(lambda m: module(x, mask=m), (mask,))


# --- dropout ------------------------------------------------------------------------------------------------


def weights_through_dropout(attention, generator, p, *, training=True, masked=False, causal=False):
    """Return (weights, output) where output[..., j] and output[..., Tk + j] of a head both are its weight of key j.

    The values are one-hot, so every weight can be read off the output twice.
    """
    H, T = 3, 8
    d_model = H * 2 * T
    module = identity_module(attention, d_model, H, dropout=p, causal=causal).train(training)
    mask = torch.ones(T, T, dtype=torch.bool).triu(-5) if masked else None
    query, key = (randn(40, T, d_model, generator=generator) for _ in range(2))
    value = torch.eye(T, dtype=torch.float64).repeat(1, 2 * H).expand(40, T, d_model)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        output = (
            module(query, key, value, mask=mask).unflatten(-1, (H, 2, T)).permute(3, 0, 2, 1, 4)
        )  # (2, B, H, Tq, Tk)
        q, k = (x.unflatten(-1, (H, -1)) for x in (query, key))
        scores = torch.einsum("bihd,bjhd->bhij", q, k)
        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        scores = scores.masked_fill(torch.ones(T, T).triu(1) > 0, -math.inf) if causal else scores
        weights = torch.softmax(scores / math.sqrt(2 * T), dim=-1)
    return weights, output


@pytest.mark.grades(FORWARD)
def test_no_dropout_in_eval(attention, generator):
    """In evaluation dropout does nothing."""
    weights, output = weights_through_dropout(attention, generator, 0.4, training=False)
    assert_close(output[0], weights, rtol=1e-12, hint="dropout is active in eval(): look at self.training")


@pytest.mark.grades(FORWARD)
@pytest.mark.parametrize("options", [{}, {"masked": True}, {"causal": True}], ids=str)
def test_dropout_of_weights(attention, generator, options):
    """In training each weight is 0 with probability p, or 1/(1 - p) as large: of 7680 weights 40 % ± 3 %."""
    p = 0.4
    weights, output = weights_through_dropout(attention, generator, p, **options)
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


@pytest.mark.grades(FORWARD)
def test_dropout_draws_anew(attention, generator):
    """Each call drops other weights."""
    module = random_module(attention, generator, dropout=0.4).train()
    query, key, value = inputs(generator)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (module(query, key, value) for _ in range(2))
    assert not torch.equal(first, second), "two calls drop the same weights: draw anew in each"


# --- attention maps -----------------------------------------------------------------------------------------


@pytest.mark.grades(MAPS)
def test_attention_maps_are_torchs(attention, generator):
    """(B, n_heads, Tq, Tk), as nn.MultiheadAttention gives them for each head; no dropout, no gradient."""
    module = random_module(attention, generator, dropout=0.5).train()
    query, key, _ = inputs(generator)
    mask = random_mask(generator, N_HEADS, Tq, Tk)
    per_head = mask.expand(B, N_HEADS, Tq, Tk)
    bias = randn(B, N_HEADS, Tq, Tk, generator=generator)
    twin = torch_twin(module).eval()
    for arguments, options, attn_mask in (
        ((query, key), {"mask": mask}, ~per_head.reshape(-1, Tq, Tk)),
        ((query, key), {"mask": bias}, bias.reshape(-1, Tq, Tk)),
        ((query,), {}, None),
        ((query, query.flip(1)), {}, None),  # a context of the same shape
        ((query[:1], key[:1]), {}, None),
    ):
        context = arguments[-1]
        _, expected = twin(arguments[0], context, context, attn_mask=attn_mask, average_attn_weights=False)
        got = module.attention_maps(*arguments, **options)
        assert module.training, "attention_maps leaves the module in evaluation mode"
        assert got.shape == expected.shape, (
            f"attention_maps must give one map for each head, {tuple(expected.shape)}, got {tuple(got.shape)}"
        )
        assert not got.requires_grad, "maps are for plotting: compute them under torch.no_grad()"
        assert_close(
            got,
            expected.detach(),
            rtol=1e-12,
            what="attention maps",
            mistakes={
                "the maps are transposed: rows are queries": lambda e=expected: e.mT,
                "the mask is ignored in the maps": lambda a=arguments, c=context: twin(
                    a[0], c, c, average_attn_weights=False
                )[1],
                "every map is the mean of all heads: give one for each head": lambda e=expected: e.mean(
                    1, keepdim=True
                ).expand_as(e),
            },
            hint="the maps are not the weights of forward without dropout",
        )


@pytest.mark.grades(CONSTRUCTOR, MAPS)
def test_causal_maps(attention, generator):
    """The maps are causal as the module is, with a mask too, and rows sum to one."""
    module = random_module(attention, generator, causal=True)
    x, _, _ = inputs(generator)
    for mask in (None, random_mask(generator, B, 1, 1, Tq), randn(N_HEADS, Tq, Tq, generator=generator)):
        maps = module.attention_maps(x, mask=mask)
        assert not maps.triu(1).any(), (
            f"{'with a mask, ' if mask is not None else ''}the maps are not causal although the module is"
        )
        assert_close(
            maps.sum(-1), torch.ones(B, N_HEADS, Tq), dtype=torch.float64, vacuous_ok="rows sum to one"
        )
    other = random_module(attention, generator, causal=True)  # a module of its own: this is its first call
    maps = other.attention_maps(x[:, :3], x)
    assert not maps.triu(Tq - 3 + 1).any(), (
        "the maps let a query see a later key: the last stands at the last"
    )
    assert maps.diagonal(Tq - 3, -2, -1).all(), (
        "the maps hide a query's own token: align the last query with the last key"
    )
