"""The judge of the evaluation. Oracles: closed forms, SciPy's matrix root, plain loops."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from oracles import DOUBLE

import evaluate
from shared.testing.checks import assert_close, expect_error

pytestmark = pytest.mark.timeout(
    60
)  # torch loads its compiler with the first optimizer, which alone takes seconds
JUDGE = Path(__file__).resolve().parents[2] / "weights" / "judge.safetensors"


@pytest.mark.grades("frechet_distance")
def test_frechet_by_hand():
    """One dimension: (difference of means)² + (difference of deviations)²; 0 for equal sets."""
    a = torch.tensor([[0.0], [2.0]], dtype=DOUBLE)  # mean 1, variance 2
    b = torch.tensor([[1.0], [9.0]], dtype=DOUBLE)  # mean 5, variance 32
    got = evaluate.frechet_distance(a, b)
    assert abs(got - (16 + 34)) > 1e-6, "the cross term is missing: subtract twice the root's trace"
    assert abs(got - (4 + 18)) > 1e-6, "the difference of the means is not squared"
    expected = 16 + (32**0.5 - 2**0.5) ** 2
    assert abs(got - (16 + (16**0.5 - 1) ** 2)) > 1e-6, "the covariance divides by n; it divides by n - 1"
    assert abs(got - expected) < 1e-9, f"got {got}, expected {expected}"
    assert evaluate.frechet_distance(a, a) < 1e-9, "the distance of a set to itself must be 0"


@pytest.mark.grades("frechet_distance")
def test_frechet_equals_scipy(generator):
    """Correlated features, against SciPy's matrix square root; also where the covariance has no full rank."""
    mix = torch.randn(6, 6, dtype=DOUBLE, generator=generator)
    for n in (500, 4):
        a = torch.randn(n, 6, dtype=DOUBLE, generator=generator) @ mix
        b = 0.5 + torch.randn(300, 6, dtype=DOUBLE, generator=generator)
        cov_a, cov_b = np.cov(a.T.numpy()), np.cov(b.T.numpy())
        eigenvalues = scipy.linalg.eigvals(cov_a @ cov_b).real.clip(min=0)
        expected = (
            float((a.mean(0) - b.mean(0)).square().sum())
            + np.trace(cov_a + cov_b)
            - 2 * np.sqrt(eigenvalues).sum()
        )
        got = evaluate.frechet_distance(a, b)
        assert isinstance(got, float), f"a float is wanted, got {type(got).__name__}"
        assert abs(got / expected - 1) < 1e-5, f"got {got}, expected {expected}"


@pytest.mark.grades("frechet_distance")
@pytest.mark.parametrize("shapes", [((5, 3), (5, 4)), ((1, 3), (5, 3)), ((5,), (5,))], ids=str)
def test_bad_features(shapes):
    """Sets that cannot be compared are refused."""
    with expect_error(ValueError, str(shapes[0]), otherwise=f"features of shapes {shapes} are accepted"):
        evaluate.frechet_distance(torch.ones(shapes[0]), torch.ones(shapes[1]))


@pytest.mark.grades("nearest_distance")
def test_nearest_distance():
    """3-4-5 triangles: the nearest of two reference points, one distance per sample, images flattened."""
    reference = torch.tensor([[[0.0, 0.0]], [[10.0, 0.0]]])
    samples = torch.tensor([[[3.0, 4.0]], [[10.0, 1.0]], [[0.0, 0.0]]])
    mistakes = {
        "the distances are squared": torch.tensor([25.0, 1.0, 0.0]),
        "this is the farthest": torch.tensor([65**0.5, 101**0.5, 10.0]),
    }
    assert_close(
        evaluate.nearest_distance(samples, reference),
        torch.tensor([5.0, 1.0, 0.0]),
        atol=1e-5,
        what="distances",
        mistakes=mistakes,
    )


