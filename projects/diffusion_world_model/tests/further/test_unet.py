"""The judge of the two networks of the world. Oracles: torch's functions put together by hand in float64, and laws."""

import pytest
import torch
from episodes import seeded, wake
from torch.nn import functional

import unet
from shared.testing.checks import assert_close, unchanged

B, L, SIZE = 3, 4, 12


def asked(seed=0, *, n_frames=L, height=SIZE, width=SIZE):
    """Noisy frames, c_noise, histories and actions, all different."""
    g = seeded(seed)
    actions = torch.tensor([[0, 1, 2, 1], [2, 0, 1, 1], [1, 1, 0, 2]])[:, :n_frames]
    return (
        torch.randn(B, height, width, generator=g),
        torch.tensor([-0.3, 0.0, 0.4]),
        torch.rand(B, n_frames, height, width, generator=g) * 2 - 1,
        actions,
    )


def moved(network, inputs, which, value):
    """How far the output of each game moves when one input becomes another."""
    other = [*inputs]
    other[which] = value
    with torch.no_grad():
        return (network(*other) - network(*inputs)).abs().amax(dim=(1, 2))


@pytest.mark.grades("Block")
def test_block_by_hand():
    """Norm, SiLU, convolution; norm, scale and shift from the embedding, SiLU, convolution; plus the skip; in float64."""
    block = wake(unet.Block(16, 24, 5)).double()
    x, embedding = (
        torch.randn(2, 16, 4, 6, generator=seeded(1)).double(),
        torch.randn(2, 5, generator=seeded(2)).double(),
    )
    with unchanged(x, embedding):
        got = block(x, embedding)

    def norm(layer, x):
        grouped = x.reshape(len(x), -1, 8 * x[0, 0].numel())
        variance, mean = torch.var_mean(grouped, dim=2, keepdim=True, correction=0)
        flat = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
        return flat * layer.weight[:, None, None] + layer.bias[:, None, None]

    def conv(layer, x):
        return functional.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)

    both = embedding @ block.modulation.weight.T + block.modulation.bias
    scale, shift = both[:, :24, None, None], both[:, 24:, None, None]
    x1, h = norm(block.norm_1, x), None
    h = norm(block.norm_2, conv(block.conv_1, x1 * x1.sigmoid()))

    def rest(h):
        return conv(block.conv_2, h * h.sigmoid())

    assert_close(
        got, conv(block.skip, x) + rest(h * (1 + scale) + shift), rtol=1e-9, what="the block's output",
        mistakes={
            "scale and shift are taken for each other": lambda: conv(block.skip, x) + rest(h * (1 + shift) + scale),
            "the scale is used without the 1 that is added to it": lambda: conv(block.skip, x) + rest(h * scale + shift),
            "the shift is missing": lambda: conv(block.skip, x) + rest(h * (1 + scale)),
            "the scale is missing": lambda: conv(block.skip, x) + rest(h + shift),
            "the skip is missing": lambda: rest(h * (1 + scale) + shift),
            "the second SiLU is missing": lambda: conv(block.skip, x) + conv(block.conv_2, h * (1 + scale) + shift),
        },
        hint="the block does not follow its formula",
    )  # fmt: skip


@pytest.mark.grades("Block")
def test_block_starts_as_its_skip():
    """conv_2 starts at zero; with as many channels out as in, the skip is x itself."""
    x, embedding = torch.randn(2, 8, 4, 4, generator=seeded(1)), torch.randn(2, 6, generator=seeded(2))
    assert torch.equal(unet.Block(8, 8, 6)(x, embedding), x), (
        "a new block is not its skip: conv_2 starts at zero"
    )


@pytest.mark.grades("UNet")
def test_unet_starts_as_zero():
    """F = 0 at the start, in the shape of the noisy frame; so D begins as c_skip·x."""
    network = unet.UNet()
    for height, width in ((12, 12), (8, 6)):
        inputs = asked(height=height, width=width)
        with unchanged(*inputs):
            out = network(*inputs)
        assert out.shape == inputs[0].shape, f"output {tuple(out.shape)}, frame {tuple(inputs[0].shape)}"
        assert not out.detach().any(), "F does not start as zero: the last convolution must"


@pytest.mark.grades("UNet")
def test_unet_sees_all_that_it_is_given():
    """With woken weights, every past frame, every action, the noisy frame and its level move the output of their game alone."""
    network, inputs = wake(unet.UNet()), asked()
    with torch.no_grad():
        assert network(*inputs).std() > 1e-3, "the woken network says nothing"
    noisy, c_noise, history, actions = inputs
    for t in range(L):
        past, done = history.clone(), actions.clone()
        past[1, t] += 0.2 * torch.randn(SIZE, SIZE, generator=seeded(9))
        done[1, t] = (done[1, t] + 1) % 3
        for name, which, value in (("frame", 2, past), ("action", 3, done)):
            by = moved(network, inputs, which, value)
            assert by[1] > 1e-4, f"the {name} at place {t} of the history is not seen"
            assert by[[0, 2]].max() < 1e-5, f"the {name} of one game moves the output of another"
    level = c_noise.clone()
    level[1] += 0.05
    assert moved(network, inputs, 1, level)[1] > 1e-4, "the noise level is not seen"
    other = noisy.clone()
    other[1, 3, 3] += 0.5
    assert moved(network, inputs, 0, other)[1] > 1e-4, "the noisy frame is not seen"


