"""The autoencoder. The quantizer, the nearest code and the straight-through step are lent, so that none of yours is needed.

Oracles: the convolutions one by one, a lookup by a matrix product, the decoder's own gradient handed to the encoder.
"""

import oracles
import pytest
import torch
from oracles import global_seed, gradients, look_up, normal, seeded, squared_distances
from torch import nn

import vq_vae
from shared.testing.checks import assert_close, unchanged

UNITS = ("nearest_codes", "straight_through", "VectorQuantizer")
CONVOLUTIONS = nn.Conv2d, nn.ConvTranspose2d


@pytest.fixture
def lent(monkeypatch):
    """Put other parts in the place of the learner's."""
    for name in UNITS:
        monkeypatch.setattr(vq_vae, name, getattr(oracles, name))


def small(generator, *, decay=0.9, d=4):
    """Return a small model: as many channels as the grid is wide, so that no shape betrays a wrong order of the axes."""
    model = vq_vae.VQVAE(11, d, hidden=6, decay=decay, generator=generator)
    with torch.no_grad():  # codes where the vectors are, and biases that are not 0
        model.quantizer.codebook.mul_(0.5)
        for part in (model.encoder, model.decoder):
            for name, p in part.named_parameters():
                if name.endswith("bias"):
                    p.copy_(normal(*p.shape, generator=generator, scale=0.2))
    return model


def convolutions(part):
    return [layer for layer in part.modules() if isinstance(layer, CONVOLUTIONS)]


