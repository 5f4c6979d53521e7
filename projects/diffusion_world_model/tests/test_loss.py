"""The denoiser's loss. Oracle: what the network was asked says σ and x; the rest is worked out again in float64.

A right answer may draw its numbers in any order, so the levels and the noise are judged by their laws, in thousands of frames.
"""

import pytest
import torch
from oracles import bytes_of, gradients, lend, level, seeded
from toys import Watched, labels

import diffusion_world_model
from shared.testing.checks import assert_close, unchanged

pytestmark = pytest.mark.grades("denoiser_loss")


@pytest.fixture(autouse=True)
def lent(monkeypatch):
    """The other units of the learner's need not be written."""
    lend(monkeypatch, "preconditioning", "to_bytes", "denoise")


def segment(n_games, n_past, n, generator, size=(2, 3)):
    """Frames in [-1, 1], actions that say which they are, all valid."""
    frames = 2 * torch.rand(n_games, n_past + n, *size, generator=generator) - 1
    return frames, labels(n_games, n_past + n - 1), torch.ones(n_games, n, dtype=torch.bool)


def ask(frames, actions, valid, network=None, seed=0):
    """The loss, the network that was asked, and what it was asked."""
    network = network or Watched()
    loss = diffusion_world_model.denoiser_loss(network, frames, actions, valid, generator=seeded(seed))
    return loss, network, network.table(*valid.shape)


def errors_of(table, clean):
    """Mean squared error of each frame, (B, n), float64."""
    target = (clean.double() - table["c_skip"] * table["x"]) / table["c_out"]
    return (table["outputs"] - target).square().mean((2, 3))


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_games", "n"), [(5, 1), (5, 3), (1, 2)])
def test_scalar(n_games, n, generator):
    """A float32 scalar that leads back to the network; inputs stay as they are."""
    frames, actions, valid = segment(n_games, 4, n, generator)
    network = Watched()
    with unchanged(frames, actions, valid):
        loss = diffusion_world_model.denoiser_loss(network, frames, actions, valid, generator=seeded())
    assert loss.shape == (), "the loss is a scalar: one number for all frames"
    assert loss.dtype == torch.float32, f"the loss is {loss.dtype}, expected float32"
    gradients(loss, (network.weights,))


def distinct(calls, which):
    """What the network was asked, one after the other, without what it was asked twice running."""
    seen = []
    for call in calls:
        if not seen or not torch.allclose(call[0], seen[-1][0], atol=1e-4):
            seen.append(call)
    return [call[which] for call in seen]


# --- what the network is asked ----------------------------------------------------------------------------------------


def test_actions(generator):
    """Frame L + i comes of the actions i … L + i - 1: the last one at the newest frame of the history."""
    frames, actions, valid = segment(4, 3, 3, generator)
    network = Watched()
    diffusion_world_model.denoiser_loss(network, frames, actions, valid, generator=seeded())
    seen = distinct(network.calls, 3)
    assert len(seen) == 3, f"the network is asked for {len(seen)} frames one after the other, valid has n = 3"
    expected = torch.stack([actions[:, i : i + 3] for i in range(3)])
    late = torch.cat([actions[:, :1], actions], dim=1)
    mistakes = {
        "the action is aligned one step late: the newest one leads to the frame that is predicted": torch.stack(
            [late[:, i : i + 3] for i in range(3)]
        ),
        "the actions do not move on: step i has actions i … L + i - 1": expected[:1].expand(3, -1, -1),
        "the actions are turned round: the oldest comes first": expected.flip(2),
    }
    assert_close(torch.stack(seen), expected, what="actions that the network gets", mistakes=mistakes)


def test_first_history(generator):
    """The L frames before the one that is predicted, the oldest first."""
    frames, actions, valid = segment(4, 3, 2, generator)
    _, _, table = ask(frames, actions, valid)
    mistakes = {
        "the newest frame comes first in the history: the oldest does": frames[:, :3].flip(1),
        "the history contains the frame that is to be predicted": frames[:, 1:4],
    }
    what = "history of the first step"
    assert_close(table["histories"][:, 0], frames[:, :3], rtol=0, what=what, mistakes=mistakes)