@pytest.mark.grades("UNet")
def test_unet_tells_times_apart():
    """The order of the actions counts, and so does that of the frames; levels that are near are told apart."""
    network, inputs = wake(unet.UNet()), asked()
    history, actions = inputs[2:]
    assert moved(network, inputs, 3, actions.flip(1)).min() > 1e-4, (
        "actions in another order give the same frame: each place in time needs numbers of its own"
    )
    assert moved(network, inputs, 2, history.flip(1)).min() > 1e-4, (
        "frames in another order give the same frame"
    )
    plain = network.frequencies
    assert_close(
        plain[[0, -1]], torch.tensor([1.0, 32.0]), what="the lowest and the highest frequency", rtol=1e-5
    )
    steps = plain[1:] / plain[:-1]
    assert_close(
        steps,
        steps[:1].expand(31),
        what="ratios of the frequencies",
        rtol=1e-4,
        vacuous_ok="a constant ratio",
    )


@pytest.mark.grades("UNet")
def test_details_cross_over():
    """Detail finer than the 6×6 level reaches the output: a checkerboard moves it pixel by pixel."""
    network, inputs = wake(unet.UNet()), asked()
    with torch.no_grad():
        network.up.weight.zero_()  # cut the lower level off
        network.up.bias.zero_()
    board = inputs[0] + 0.3 * (torch.arange(12)[:, None] + torch.arange(12)) % 2
    assert moved(network, inputs, 0, board).min() > 1e-4, "there is no skip from the way down to the way up"


@pytest.mark.grades("UNet")
def test_far_pixels_meet():
    """Through the 6×6 level a pixel is felt at more than four pixels' distance, the reach of the four convolutions above it."""
    network, inputs = wake(unet.UNet()), asked()
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.GroupNorm)):
        norm.forward = lambda x: x  # a norm spreads everything everywhere
    other = inputs[0].clone()
    other[:, 0, 0] += 1
    with torch.no_grad():
        by = (network(other, *inputs[1:]) - network(*inputs)).abs()
    assert by[:, 8, 0].min() > 1e-7, "nothing is seen over a distance: is the lower level used?"


@pytest.mark.grades("UNet", "n_parameters")
def test_unet_is_small_and_all_of_it_learns():
    """About 160 thousand numbers, by a sum over the layers; the gradient reaches each of them once the weights are woken."""
    network = wake(unet.UNet())
    total = sum(torch.numel(p) for p in network.state_dict().values())  # frequencies are no part of it
    assert unet.n_parameters(network) == total, f"n_parameters says {unet.n_parameters(network)}, not {total}"
    assert 150_000 < total < 170_000, f"the U-Net has {total} parameters"
    network(*asked()).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"no gradient reaches {idle}"
    layer = torch.nn.Linear(3, 2)
    assert unet.n_parameters(layer) == 8, "n_parameters of a layer of 3·2 weights and 2 biases is not 8"


@pytest.mark.grades("UNet")
def test_unet_of_other_sizes():
    """Two frames, five actions, another width and embedding."""
    network = wake(unet.UNet(n_frames=2, n_actions=5, width=16, n_embedding=32))
    noisy, c_noise, history, _ = asked(n_frames=2)
    actions = torch.tensor([[0, 4], [3, 1], [2, 2]])
    out = network(noisy, c_noise, history, actions)
    assert out.shape == noisy.shape, f"output {tuple(out.shape)}"
    assert unet.n_parameters(network) < 80_000, "the width is not used"


@pytest.mark.grades("Outcome")
def test_outcome_sees_all():
    """Logits (B, 3) and (B, 2); frame, action and next frame move the answer of their game; which frame is first counts."""
    network = unet.Outcome()  # its weights start at random
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=seeded(3)))
    frame, following = asked()[2][:, 0], asked()[2][:, 1]
    action = torch.tensor([0, 1, 2])

    def answer(*arguments):
        with torch.no_grad():
            rewards, ends = network(*arguments)
        assert rewards.shape == (B, 3), f"reward logits {tuple(rewards.shape)}, expected ({B}, 3)"
        assert ends.shape == (B, 2), f"end logits {tuple(ends.shape)}, expected ({B}, 2)"
        return torch.cat([rewards, ends], dim=1)

    with unchanged(frame, action, following):
        plain = answer(frame, action, following)
    for name, changed in (
        ("the action is not seen", (frame, (action + 1) % 3, following)),
        ("the frame before is not seen", (following, action, following)),
        ("the next frame is not seen", (frame, action, frame)),
        ("which of the two frames comes first makes no difference", (following, action, frame)),
    ):
        by = (answer(*changed) - plain).abs()
        assert by[:, :3].amax(dim=1).min() > 1e-4, f"{name} by the rewards"
        assert by[:, 3:].amax(dim=1).min() > 1e-4, f"{name} by the ends"


@pytest.mark.grades("Outcome")
def test_outcome_of_other_sizes():
    """Frames of 8 by 8 and five actions; the gradient reaches every parameter and both heads are apart."""
    network = wake(unet.Outcome(size=8, n_actions=5, width=8))
    frame, following = torch.rand(2, 6, 8, 8, generator=seeded(1)).unbind()
    rewards, ends = network(frame, torch.tensor([0, 1, 2, 3, 4, 0]), following)
    assert (rewards.shape, ends.shape) == ((6, 3), (6, 2)), (
        f"logits {tuple(rewards.shape)}, {tuple(ends.shape)}"
    )
    (rewards.square().sum() + ends.square().sum()).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"no gradient reaches {idle}"
