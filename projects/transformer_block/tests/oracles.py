"""The same parts by torch's own functions, and how to copy weights: shared by the tests of this project."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode, resolve_name

from shared.testing.checks import assert_close


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


def gradients(output, inputs, cotangent):
    """Return the gradients of sum(cotangent · output); zeros where the output does not depend on an input.

    The sum is written out, because the first call of torch.autograd.grad with a cotangent imports for seconds.
    """
    if not output.requires_grad:
        raise AssertionError("the result is detached from its inputs: no gradient flows back")
    product = (output * cotangent).sum()
    return torch.autograd.grad(product, inputs, allow_unused=True, materialize_grads=True)


OVERFLOW = "a score beyond 65504 overflows float16: compute the scores and their softmax in float32"


def check_one_token_of_half_types(kind, dtype):
    """One token attends to itself alone, with a score of 66 248: its value comes back."""
    attention = kind(64, 1)
    silence(attention.qkv, attention.out)
    with torch.no_grad():
        attention.qkv.weight.copy_(torch.eye(64).repeat(3, 1))
        attention.out.weight.copy_(torch.eye(64))
        y = attention.to(dtype)(torch.full((1, 1, 64), 91.0, dtype=dtype))
    how = {"what": "attention", "hint": OVERFLOW, "vacuous_ok": "one token gets its own value"}
    assert_close(y, torch.full((1, 1, 64), 91.0), dtype=dtype, **how)


def check_large_scores_of_half_types(kind, dtype, generator):
    """Scores of ±1e5, of queries and keys that are whole numbers and so not rounded."""
    attention = kind(16, 2, causal=True)
    silence(attention.qkv, attention.out)
    with torch.no_grad():
        attention.qkv.weight.copy_(torch.eye(16).repeat(3, 1))
        attention.qkv.weight[:32] *= 64
        attention.out.weight.copy_(torch.eye(16))
        x = (7 * torch.rand(3, 6, 16, generator=generator)).floor() - 3
        y = attention.to(dtype)(x.to(dtype))
        expected = attention_by_torch(attention.double(), 2, x.double(), causal=True)
    assert_close(y, expected, dtype=dtype, what="attention", hint=OVERFLOW)


class RefuseLibrary(TorchFunctionMode):
    """Refuse torch's own norms and attention in the block.

    torch's operators are seen as they are called too. (refuse_calls watches the dispatcher as well, and torch imports its
    compiler for that, which takes longer than all core tests.)
    """

    REFUSED = (
        *("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"),
        *("scaled_dot_product", "multi_head_attention", "transformer_encoder"),
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        called = resolve_name(func) or getattr(func, "__name__", "")
        if any(name in called for name in self.REFUSED):
            raise AssertionError(f"calls the library instead: {called} does the work that is asked of you")
        return func(*args, **(kwargs or {}))


def check_equal_features(norm, dtype, generator):
    """A layer norm gives exactly 0 before weight and bias where all features are equal, and the right gradient."""
    n, d = 500, len(norm.weight)
    norm = randomised(norm, generator, dtype)
    sizes = 10 ** (2 + 3 * normal(n, 1, generator=generator)).clamp(-3, 30)
    signs = 1 - 2 * (torch.arange(n) % 2)[:, None]
    x = (sizes * signs).to(dtype).expand(n, d).clone().requires_grad_()
    y, bias = norm(x), norm.bias.detach()
    rounding = "x - x.mean() leaves the rounding of the mean, and 1/sqrt(eps) makes it 300 times as large"
    worst = (y - bias).abs().max().item()
    assert worst == 0, f"{d} equal features give {worst:.2g} instead of 0 before weight and bias: {rounding}"
    cotangent = normal(n, d, generator=generator)
    (gradient,) = gradients(y, (x,), cotangent.to(dtype))
    through = cotangent.to(dtype).double() * norm.weight.double()
    expected = ((through - through.mean(-1, keepdim=True)) / 1e-5**0.5).detach()
    rtol = 64 * torch.finfo(dtype).eps  # some roundings, and the sum over the features
    assert_close(gradient, expected, dtype=dtype, rtol=rtol, what="gradient by equal features")


def check_nearly_equal_features(norm, generator):
    """A layer norm of float32 features that differ in their last two bits."""
    steps = (4 * torch.rand(40, len(norm.weight), generator=generator)).floor()
    x = 12345 + steps / 1024  # exact in float32
    expected = F.layer_norm(x.double(), norm.weight.shape, eps=1e-5)
    hint = "features that differ in their last bits lose them: subtract one of them before the mean is taken"
    assert_close(norm(x), expected, dtype=torch.float32, rtol=1e-5, what="layer norm", hint=hint)


def without_keys(name, gradient):
    """Leave the keys out of the gradient by qkv.bias: a key's bias changes no weight, so its gradient is rounding alone."""
    if not name.endswith("qkv.bias"):
        return gradient
    n = len(gradient) // 3
    return torch.cat((gradient[:n], gradient[2 * n :]))


