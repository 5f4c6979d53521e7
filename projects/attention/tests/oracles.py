"""What the answers are compared with: torch's own attention in float64, and what the usual mistakes give.

`sdpa` is torch.nn.functional.scaled_dot_product_attention. It is handed one float mask into which everything is
merged, so its own boolean masks, its `is_causal` and its way with masked rows are not trusted blindly either: the
tests with hand-worked values come first.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

import attention
from shared.testing.checks import assert_close
from shared.testing.gradients import assert_gradient

LIBRARY = ("scaled_dot_product", "multi_head_attention", "flex_attention", "flash_attention")
FUNCTIONS = ("attention_weights", "attention")

BAD_SHAPES = {
    "query and key of different width": ((2, 5, 4), (2, 7, 3), (2, 7, 6)),
    "key and value of different length": ((2, 5, 4), (2, 7, 4), (2, 6, 4)),
    "one key for seven values": ((2, 5, 4), (2, 1, 4), (2, 7, 4)),
    "leading axes that do not broadcast": ((2, 5, 4), (3, 7, 4), (3, 7, 6)),
    "keys of another batch": ((2, 5, 4), (3, 7, 4), (2, 7, 6)),
    "values of another batch": ((2, 5, 4), (2, 7, 4), (3, 7, 6)),
    "a vector": ((4,), (7, 4), (7, 6)),
    "key as a vector": ((5, 4), (4,), (4, 6)),
    "value as a vector": ((5, 4), (7, 4), (7,)),
}


def double(x):
    """Return `x` in float64, cut off from its graph."""
    return x if x is None or x.dtype == torch.bool else x.detach().double()


def random_inputs(generator, *leading, n_queries=5, n_keys=7, d=4, dv=3, dtype=torch.float64):
    """Return query, key and value with standard normal entries, asking for gradients."""
    shapes = ((n_queries, d), (n_keys, d), (n_keys, dv))
    return [
        torch.randn(*leading, *shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def causal_mask(n_queries, n_keys):
    """Return True where query i may see key j, the last query aligned with the last key."""
    return torch.arange(n_keys) <= torch.arange(n_queries)[:, None] + n_keys - n_queries


def merged_mask(query, key, mask, causal):
    """Return one float64 mask that says everything; a float mask keeps its graph."""
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    merged = torch.zeros(n_queries, n_keys, dtype=torch.float64)
    if mask is not None:
        merged = merged.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else merged + mask
    return merged.masked_fill(~causal_mask(n_queries, n_keys), -math.inf) if causal else merged


def sdpa(query, key, value, *, mask=None, causal=False, scale=None):
    """Return torch's attention, in float64 for any input dtype; differentiable."""
    merged = merged_mask(query, key, mask, causal)
    return F.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=merged, scale=scale
    )


def sdpa_weights(query, key, **options):
    """Return the weights that `sdpa` uses: its output for the values (1, 0, ...), (0, 1, 0, ...), ..."""
    identity = torch.eye(key.shape[-2], dtype=torch.float64).expand(*key.shape[:-2], -1, -1)
    return sdpa(query, key, identity, **options)


def run(function, query, key, value=None, **options):
    """Call `attention_weights` or `attention` of the answer."""
    inputs = (query, key) if function == "attention_weights" else (query, key, value)
    return getattr(attention, function)(*inputs, **options)


def oracle(function, query, key, value=None, **options):
    """Return what `run` should give, in float64."""
    if function == "attention_weights":
        return sdpa_weights(query, key, **options)
    return sdpa(query, key, value, **options)


