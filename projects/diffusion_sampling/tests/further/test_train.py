"""The judge of training. Oracles: values worked by hand, statistics of the draws, and that an interrupted run ends alike."""

import math
import os

import pytest
import torch
from oracles import DOUBLE
from torch.optim.optimizer import register_optimizer_step_pre_hook

import train
import unet
from shared.testing.checks import assert_close, expect_error, unchanged

# torch loads its compiler with the first optimizer, which alone takes seconds
pytestmark = pytest.mark.timeout(60)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.grades("load_split")
def test_load_split():
    """1437 digits to train on, 360 held out, in [-1, 1], no digit in both, every class in the same share."""
    split = train.load_split()
    assert split.train_images.shape == (1437, 1, 8, 8), f"shape {tuple(split.train_images.shape)}"
    assert split.held_images.shape == (360, 1, 8, 8), f"shape {tuple(split.held_images.shape)}"
    for images, labels in (split[:2], split[2:]):
        assert images.dtype == torch.float32, f"images must be float32, got {images.dtype}"
        assert labels.dtype == torch.int64, f"labels must be int64, got {labels.dtype}"
        low, high = float(images.min()), float(images.max())
        assert (low, high) == (-1.0, 1.0), f"pixels lie in [{low}, {high}], expected [-1, 1]"
        shares = labels.bincount(minlength=10) / len(labels)
        assert bool((shares > 0.09).all()), f"the split is not stratified: shares {shares.tolist()}"
    nearest = torch.cdist(split.held_images.flatten(1), split.train_images.flatten(1)).min(1).values
    assert float(nearest.min()) > 0, "a held-out digit is among those to train on"
    neighbour = torch.cdist(split.held_images.flatten(1), split.train_images.flatten(1)).argmin(1)
    agree = float((split.train_labels[neighbour] == split.held_labels).double().mean())
    assert agree > 0.95, (
        f"labels do not belong to their images: {agree:.0%} are like those of the nearest digit"
    )
    assert torch.equal(split.held_images, train.load_split().held_images), "two calls give two splits"


@pytest.mark.grades("draw_sigmas")
def test_draw_sigmas():
    """ln(σ) is normal with the given mean and deviation; the generator decides."""
    got = train.draw_sigmas(100_000, log_mean=-1.2, log_std=0.7, generator=seeded())
    log = got.double().log()
    assert got.shape == (100_000,), f"shape {tuple(got.shape)}"
    assert abs(float(log.mean()) + 1.2) < 0.01, f"ln(σ) has mean {float(log.mean()):.3f}, expected -1.2"
    assert abs(float(log.std()) - 0.7) < 0.01, f"ln(σ) has deviation {float(log.std()):.3f}, expected 0.7"
    beyond = float(((log + 1.2).abs() > 1.4).double().mean())
    assert 0.042 < beyond < 0.049, f"ln(σ) is not normal: {beyond:.1%} lie beyond two deviations"
    again = train.draw_sigmas(100_000, log_mean=-1.2, log_std=0.7, generator=seeded())
    assert torch.equal(got, again), "the generator is ignored"


@pytest.mark.grades("drop_labels")
def test_drop_labels():
    """About a share `rate` becomes no_class; the others stay, and so does the input."""
    labels = torch.randint(10, (20_000,), generator=seeded(1))
    with unchanged(labels):
        got = train.drop_labels(labels, 0.25, no_class=10, generator=seeded())
    dropped = got == 10
    assert abs(float(dropped.double().mean()) - 0.25) < 0.02, (
        f"{float(dropped.double().mean()):.1%} dropped, expected 25 %"
    )
    assert torch.equal(got[~dropped], labels[~dropped]), "labels that were kept have changed"
    assert bool((train.drop_labels(labels, 1.0, no_class=7, generator=seeded()) == 7).all()), (
        "rate 1 must drop all"
    )
    assert torch.equal(train.drop_labels(labels, 0.0, no_class=10, generator=seeded()), labels), (
        "rate 0 must drop none"
    )


@pytest.mark.grades("edm_loss")
def test_edm_loss_by_hand():
    """x0 = 1, noise = 2, σ = 4 and 0.5, σ_data = 3; D gives x/2. Errors 4.5 - 1 and 1 - 1; weight of the first 25/144."""
    x0, noise = torch.ones(2, 1, 1, 2, dtype=DOUBLE), torch.full((2, 1, 1, 2), 2.0, dtype=DOUBLE)
    x0[1] = 3.0  # second sample: x = 3 + 0.5·2 = 4, D = 2, error -1, weight 9.25/2.25
    seen = []

    def denoiser(x, sigma, labels):
        seen.append((x.clone(), sigma, labels))
        return x / 2

    sigma, labels = torch.tensor([4.0, 0.5], dtype=DOUBLE), torch.tensor([3, 7])
    got = train.edm_loss(denoiser, x0, sigma, noise, labels, sigma_data=3.0)
    first, second = 3.5**2 * 25 / 144, 1.0 * 9.25 / 2.25
    mistakes = {
        "the weight is missing": torch.tensor((3.5**2 + 1) / 2),
        "the weight is 1/σ², that of DDPM": torch.tensor((3.5**2 / 16 + 4) / 2),
        "the sum over pixels, not their mean": torch.tensor(first + second),
        "the weight is inverted": torch.tensor((3.5**2 * 144 / 25 + 2.25 / 9.25) / 2),
    }
    assert_close(
        got, torch.tensor((first + second) / 2, dtype=DOUBLE), rtol=1e-9, what="loss", mistakes=mistakes
    )
    assert_close(
        seen[0][0].flatten(), torch.tensor([9.0, 9.0, 4.0, 4.0], dtype=DOUBLE), what="state the denoiser gets"
    )
    assert torch.equal(seen[0][2], labels), "the labels do not reach the denoiser"