def test_a_long_history(generator):
    """L is what frames and valid leave: six here."""
    frames, actions, valid = segment(4, 6, 1, generator)
    _, _, table = ask(frames, actions, valid)
    got = table["histories"][:, 0]
    assert got.shape[1] == 6, f"the network gets a history of {got.shape[1]} frames: L + n are 7, so L is 6"
    assert_close(got, frames[:, :6], rtol=0, what="history of six frames")


def test_later_histories(generator):
    """From the second step on the newest frame is the network's own, D as bytes; from the third on two are."""
    frames, actions, valid = segment(5, 3, 3, generator)
    _, _, table = ask(frames, actions, valid)
    wide = table["clean"][:, :2].clamp(-1, 1)
    own = level(bytes_of(wide).double())
    for i in (1, 2):
        got, past = table["histories"][:, i], frames[:, i:3].double()
        mine = own[:, :i].clone()
        # where D lies half-way between two levels, rounding errors decide: either one is right
        theirs = level(bytes_of(got[:, -i:]).double())
        tie = (theirs - wide[:, :i]).abs() * 127.5 <= 0.5 + 2e-3
        mine[tie] = theirs[tie]
        expected = torch.cat([past, mine], dim=1)

        def instead(newest, past=past, i=i):
            return torch.cat([past, newest[:, :i].double()], dim=1)

        mistakes = {
            "the second step is conditioned on the true frame: it is the network's own that belongs there": (
                frames[:, i : i + 3]
            ),
            "the network's own frame is not rounded to bytes": instead(wide),
            "the network's own frame is neither cut nor rounded to bytes": instead(table["clean"]),
            "F's output stands in the history: D = c_skip·x + c_out·F does": instead(
                level(bytes_of(table["outputs"].clamp(-1, 1)).double())
            ),
            "the noisy frame stands in the history: D does": instead(table["x"]),
            "the noisy frame, as bytes, stands in the history: D does": instead(
                level(bytes_of(table["x"].clamp(-1, 1)).double())
            ),
            "the history does not move on: its oldest frame goes, the network's own is its newest": frames[
                :, :3
            ],
            "the network's own frame is put first: it is the newest, so it comes last": torch.cat(
                [mine.flip(1), frames[:, : 3 - i].double()], dim=1
            ),
            "the newest frame is overwritten: the oldest one goes": torch.cat(
                [frames[:, :2].double(), mine[:, i - 1 : i]], dim=1
            ),
            "the first own frame is lost: the third step has two of them": torch.cat(
                [frames[:, i : i + 2].double(), mine[:, -1:]], dim=1
            ),
        }
        how = {"dtype": torch.float32, "rtol": 0, "atol": 2e-5, "mistakes": mistakes}
        assert_close(got, expected, what=f"history of step {i + 1}", **how)


# --- the number -------------------------------------------------------------------------------------------------------


def test_loss_value(generator):
    """The mean over frames and pixels of (F - (x0 - c_skip·x)/c_out)²."""
    frames, actions, valid = segment(6, 4, 2, generator)
    loss, _, t = ask(frames, actions, valid)
    clean = frames[:, 4:].double()
    error = errors_of(t, clean)
    target = (clean - t["c_skip"] * t["x"]) / t["c_out"]
    mistakes = {
        "the error is weighted by c_out²: it is F that is compared with its target, not D with the frame": (
            error * t["c_out"][..., 0, 0] ** 2
        ).mean(),
        "F is compared with the clean frame: its target is (x0 - c_skip·x)/c_out": (t["outputs"] - clean).square().mean(),
        "F is compared with x0 - c_skip·x: the target lacks c_out": (
            t["outputs"] - clean + t["c_skip"] * t["x"]
        ).square().mean(),
        "F is compared with x0/c_out: the target lacks c_skip·x": (t["outputs"] - clean / t["c_out"]).square().mean(),
        "F is compared with the noise": (t["outputs"] - (t["x"] - clean)).square().mean(),
        "F is compared with the noise over σ": (
            t["outputs"] - (t["x"] - clean) / t["sigma"][..., None, None]
        ).square().mean(),
        "a sum over pixels, not the mean": 6 * error.mean(),
        "a sum over games, not the mean": 6 * error.mean(),
        "a sum over steps, not the mean": 2 * error.mean(),
        "a sum over games and steps, not the mean": 12 * error.mean(),
        "a sum over frames and pixels, not the mean": 72 * error.mean(),
        "the loss is that of the first step alone": error[:, 0].mean(),
        "the loss is that of the last step alone": error[:, 1].mean(),
        "the absolute error is taken, not the square": (t["outputs"] - target).abs().mean(),
        "the root of the mean square is returned": error.mean().sqrt(),
        "the error is halved": error.mean() / 2,
        "the bytes of D are compared with the frame": (
            level(bytes_of(t["clean"].clamp(-1, 1)).double()) - clean
        ).square().mean(),
        "every step is compared with the first frame": errors_of(t, clean[:, :1].expand_as(clean)).mean(),
    }  # fmt: skip
    assert_close(loss, error.mean(), dtype=torch.float32, rtol=2e-4, what="loss", mistakes=mistakes)


