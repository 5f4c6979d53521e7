"""The same block by torch's own functions, and how to copy weights: shared by the tests of this project."""

import torch
import torch.nn.functional as F
from torch import nn


def normal(*shape, generator, dtype=torch.float64, scale=1.0):
    """Return normal numbers."""
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def randomised(module, generator, dtype=torch.float64):
    """Fill every parameter with random numbers: norms and biases too, which a fresh module leaves at 1 and 0."""
    module = module.to(dtype)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(normal(*parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
            else:
                at = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(at + normal(*parameter.shape, generator=generator, scale=0.3))
    return module


# ours -> nn.TransformerEncoderLayer
ENCODER_LAYER = {
    "attention_norm": "norm1",
    "qkv.weight": "self_attn.in_proj_weight",
    "qkv.bias": "self_attn.in_proj_bias",
    "out": "self_attn.out_proj",
    "feed_forward_norm": "norm2",
    "feed_forward.up": "linear1",
    "feed_forward.down": "linear2",
}


def translated(name, names):
    """Return the library's name of one of our parameters."""
    return next(name.replace(ours, theirs, 1) for ours, theirs in names.items() if name.startswith(ours))


def copy_into(block, layer, names):
    """Copy the library's weights into our block, name by name; every one of ours must exist there."""
    theirs = dict(layer.named_parameters())
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            source = theirs[translated(name, names)]
            assert parameter.shape == source.shape, (
                f"{name} must be {tuple(source.shape)}, got {tuple(parameter.shape)}"
            )
            parameter.copy_(source)


def gradients(output, inputs, cotangent):
    """Return the gradients of sum(cotangent · output); zeros where the output does not depend on an input."""
    if not output.requires_grad:
        raise AssertionError("the result is detached from its inputs: no gradient flows back")
    return torch.autograd.grad(output, inputs, cotangent, allow_unused=True, materialize_grads=True)


def _norm(block, which, x):
    norm = getattr(block, which)
    if type(norm).__name__ == "RMSNorm":
        return F.rms_norm(x, x.shape[-1:], norm.weight, 1e-6)
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, 1e-5)


def _rotated(x):
    """Rotate (..., T, d) by complex multiplication, pairs (i, i + d/2)."""
    T, d = x.shape[-2:]
    frequency = torch.tensor([10000.0 ** (-2 * i / d) for i in range(d // 2)], dtype=torch.float64)
    turn = torch.exp(1j * torch.arange(T, dtype=torch.float64)[:, None] * frequency)
    z = torch.complex(x[..., : d // 2].contiguous(), x[..., d // 2 :].contiguous()) * turn
    return torch.cat((z.real, z.imag), dim=-1)


def by_torch(block, n_heads, x, *, mask=None, causal=False, rotary=False, pre=True, wrong=None):
    """Compute a block from its parameters with torch's fused functions; `wrong` makes one mistake on purpose."""
    (B, T, D), H = x.shape, n_heads

    def attention(x):
        q, k, v = block.qkv(x).view(B, T, 3, H, D // H).permute(2, 0, 3, 1, 4)
        if wrong == "qkv interleaved by head":
            q, k, v = block.qkv(x).view(B, T, H, 3, D // H).permute(3, 0, 2, 1, 4)
        if rotary:
            q, k = _rotated(q), _rotated(k)
        if wrong == "rotary on values":
            v = _rotated(v)
        shift = {"sees one ahead": 1, "does not see itself": -1}.get(wrong, 0)
        allowed = torch.ones(T, T, dtype=torch.bool).tril(shift) if causal else None
        if wrong == "not causal" or (wrong == "does not see itself" and not causal):
            allowed = None
        if allowed is not None and wrong == "does not see itself":
            allowed[0, 0] = True
        total = mask if wrong != "ignores the mask" else None
        if wrong == "mask inverted" and total is not None and total.dtype == torch.bool:
            total = ~total
        if allowed is not None:
            if total is None:
                total = allowed
            elif total.dtype == torch.bool:
                total = total & allowed
            else:
                total = total.masked_fill(~allowed, -torch.inf)
        scale = {"not scaled": 1.0, "scaled by 1/d": H / D, "scaled by d_model": D**-0.5}.get(wrong)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=total, scale=scale)
        y = y.transpose(1, 2).reshape(B, T, D)
        return y if wrong == "no output projection" else block.out(y)

    def feed_forward(x):
        return block.feed_forward(x)

    if wrong == "no attention":
        return x + feed_forward(_norm(block, "feed_forward_norm", x))
    if wrong == "no feed-forward":
        return x + attention(_norm(block, "attention_norm", x))
    if wrong == "the other norm position":
        pre = not pre
    if wrong == "parallel":
        a, f = _norm(block, "attention_norm", x), _norm(block, "feed_forward_norm", x)
        return x + attention(a) + feed_forward(f)
    for which, branch in (("attention_norm", attention), ("feed_forward_norm", feed_forward)):
        if wrong == "one norm for both":
            which = "attention_norm"
        if pre:
            normed = _norm(block, which, x)
            base = normed if wrong == "residual from the normed input" else x
            x = branch(normed) if wrong == "no residual" else base + branch(normed)
        elif wrong == "norm before the addition":
            x = x + _norm(block, which, branch(x))
        else:
            x = _norm(block, which, branch(x) if wrong == "no residual" else x + branch(x))
    return x


MISTAKES = {
    "no residual": "the residual connection is missing: each branch is added to its input",
    "residual from the normed input": "the residual is taken from the normed input: add the branch to x itself",
    "the other norm position": "norm_position is the other one",
    "norm before the addition": "post-norm normalises the sum, not the branch",
    "parallel": "both branches see the same input: the second works on the result of the first",
    "one norm for both": "both branches use the same norm",
    "no attention": "there is no attention: tokens cannot exchange anything",
    "no feed-forward": "there is no feed-forward network",
    "no output projection": "the heads are not mixed by `out`",
    "qkv interleaved by head": "qkv holds all queries, then all keys, then all values; not head by head",
    "not scaled": "the scores are not divided by sqrt(d_head)",
    "scaled by 1/d": "the scale is 1/d_head, not 1/sqrt(d_head)",
    "scaled by d_model": "the scale is 1/sqrt(d_model): it is the size of a head that counts",
    "ignores the mask": "attention ignores the mask",
    "mask inverted": "the mask is inverted: True means that attention is allowed",
    "not causal": "causal=True is ignored: a token sees its future",
    "sees one ahead": "the causal mask is off by one: token t sees token t + 1",
    "does not see itself": "the causal mask is off by one: a token does not see itself",
    "rotary on values": "values are rotated too: only queries and keys are",
}


def block_mistakes(block, n_heads, x, **how):
    """Return assert_close's `mistakes` for a whole block."""

    def value(wrong):
        with torch.no_grad():
            return by_torch(block, n_heads, x, **how, wrong=wrong)

    found = {diagnosis: (lambda wrong=wrong: value(wrong)) for wrong, diagnosis in MISTAKES.items()}
    if how.get("rotary"):
        found["queries and keys are not rotated"] = lambda: by_torch(
            block, n_heads, x, **{**how, "rotary": False}
        )
    return found


def encoder_layer(d_model, n_heads, d_ff, generator, *, dtype=torch.float64, **options):
    """Return a random nn.TransformerEncoderLayer without dropout, in training mode (no fused inference path)."""
    layer = nn.TransformerEncoderLayer(d_model, n_heads, d_ff, dropout=0.0, batch_first=True, **options)
    return randomised(layer, generator, dtype)