@pytest.mark.grades("edm_loss")
def test_edm_loss_gradient():
    """The gradient reaches the denoiser: d/da of the mean of λ·(a·x - x0)² is that of λ·2·x·(a·x - x0)."""
    a = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    x0, noise = torch.tensor([[1.0], [3.0]], dtype=DOUBLE), torch.tensor([[2.0], [2.0]], dtype=DOUBLE)
    sigma = torch.tensor([4.0, 0.5], dtype=DOUBLE)
    train.edm_loss(
        lambda x, sigma, labels: a * x, x0, sigma, noise, torch.zeros(2), sigma_data=3.0
    ).backward()
    expected = (25 / 144 * 2 * 9 * 3.5 + 9.25 / 2.25 * 2 * 4 * -1) / 2
    assert_close(a.grad, torch.tensor(expected, dtype=DOUBLE), rtol=1e-9, what="gradient of the loss")


@pytest.mark.grades("update_ema")
def test_update_ema():
    """decay·average + (1 - decay)·model, in place; the model stays."""
    average, model = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    with torch.no_grad():
        average.weight.copy_(torch.tensor([[1.0, -2.0]]))
        model.weight.copy_(torch.tensor([[11.0, 8.0]]))
    with unchanged(model.weight, model.bias):
        train.update_ema(average, model, 0.9)
    mistakes = {
        "decay and 1 - decay are swapped": torch.tensor([[10.0, 7.0]]),
        "nothing is averaged": torch.tensor([[1.0, -2.0]]),
    }
    assert_close(average.weight, torch.tensor([[2.0, -1.0]]), what="average", mistakes=mistakes)


@pytest.mark.grades("learning_rate")
def test_learning_rate():
    """Linear warm-up over 4 steps to 0.8, then a half cosine over 8 steps to 0."""
    config = train.TrainConfig(n_steps=12, warm_up=4, peak_rate=0.8)
    got = torch.tensor([train.learning_rate(step, config) for step in (0, 1, 3, 4, 8, 12)], dtype=DOUBLE)
    expected = torch.tensor([0.2, 0.4, 0.8, 0.8, 0.4, 0.0], dtype=DOUBLE)
    mistakes = {"the first step has rate 0: count from 1": torch.tensor([0.0, 0.2, 0.6, 0.8, 0.4, 0.0])}
    assert_close(got, expected, atol=1e-12, what="rate at steps 0, 1, 3, 4, 8, 12", mistakes=mistakes)
    quarter = train.learning_rate(6, config)
    assert abs(quarter - 0.4 * (1 + math.cos(math.pi / 4))) < 1e-9, (
        f"the decay is no half cosine: {quarter} at a quarter"
    )


TINY = {"n_steps": 5, "batch_size": 4, "width": 8, "warm_up": 2}


def digits(n=12):
    labels = torch.arange(n) % 10
    return torch.randn(n, 1, 8, 8, generator=seeded()).clamp(-1, 1), labels


