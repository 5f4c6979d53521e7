"""The judge beside the blocks in use: Llama, GPT-2 and BLOOM from the library `transformers`, with random weights.

Last, because importing that library takes seconds. Nothing is downloaded.
"""

import importlib
import warnings

import pytest
import torch
from oracles import block_mistakes, gradients, normal, randomised

import positions
from gpt2_and_llama import TransformerBlock
from shared.testing.checks import assert_close

pytestmark = pytest.mark.timeout(60)  # the import alone takes three seconds, more on a busy machine
T = 9
BLOCK = pytest.mark.grades(
    *("norms.LayerNorm", "RMSNorm", "rotary", "swiglu.FeedForward", "attention_in_groups.SelfAttention"),
    "gpt2_and_llama.TransformerBlock",
)
CAUSAL = torch.full((T, T), -torch.inf).triu(1)[None, None]


def library(model):
    """Import one model's module; what other packages warn about on the way is not our business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"transformers.models.{model}.modeling_{model}")


def joined(tensors, transposed):
    """Return the library's parts as one of our tensors; GPT-2 keeps its weights as (in, out)."""
    return torch.cat([tensor.T if transposed and tensor.ndim == 2 else tensor for tensor in tensors])


def compare(what, block, n_heads, theirs, run, generator, *, transposed=False, **how):
    """Copy weights (ours by name -> the library's parts), then compare the output and every gradient."""
    names = [name for name, _ in block.named_parameters()]
    missing = set(names) ^ theirs.keys()
    assert not missing, f"parameters that only one side has: {sorted(missing)}"
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            parameter.copy_(joined(theirs[name], transposed))
    x = normal(
        2, T, block.attention.out.in_features, generator=generator, dtype=torch.float32
    ).requires_grad_()
    cotangent = normal(*x.shape, generator=generator, dtype=torch.float32)
    y, expected = block(x), run(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    mistakes = block_mistakes(block, n_heads, x.detach(), **how)
    assert_close(y, expected, rtol=1e-5, what=what, mistakes=mistakes)
    mine = gradients(y, (x, *block.parameters()), cotangent)
    parts = [part for name in names for part in theirs[name]]
    by_x, *by_part = gradients(expected, (x, *parts), cotangent)
    assert_close(mine[0], by_x, rtol=3e-5, what=f"gradient by x of {what}")
    of_part = iter(by_part)
    for name, got in zip(names, mine[1:], strict=True):
        wanted = joined([next(of_part) for _ in theirs[name]], transposed)
        if name == "attention.qkv.bias":  # a key's bias changes no weight: its gradient is rounding alone
            n = len(got) // 3
            got, wanted = (torch.cat((g[:n], g[2 * n :])) for g in (got, wanted))
        assert_close(got, wanted, rtol=3e-5, what=f"gradient by {name} of {what}")


@BLOCK
def test_equals_llama(generator):
    """RMS norm, swiglu, rotary half-split, causal, no bias: one decoder layer of Llama."""
    options = {"norm": "rms", "activation": "swiglu", "position": "rotary", "causal": True, "bias": False}
    block = TransformerBlock(24, 3, d_ff=40, **options)
    llama = library("llama")
    config = llama.LlamaConfig(
        hidden_size=24,
        intermediate_size=40,
        num_attention_heads=3,
        num_key_value_heads=3,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    layer = randomised(llama.LlamaDecoderLayer(config, 0), generator, torch.float32)
    attention, mlp = layer.self_attn, layer.mlp
    theirs = {
        "attention_norm.weight": [layer.input_layernorm.weight],
        "attention.qkv.weight": [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight],
        "attention.out.weight": [attention.o_proj.weight],
        "feed_forward_norm.weight": [layer.post_attention_layernorm.weight],
        "feed_forward.up.weight": [mlp.up_proj.weight],
        "feed_forward.gate.weight": [mlp.gate_proj.weight],
        "feed_forward.down.weight": [mlp.down_proj.weight],
    }
    turn = llama.LlamaRotaryEmbedding(config)

    def run(x):
        return layer(x, attention_mask=CAUSAL, position_embeddings=turn(x, torch.arange(T)[None]))

    how = {"causal": True, "rotary": True, "activation": "swiglu"}
    compare("Llama's decoder layer", block, 3, theirs, run, generator, **how)


@BLOCK
def test_equals_gpt2(generator):
    """Layer norm first, gelu by tanh, causal, biases: one block of GPT-2, whose weights are (in, out)."""
    block = TransformerBlock(24, 3, d_ff=40, activation="gelu_tanh", causal=True)
    gpt2 = library("gpt2")
    config = gpt2.GPT2Config(n_embd=24, n_head=3, n_inner=40, attn_implementation="eager")
    config.resid_pdrop = config.attn_pdrop = 0.0
    layer = randomised(gpt2.GPT2Block(config, 0), generator, torch.float32).eval()
    theirs = {}
    for ours, module in {
        "attention_norm": layer.ln_1,
        "attention.qkv": layer.attn.c_attn,
        "attention.out": layer.attn.c_proj,
        "feed_forward_norm": layer.ln_2,
        "feed_forward.up": layer.mlp.c_fc,
        "feed_forward.down": layer.mlp.c_proj,
    }.items():
        theirs[f"{ours}.weight"], theirs[f"{ours}.bias"] = [module.weight], [module.bias]

    def run(x):
        return layer(x, attention_mask=CAUSAL)

    how = {"causal": True, "activation": "gelu_tanh"}
    compare("GPT-2's block", block, 3, theirs, run, generator, transposed=True, **how)


@pytest.mark.grades("alibi_bias")
@pytest.mark.parametrize("n_heads", [1, 2, 3, 5, 8, 12, 20, 32])
def test_alibi_equals_bloom(n_heads):
    """BLOOM's bias is slope · key position; a softmax cannot tell it from ours, since each row differs by a constant."""
    ours = positions.alibi_bias(n_heads, 7)
    theirs = library("bloom").build_alibi_tensor(torch.ones(1, 7), n_heads, torch.float32).view(n_heads, 1, 7)
    last_query = theirs - theirs[..., -1:]
    assert_close(ours[:, -1:], last_query, rtol=1e-5, what=f"ALiBi bias of {n_heads} heads, last query")