def check(
    function,
    query,
    key,
    value,
    *,
    what="",
    hint=None,
    n=11,
    rtol=None,
    atol=None,
    vacuous_ok=None,
    generator=None,
    dropout_p=None,
    **options,
):
    """Compare one function with torch's attention in float64, the usual mistakes at hand."""
    inputs = (query, key) if function == "attention_weights" else (query, key, value)
    leading = np.broadcast_shapes(*(x.shape[:-2] for x in inputs))  # torch's imports for a second
    wide = [x.detach().double().expand(*leading, *x.shape[-2:]) for x in inputs]
    likely = weight_mistakes if function == "attention_weights" else output_mistakes
    mistakes = likely(*inputs, **options)
    drawing = {} if dropout_p is None else {"dropout_p": dropout_p, "generator": generator}
    try:
        got = run(function, query, key, value, **options, **drawing)
    except NotImplementedError:  # a RuntimeError too
        raise
    except RuntimeError as error:
        raise AssertionError(f"{hint or function + ' of shapes that fit'}: {error}") from error
    assert_close(
        got,
        oracle(function, *wide, **options).detach(),
        dtype=query.dtype,
        n=n,
        rtol=rtol,
        atol=atol,
        what=f"{function} {what}".strip(),
        mistakes=mistakes,
        hint=hint,
        vacuous_ok=vacuous_ok,
    )


def random_mask(kind, leading, generator, n_queries=5, n_keys=7):
    """Return a mask for (*leading, n_queries, n_keys) in which every query sees the first key; most kinds broadcast."""
    full = torch.Size((*leading, n_queries, n_keys))
    shapes = {
        "key padding": (full[0], *(1,) * (len(full) - 2), n_keys),
        "per query": (n_queries, 1),
        "per key": (n_keys,),
    }
    if kind == "none":
        return None
    shape = shapes.get(kind, full)
    allowed = torch.rand(shape, generator=generator) > 0.4
    allowed[..., 0] = True
    if kind in ("boolean", "key padding"):
        return allowed
    bias = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (bias if kind == "per query" else bias.masked_fill(~allowed, -math.inf)).requires_grad_()


def gradients(output, leaves, cotangent, names=("query", "key", "value", "mask")):
    """Return the gradients of ``sum(cotangent * output)`` by the leaves; a detached output is diagnosed.

    The product is written out, because the first call of torch.autograd.grad with a cotangent imports for a second.
    """
    assert output.requires_grad, "the result has no graph: something was detached, or the data was copied"
    product = (output * cotangent.to(output.dtype)).sum()
    found = torch.autograd.grad(product, leaves, allow_unused=True)
    for name, gradient in zip(names, found, strict=False):
        assert gradient is not None, f"the gradient does not reach {name}: something was detached"
    return found


def softmax(scores, dim=-1):
    """Return a softmax written out, for the mistakes below."""
    weights = torch.exp(scores - scores.amax(dim=dim, keepdim=True))
    return weights / weights.sum(dim=dim, keepdim=True)