def parameters(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


@pytest.mark.grades("train")
def test_train_is_reproducible():
    """The same config gives the same weights, another seed others; torch's global generator is not touched."""
    before = torch.get_rng_state()
    config = train.TrainConfig(**TINY)
    first, again = (parameters(train.train(config, *digits())) for _ in range(2))
    other = parameters(train.train(train.TrainConfig(**TINY, seed=1), *digits()))
    assert torch.equal(first, again), "two runs of one config differ: all randomness must come from its seed"
    assert not torch.equal(first, other), "the seed is ignored"
    assert torch.equal(torch.get_rng_state(), before), "training changed torch's global generator"


@pytest.mark.grades("train")
def test_what_the_network_is_shown(monkeypatch):
    """Each sample of a batch has its own image, label, σ and noise, and its label is that of its image or "no class".

    The images are constant, 0.2·label - 1, and σ is near 0.02: the label can be read from what the network gets.
    """
    x, c_noise, labels, forward = [], [], [], unet.UNet.forward

    def spy(self, *arguments):
        for values, argument in zip((x, c_noise, labels), arguments, strict=True):
            values.append(argument.detach().clone())
        return forward(self, *arguments)

    monkeypatch.setattr(unet.UNet, "forward", spy)
    classes = torch.arange(10)
    images = (0.2 * classes - 1.0).reshape(10, 1, 1, 1).expand(10, 1, 8, 8).contiguous()
    config = train.TrainConfig(
        n_steps=4, batch_size=64, width=8, log_mean=-4.0, log_std=0.5, drop_rate=0.3, sigma_data=0.7
    )
    train.train(config, images, classes)
    x, c_noise, labels = torch.cat(x), torch.cat(c_noise), torch.cat(labels)
    assert len(x) == 4 * 64, f"4 steps of 64 show the network {len(x)} samples"
    log_sigma = 4 * c_noise.double()
    assert len(log_sigma.unique()) > 250, "samples share their sigma: draw one for each"
    # five standard errors of 256 draws
    assert abs(float(log_sigma.mean()) + 4) < 5 * 0.5 / 16, (
        f"ln(σ) has mean {float(log_sigma.mean()):.2f}, not -4"
    )
    assert abs(float(log_sigma.std()) - 0.5) < 5 * 0.5 / 22, (
        f"ln(σ) has deviation {float(log_sigma.std()):.2f}"
    )
    states = x.double() * (log_sigma.exp() ** 2 + 0.49).sqrt().reshape(-1, 1, 1, 1)
    means = states.mean(dim=(1, 2, 3))
    shown = ((means + 1) / 0.2).round().long()
    assert set(shown.tolist()) == set(range(10)), (
        f"of 10 images the network has seen those of {set(shown.tolist())}"
    )
    assert len(shown.reshape(4, 64).unique(dim=0)) == 4, "every step shows the same images"
    dropped = labels == 10
    assert bool(dropped.any()), 'drop_rate has no effect: the network is never shown "no class"'
    share = float(dropped.double().mean())
    assert abs(share - 0.3) < 5 * 0.46 / 16, f"{share:.0%} of the labels are dropped, expected 30 %"
    assert torch.equal(labels[~dropped], shown[~dropped]), "a label does not belong to its image"
    noise = (
        (states - (0.2 * shown - 1).reshape(-1, 1, 1, 1)) / log_sigma.exp().reshape(-1, 1, 1, 1)
    ).flatten(1)
    assert abs(float(noise.std()) - 1) < 0.05, (
        f"the noise has deviation {float(noise.std()):.2f}·σ, expected σ"
    )
    assert float(noise.mean(dim=0).std()) < 0.1, "samples share their noise: draw it for each"


@pytest.mark.grades("train")
def test_rate_of_the_first_step():
    """Adam's first step moves what has a gradient by its rate: of 5 steps of warm-up to 0.01 the first has 0.002."""
    config = train.TrainConfig(
        n_steps=10, batch_size=4, width=8, warm_up=5, peak_rate=1e-2, ema_decay=0.0
    )  # with decay 0 the average is the model
    start, after = (parameters(train.train(config, *digits(), stop_after=n)) for n in (0, 1))
    moved = float((after - start).abs().max())
    assert abs(moved / 0.002 - 1) < 0.02, (
        f"the first step moves a parameter by {moved:.5f}, its rate is 0.002"
    )


@pytest.mark.grades("train")
def test_labels_are_dropped():
    """drop_rate = 1 trains on no class at all: other labels give the same bits. drop_rate = 0 trains on all of them."""
    images, labels = digits()
    for rate, alike in ((1.0, True), (0.0, False)):
        config = train.TrainConfig(**TINY, drop_rate=rate)
        one, other = (parameters(train.train(config, images, given)) for given in (labels, labels.flip(0)))
        assert torch.equal(one, other) == alike, (
            f"drop_rate has no effect: with {rate} two sets of labels give {'other' if alike else 'the same'} weights"
        )


@pytest.mark.grades("train")
@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 5},
        {"peak_rate": 3e-3},
        {"warm_up": 3},
        {"ema_decay": 0.01},
        {"sigma_data": 0.5},
        {"log_mean": -0.5},
        {"log_std": 0.7},
        {"n_steps": 4},
    ],
    ids=str,
)
def test_every_setting_counts(change):
    """Each number of the config changes the weights."""
    base = parameters(train.train(train.TrainConfig(**TINY), *digits()))
    other = parameters(train.train(train.TrainConfig(**TINY | change), *digits()))
    assert not torch.equal(base, other), f"{next(iter(change))} has no effect on the training"


@pytest.mark.grades("train")
def test_width_counts():
    """The width of the config is that of the network."""
    narrow, wide = (
        train.train(train.TrainConfig(**TINY | {"width": w, "n_steps": 1}), *digits()) for w in (8, 16)
    )
    assert len(parameters(wide)) > 2 * len(parameters(narrow)), "the width is ignored"