def test_valid(generator):
    """Frames after the game's end count nothing: neither in the sum nor in the number that it is divided by."""
    frames, actions, _ = segment(7, 3, 3, generator)
    over_at = torch.tensor([3, 3, 1, 2, 1, 3, 1])
    valid = torch.arange(3) < over_at[:, None]
    with unchanged(frames, actions, valid):
        loss, _, table = ask(frames, actions, valid)
    missing = valid & ~table["asked"]
    assert not missing.any(), f"{int(missing.sum())} valid frames are not predicted"
    error = errors_of(table, frames[:, 3:])
    mistakes = {
        "frames after the game's end count: valid is ignored": error.mean(),
        "the sum over the valid frames is divided by the number of all": (error * valid).mean(),
        "valid is turned round: true is what counts": error[~valid].mean(),
        "a mean of the steps' means: each valid frame counts alike": torch.stack(
            [error[valid[:, i], i].mean() for i in range(3)]
        ).mean(),
        "a mean of the games' means: each valid frame counts alike": torch.stack(
            [e[v].mean() for e, v in zip(error, valid, strict=True)]
        ).mean(),
        "the sum over the valid frames, not their mean": error[valid].sum(),
        "games that are over at some time count nothing: their frames before that are valid": error[
            valid.all(1)
        ].mean(),
    }
    how = {"dtype": torch.float32, "rtol": 2e-4, "mistakes": mistakes}
    assert_close(loss, error[valid].mean(), what="loss where games are over", **how)


def test_valid_is_looked_at_by_game(generator):
    """One frame that counts, of one game."""
    frames, actions, valid = segment(3, 2, 2, generator)
    valid[:] = False
    valid[1, 0] = True
    loss, _, table = ask(frames, actions, valid)
    expected = errors_of(table, frames[:, 2:])[1, 0]
    hint = "of the six frames one is valid: the loss is that frame's error"
    assert_close(
        loss, expected, dtype=torch.float32, rtol=2e-4, what="loss of a single valid frame", hint=hint
    )


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradient(generator):
    """2·error·dF of each step, by the two parameters; the own frame is data, so nothing flows through it."""
    frames, actions, valid = segment(6, 3, 3, generator)
    valid[2:4, 2] = False
    loss, network, t = ask(frames, actions, valid)
    target = (frames[:, 3:].double() - t["c_skip"] * t["x"]) / t["c_out"]
    error = 2 * (t["outputs"] - target)
    expected = torch.stack(
        [(error * column)[valid].mean(dim=(1, 2)).mean() for column in (t["scaled"], t["pasts"])]
    )
    (got,) = gradients(loss, (network.weights,))
    hint = "a gradient flows through the network's own frame, or the target: both are data"
    assert_close(
        got, expected, dtype=torch.float32, rtol=5e-4, what="gradient by the network's parameters", hint=hint
    )


def test_no_gradient_through_the_own_frame(generator, monkeypatch):
    """Even if bytes had a gradient: here to_bytes is lent in a form that lets one through."""
    through = lambda frames: frames.clamp(-1, 1) * 1.0  # noqa: E731
    monkeypatch.setattr(diffusion_world_model, "to_bytes", through)
    frames, actions, valid = segment(6, 3, 3, generator)
    network = Watched(a=0.4, b=0.9)
    seen = []

    def watching(scaled, c_noise, history, actions):
        seen.append(history.requires_grad)
        return network(scaled, c_noise, history, actions)

    diffusion_world_model.denoiser_loss(watching, frames, actions, valid, generator=seeded())
    assert not any(seen), (
        "the history leads back to the network: a gradient flows through its own frame, which is data; detach it"
    )


# --- the laws of the noise, in 16384 frames ----------------------------------------------------------------------------

