"""The grid and Euler's method along it. Oracles: pinned values, float64, a network that knows what it wants to draw."""

import pytest
import torch
from oracles import lend, level, normal, seeded
from toys import Exact

import diffusion_world_model
from shared.testing.checks import assert_close, expect_error, lazily, unchanged

# --- karras_sigmas ----------------------------------------------------------------------------------------------------


def grid(n, low, high, rho):
    """The grid in Python's own float64, number by number."""
    ends = high ** (1 / rho), low ** (1 / rho)
    return [(ends[0] + (ends[1] - ends[0]) * i / max(n - 1, 1)) ** rho for i in range(n)]


def grid_mistakes(n, low=0.002, high=5.0, rho=7.0):
    """assert_close's `mistakes` for a grid."""
    right = grid(n, low, high, rho)

    def spaced(between):
        return torch.tensor([*between, 0.0], dtype=torch.float64)

    even = [high + (low - high) * i / max(n - 1, 1) for i in range(n)]
    logs = [high * (low / high) ** (i / max(n - 1, 1)) for i in range(n)]
    short = [*grid(n - 1, low, high, rho), 0.0] if n > 1 else [0.0]
    over_n = [(high ** (1 / rho) + (low ** (1 / rho) - high ** (1 / rho)) * i / n) ** rho for i in range(n)]
    return {
        "the 0 at the end is missing: the last step leads to no noise": torch.tensor(
            right, dtype=torch.float64
        ),
        "the grid rises: sampling goes from most noise to none": spaced(right).flip(0),
        "the levels rise, and then comes 0: sampling goes from most noise to none": spaced(right[::-1]),
        "σ itself is evenly spaced: σ^(1/ρ) is": spaced(even),
        "ln σ is evenly spaced: σ^(1/ρ) is": spaced(logs),
        "σ^(1/ρ) is not brought back: take the power ρ": spaced([s ** (1 / rho) for s in right]),
        "σ^ρ is evenly spaced: σ^(1/ρ) is": spaced(
            [(high**rho + (low**rho - high**rho) * i / max(n - 1, 1)) ** (1 / rho) for i in range(n)]
        ),
        "0 is one of the n_steps levels: it comes after them, so n_steps + 1 numbers": spaced(short[:-1]),
        "the spacing is that of n_steps + 1 levels: the last one before 0 is sigma_min": spaced(over_n),
        "rho is ignored": spaced(grid(n, low, high, 7.0)),
        "sigma_min is ignored": spaced(grid(n, 0.002, high, rho)),
        "sigma_max is ignored": spaced(grid(n, low, 5.0, rho)),
        "sigma_max is 80, EDM's own: here it is 5": spaced(grid(n, low, 80.0, rho)),
        "0 comes twice at the end": torch.tensor([*right, 0.0, 0.0], dtype=torch.float64),
    }


@pytest.mark.grades("karras_sigmas")
def test_grid_of_three_steps():
    """5, 0.2831, 0.002, and then 0."""
    got = diffusion_world_model.karras_sigmas(3)
    expected = torch.tensor([5.0, 0.2831, 0.002, 0.0])
    how = {"rtol": 1e-4, "atol": 1e-6, "mistakes": grid_mistakes(3)}
    assert_close(got, expected, what="grid of three steps", **how)


@pytest.mark.grades("karras_sigmas")
def test_grid_of_one_step():
    """sigma_max, 0."""
    got = diffusion_world_model.karras_sigmas(1)
    assert got.isfinite().all(), "the grid of one step is not finite: the spacing divides by n_steps - 1"
    mistakes = {
        "one step begins at sigma_min: it begins at sigma_max": torch.tensor([0.002, 0.0])
    } | grid_mistakes(1)
    assert_close(got, torch.tensor([5.0, 0.0]), rtol=1e-5, what="grid of one step", mistakes=mistakes)


@pytest.mark.grades("karras_sigmas")
@pytest.mark.parametrize(
    ("n", "options"),
    [
        (6, {}),
        (4, {"rho": 3.0}),
        (5, {"sigma_min": 0.05}),
        (5, {"sigma_max": 20.0}),
        (2, {"rho": 1.0, "sigma_min": 0.5}),
    ],
    ids=str,
)
def test_grids(n, options):
    """Against Python's float64, with each option at another value."""
    low, high, rho = (
        options.get(k, v) for k, v in {"sigma_min": 0.002, "sigma_max": 5.0, "rho": 7.0}.items()
    )
    expected = torch.tensor([*grid(n, low, high, rho), 0.0], dtype=torch.float64)
    got = diffusion_world_model.karras_sigmas(n, **options)
    how = {"dtype": torch.float32, "rtol": 2e-5, "atol": 1e-7, "mistakes": grid_mistakes(n, low, high, rho)}
    assert_close(got, expected, what=f"grid of {n} steps, {options}", **how)