@pytest.mark.grades("train")
def test_average_follows_the_model():
    """What comes back is the average, not the model: with a decay near 1 it has hardly moved after the warm-up of the decay.

    The decay of step k, counted from 0, is min(ema_decay, (1 + k)/(10 + k)): with decay 0 the average is the model.
    """
    config = {**TINY, "n_steps": 8, "peak_rate": 1e-2}
    start = parameters(train.train(train.TrainConfig(**config), *digits(), stop_after=0))
    moved = [
        float((parameters(train.train(train.TrainConfig(**config, ema_decay=d), *digits())) - start).norm())
        for d in (0.0, 0.5, 0.9999)
    ]
    assert moved[1] < moved[0], "the model itself comes back, not its average"
    assert moved[2] <= moved[1], "a larger ema_decay must follow more slowly"
    assert moved[2] > 0.2 * moved[0], "the decay must be small in the first steps, (1 + step)/(10 + step)"


@pytest.mark.grades("train")
def test_stop_after(tmp_path):
    """A run goes to n_steps at most, and writes its checkpoint at the end of each call, in a folder it makes."""
    config, path = train.TrainConfig(**TINY), tmp_path / "new" / "run.pt"
    straight = parameters(train.train(config, *digits(), stop_after=99, checkpoint=path))
    assert torch.equal(straight, parameters(train.train(config, *digits()))), (
        "stop_after=99 runs past n_steps"
    )
    again = parameters(train.train(config, *digits(), checkpoint=path))
    assert torch.equal(again, straight), "a finished run goes on when it is called again"
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"], "a temporary file is left behind"


@pytest.mark.grades("train")
def test_exact_resume(tmp_path):
    """Stopped after 2 of 5 steps and resumed: the same bits as without the stop."""
    config = train.TrainConfig(**TINY)
    straight = parameters(train.train(config, *digits()))
    path = tmp_path / "run.pt"
    half = parameters(train.train(config, *digits(), checkpoint=path, stop_after=2))
    assert path.exists(), "no checkpoint was written"
    resumed = parameters(train.train(config, *digits(), checkpoint=path))
    assert not torch.equal(resumed, half), "the resumed run did not go on"
    assert torch.equal(resumed, straight), (
        "the resumed run ends elsewhere: a checkpoint needs the model, the average, the optimizer, the generator and the step"
    )


@pytest.mark.grades("train")
def test_checkpoint_of_another_run(tmp_path):
    """A checkpoint with another config is refused, not continued."""
    path = tmp_path / "run.pt"
    train.train(train.TrainConfig(**TINY), *digits(), checkpoint=path, stop_after=1)
    with expect_error(ValueError, "run.pt", otherwise="a checkpoint of another config is continued"):
        train.train(train.TrainConfig(**TINY, seed=3), *digits(), checkpoint=path)


@pytest.mark.grades("train")
def test_train_stops_at_nan():
    """A loss that is not finite ends the run at the step where it is seen."""
    images, labels = digits()
    with expect_error(FloatingPointError, "step 0", otherwise="training goes on with a loss of NaN"):
        train.train(train.TrainConfig(**TINY), images * math.nan, labels)


@pytest.mark.grades("train")
def test_train_learns():
    """60 steps on one image: the denoiser of the averaged weights beats the one that only scales x."""
    from preconditioning import precondition

    images, labels = digits(1)
    config = train.TrainConfig(n_steps=60, batch_size=16, width=8, warm_up=5, ema_decay=0.9, peak_rate=5e-3)
    model = train.train(config, images, labels)
    noise = torch.randn(16, 1, 8, 8, generator=seeded(5))
    sigma = torch.full((16,), 0.8)

    def loss(network):
        with torch.no_grad():
            return float(
                train.edm_loss(
                    precondition(network, sigma_data=0.75),
                    images.expand(16, 1, 8, 8),
                    sigma,
                    noise,
                    labels.expand(16),
                    sigma_data=0.75,
                )
            )

    untrained = loss(lambda x, c_noise, labels: torch.zeros_like(x))
    trained = loss(model)
    assert trained < 0.6 * untrained, (
        f"after 60 steps the loss is {trained:.3f}, untrained it is {untrained:.3f}"
    )


@pytest.mark.grades("save_weights", "load_weights")
def test_weights_file(tmp_path):
    """float16 in the file, float32 back, rounded once; sigma_data and the width come along."""
    config = train.TrainConfig(**TINY, sigma_data=0.6123456789)
    model = train.train(config, *digits())
    path = tmp_path / "new" / "deeper" / "weights.safetensors"
    train.save_weights(model, path, config=config)
    loaded, sigma_data = train.load_weights(path)
    assert sigma_data == 0.6123456789, f"sigma_data came back as {sigma_data}, written as 0.6123456789"
    assert not loaded.training, "the network comes back in training mode"
    expected = parameters(model).half().float()
    assert torch.equal(parameters(loaded), expected), (
        "the weights came back changed by more than their rounding to float16"
    )
    size = path.stat().st_size
    assert size < 2.4 * len(expected) + 4000, f"{size} bytes for {len(expected)} numbers: write float16"