def weight_mistakes(query, key, *, dv=None, mask=None, causal=False, scale=None) -> dict[str, Callable]:
    """Return what the usual mistakes give for the weights, diagnosis first."""
    query, key, mask = double(query), double(key), double(mask)
    n_queries, n_keys, d = query.shape[-2], key.shape[-2], query.shape[-1]
    raw = query @ key.mT
    right = d**-0.5 if scale is None else scale
    full = merged_mask(query, key, mask, causal)

    def zeros(weights):
        return torch.nan_to_num(weights)

    mistakes = {
        "the scores are not scaled: divide them by sqrt(d)": lambda: zeros(softmax(raw + full)),
        "looks like the scale is 1/d, not 1/sqrt(d)": lambda: zeros(softmax(raw / d + full)),
        "the scores are multiplied by sqrt(d) instead of divided": lambda: zeros(
            softmax(raw * d**0.5 + full)
        ),
        "the softmax is over the queries (axis -2): each query's weights over the keys must sum to 1": lambda: (
            zeros(softmax(raw * right + full, dim=-2))
        ),
        "these are the scores: the softmax is missing": lambda: raw * right + full,
    }
    if scale is not None:
        mistakes["the argument scale is ignored: this is 1/sqrt(d)"] = lambda: zeros(
            softmax(raw / d**0.5 + full)
        )
        mistakes["scale is applied on top of 1/sqrt(d) instead of replacing it"] = lambda: zeros(
            softmax(raw * scale / d**0.5 + full)
        )
    if dv is not None:
        mistakes["the scale is taken from the width of the values: d is the width of query and key"] = (
            lambda: zeros(softmax(raw / dv**0.5 + full))
        )
    if mask is not None and mask.dtype == torch.bool:
        rest = merged_mask(query, key, None, causal)
        mistakes |= {
            "the mask is ignored": lambda: zeros(softmax(raw * right + rest)),
            "the boolean mask is inverted: True is where attention is allowed": lambda: zeros(
                softmax(raw * right + merged_mask(query, key, ~mask, causal))
            ),
            "the boolean mask is added as 0 and 1: where it is False, the score must be -inf": lambda: zeros(
                softmax(raw * right + rest + mask)
            ),
        }
    elif mask is not None:
        rest = merged_mask(query, key, None, causal)
        mistakes |= {
            "the mask is ignored": lambda: zeros(softmax(raw * right + rest)),
            "the float mask is multiplied: it is added to the scores": lambda: zeros(
                softmax(raw * right * mask + rest)
            ),
            "the float mask is scaled too: add it after the scale": lambda: zeros(
                softmax((raw + mask) * right + rest)
            ),
            "the float mask is subtracted": lambda: zeros(softmax(raw * right - mask + rest)),
        }
    if mask is not None or causal:
        forbidden = full.isneginf()
        finite = full.masked_fill(forbidden, 0.0)
        mistakes["the mask is applied after the softmax: the rows no longer sum to 1"] = lambda: softmax(
            raw * right + finite
        ).masked_fill(forbidden, 0.0)
        mistakes["masked scores are set to 0: exp(0) is 1, they must be -inf"] = lambda: softmax(
            (raw * right + finite).masked_fill(forbidden, 0.0)
        )
    if causal:
        index = torch.arange(n_keys) - torch.arange(n_queries)[:, None]
        others = merged_mask(query, key, mask, False)

        def with_offset(offset):
            return zeros(softmax((raw * right + others).masked_fill(index > offset, -math.inf)))

        shift = n_keys - n_queries
        mistakes |= {
            "causal=True hides nothing here": lambda: zeros(softmax(raw * right + others)),
            "causal is strict: a query may see the key at its own position": lambda: with_offset(shift - 1),
            "causal lets a query see one key too many": lambda: with_offset(shift + 1),
            "causal looks at the future instead of the past": lambda: zeros(
                softmax((raw * right + others).masked_fill(index < shift, -math.inf))
            ),
        }
        if shift:
            mistakes[
                "causal aligns the first query with the first key: align the last query with the last key"
            ] = lambda: with_offset(0)
    return mistakes


def output_mistakes(query, key, value, **options) -> dict[str, Callable]:
    """Return what the usual mistakes give for the output."""
    value = double(value)
    mistakes = {
        diagnosis: lambda weights=weights: weights() @ value
        for diagnosis, weights in weight_mistakes(query, key, dv=value.shape[-1], **options).items()
    }
    mistakes["attention returns zeros"] = lambda: 0 * sdpa(query, key, value, **options).detach()
    mistakes["every query gets the plain mean of the values: the weights are missing"] = lambda: value.mean(
        dim=-2, keepdim=True
    ).expand(*query.shape[:-1], -1)
    return mistakes


def check_finite_differences(function, inputs, names=("query", "key", "value", "mask"), generator=None):
    """Compare the gradient by each of `inputs` with central differences, for a random cotangent."""
    output = function(*inputs)
    cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    found = gradients(output, inputs, cotangent, names)
    for position, (name, mine) in enumerate(zip(names, found, strict=False)):

        def with_one_changed(x, position=position):
            tensors = [tensor.detach() for tensor in inputs]
            tensors[position] = torch.from_numpy(x)
            return function(*tensors).detach().numpy()

        x = inputs[position].detach().numpy()
        hint = "finite differences disagree with the gradients"
        assert_gradient(mine, with_one_changed, x, cotangent.numpy(), what=f"gradient of {name}", hint=hint)