@pytest.mark.grades("karras_sigmas")
@pytest.mark.parametrize("n", [0, -1])
def test_no_steps(n):
    """There is no grid without a step."""
    with expect_error(ValueError, otherwise=f"n_steps = {n} is accepted"):
        diffusion_world_model.karras_sigmas(n)


# --- next_frame -------------------------------------------------------------------------------------------------------

SIGMAS = torch.tensor([5.0, 1.5, 0.4, 0.0])


@pytest.fixture
def asked(generator, monkeypatch):
    """A history of four games; the other units are lent."""
    lend(monkeypatch, "preconditioning", "to_bytes", "denoise")
    history = normal(4, 3, 2, 5, generator=generator, scale=0.5).clamp(-1, 1)
    return history, torch.randint(0, 3, (4, 3), generator=generator)


def drawn(seed, shape=(4, 2, 5)):
    """The noise that the generator of this seed gives."""
    return torch.randn(shape, generator=seeded(seed)).double()


def half(x, sigma, history, actions):
    """A denoiser that leaves something of x: so that every step counts."""
    return 0.5 * x / (1 + 0.3 * sigma) + 0.4 * history[:, -1]


@pytest.mark.grades("next_frame")
def test_form(asked):
    """A frame (B, H, W), float32, without gradients; one call of the network per step, history and actions as they are."""
    history, actions = asked
    network = Exact(half)
    with unchanged(history, actions, SIGMAS):
        got = diffusion_world_model.next_frame(network, history, actions, SIGMAS, generator=seeded())
    assert got.shape == (4, 2, 5), f"the frame has shape {tuple(got.shape)}, expected (4, 2, 5)"
    assert got.dtype == torch.float32, f"the frame is {got.dtype}, expected float32"
    calls = len(network.states)
    assert calls == 3, f"{calls} calls of the network for a grid of three steps: one per step, none at σ = 0"
    kept = all(torch.equal(seen, history) for seen in network.histories)
    assert kept, "the network gets another history than next_frame: oldest first, as it is"
    kept = all(torch.equal(done, actions) for done in network.actions)
    assert kept, "the network gets other actions than next_frame: the newest last, as they are"


@pytest.mark.grades("next_frame")
def test_levels_that_the_network_is_told(asked):
    """σ_i for x_i, from most noise to least."""
    network = Exact(half)
    diffusion_world_model.next_frame(network, *asked, SIGMAS, generator=seeded())
    told = torch.stack(network.sigmas)[:, 0]
    mistakes = {
        "the network is told σ of the next step": SIGMAS[1:],
        "the order is reversed: sampling goes from most noise to none": SIGMAS[:-1].flip(0),
        "the network is told the same σ in each step": SIGMAS[:1].expand(3),
    }
    how = {"dtype": torch.float64, "rtol": 1e-4, "mistakes": mistakes}
    assert_close(told, SIGMAS[:-1], what="σ in each call", **how)
    spread = torch.stack(network.sigmas).std(1).max()
    assert spread < 1e-3, "the frames of one call have different σ"


@pytest.mark.grades("next_frame")
def test_first_state(asked):
    """σ_0·noise, where the noise is torch.randn of the frame's shape."""
    network = Exact(half)
    diffusion_world_model.next_frame(network, *asked, SIGMAS, generator=seeded(8))
    noise = drawn(8)
    mistakes = {
        "the initial noise has standard deviation 1, although σ_0 = 5: x = σ_0·noise": noise,
        "the initial noise has the offset's standard deviation": 0.3 * noise,
        "the initial noise is that of σ_e": (25.09**0.5) * noise,
        "the newest frame is added to the noise: x = σ_0·noise": 5 * noise + asked[0][:, -1],
        "one noise for all games": (5 * torch.randn((2, 5), generator=seeded(8))).expand(4, 2, 5),
        "the initial noise is that of the last level": 0.4 * noise,
    }
    spread = network.states[0].std().item()
    hint = f"x does not begin as σ_0·torch.randn of the frame's shape: its standard deviation is {spread:.2f}, σ_0 is 5"
    assert_close(network.states[0], 5 * noise, rtol=1e-4, what="first state", mistakes=mistakes, hint=hint)


@pytest.mark.grades("next_frame")
def test_a_perfect_denoiser_in_one_step(asked, generator):
    """From σ to 0 in one step: whatever the noise, what comes out is what the network has in mind."""
    mind = level(torch.randint(0, 256, (4, 2, 5), generator=generator).double())
    network = Exact(lambda x, sigma, history, actions: mind)
    got = diffusion_world_model.next_frame(network, *asked, torch.tensor([5.0, 0.0]), generator=seeded(1))
    mistakes = {
        "the step goes the wrong way: σ falls, so σ_{i+1} - σ_i is negative": 2 * 5 * drawn(1) - mind,
        "the noise is returned: no step is made": 5 * drawn(1),
        "the slope is not divided by σ": 5 * drawn(1) - 5 * (5 * drawn(1) - mind),
    }
    how = {"dtype": torch.float32, "rtol": 0, "atol": 2e-5, "mistakes": mistakes}
    assert_close(got, mind, what="frame of a perfect denoiser", **how)