@pytest.mark.grades("train")
def test_bfloat16_autocast_runs():
    """The branch that a GPU run takes, without compiling: bfloat16 autocast gives finite weights."""
    from unittest.mock import patch

    with patch("torch.compile", lambda model: model):
        model = train.train(train.TrainConfig(**TINY), *digits(), fast=True)
    assert bool(torch.isfinite(parameters(model)).all()), "bfloat16 autocast gave NaN or inf"
    assert parameters(model).dtype == torch.float32, "the weights themselves stay float32"


@pytest.mark.grades("train")
def test_what_the_optimizer_gets():
    """Adam's betas; gradients clipped to a norm of 1, which images a hundred times too large exceed, and ours do not."""
    images, labels = digits()
    seen = []

    def before_step(optimizer, args, kwargs):
        group = optimizer.param_groups[0]
        norms = [weight.grad.norm() for weight in group["params"] if weight.grad is not None]
        seen.append((tuple(group["betas"]), float(torch.stack(norms).norm())))

    handle = register_optimizer_step_pre_hook(before_step)
    try:
        train.train(train.TrainConfig(**TINY), images, labels)
        shorter = [norm for _, norm in seen]
        train.train(train.TrainConfig(**TINY), 100 * images, labels)
    finally:
        handle.remove()
    assert max(shorter) < 0.9, f"gradients shorter than 1 must stay as they are, their norms are {shorter}"
    assert all(betas == (0.9, 0.99) for betas, _ in seen), f"Adam's betas are {seen[0][0]}"
    largest = max(norm for _, norm in seen)
    assert 0.99 < largest < 1.01, (
        f"the largest gradient norm of a step is {largest:.3g}: it is to be clipped to 1"
    )


@pytest.mark.grades("train")
@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_command_line_device(tmp_path, monkeypatch, gpu):
    """--gpu trains on CUDA, compiled, and nothing else does; a checkpoint is kept unless one says where."""
    asked = []
    monkeypatch.setattr(train, "train", lambda *args, **options: asked.append(options) or unet.UNet(width=8))
    out = ["--out", str(tmp_path / "w.safetensors")]
    monkeypatch.setattr("sys.argv", ["train.py", *out, *(["--gpu"] if gpu else [])])
    train.main()
    got = str(asked[0].get("device", "cpu")), asked[0].get("fast", False)
    expected = ("cuda", True) if gpu else ("cpu", False)
    assert got == expected, (
        f"{'with' if gpu else 'without'} --gpu train gets device and fast {got}, not {expected}"
    )
    assert asked[0].get("checkpoint") is not None, "without --checkpoint nothing is kept"


@pytest.mark.grades("train", "save_weights", "load_weights")
def test_command_line(tmp_path, monkeypatch, capsys):
    """Two steps from the command line: the weights, with the config's sigma_data, where --out says, and a checkpoint."""
    out, checkpoint = tmp_path / "w.safetensors", tmp_path / "run.pt"
    monkeypatch.setattr(
        "sys.argv", ["train.py", "--steps", "2", "--out", str(out), "--checkpoint", str(checkpoint)]
    )
    train.main()
    assert checkpoint.exists(), "--checkpoint is ignored"
    model, sigma_data = train.load_weights(out)
    assert sigma_data == train.TrainConfig().sigma_data, f"sigma_data is {sigma_data}"
    data = train.load_split()
    again = train.train(
        train.TrainConfig(n_steps=2), data.train_images, data.train_labels, checkpoint=checkpoint
    )
    assert torch.equal(parameters(model), parameters(again).half().float()), "the weights are not the run's"
    assert str(out) in capsys.readouterr().out, "the command does not say what it wrote"


# --- half precision, lost updates -------------------------------------------------------------------------------------


@pytest.mark.grades("edm_loss")
def test_edm_loss_in_half_precision():
    """σ = 300 and errors near 300: neither σ² nor the squares fit into float16; the loss is float32."""
    half = torch.float16
    x0, noise = torch.tensor([[3.0], [-1.0]], dtype=half), torch.tensor([[1.0], [-2.0]], dtype=half)
    sigma = torch.tensor([300.0, 1e-3], dtype=half)
    got = train.edm_loss(lambda x, s, labels: x, x0, sigma, noise, torch.zeros(2), sigma_data=0.5)
    errors, s = (x0 + sigma[:, None] * noise - x0).double()[:, 0], sigma.double()
    expected = ((1 / s**2 + 4) * errors**2).mean().float()
    assert_close(
        got, expected, rtol=1e-3, what="loss of float16 data", hint="σ², or a square, is beyond float16"
    )


