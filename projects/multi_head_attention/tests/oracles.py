"""What the judge compares with: torch's own module and SDPA on the weights of the module under test, in float64."""

import torch
from torch import nn
from torch.nn import functional as F

from shared.testing.checks import assert_close

D_MODEL, N_HEADS = 24, 4
SIZES = {"B": 3, "Tq": 5, "Tk": 7}  # all different, also from D_MODEL, N_HEADS and d_head = 6
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def randn(*shape, generator, dtype=torch.float64):
    """Draw normal numbers in float64 and round them: all dtypes see the same ones."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_module(attention, generator, d_model=D_MODEL, n_heads=N_HEADS, *, dtype=torch.float64, **options):
    """Build a module of class `attention` whose weights and biases are random and large enough to matter."""
    module = attention(d_model, n_heads, **options).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.5 if parameter.ndim == 1 else 1.3 / d_model**0.5
            parameter.copy_(scale * randn(*parameter.shape, generator=generator))
    return module


OVERFLOW = "a score beyond 65504 overflows float16: compute the scores and their softmax in float32"


def identity_weights(module):
    """Let the projections of `module` do nothing."""
    with torch.no_grad():
        for name in PROJECTIONS:
            layer = getattr(module, name)
            layer.weight.copy_(torch.eye(layer.in_features)[: layer.out_features])
            if layer.bias is not None:
                layer.bias.zero_()
    return module


def check_large_scores_of_half_types(make, dtype, generator):
    """Compare scores of ±1e5, of whole numbers that no half type rounds, with those of float64."""
    query, key, value = (128 * (7 * torch.rand(3, T, 32, generator=generator) - 3).floor() for T in (5, 7, 7))
    module = identity_weights(make(32, 4, causal=True)).to(dtype)
    with torch.no_grad():
        got = module(query.to(dtype), key.to(dtype), value.to(dtype))
        maps = module.attention_maps(query.to(dtype), key.to(dtype))
        seen = torch.ones(5, 7, dtype=torch.bool).tril(2)
        q, k, v = (x.double().unflatten(2, (4, 8)).transpose(1, 2) for x in (query, key, value))
        scores = (q @ k.mT / 8**0.5).masked_fill(~seen, -torch.inf)
        weights = scores.softmax(-1)
        expected = (weights @ v).transpose(1, 2).flatten(2)
    assert scores.abs().nan_to_num(0, 0, 0).max() > 65504, "these are to overflow float16"
    assert_close(got, expected, dtype=dtype, hint=OVERFLOW)
    assert_close(maps, weights, dtype=dtype, what="maps", hint=OVERFLOW)


def check_one_token_of_half_types(make, dtype):
    """One token attends to itself alone, with a score of 66 248: its value comes back."""
    module = identity_weights(make(64, 1)).to(dtype)
    x = torch.full((1, 1, 64), 91.0, dtype=dtype)
    with torch.no_grad():
        assert_close(module(x), x, hint=OVERFLOW, vacuous_ok="one token gets its own value")


MASK_SHAPES = [
    *[(), (1,), (7,), (1, 1), (5, 1), (1, 7), (5, 7), (1, 1, 7), (4, 1, 7), (4, 5, 1)],
    *[(1, 5, 7), (3, 1, 1, 7), (3, 1, 5, 1), (1, 4, 5, 7), (3, 4, 5, 7)],
]


def mask_of(shape, kind, generator):
    """Draw a mask that leaves each query a key, the first one."""
    numbers = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
    if kind == "float":
        return numbers[0]
    mask = numbers < 0.5
    mask[..., 0] = True
    return mask[0] if kind == "bool" else torch.zeros(shape).masked_fill(~mask[0], -torch.inf)


def torch_twin(module):
    """Return the nn.MultiheadAttention with the same weights."""
    has_bias = module.q_proj.bias is not None
    dtype = module.q_proj.weight.dtype
    d_model = len(module.q_proj.weight)
    twin = nn.MultiheadAttention(d_model, N_HEADS, bias=has_bias, batch_first=True, dtype=dtype)
    inward = [getattr(module, name) for name in PROJECTIONS[:3]]
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.cat([layer.weight for layer in inward]))
        twin.out_proj.weight.copy_(module.out_proj.weight)
        if has_bias:
            twin.in_proj_bias.copy_(torch.cat([layer.bias for layer in inward]))
            twin.out_proj.bias.copy_(module.out_proj.bias)
    return twin


def twin_gradients(twin):
    """Return the gradients of a twin by the names of our parameters."""
    gradients = {}
    for kind in ("weight", "bias"):
        stacked, last = getattr(twin, f"in_proj_{kind}"), getattr(twin.out_proj, kind)
        if stacked is None:
            continue
        for name, part in zip(PROJECTIONS[:3], stacked.grad.chunk(3), strict=True):
            gradients[f"{name}.{kind}"] = part
        gradients[f"out_proj.{kind}"] = last.grad
    return gradients


def sdpa(
    module,
    query,
    key,
    value,
    *,
    n_heads=N_HEADS,
    mask=None,
    scale=None,
    split="heads",
    merge="heads",
    group="interleave",
    out=True,
    bias=True,
):
    """Return what the module should give, through SDPA; the options after `scale` are known mistakes."""
    n_kv_heads = len(module.k_proj.weight) * n_heads // len(module.q_proj.weight)

    def project(name, x):
        layer = getattr(module, name)
        return F.linear(x, layer.weight, layer.bias if bias is True or (bias and name in bias) else None)

    def heads(x, n_heads):
        B, T, width = x.shape
        if split == "view":  # no transpose: head and sequence mixed
            return x.reshape(B, n_heads, T, width // n_heads)
        if split == "strided":  # head h takes every H-th number
            return x.unflatten(-1, (-1, n_heads)).movedim(-1, 1)
        return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)

    q = heads(project("q_proj", query), n_heads)
    k, v = (heads(project(n, x), n_kv_heads) for n, x in (("k_proj", key), ("v_proj", value)))
    if group == "tile":
        k, v = (x.repeat(1, n_heads // n_kv_heads, 1, 1) for x in (k, v))
    gathered = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    B, H, T, d_head = gathered.shape
    if merge == "view":  # no transpose
        merged = gathered.reshape(B, T, H * d_head)
    elif merge == "strided":  # the heads' numbers interleaved
        merged = gathered.permute(0, 2, 3, 1).flatten(2)
    elif merge == "reversed":
        merged = gathered.flip(1).transpose(1, 2).flatten(2)
    else:
        merged = gathered.transpose(1, 2).flatten(2)
    return project("out_proj", merged) if out else merged


def mistakes(module, query, key, value, *, n_heads=N_HEADS, **options):
    """Return what the usual mistakes give, for `assert_close`: those that give something else here."""
    if options.get("mask") is not None:
        options["mask"] = torch.atleast_2d(options["mask"])  # SDPA takes no mask of one axis
    right = sdpa(module, query, key, value, n_heads=n_heads, **options)

    def unless_right(output):
        def mistaken():
            value = output()  # for one number, say, 1/d_head is 1/sqrt(d_head)
            return None if torch.allclose(value, right, rtol=1e-5, atol=1e-5) else value

        return mistaken

    def computed(**mistake):
        return lambda: sdpa(module, query, key, value, n_heads=n_heads, **{**options, **mistake})

    def from_weights(weights_of):
        """Return the output with other weights than softmax over the keys (no grouped heads)."""

        def output():
            q, k, v = (
                F.linear(x, layer.weight, layer.bias).unflatten(-1, (n_heads, -1))
                for x, layer in ((query, module.q_proj), (key, module.k_proj), (value, module.v_proj))
            )
            weights = weights_of(torch.einsum("bihd,bjhd->bhij", q, k) / d_head**0.5)
            merged = torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)
            return F.linear(merged, module.out_proj.weight, module.out_proj.bias)

        return output

    d_model = len(module.q_proj.weight)
    d_head = d_model // n_heads
    usual = {
        "the scale is 1/sqrt(d_model), not 1/sqrt(d_head)": computed(scale=d_model**-0.5),
        "the scale is 1/d_head, not 1/sqrt(d_head)": computed(scale=1 / d_head),
        "the scale is missing: divide the scores by sqrt(d_head)": computed(scale=1.0),
        "reshaping to (B, n_heads, T, d_head) mixes heads and sequence: split the last axis, then transpose": computed(
            split="view"
        ),
        "head h takes every n_heads-th number: it must take the slice h * d_head to (h + 1) * d_head": computed(
            split="strided"
        ),
        "merging the heads mixes them with the sequence: transpose back before you flatten": computed(
            merge="view"
        ),
        "the heads' numbers are interleaved: a token's heads belong side by side": computed(merge="strided"),
        "the heads are concatenated in reverse order": computed(merge="reversed"),
        "the output projection is missing": computed(out=False),
        "the biases of the projections are forgotten": computed(bias=False),
        **{
            f"the bias of {name} is forgotten": computed(bias=set(PROJECTIONS) - {name})
            for name in ("q_proj", "v_proj", "out_proj")  # that of k_proj shifts all scores of a row alike
        },
        "query heads share key heads in turn (repeat): neighbours must share (repeat_interleave)": computed(
            group="tile"
        ),
        "mask is ignored": computed(mask=None),
        "the mask is used the wrong way round: True is where attention is allowed": computed(
            mask=~options["mask"]
            if options.get("mask") is not None and options["mask"].dtype == torch.bool
            else None
        ),
        "the mask of the first sample is used for all": computed(mask=options["mask"][:1])
        if options.get("mask") is not None and options["mask"].ndim == 4
        else None,
        "the mask comes after the softmax: the weights that are left do not sum to 1": from_weights(
            lambda scores: scores.softmax(-1) * options["mask"]
        ),
        "the softmax runs over the queries": from_weights(lambda scores: scores.softmax(-2)),
        "the keys are taken from query: this is self-attention": lambda: sdpa(
            module, query, query, query, n_heads=n_heads, **options
        ),
        "the values are taken from key": lambda: sdpa(module, query, key, key, n_heads=n_heads, **options),
    }
    return {diagnosis: unless_right(output) for diagnosis, output in usual.items() if output is not None}