def silence(*linears):
    """Set linear layers to zero, so that their branch adds nothing."""
    with torch.no_grad():
        for linear in linears:
            for parameter in linear.parameters():
                parameter.zero_()


# --- parts that stand in for the learner's, so that a test of the block needs no other unit -------------------


class LayerNorm(nn.LayerNorm):
    def __init__(self, d_model, *, eps=1e-5, bias=True):
        super().__init__(d_model, eps=eps, bias=bias)


class RMSNorm(nn.RMSNorm):
    def __init__(self, d_model, *, eps=1e-6):
        super().__init__(d_model, eps=eps)


ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
}


class FeedForward(nn.Module):
    def __init__(self, d_model, d_ff=None, *, activation="gelu", dropout=0.0, bias=True):
        super().__init__()
        gated = activation == "swiglu"
        if not gated and activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is not known")
        if d_ff is None:
            d_ff = 8 * d_model // 3 if gated else 4 * d_model
        self.kind, self.dropout_rate = activation, dropout
        self.up, self.down = nn.Linear(d_model, d_ff, bias=bias), nn.Linear(d_ff, d_model, bias=bias)
        if gated:
            self.gate = nn.Linear(d_model, d_ff, bias=bias)

    def forward(self, x):
        return feed_forward_by_torch(self, self.kind, x)


class SelfAttention(nn.Module):
    def __init__(self, d_model, n_heads, *, causal=False, position=None, dropout=0.0, bias=True):
        super().__init__()
        if n_heads < 1 or d_model % n_heads or (position == "rotary" and d_model // n_heads % 2):
            raise ValueError(f"{d_model} features cannot be split into {n_heads} heads")
        if position not in (None, "rotary"):
            raise ValueError(f"position {position!r} is not known")
        self.heads, self.how = n_heads, {"causal": causal, "rotary": position == "rotary"}
        self.dropout_rate = dropout
        self.qkv, self.out = (
            nn.Linear(d_model, 3 * d_model, bias=bias),
            nn.Linear(d_model, d_model, bias=bias),
        )

    def forward(self, x, *, mask=None):
        return attention_by_torch(self, self.heads, x, mask=mask, **self.how)


# --- the parts by torch's fused functions ---------------------------------------------------------------------


def norm_by_torch(norm, x):
    if type(norm).__name__ == "RMSNorm":
        return F.rms_norm(x, x.shape[-1:], norm.weight, 1e-6)
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, 1e-5)


def feed_forward_by_torch(network, activation, x):
    h = network.up(x)
    h = F.silu(network.gate(x)) * h if activation == "swiglu" else ACTIVATIONS[activation](h)
    return network.down(h)