N_GAMES = 8192


@pytest.fixture(scope="module")
def crowd():
    """σ, and the noise x - x0, of 8192 games and two steps; asked once for all tests of this part."""
    generator = seeded(11)
    frames, _, valid = segment(N_GAMES, 1, 2, generator)
    actions = labels(N_GAMES, 2)
    patch = pytest.MonkeyPatch()
    lend(patch, "preconditioning", "to_bytes", "denoise")
    try:
        _, _, table = ask(frames, actions, valid, seed=5)
    finally:
        patch.undo()
    return table["sigma"], table["x"] - frames[:, 1:]


def correlation(a, b):
    """Pearson's, of all entries."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_one_level_per_frame(crowd):
    """Each game and each step has a σ of its own."""
    sigma, _ = crowd
    spread = sigma.log().std(0)
    assert (spread > 0.05).all(), "σ is drawn once for the whole batch: each frame has its own"
    assert abs(correlation(sigma[:, 0].log(), sigma[:, 1].log())) < 0.08, (
        "σ of the second step hangs on that of the first: each frame has its own"
    )
    assert abs(correlation(sigma[::2].log(), sigma[1::2].log())) < 0.08, (
        "neighbouring games have the same σ: each frame has its own"
    )


def test_levels(crowd):
    """ln σ is normal with mean -0.4 and standard deviation 1.2: median, 16 % and 84 %."""
    z = crowd[0].log().flatten()
    low, middle, high = torch.quantile(z, torch.tensor([0.1587, 0.5, 0.8413], dtype=z.dtype)).tolist()
    said = f"ln σ has median {middle:.2f} and 68 % of it lie in {low:.2f} … {high:.2f}"
    half = (high - low) / 2
    assert abs(middle + 0.4) < 0.07, f"{said}: the mean of ln σ is -0.4"
    assert abs(half - 1.2) < 0.06, f"{said}: the standard deviation of ln σ is 1.2"
    skew = (high - middle) - (middle - low)
    assert abs(skew) < 0.2, f"{said}: ln σ is normal"


def test_levels_are_cut(crowd):
    """[0.002, 20]: about 38 of 16384 levels are at the upper end, and about 13 below 0.015."""
    largest, least = float(crowd[0].max()), float(crowd[0].min())
    assert least < 0.017, f"the least σ of 16384 is {least:.3f}: it is cut to [0.002, 20]"
    assert largest < 20.1, f"σ goes up to {largest:.1f}: it is cut to [0.002, 20]"
    assert largest > 19.9, f"σ ends at {largest:.1f}: it goes up to 20"


def test_noise_per_pixel(crowd):
    """Within a frame, x - x0 has standard deviation σ at each level, and is normal."""
    sigma, noise = crowd
    inside, flat = noise.var(dim=(2, 3)) / sigma**2, noise - noise.mean((2, 3), keepdim=True)
    groups = {"σ < 0.2": (0.02, 0.2), "0.2 < σ < 2": (0.2, 2), "σ > 2": (2, 99)}
    # where σ is small, its square was read off σ² + 0.3², which costs digits: the smallest are left out
    shares = {name: float(inside[(sigma > a) & (sigma < b)].mean()) for name, (a, b) in groups.items()}
    assert max(shares.values()) > 0.02, "the pixels of a frame have the same noise: n is drawn per pixel"
    steps = flat / sigma[..., None, None]
    assert abs(correlation(steps[:-1, 0], steps[1:, 0])) < 0.05, (
        "all games have the same noise: each draws its own"
    )
    assert abs(correlation(steps[:, 0], steps[:, 1])) < 0.05, (
        "both steps have the same noise: each draws its own"
    )
    column = steps[..., 0, 0][sigma > 0.05], steps[..., 1, 0][sigma > 0.05]
    row = steps[..., 0, 0][sigma > 0.05], steps[..., 0, 1][sigma > 0.05]
    for name, pair in {"column": column, "row": row}.items():
        # what is left of independent noise when the mean of six pixels is taken off: -1/5
        assert correlation(*pair) < 0.2, f"the pixels of a {name} have the same noise: n is drawn per pixel"
    for name, share in shares.items():
        said = f"{name}: the pixels of a frame differ by {share:.2f} times σ² in variance"
        if name == "σ < 0.2" and share > 1.5 and abs(shares["σ > 2"] - 1) < 0.2:
            raise AssertionError(f"{said}: is the offset drawn per pixel? It is one per frame")
        assert abs(share - 1) < 0.2, f"{said}: the noise within a frame is σ·n, x = x0 + 0.3·o + σ·n"
    difference = (noise[..., 0, 0] - noise[..., 1, 2])[sigma > 0.05] / sigma[sigma > 0.05]
    fourth = float((difference / difference.std()).pow(4).mean())
    assert abs(fourth - 3) < 0.4, f"the noise is not normal: its fourth moment is {fourth:.2f}, not 3"


def test_offset(crowd):
    """At low σ the frames' means are off by 0.3·o: one o per frame, standard normal, whatever σ is."""
    sigma, noise = crowd
    means = noise.mean((2, 3))
    scaled = means / (0.09 + sigma**2 / 6).sqrt()
    near = sigma < 0.5
    hangs = correlation(means[near], sigma[near].log())
    assert abs(hangs) < 0.1, "the offset hangs on σ: o and σ are drawn one by one"
    low = sigma < 0.12
    spread = float(means[low].std())
    each = torch.stack([means[low[:, i], i].std() for i in range(2)])
    said = f"where σ < 0.12, the means of x - x0 have standard deviation {spread:.3f}, not 0.3"
    absent = float(means[low].square().mean().sqrt()) < 0.06
    assert not absent, f"there is no offset: x = x0 + 0.3·o + σ·n; {said}"
    assert (each > 0.06).all(), "the offset is drawn once for the whole batch: each frame has its own o"
    assert spread < 0.9, f"the offset is not scaled by 0.3; {said}"
    middle = float(means[low].mean())
    assert abs(middle) < 0.08, (
        f"where σ < 0.12, the means of x - x0 are {middle:.2f} on average: o has mean 0, whatever σ is"
    )
    assert abs(spread - 0.3) < 0.06, f"the offset is 0.3·o, one o for each frame; {said}"
    wide = float(scaled[sigma > 2].std())
    assert abs(wide - 1) < 0.2, (
        f"where σ > 2, the frames' means differ by {wide:.2f} times what x0 + 0.3·o + σ·n would: the offset is 0.3·o at each σ"
    )
    assert abs(correlation(scaled[:, 0], scaled[:, 1])) < 0.08, (
        "both steps have the same offset: each draws its own"
    )
    assert abs(correlation(scaled[::2], scaled[1::2])) < 0.08, (
        "neighbouring games have the same offset: each frame has its own o"
    )
    pixel = (noise - noise.mean((2, 3), keepdim=True))[..., 0, 0] / sigma
    assert abs(correlation(scaled[sigma > 0.05], pixel[sigma > 0.05])) < 0.08, (
        "the offset hangs on the noise: o and n are drawn one by one"
    )
    assert abs(correlation(pixel[sigma > 0.05], sigma[sigma > 0.05].log())) < 0.08, (
        "the noise hangs on σ: n and σ are drawn one by one"
    )
    mean = float((noise / sigma[..., None, None])[sigma > 2].mean())
    assert abs(mean) < 0.1, f"where σ > 2, the noise over σ is {mean:.2f} on average, not 0"


# --- the generator ----------------------------------------------------------------------------------------------------


def test_generator(generator):
    """All numbers come from the generator that is passed: the same seed gives the same loss, and nothing else moves."""
    frames, actions, valid = segment(5, 2, 2, generator)
    before = torch.get_rng_state()
    losses = [float(ask(frames, actions, valid, seed=seed)[0].detach()) for seed in (3, 3, 4)]
    moved = not torch.equal(torch.get_rng_state(), before)
    assert not moved, "torch's global generator has moved: draw from the one that is passed"
    assert losses[0] == losses[1], (
        "the same seed gives two losses: draw everything from the generator that is passed"
    )
    assert losses[0] != losses[2], "another seed gives the same loss: draw from the generator that is passed"


def test_without_a_generator(generator):
    """Then torch's own: the loss of a fresh call is another one."""
    frames, actions, valid = segment(5, 2, 2, generator)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        losses = {
            float(diffusion_world_model.denoiser_loss(Watched(), frames, actions, valid).detach())
            for _ in range(2)
        }
    assert len(losses) == 2, "without a generator each call gives the same loss: the noise is new each time"