@pytest.mark.grades("edm_loss")
@pytest.mark.parametrize("shape", [(3, 1), (3, 1, 1, 1)], ids=str)
def test_edm_loss_of_a_column(shape, generator):
    """sigma of (batch, 1) is one per sample: three errors have three weights, not nine."""
    x0, noise = torch.randn(2, 3, 1, 2, 2, dtype=DOUBLE, generator=generator)
    sigma = torch.tensor([0.1, 1.0, 5.0], dtype=DOUBLE)

    def loss(level):
        return train.edm_loss(lambda x, s, labels: x / 2, x0, level, noise, torch.zeros(3), sigma_data=0.5)

    assert_close(
        loss(sigma.reshape(shape)), loss(sigma), rtol=1e-12, what=f"loss with sigma of shape {shape}"
    )


@pytest.mark.grades("edm_loss")
def test_edm_loss_of_another_shape():
    """An answer of another shape would be broadcast against x0."""
    x0, sigma = torch.ones(3, 1, 2, 2), torch.ones(3)
    with expect_error(ValueError, "(3, 1, 1, 1)", otherwise="an answer of shape (3, 1, 1, 1) is broadcast"):
        train.edm_loss(lambda x, s, labels: x[..., :1, :1], x0, sigma, x0, torch.zeros(3), sigma_data=0.5)


@pytest.mark.grades("update_ema")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_ema_of_half_precision(dtype):
    """A half-precision average never moves (0.001·0.5 is lost beside 1), so it is refused; of a half-precision model it is right."""
    model = torch.nn.Linear(1, 1, bias=False).to(dtype)
    average = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        average.weight.fill_(1.0)
        model.weight.fill_(1.5)
    for _ in range(2000):
        train.update_ema(average, model, 0.999)
    # float32 rounds each of 2000 steps by half a spacing, 6e-8, at most
    expected = torch.tensor([[1.5 - 0.5 * 0.999**2000]])
    assert_close(
        average.weight.detach(), expected, rtol=0.0, atol=1.2e-4, what="average of a half-precision model"
    )
    with expect_error(
        TypeError, str(dtype), otherwise=f"an average in {dtype}, which never moves, is accepted"
    ):
        train.update_ema(average.to(dtype), model, 0.999)


@pytest.mark.grades("update_ema")
@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan], ids=str)
def test_bad_decay(decay):
    """Beyond 0 and 1 an average leaves what it averages."""
    average, model = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    with (
        expect_error(ValueError, str(decay), otherwise=f"decay = {decay} is accepted"),
        unchanged(average.weight),
    ):
        train.update_ema(average, model, decay)


@pytest.mark.grades("drop_labels")
@pytest.mark.parametrize("rate", [-0.1, 1.5, math.nan], ids=str)
def test_bad_rate(rate):
    """NaN would drop nothing without a word."""
    with expect_error(ValueError, str(rate), otherwise=f"rate = {rate} is accepted"):
        train.drop_labels(torch.arange(5), rate, no_class=10, generator=seeded())


# --- what training refuses --------------------------------------------------------------------------------------------


@pytest.mark.grades("train")
@pytest.mark.parametrize("seed", range(8))
def test_one_bad_image(seed, monkeypatch):
    """One NaN image of 12: the step that first shows it ends the run, named; a run that never shows it ends well."""
    images, labels = digits()
    images[7, 0, 2, 3] = math.nan
    shown, forward = [], unet.UNet.forward

    def spy(self, x, *arguments):
        shown.append(bool(x.isnan().any()))
        return forward(self, x, *arguments)

    monkeypatch.setattr(unet.UNet, "forward", spy)
    config = train.TrainConfig(**TINY, seed=seed)
    message = None
    try:
        model = train.train(config, images, labels)
    except FloatingPointError as error:
        message = str(error)
    assert not any(shown[:-1]), f"the network is shown NaN ({shown}) and the run goes on"
    if shown[-1]:
        assert message is not None, f"the network is shown NaN ({shown}) and weights come back"
        assert f"step {len(shown) - 1}" in message, f"step {len(shown) - 1} has NaN, the message: {message}"
    else:
        assert message is None, f"the network is not shown NaN, the message: {message}"
        assert bool(torch.isfinite(parameters(model)).all()), "the weights are not finite"


@pytest.mark.grades("train")
def test_bad_step_is_not_saved(tmp_path):
    """NaN from step 3 on: the checkpoint is that of step 2, from which a run with good data goes on."""
    path, (images, labels) = tmp_path / "run.pt", digits()
    config = train.TrainConfig(**TINY)
    train.train(config, images, labels, checkpoint=path, stop_after=2)
    before = path.read_bytes()
    with expect_error(FloatingPointError, "step 2", otherwise="training goes on with a loss of NaN"):
        train.train(config, images * math.nan, labels, checkpoint=path)
    assert path.read_bytes() == before, "the checkpoint was overwritten"
    straight = train.train(config, images, labels)
    assert torch.equal(parameters(train.train(config, images, labels, checkpoint=path)), parameters(straight))