def _rotated(x):
    """Rotate (..., T, d) by complex multiplication, pairs (i, i + d/2)."""
    T, d = x.shape[-2:]
    frequency = torch.tensor([10000.0 ** (-2 * i / d) for i in range(d // 2)], dtype=torch.float64)
    turn = torch.exp(1j * torch.arange(T, dtype=torch.float64)[:, None] * frequency)
    z = torch.complex(x[..., : d // 2].contiguous(), x[..., d // 2 :].contiguous()) * turn
    return torch.cat((z.real, z.imag), dim=-1)


def rotary(x, positions, *, base=10000.0):
    """Stand in for the learner's rotary, with positions 0 … T - 1."""
    return _rotated(x.double()).to(x.dtype)


def attention_by_torch(attention, n_heads, x, *, mask=None, causal=False, rotary=False, wrong=None):
    """Compute the attention from its parameters; `wrong` makes one mistake of ATTENTION_MISTAKES on purpose."""
    (B, T, D), H = x.shape, n_heads
    q, k, v = attention.qkv(x).view(B, T, 3, H, D // H).permute(2, 0, 3, 1, 4)
    if wrong == "qkv interleaved by head":
        q, k, v = attention.qkv(x).view(B, T, H, 3, D // H).permute(3, 0, 2, 1, 4)
    if wrong == "heads interleaved":
        q, k, v = attention.qkv(x).view(B, T, 3, D // H, H).permute(2, 0, 4, 1, 3)
    if wrong == "keys first":
        q, k = k, q
    if rotary and wrong != "not rotated":
        q, k = _rotated(q), _rotated(k)
    if wrong == "rotary on values":
        v = _rotated(v)
    shift = {"sees one ahead": 1, "does not see itself": -1}.get(wrong, 0)
    allowed = torch.ones(T, T, dtype=torch.bool).tril(shift) if causal else None
    if wrong == "not causal" or (wrong == "does not see itself" and not causal):
        allowed = None
    if wrong == "anti-causal" and causal:
        allowed = allowed.mT
    if allowed is not None and wrong == "does not see itself":
        allowed[0, 0] = True
    total = mask if wrong != "ignores the mask" else None
    if total is not None and total.dtype == torch.bool:
        total = ~total if wrong == "mask inverted" else total
        total = total.mT if wrong == "mask transposed" and total.ndim > 1 else total
    if allowed is not None:
        if total is None or wrong == "the mask replaces causal":
            total = allowed if total is None else total
        elif total.dtype == torch.bool:
            total = total & allowed
        else:
            total = total.masked_fill(~allowed, -torch.inf)
    scale = {"not scaled": 1.0, "scaled by 1/d": H / D, "scaled by d_model": D**-0.5}.get(wrong)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=total, scale=scale)
    y = y.reshape(B, T, D) if wrong == "heads not brought back" else y.transpose(1, 2).reshape(B, T, D)
    return y if wrong == "no output projection" else attention.out(y)


ATTENTION_MISTAKES = {
    "no output projection": "the heads are not mixed by `out`",
    "heads not brought back": "the heads are joined in the wrong order: bring (B, n_heads, T, d_head) back to (B, T, n_heads, d_head) first",
    "qkv interleaved by head": "qkv holds all queries, then all keys, then all values; not head by head",
    "heads interleaved": "a head takes d_head features side by side, not every n_heads-th one",
    "keys first": "keys and queries are swapped: qkv holds the queries first",
    "not scaled": "the scores are not divided by sqrt(d_head)",
    "scaled by 1/d": "the scale is 1/d_head, not 1/sqrt(d_head)",
    "scaled by d_model": "the scale is 1/sqrt(d_model): it is the size of a head that counts",
    "ignores the mask": "attention ignores the mask",
    "mask inverted": "the mask is inverted: True means that attention is allowed",
    "mask transposed": "the mask is transposed: its third axis is the query",
    "the mask replaces causal": "with a mask, causal=True is ignored: both apply",
    "not causal": "causal=True is ignored: a token sees its future",
    "anti-causal": "the causal mask is upside down: a token sees the tokens before it",
    "sees one ahead": "the causal mask is off by one: token t sees token t + 1",
    "does not see itself": "the causal mask is off by one: a token does not see itself",
    "not rotated": "queries and keys are not rotated",
    "rotary on values": "values are rotated too: only queries and keys are",
}


def attention_mistakes(attention, n_heads, x, **how):
    """Return assert_close's `mistakes` for the attention."""

    def value(wrong):
        with torch.no_grad():
            return attention_by_torch(attention, n_heads, x, **how, wrong=wrong)

    return {diagnosis: (lambda wrong=wrong: value(wrong)) for wrong, diagnosis in ATTENTION_MISTAKES.items()}


def block_by_torch(block, n_heads, x, *, activation="gelu", pre=True, wrong=None, **how):
    """Compute a block from its parameters; `wrong` makes one mistake on purpose."""

    def attention(x):
        return attention_by_torch(block.attention, n_heads, x, **how, wrong=wrong)

    def feed_forward(x):
        return feed_forward_by_torch(block.feed_forward, activation, x)

    if wrong == "nothing":
        return x
    if wrong == "no attention":
        return x + feed_forward(norm_by_torch(block.feed_forward_norm, x))
    if wrong == "no feed-forward":
        return x + attention(norm_by_torch(block.attention_norm, x))
    if wrong == "the other norm position":
        pre = not pre
    if wrong == "parallel":
        a, f = norm_by_torch(block.attention_norm, x), norm_by_torch(block.feed_forward_norm, x)
        return x + attention(a) + feed_forward(f)
    for which, branch in (("attention_norm", attention), ("feed_forward_norm", feed_forward)):
        norm = getattr(block, "attention_norm" if wrong == "one norm for both" else which)
        if pre:
            normed = norm_by_torch(norm, x)
            base = normed if wrong == "residual from the normed input" else x
            x = branch(normed) if wrong == "no residual" else base + branch(normed)
        elif wrong == "norm before the addition":
            x = x + norm_by_torch(norm, branch(x))
        else:
            x = norm_by_torch(norm, branch(x) if wrong == "no residual" else x + branch(x))
    return x


BLOCK_MISTAKES = {
    "no residual": "the residual connection is missing: each branch is added to its input",
    "residual from the normed input": "the residual is taken from the normed input: add the branch to x itself",
    "the other norm position": "pre-norm and post-norm are confused",
    "norm before the addition": "post-norm normalises the sum, not the branch",
    "parallel": "both branches see the same input: the second works on the result of the first",
    "one norm for both": "both branches use the same norm",
    "nothing": "the block returns its input: no branch is added",
    "no attention": "there is no attention: tokens cannot exchange anything",
    "no feed-forward": "there is no feed-forward network",
}


def block_mistakes(block, n_heads, x, **how):
    """Return assert_close's `mistakes` for a whole block: its own, then those of its attention."""

    def value(wrong):
        with torch.no_grad():
            return block_by_torch(block, n_heads, x, **how, wrong=wrong)

    found = {**BLOCK_MISTAKES, **ATTENTION_MISTAKES}
    return {diagnosis: (lambda wrong=wrong: value(wrong)) for wrong, diagnosis in found.items()}


# --- torch's own block ----------------------------------------------------------------------------------------

ENCODER_LAYER = {  # ours -> nn.TransformerEncoderLayer
    "attention_norm": "norm1",
    "attention.qkv.weight": "self_attn.in_proj_weight",
    "attention.qkv.bias": "self_attn.in_proj_bias",
    "attention.out": "self_attn.out_proj",
    "feed_forward_norm": "norm2",
    "feed_forward.up": "linear1",
    "feed_forward.down": "linear2",
}


def translated(name, names=ENCODER_LAYER):
    """Return the library's name of one of our parameters."""
    return next(name.replace(ours, theirs, 1) for ours, theirs in names.items() if name.startswith(ours))


def copy_into(block, layer):
    """Copy the weights of an nn.TransformerEncoderLayer into our block, name by name."""
    theirs = dict(layer.named_parameters())
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            source = theirs[translated(name)]
            assert parameter.shape == source.shape, (
                f"{name} must be {tuple(source.shape)}, got {tuple(parameter.shape)}"
            )
            parameter.copy_(source)


def encoder_layer(d_model, n_heads, d_ff, generator, *, dtype=torch.float64, **options):
    """Return a random nn.TransformerEncoderLayer without dropout, in training mode (no fused inference path)."""
    layer = nn.TransformerEncoderLayer(d_model, n_heads, d_ff, dropout=0.0, batch_first=True, **options)
    return randomised(layer, generator, dtype)


def torch_masks(kind, B, T, n_heads):
    """Return (causal, our mask, torch's mask for all heads, where True means forbidden)."""
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    lengths = torch.tensor([T, T - 2, 1, T - 1][:B])
    keep = (torch.arange(T) < lengths[:, None])[:, None, None, :]
    added = torch.linspace(-2, 3, B * n_heads * T * T, dtype=torch.float64).cos().view(B, n_heads, T, T)
    per_head = (added > -0.2) | torch.eye(T, dtype=torch.bool)
    striped = (
        torch.arange(T)[:, None] + 2 * torch.arange(T)
    ) % 3 > 0  # every row has both, and it is not symmetric
    causal, ours, theirs = {
        "none": (False, None, None),
        "causal": (True, None, future),
        "padding": (False, keep, ~keep),
        "causal and padding": (True, keep, future | ~keep),
        "boolean (T, T)": (False, striped, ~striped),
        "boolean per head": (False, per_head, ~per_head),
        "causal and per head": (True, per_head, future | ~per_head),
        "added": (False, added, added),
        "added and causal": (True, added, added.masked_fill(future, -torch.inf)),
    }[kind]
    return causal, ours, None if theirs is None else theirs.expand(B, n_heads, T, T).flatten(0, 1)