@pytest.mark.grades("next_frame")
def test_steps(asked):
    """x_{i+1} = x_i + (σ_{i+1} - σ_i)·(x_i - D_i)/σ_i, state by state, and the last one is returned."""
    network = Exact(half)
    got = diffusion_world_model.next_frame(network, *asked, SIGMAS, generator=seeded(2)).double()
    states = [*network.states, got]
    sigmas = SIGMAS.double().tolist()
    for i, now in enumerate(states[:-1]):
        x, after, before, clean = now, sigmas[i + 1], sigmas[i], network.cleans[i]
        away = x - clean
        mistakes = {
            "the step goes the wrong way: σ falls, so σ_{i+1} - σ_i is negative": x
            - (after - before) * away / before,
            "the slope is not divided by σ": x + (after - before) * away,
            "the slope is divided by the next σ": lazily(
                lambda a=after, b=before, x=x, d=away: x + (a - b) * d / a
            ),
            "each step lands on D: from σ_i it leads to σ_{i+1} only": clean,
            "the step's length is σ_{i+1}, not σ_{i+1} - σ_i": x + after * away / before,
            "the step's length is σ_i: it always goes to 0": x - away,
        }
        hint = f"step {i + 1} is not Euler's: x + (σ_next - σ)·(x - D)/σ"
        how = {"rtol": 1e-4, "atol": 1e-4, "mistakes": mistakes, "hint": hint}
        assert_close(
            states[i + 1], x + (after - before) * away / before, what=f"state after step {i + 1}", **how
        )


@pytest.mark.grades("next_frame")
def test_no_gradients(asked):
    """A dream is data: nothing leads back to the network."""
    history, actions = asked
    weight = torch.ones((), requires_grad=True)

    def network(scaled, c_noise, history, actions):
        return weight * scaled

    got = diffusion_world_model.next_frame(network, history, actions, SIGMAS[1:], generator=seeded())
    assert torch.is_grad_enabled(), (
        "next_frame switches gradients off and leaves them off for what comes after"
    )
    assert not got.requires_grad, (
        "the frame leads back to the network's parameters: next_frame keeps no gradients"
    )


@pytest.mark.grades("next_frame")
def test_generator_of_next_frame(asked):
    """The noise comes from the generator that is passed, and torch's own stays as it is."""
    before = torch.get_rng_state()
    frames = [
        diffusion_world_model.next_frame(Exact(half), *asked, SIGMAS, generator=seeded(seed))
        for seed in (1, 1, 2)
    ]
    moved = not torch.equal(torch.get_rng_state(), before)
    assert not moved, "torch's global generator has moved: draw from the one that is passed"
    same, changes = torch.equal(frames[0], frames[1]), not torch.equal(frames[0], frames[2])
    assert same, "the same seed gives two frames: draw from the generator that is passed"
    assert changes, "another seed gives the same frame"
    generator = seeded(1)
    one, other = (
        diffusion_world_model.next_frame(Exact(half), *asked, SIGMAS, generator=generator) for _ in range(2)
    )
    same = torch.equal(one, other)
    assert not same, "two calls with one generator give the same frame: it is to move on"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one, other = (diffusion_world_model.next_frame(Exact(half), *asked, SIGMAS) for _ in range(2))
    same = torch.equal(one, other)
    assert not same, "without a generator each call gives the same frame"


@pytest.mark.grades("next_frame")
def test_one_game_and_ten_steps(monkeypatch):
    """A single game keeps its axis, and every step of a long grid is made."""
    lend(monkeypatch, "preconditioning", "to_bytes", "denoise")
    sigmas = torch.tensor([5 * 0.6**i for i in range(10)] + [0.0])
    network = Exact(half)
    history = normal(1, 3, 2, 5, generator=seeded(3), scale=0.5)
    got = diffusion_world_model.next_frame(
        network, history, torch.zeros(1, 3, dtype=torch.int64), sigmas, generator=seeded(3)
    )
    assert got.shape == (1, 2, 5), f"the frame of one game has shape {tuple(got.shape)}, expected (1, 2, 5)"
    assert len(network.states) == 10, f"{len(network.states)} calls of the network for a grid of ten steps"
    assert_close(
        got,
        network.cleans[-1],
        dtype=torch.float32,
        rtol=0,
        atol=1e-4,
        what="frame at σ = 0, which is the last D",
    )