@pytest.mark.grades("train")
def test_train_stops_at_a_bad_gradient(monkeypatch):
    """A finite loss whose gradient is NaN, as that of a root at 0: one step would make every weight NaN."""
    forward = unet.UNet.forward

    def root_at_zero(self, *arguments):
        weight = next(self.parameters())
        return forward(self, *arguments) + (weight - weight.detach()).abs().sqrt().sum()

    monkeypatch.setattr(unet.UNet, "forward", root_at_zero)
    with expect_error(FloatingPointError, "step 0", otherwise="training goes on with a gradient of NaN"):
        train.train(train.TrainConfig(**TINY), *digits(), stop_after=1)


@pytest.mark.grades("train")
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"n_steps": 0}, ValueError),
        ({"n_steps": -3}, ValueError),
        ({"n_steps": 5.0}, TypeError),
        ({"batch_size": True}, TypeError),
        ({"batch_size": 0}, ValueError),
        ({"batch_size": "64"}, TypeError),
        ({"width": None}, TypeError),
        ({"warm_up": -1}, ValueError),
        ({"warm_up": math.inf}, TypeError),
        ({"peak_rate": math.nan}, ValueError),
        ({"peak_rate": 0.0}, ValueError),
        ({"peak_rate": "1e-3"}, TypeError),
        ({"ema_decay": math.nan}, ValueError),
        ({"ema_decay": 1.5}, ValueError),
        ({"drop_rate": math.nan}, ValueError),
        ({"drop_rate": -0.1}, ValueError),
        ({"sigma_data": 0.0}, ValueError),
        ({"sigma_data": math.inf}, ValueError),
        ({"log_mean": math.nan}, ValueError),
        ({"log_std": -1.0}, ValueError),
        ({"seed": 1.5}, TypeError),
        ({"seed": -1}, ValueError),
    ],
    ids=str,
)
def test_bad_config(change, error):
    """A setting that would train nothing, or NaN, is refused by its name."""
    (name,) = change
    with expect_error(error, name, otherwise=f"{change} is accepted"):
        train.TrainConfig(**change)


@pytest.mark.grades("train")
def test_numbers_of_numpy(tmp_path):
    """NumPy's numbers are numbers: the run is the same, and its checkpoint can be read again."""
    import numpy as np

    plain = train.TrainConfig(**TINY, ema_decay=0.5, peak_rate=1.0)
    config = train.TrainConfig(
        n_steps=np.int64(5),
        batch_size=np.int32(4),
        width=8,
        warm_up=2,
        ema_decay=np.float64(0.5),
        peak_rate=1,
    )
    assert config == plain
    path = tmp_path / "run.pt"
    train.train(config, *digits(), checkpoint=path, stop_after=2)
    resumed = train.train(plain, *digits(), checkpoint=path)
    assert torch.equal(parameters(resumed), parameters(train.train(plain, *digits())))


@pytest.mark.grades("train")
@pytest.mark.parametrize(
    ("change", "error", "mention"),
    [
        (lambda images, labels: ((8 * images + 8).byte(), labels), TypeError, "uint8"),
        (lambda images, labels: (images.double(), labels), TypeError, "float64"),
        (lambda images, labels: (images, labels.float()), TypeError, "float32"),
        (lambda images, labels: (images[:, 0], labels), ValueError, "(12, 8, 8)"),
        (lambda images, labels: (images, labels[:11]), ValueError, "(11,)"),
        (lambda images, labels: (images, labels[:, None]), ValueError, "(12, 1)"),
        (lambda images, labels: (images[:0], labels[:0]), ValueError, "(0, 1, 8, 8)"),
        (lambda images, labels: (images, labels + 2), ValueError, "11"),
        (lambda images, labels: (images, labels - 1), ValueError, "-1"),
    ],
    ids=[
        "uint8",
        "float64",
        "float labels",
        "no channels",
        "fewer labels",
        "a column",
        "nothing",
        "large",
        "negative",
    ],
)
def test_bad_data(change, error, mention):
    """Images and labels that do not fit are refused before the first step."""
    with expect_error(error, mention, otherwise="images or labels that do not fit are accepted"):
        train.train(train.TrainConfig(**TINY), *change(*digits()))


@pytest.mark.grades("train")
@pytest.mark.parametrize("stop_after", [2.5, 2.0, True, "2"], ids=repr)
def test_stop_after_is_a_count(stop_after):
    """2.5 would be three steps and no checkpoint."""
    with expect_error(
        TypeError, "stop_after", repr(stop_after), otherwise=f"stop_after = {stop_after!r} is accepted"
    ):
        train.train(train.TrainConfig(**TINY), *digits(), stop_after=stop_after)


@pytest.mark.grades("train")
def test_stop_after_in_the_past(tmp_path):
    """A run cannot stop where it has been: what comes back would be the average of a later step."""
    path, config = tmp_path / "run.pt", train.TrainConfig(**TINY)
    with expect_error(ValueError, "stop_after", otherwise="stop_after = -1 is accepted"):
        train.train(config, *digits(), stop_after=-1)
    train.train(config, *digits(), checkpoint=path, stop_after=3)
    with expect_error(
        ValueError, "stop_after", "3", otherwise="the average of step 3 comes back for stop_after=2"
    ):
        train.train(config, *digits(), checkpoint=path, stop_after=2)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("train")