@pytest.mark.grades("diversity")
def test_diversity():
    """Class 0: points 0, 3, 4 with pairs 3, 4, 1, mean 8/3; class 5: one pair, 10; class 7 has one point only."""
    samples = torch.tensor([[0.0], [100.0], [3.0], [4.0], [110.0], [7.0]])
    labels = torch.tensor([0, 5, 0, 0, 5, 7])
    got = evaluate.diversity(samples, labels)
    assert abs(got - (8 / 3 * 3 + 10) / 4) > 1e-4, "every class counts alike, not every pair"
    zero = (8 / 3 * 6 / 9 + 5) / 2
    assert abs(got - zero) > 1e-4, "a sample is compared with itself"
    assert abs(got - (8 / 3 + 10) / 2) < 1e-5, f"got {got}, expected {(8 / 3 + 10) / 2}"
    with expect_error(ValueError, "[1, 2]", otherwise="classes of one sample each have a diversity"):
        evaluate.diversity(samples[:2], torch.tensor([1, 2]))


@pytest.mark.grades("Judge")
def test_judge(generator):
    """Logits for ten classes from features of 64; accuracy counts them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = evaluate.Judge()
    images = torch.randn(7, 1, 8, 8, generator=generator)
    assert judge.features(images).shape == (7, 64), (
        f"features have shape {tuple(judge.features(images).shape)}"
    )
    assert bool((judge.features(images) >= 0).all()), "the features are those after the second ReLU"
    logits = judge(images)
    assert logits.shape == (7, 10), f"logits have shape {tuple(logits.shape)}"
    best = logits.argmax(1)
    assert judge.accuracy(images, best) == 1.0, "the class of the largest logit is the answer"
    wrong = best.clone()
    wrong[:3] = (wrong[:3] + 1) % 10
    assert math.isclose(judge.accuracy(images, wrong), 4 / 7, rel_tol=1e-6), (
        f"3 of 7 are wrong, accuracy {judge.accuracy(images, wrong)}"
    )


@pytest.mark.grades("fit_judge")
def test_fit_judge(monkeypatch, generator):
    """Two kinds of images that differ in one half are told apart after a few steps; the seed decides."""
    labels = torch.randint(2, (60,), generator=generator)
    images = 0.3 * torch.randn(60, 1, 8, 8, generator=generator)
    images[:, 0, :4] += labels[:, None, None] * 1.0
    first, again = (evaluate.fit_judge(images, labels, n_steps=20, seed=3) for _ in range(2))
    assert first.accuracy(images, labels) > 0.9, (
        f"accuracy {first.accuracy(images, labels):.2f} on two plain classes"
    )
    assert torch.equal(first(images), again(images)), "the same seed gives two judges"
    shown, forward = [], evaluate.Judge.forward
    monkeypatch.setattr(
        evaluate.Judge, "forward", lambda self, x: shown.append(x.clone()) or forward(self, x)
    )
    other = evaluate.fit_judge(images, labels, n_steps=20, seed=4)
    assert len(shown) == 20, f"20 steps ask the judge {len(shown)} times"
    assert not torch.equal(shown[0], shown[1]), "every step shows the same images: the noise is missing"
    monkeypatch.undo()
    assert not torch.equal(first(images), other(images)), "the seed is ignored"


@pytest.mark.grades("load_judge", "Judge")
def test_load_judge(tmp_path, generator):
    """The judge of a state_dict's file, with the same answers; ready to use, torch's global generator untouched."""
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(3)
        judge = evaluate.Judge()
    save_file(judge.state_dict(), tmp_path / "judge.safetensors")
    before = torch.get_rng_state()
    loaded = evaluate.load_judge(tmp_path / "judge.safetensors")
    assert torch.equal(torch.get_rng_state(), before), "load_judge changed torch's global generator"
    images = torch.randn(7, 1, 8, 8, generator=generator)
    assert torch.equal(loaded(images), judge(images)), "the loaded judge answers differently"
    assert not loaded.training, "the judge comes back in training mode"
    assert not any(parameter.requires_grad for parameter in loaded.parameters()), (
        "its parameters want gradients"
    )


@pytest.mark.grades("load_judge")
def test_committed_judge():
    """The committed classifier reads at least 96 % of the held-out digits, which it never saw."""
    from train import load_split

    data = load_split()
    committed = JUDGE.with_name(evaluate.WEIGHTS.name)
    accuracy = evaluate.load_judge(committed).accuracy(data.held_images, data.held_labels)
    assert accuracy >= 0.96, f"the judge reads {accuracy:.1%} of the held-out digits"


@pytest.mark.grades("evaluate", "load_judge")
def test_evaluate_real_digits():
    """The held-out digits themselves: every number equals its floor."""
    from train import load_split

    data = load_split()
    judge = evaluate.load_judge(JUDGE)
    report = evaluate.evaluate(data.held_images, data.held_labels, judge=judge)
    for name in ("frechet", "nearest", "diversity"):
        got, floor = getattr(report, name), getattr(report, f"{name}_floor")
        assert floor > 0, f"the floor of {name} is {floor}"
        assert abs(got / floor - 1) < 1e-6, f"{name} of the held-out digits is {got}, its floor {floor}"
    copies = evaluate.evaluate(data.train_images[:360], data.train_labels[:360], judge=judge)
    assert copies.nearest < 0.01, f"copies of training digits have nearest distance {copies.nearest}"


class Fake(torch.nn.Module):
    """A network that answers a tenth of its input, more for larger labels; it counts calls in half precision."""

    def __init__(self):
        super().__init__()
        self.half, self.levels = [], []

    def forward(self, x, c_noise, labels):
        self.levels.append(float((4 * c_noise).exp().max()))  # c_noise is ln(sigma) / 4
        self.half.append(torch.is_autocast_enabled("cpu"))
        return 0.1 * x + 0.01 * labels[:, None, None, None]


@pytest.mark.grades("draw_digits")
def test_draw_digits(monkeypatch):
    """Heun-18, so 35 calls; the seed decides, w and the labels count; `fast` compiles and casts the network."""
    labels, model = torch.tensor([1, 9, 4]), Fake()
    first = evaluate.draw_digits(model, labels, sigma_data=0.7)
    assert first.shape == (3, 1, 8, 8), f"shape {tuple(first.shape)}"
    assert model.half == [False] * 35, (
        f"{len(model.half)} calls of the network, expected 35 for 18 steps of Heun"
    )
    assert torch.equal(first, evaluate.draw_digits(model, labels, sigma_data=0.7)), (
        "the same seed, other digits"
    )
    assert torch.equal(first, evaluate.draw_digits(model, labels, sigma_data=0.7, w=1.0)), "without w it is 1"
    for change in ({"seed": 1}, {"w": 0.0}, {"n_steps": 5}, {"sigma_data": 0.3}):
        other = evaluate.draw_digits(model, labels, **{"sigma_data": 0.7} | change)
        assert not torch.equal(first, other), f"{next(iter(change))} is ignored"

    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    model.half.clear()
    fast = evaluate.draw_digits(model, labels, sigma_data=0.7, fast=True)
    assert compiled == [model], "fast must compile the network"
    assert all(model.half), "fast must run the network under bfloat16 autocast"
    assert fast.dtype == torch.float32, f"the state must stay float32, got {fast.dtype}"
    assert float((fast - first).abs().max()) < 0.05, "fast changes the digits by more than its rounding"


@pytest.mark.grades("draw_digits")
def test_draws_on_the_grid():
    """From σ = 20 to 0.005: Heun asks at both ends of each step, but not at 0."""
    model = Fake()
    evaluate.draw_digits(model, torch.tensor([1]), sigma_data=0.7, n_steps=2)
    expected = [20.0, 0.005, 0.005]
    close = len(model.levels) == 3 and all(
        math.isclose(*pair, rel_tol=1e-4) for pair in zip(model.levels, expected, strict=True)
    )
    assert close, f"the network is asked at σ = {model.levels}, expected {expected}"


@pytest.mark.grades("draw_digits", "evaluate")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"w": 1.0, "n_steps": 18, "device": "cpu", "fast": False}),
        (
            ["--guidance", "2", "--steps", "3", "--gpu"],
            {"w": 2.0, "n_steps": 3, "device": "cuda", "fast": True},
        ),
    ],
    ids=["default", "all"],
)
def test_command_line_draws(monkeypatch, capsys, arguments, expected):
    """The options reach `draw_digits`; what `evaluate` says of its images and the held-out labels is printed."""
    asked, judged, images = [], [], torch.zeros(360, 1, 8, 8)
    report = evaluate.Report(*(i / 8 for i in range(1, 8)))
    monkeypatch.setattr(evaluate, "DIGITS", JUDGE.with_name(evaluate.DIGITS.name))

    def draw(model, labels, *, sigma_data, w=1.0, n_steps=18, seed=0, device="cpu", fast=False):
        asked.append((labels, {"w": w, "n_steps": n_steps, "device": str(device), "fast": fast}))
        return images

    def judge_them(samples, labels, *, judge=None):
        judged.append((samples, labels))
        return report

    monkeypatch.setattr(evaluate, "draw_digits", draw)
    monkeypatch.setattr(evaluate, "evaluate", judge_them)
    monkeypatch.setattr("sys.argv", ["evaluate.py", *arguments])
    evaluate.main()
    labels, options = asked[0]
    assert options == expected, f"{arguments} draws with {options}, expected {expected}"
    assert judged[0][0] is images, "other images are judged than were drawn"
    assert torch.equal(judged[0][1], labels), "the images are judged by other labels than they were drawn for"
    out = capsys.readouterr().out
    assert all(f"{value:.3f}" in out for value in report), f"the report is not printed: {out}"


@pytest.mark.grades("fit_judge", "load_judge", "Judge")
def test_command_line(tmp_path, monkeypatch, capsys):
    """--fit-judge writes a judge that reads digits, in a folder it makes."""
    out = tmp_path / "new" / "deeper" / "judge.safetensors"
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--fit-judge", "--out", str(out)])
    evaluate.main()
    assert str(out) in capsys.readouterr().out, "the command does not say what it wrote"
    from train import load_split

    data = load_split()
    accuracy = evaluate.load_judge(out).accuracy(data.held_images, data.held_labels)
    assert accuracy > 0.95, (
        f"the judge reads {accuracy:.1%} of the held-out digits: not fitted, or labels do not belong to their images"
    )


# --- what is not computed ---------------------------------------------------------------------------------------------


@pytest.mark.grades("nearest_distance")
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_copies_have_no_distance(offset, generator):
    """40 of 64 numbers: a copy is at distance 0, a change of one number by 2^-6 is seen; |x|² - 2x·r + |r|² sees neither."""
    images = (torch.randn(40, 1, 8, 8, generator=generator) * 64).round() / 64 + offset
    moved = images.clone()
    moved[:, 0, 3, 3] += 2.0**-6
    got = evaluate.nearest_distance(moved, images)
    hint = "cancellation: compute differences, not |x|² - 2x·r + |r|²"
    expected = torch.full((40,), 2.0**-6)
    assert_close(got, expected, what="distances", hint=hint, vacuous_ok="every image is moved alike")
    assert not bool(evaluate.nearest_distance(images, images).any()), f"a copy has a distance: {hint}"


@pytest.mark.grades("nearest_distance", "diversity")
def test_samples_of_numbers():
    """Samples without further axes are numbers."""
    samples, labels = torch.tensor([0.0, 3.0, 10.0]), torch.tensor([1, 1, 2])
    got = evaluate.nearest_distance(samples, torch.tensor([1.0, 9.0]))
    assert_close(got, torch.tensor([1.0, 2.0, 1.0]), what="distances of numbers")
    assert evaluate.diversity(samples, labels) == 3.0


@pytest.mark.grades("Judge")
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_accuracy_of_nothing(value, generator):
    """The class of the largest of ten NaN is 0: an image that is none would be a right 0."""
    images, labels = torch.randn(5, 1, 8, 8, generator=generator), torch.zeros(5, dtype=torch.long)
    images[2, 0, 1, 1] = value
    judge = evaluate.load_judge(JUDGE)
    with expect_error(ValueError, "images", "finite", otherwise=f"images with {value} are read as digits"):
        judge.accuracy(images, labels)


@pytest.mark.grades("Judge")
@pytest.mark.parametrize("shape", [(5, 1), (1,), (4,), ()], ids=str)
def test_accuracy_of_other_labels(shape, generator):
    """(n, 1) labels would be compared with every image."""
    images = torch.randn(5, 1, 8, 8, generator=generator)
    with expect_error(
        ValueError, str(shape), otherwise=f"labels of shape {shape} are compared with 5 images"
    ):
        evaluate.load_judge(JUDGE).accuracy(images, torch.zeros(shape, dtype=torch.long))


@pytest.mark.grades("frechet_distance")
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_frechet_of_nothing(value, generator):
    """Features that are no numbers have no mean; the message is not one of a solver that does not converge."""
    a, b = torch.randn(2, 6, 3, generator=generator)
    b[1, 2] = value
    for pair in ((a, b), (b, a)):
        with expect_error(ValueError, "features", "finite", otherwise=f"features with {value} are accepted"):
            evaluate.frechet_distance(*pair)


@pytest.mark.grades("fit_judge")
@pytest.mark.parametrize("n_steps", [0, -1])
def test_fit_judge_needs_steps(n_steps):
    """No step is no training."""
    with expect_error(ValueError, str(n_steps), otherwise=f"n_steps = {n_steps} gives an untrained judge"):
        evaluate.fit_judge(torch.ones(2, 1, 8, 8), torch.tensor([0, 1]), n_steps=n_steps)


@pytest.mark.grades("fit_judge")
def test_fit_judge_needs_numbers():
    """One NaN makes every weight NaN, and all digits a 0."""
    images = torch.ones(2, 1, 8, 8)
    images[0, 0, 0, 0] = math.nan
    with expect_error(ValueError, "images", "finite", otherwise="a judge of NaN comes back"):
        evaluate.fit_judge(images, torch.tensor([0, 1]), n_steps=2)


# --- files and options ------------------------------------------------------------------------------------------------


@pytest.mark.grades("load_judge")
@pytest.mark.parametrize("content", ["empty", "cut", "text", "others"])
def test_judge_of_another_file(tmp_path, content):
    """A file that holds no judge is refused by its name."""
    path, whole = tmp_path / "mine.safetensors", JUDGE.read_bytes()
    others = JUDGE.with_name("digits.safetensors").read_bytes()
    path.write_bytes(
        {"empty": b"", "cut": whole[:3000], "text": b"not a judge at all", "others": others}[content]
    )
    with expect_error(ValueError, "mine.safetensors", otherwise=f"a file ({content}) is no judge"):
        evaluate.load_judge(path)


@pytest.mark.grades("draw_digits", "fit_judge")
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--fit-judge", "--steps", "5"], "--steps"),
        (["--fit-judge", "--guidance", "0"], "--guidance"),
        (["--fit-judge", "--gpu"], "--gpu"),
        (["--out", "judge.safetensors"], "--out"),
        (["--out", "judge.safetensors", "--steps", "5"], "--out"),
    ],
    ids=str,
)
def test_options_without_effect(monkeypatch, capsys, arguments, name):
    """An option that the command would not look at is refused by its name, before anything is drawn or fitted."""
    monkeypatch.setattr(
        evaluate, "draw_digits", lambda *args, **options: pytest.fail(f"{arguments} draws digits")
    )
    monkeypatch.setattr(
        evaluate, "fit_judge", lambda *args, **options: pytest.fail(f"{arguments} fits a judge")
    )
    monkeypatch.setattr("sys.argv", ["evaluate.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        evaluate.main()
    assert stop.value.code == 2, f"{arguments} ends with {stop.value.code}"
    message = capsys.readouterr().err.splitlines()[-1]
    assert name in message, f"the message does not name {name}: {message}"


@pytest.mark.grades("fit_judge")
def test_judge_is_on_the_disk(tmp_path, monkeypatch, capsys):
    """The old judge is replaced by a whole new one: written to the disk before it gets its name."""
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("replace"), replace(*names))[1])
    monkeypatch.setattr(evaluate, "fit_judge", lambda images, labels: evaluate.load_judge(JUDGE))
    monkeypatch.setattr(
        "sys.argv", ["evaluate.py", "--fit-judge", "--out", str(tmp_path / "judge.safetensors")]
    )
    evaluate.main()
    assert events == ["fsync", "replace"], f"{events}: flush to the disk, then rename"
    assert [path.name for path in tmp_path.iterdir()] == ["judge.safetensors"], (
        "a temporary file is left behind"
    )