@pytest.mark.grades("VQVAE")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize(
    "sizes", [{}, {"n_codes": 10, "d": 5, "hidden": 7, "decay": None}], ids=["default", "other"]
)
def test_layers(sizes, generator):
    """The convolutions as the docstring lists them, and a ReLU between each two."""
    model = vq_vae.VQVAE(**sizes, generator=generator)
    d, hidden = sizes.get("d", 8), sizes.get("hidden", 32)
    assert isinstance(model.encoder, nn.Sequential), "encoder is an nn.Sequential"
    wanted = {
        "encoder": [
            ("Conv2d", 1, hidden, 3, 1),
            ("Conv2d", hidden, hidden, 4, 2),
            ("Conv2d", hidden, d, 1, 1),
        ],
        "decoder": [
            ("Conv2d", d, hidden, 3, 1),
            ("ConvTranspose2d", hidden, hidden, 4, 2),
            ("Conv2d", hidden, 1, 3, 1),
        ],
    }
    x = torch.rand(3, 1, 8, 8, generator=generator)
    inputs = {"encoder": x, "decoder": normal(3, d, 4, 4, generator=generator)}
    for name, layers in wanted.items():
        part = getattr(model, name)
        found = convolutions(part)
        got = [
            (type(c).__name__, c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in found
        ]
        assert got == layers, f"{name} (kind, channels in and out, size, stride): {got}, expected {layers}"
        assert all(c.kernel_size[0] == c.kernel_size[1] for c in found), f"{name}: kernels are square"
        assert all(c.bias is not None for c in found), (
            f"{name}: the convolutions have biases, which start at 0"
        )
        with torch.no_grad():
            first, second, last = found
            y = inputs[name]
            assert_close(
                part(y),
                last(second(first(y).relu()).relu()),
                rtol=1e-5,
                what=f"output of the {name}",
                hint=f"{name}: a ReLU stands between two convolutions, and nothing else",
            )
            shape = (3, d, 4, 4) if name == "encoder" else (3, 1, 8, 8)
            assert part(y).shape == shape, (
                f"{name}: {tuple(y.shape)} becomes {tuple(part(y).shape)}, expected {shape}"
            )


@pytest.mark.grades("VQVAE")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("decay", [None, 0.7])
def test_options_are_handed_on(decay, generator):
    """The quantizer gets all of its options."""
    quantizer = vq_vae.VQVAE(10, 5, decay=decay, generator=generator).quantizer
    assert isinstance(quantizer, oracles.VectorQuantizer), "quantizer is a VectorQuantizer"
    shape = tuple(quantizer.codebook.shape)
    assert shape == (10, 5), f"the codebook is (n_codes, d), expected (10, 5), got {shape}"
    assert quantizer.decay == decay, (
        f"decay is not handed to the quantizer: {quantizer.decay}, given was {decay}"
    )
    assert quantizer.had_generator, "the generator is not handed to the quantizer"
    quantizer = vq_vae.VQVAE().quantizer
    assert quantizer.decay == 0.99, f"decay is 0.99 by default, got {quantizer.decay}"
    shape = tuple(quantizer.codebook.shape)
    assert shape == (64, 8), f"by default there are 64 codes of size 8, got {shape}"


@pytest.mark.grades("VQVAE")
@pytest.mark.usefixtures("lent")
def test_weights_start_uniform(generator):
    """nn.init.kaiming_uniform_: between ±sqrt(6/fan_in), drawn with the generator alone; biases 0."""
    models = []
    for seed in (1, 2):
        with global_seed(seed):
            models.append(vq_vae.VQVAE(10, 12, generator=seeded(4)))
    other = vq_vae.VQVAE(10, 12, generator=generator)
    for part in ("encoder", "decoder"):
        triples = zip(*(convolutions(getattr(model, part)) for model in (*models, other)), strict=True)
        for number, (first, second, third) in enumerate(triples):
            where = f"convolution {number} of the {part}"
            assert not first.bias.any(), f"{where}: biases start at 0"
            weight = first.weight.detach()
            same = torch.equal(weight, second.weight)
            assert same, (
                f"{where}: the weights depend on torch.manual_seed: draw them with the generator that is passed"
            )
            assert not torch.equal(weight, third.weight), f"{where}: another generator gives the same weights"
            bound = (6 / weight[0].numel()) ** 0.5
            largest, variance = (
                weight.abs().max().item() / bound,
                3 * weight.square().mean().item() / bound**2,
            )
            right = 0.95 < largest <= 1.000001 and 0.7 < variance < 1.3
            said = f"the largest is {largest:.2f} of sqrt(6/fan_in), the variance {variance:.2f} of its share"
            assert right, f"{where}: not as nn.init.kaiming_uniform_ draws by default: {said}"


@pytest.mark.grades("VQVAE")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_forward(decay, training, generator):
    """What the encoder says, its codes, what the decoder makes of the codes, and the indices."""
    model = small(generator, decay=decay).train(training)
    x = torch.rand(3, 1, 8, 8, generator=generator)
    codebook = model.quantizer.codebook.detach().clone()
    with torch.no_grad():
        z = model.encoder(x)
        indices = squared_distances(z.permute(0, 2, 3, 1), codebook).argmin(-1)
        z_q = look_up(codebook, indices)
        reconstruction, plain = model.decoder(z_q), model.decoder(z)
    with unchanged(x):
        found = model(x)
    assert len(found) == 4, f"forward returns reconstruction, z, z_q and indices, got {len(found)} things"
    got = [tensor.detach() for tensor in found]
    assert_close(got[1], z, rtol=1e-5, what="z", mistakes={"z and z_q are exchanged": z_q})
    assert_close(got[2], z_q, rtol=1e-5, what="z_q", mistakes={"z_q is z: it is the codes nearest to z": z})
    assert_close(got[3], indices, what="indices")
    mistakes = {"the decoder gets z, not its codes": plain, "the image itself comes back": x}
    assert_close(got[0], reconstruction, rtol=1e-4, what="reconstruction", mistakes=mistakes)


@pytest.mark.grades("VQVAE")
@pytest.mark.usefixtures("lent")
def test_codes_move_in_training_only(generator):
    """forward uses the quantizer: it moves the codes in training; in evaluation nothing moves."""
    model = small(generator)
    x = torch.rand(5, 1, 8, 8, generator=generator)
    for training in (False, True):
        before = model.quantizer.codebook.clone()
        model.train(training)(x)
        moved = not torch.equal(before, model.quantizer.codebook)
        how = "do not move in training: forward calls the quantizer" if training else "move in evaluation"
        assert moved == training, f"the codes {how}"


@pytest.mark.grades("VQVAE")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("decay", [None, 0.9])
def test_gradient_goes_straight_through(decay, generator):
    """The decoder's gradient at the codes goes to the encoder as it is; the codebook gets none of it."""
    model = small(generator, decay=decay)
    x = torch.rand(3, 1, 8, 8, generator=generator)
    codebook = model.quantizer.codebook.detach().clone()
    reconstruction, z, z_q, indices = model(x)
    cotangent = normal(3, 1, 8, 8, generator=generator)
    encoder, decoder = list(model.encoder.parameters()), list(model.decoder.parameters())
    at = look_up(codebook, indices).requires_grad_()
    expected = gradients(model.decoder(at), (at, *decoder), cotangent)
    by_encoder = gradients(model.encoder(x), encoder, expected[0])
    got = gradients(reconstruction, (*encoder, *decoder), cotangent)
    assert any(g.any() for g in got[: len(encoder)]), (
        "the encoder gets no gradient: put straight_through before the decoder"
    )
    for mine, wanted in zip(got, (*by_encoder, *expected[1:]), strict=True):
        assert_close(mine, wanted, rtol=1e-4, what="gradient of the reconstruction by a weight or bias")
    if decay is None:
        learned = model.quantizer.codebook
        assert not gradients(reconstruction, (learned,), cotangent)[0].any(), (
            "the reconstruction moves the codebook"
        )
        hint = "z_q carries no gradient to the codebook: hand out the codes as the quantizer returns them"
        to_codes = gradients(z_q, (learned,))[0] if z_q.requires_grad else torch.zeros(1)
        assert to_codes.any(), hint
    if z_q.requires_grad:
        to_encoder = any(g.any() for g in gradients(z_q, encoder))
        assert not to_encoder, (
            "z_q carries a gradient to the encoder: it is the codes, not what straight_through made of them"
        )
    assert z.requires_grad, "z is detached: the commitment cannot move the encoder"
    assert any(g.any() for g in gradients(z, encoder)), "z carries no gradient to the encoder"


@pytest.mark.grades("VQVAE")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("d", [4, 3])
def test_encode_and_decode(d, training, generator):
    """Images to tokens and tokens to images, in any mode; no code moves on the way."""
    model = small(generator, d=d).train(training)
    x = torch.rand(3, 1, 8, 8, generator=generator)
    codebook = model.quantizer.codebook.clone()
    with torch.no_grad(), unchanged(x):
        z = model.encoder(x)
        expected = squared_distances(z.permute(0, 2, 3, 1), codebook).argmin(-1)
        viewed = squared_distances(z.reshape(3, 4, 4, d), codebook).argmin(-1)
        turned = squared_distances(z.permute(0, 3, 2, 1), codebook).argmin(-1)
        indices = model.encode(x)
    mistakes = {
        "the map is viewed as vectors without a permute": viewed,
        "height and width of the tokens are exchanged": turned,
        "these are codes, not their indices": lambda: look_up(codebook, expected),
    }
    assert_close(indices, expected, what="tokens", mistakes=mistakes)
    assert torch.equal(codebook, model.quantizer.codebook), (
        "encode moves the codes: in training the quantizer learns"
    )
    assert torch.equal(model.quantizer.counts, torch.ones(11)), (
        "encode moves the counts: in training the quantizer learns"
    )
    changed = [name or "model" for name, part in model.named_modules() if part.training != training]
    assert not changed, f"encode changes the mode of a part of the model: {changed}"
    tokens = torch.randint(0, 11, (5, 4, 4), generator=generator)
    with torch.no_grad(), unchanged(tokens):
        codes = look_up(codebook, tokens)
        mistakes = {
            "the codes are viewed as a map without a permute": lambda: model.decoder(
                codebook[tokens].reshape(5, d, 4, 4)
            ),
            "height and width are exchanged": model.decoder(codes.mT),
        }
        assert_close(
            model.decode(tokens), model.decoder(codes), rtol=1e-4, what="decoded tokens", mistakes=mistakes
        )


@pytest.mark.grades(*UNITS, "VQVAE")
@pytest.mark.parametrize("decay", [None, 0.9])
def test_whole_model(decay, generator):
    """All parts yours: in evaluation forward is decode after encode."""
    model = small(generator, decay=decay).eval()
    x = torch.rand(3, 1, 8, 8, generator=generator)
    with torch.no_grad():
        reconstruction, z, z_q, indices = model(x)
        expected = squared_distances(z.permute(0, 2, 3, 1), model.quantizer.codebook).argmin(-1)
        assert_close(indices, expected, what="indices")
        assert_close(model.encode(x), expected, what="encode")
        assert_close(z_q, look_up(model.quantizer.codebook, expected), rtol=1e-6, what="z_q")
        assert_close(model.decode(indices), reconstruction, rtol=1e-4, what="decode after encode")