@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 5},
        {"peak_rate": 3e-3},
        {"ema_decay": 0.5},
        {"sigma_data": 0.5},
        {"n_steps": 6},
        {"drop_rate": 0.5},
        {"log_std": 1.0},
        {"log_mean": 0.0},
        {"warm_up": 1},
        {"width": 16},
        {"seed": 3},
    ],
    ids=str,
)
def test_changed_option_on_resume(tmp_path, change):
    """What the checkpoint was made with, and what is wanted now, by name: no option changes without a word."""
    path, (name,) = tmp_path / "run.pt", change
    train.train(train.TrainConfig(**TINY), *digits(), checkpoint=path, stop_after=1)
    with expect_error(
        ValueError, "run.pt", name, str(change[name]), otherwise=f"{name} is changed on resume"
    ):
        train.train(train.TrainConfig(**TINY | change), *digits(), checkpoint=path)


@pytest.mark.grades("train")
@pytest.mark.parametrize("content", ["empty", "cut", "text", "list", "string", "other", "forgetful"])
def test_not_a_checkpoint(tmp_path, content):
    """A file that is no checkpoint, or not all of one, is refused by its name."""
    path, config = tmp_path / "run.pt", train.TrainConfig(**TINY)
    train.train(config, *digits(), checkpoint=path, stop_after=1)
    if content in ("empty", "cut", "text"):
        whole = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not a checkpoint"}[content]
        )
    else:
        state = torch.load(path, weights_only=True)
        forgetful = {name: value for name, value in state.items() if name != "average"}
        other = {"list": [1, 2], "string": "run", "other": {"weight": torch.ones(3)}, "forgetful": forgetful}
        torch.save(other[content], path)
    with expect_error(ValueError, "run.pt", otherwise=f"a file ({content}) is continued, or not named"):
        train.train(config, *digits(), checkpoint=path)


@pytest.mark.grades("load_weights")
@pytest.mark.parametrize("content", ["empty", "cut", "text", "judge", "width"])
def test_not_the_weights(tmp_path, content):
    """A file that `save_weights` has not written is refused by its name."""
    from safetensors.torch import save_file

    path, config = tmp_path / "mine.safetensors", train.TrainConfig(**TINY)
    train.save_weights(unet.UNet(width=8), path, config=config)
    whole = path.read_bytes()
    if content == "judge":
        save_file({"head.weight": torch.ones(10, 64)}, path)
    elif content == "width":
        train.save_weights(unet.UNet(width=16), path, config=config)
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not weights"}[content])
    with expect_error(ValueError, "mine.safetensors", otherwise=f"a file ({content}) is read, or not named"):
        train.load_weights(path)


@pytest.mark.grades("save_weights")
@pytest.mark.parametrize("value", [1e5, math.nan], ids=str)
def test_weights_beyond_half_precision(tmp_path, value):
    """1e5 is infinite in float16: nothing is written, and the parameter is named."""
    path, model = tmp_path / "weights.safetensors", unet.UNet(width=8)
    with torch.no_grad():
        model.state_dict()["mix.bias"][3] = value
    with expect_error(ValueError, "mix.bias", otherwise=f"a weight of {value} is written as float16"):
        train.save_weights(model, path, config=train.TrainConfig(**TINY))
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.grades("train", "save_weights")
def test_files_are_on_the_disk(tmp_path, monkeypatch):
    """A checkpoint and the weights are written to the disk before they get their name: a crash leaves no empty file."""
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("replace"), replace(*names))[1])
    config = train.TrainConfig(**TINY)
    model = train.train(config, *digits(), checkpoint=tmp_path / "run.pt", stop_after=1)
    assert events == ["fsync", "replace"], f"{events}: flush the checkpoint to the disk, then rename"
    events.clear()
    train.save_weights(model, tmp_path / "w.safetensors", config=config)
    assert events == ["fsync", "replace"], f"{events}: flush the weights to the disk, then rename"


@pytest.mark.grades("train")
@pytest.mark.parametrize("steps", ["0", "-5"])
def test_command_line_without_steps(tmp_path, monkeypatch, capsys, steps):
    """No steps would write an untrained network: refused by the option's name, and nothing is written."""
    out = tmp_path / "w.safetensors"
    monkeypatch.setattr(
        "sys.argv",
        ["train.py", "--steps", steps, "--out", str(out), "--checkpoint", str(tmp_path / "run.pt")],
    )
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 2, f"--steps {steps} ends with {stop.value.code}"
    assert "--steps" in capsys.readouterr().err.splitlines()[-1], "the message does not name --steps"
    assert not list(tmp_path.iterdir()), "something was written"
