"""The dream to play in, in a real Chromium: its arithmetic is torch's, its game is game.py, and it moves only when it may."""

import contextlib
import importlib
import io
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from rich.console import Console

from shared.practice.learner import Learner
from shared.practice.schedule import Schedule
from shared.projects import ROOT, load_project
from shared.tour import __main__ as tour
from shared.tour import browser

PROJECT = load_project(ROOT / "projects/diffusion_world_model")
PARTS = ("agent", "diffusion_world_model", "dream", "export", "game", "unet")
ALIKE = 1e-3


@pytest.fixture(scope="module")
def parts():
    """The project's modules by name, which are on the path for as long as it takes to import them."""
    before, folder = set(sys.modules), str(PROJECT.folder)
    sys.path.insert(0, folder)
    try:
        yield {name: importlib.import_module(name) for name in PARTS}
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if name in PARTS:
                del sys.modules[name]


@pytest.fixture(scope="module")
def stored(parts):
    from safetensors.torch import load_file

    return parts["export"].store(load_file(PROJECT.folder / "weights" / "catch.safetensors"))


@pytest.fixture(scope="module")
def networks(parts, stored):
    """Denoiser, outcome head and agent in torch, with the very weights that the page has."""
    weights = parts["export"].restore(stored)
    made = {
        "denoiser": parts["unet"].UNet(),
        "outcome": parts["unet"].Outcome(),
        "agent": parts["agent"].ActorCritic(),
    }
    for name, network in made.items():
        own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
        network.load_state_dict(own)
    return made


@pytest.fixture(scope="module")
def path(stored, tmp_path_factory):
    """A page with the figure, far below the top."""
    folder = tmp_path_factory.mktemp("dream")
    stop = tour.Stop(PROJECT, demo={"numbers": {}, "tables": {}, "figures": {}}, dream=stored)
    rows = tour.board([stop], Learner(folder, Console(file=io.StringIO())), Schedule(folder))
    page = tour.render(rows, {}, page=folder / "index.html").replace(
        "<main>", '<main><div style="height: 3000px"></div>'
    )
    (folder / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


@pytest.fixture(scope="module")
def sums(chromium, path):
    """A page whose functions are called; its figure is out of view and stands still."""
    with browser.open_page(chromium, path) as page:
        page.evaluate("globalThis.typed = frames => frames.map(frame => Float32Array.from(frame)); 0")
        yield page


@pytest.fixture
def look(chromium, path):
    """Return a function that opens the page and scrolls to the figure; there time passes by `page.clock` alone."""
    with contextlib.ExitStack() as stack:

        def look(*, calm=False, scroll=True, width=1280, scheme="light"):
            phone = width < 600
            page = stack.enter_context(
                chromium.new_page(
                    viewport={"width": width, "height": 844}, is_mobile=phone, has_touch=phone, offline=True,
                    color_scheme=scheme, reduced_motion="reduce" if calm else "no-preference",
                )
            )  # fmt: skip
            page.clock.install(time=0)
            page.goto(path.as_uri())
            page.clock.pause_at(60_000)
            if scroll:
                page.locator("#playable-dream svg").scroll_into_view_if_needed()
            return page

        yield look


@pytest.fixture(scope="module")
def cases(parts):
    """Twenty pasts of real games under random actions: frames (20, 5, 12, 12), actions (20, 4); the last frame is the next."""
    random, game = np.random.default_rng(0), parts["game"].Catch(20)
    frames, actions = [game.reset(seed=0)[0]] * 4, [np.ones(20, int)] * 3
    for _ in range(8):
        actions.append(random.integers(3, size=20))
        frames.append(game.step(actions[-1])[0])
    at = random.integers(8, size=20)
    stacked, taken = np.stack(frames, 1), np.stack(actions, 1)
    return (
        torch.tensor(np.stack([stacked[i, t : t + 5] for i, t in enumerate(at)])),
        torch.tensor(np.stack([taken[i, t : t + 4] for i, t in enumerate(at)])),
    )


# --- what the page computes -----------------------------------------------------------------------------------


def test_noise_levels_and_factors_are_the_projects_own(sums, parts):
    core = parts["diffusion_world_model"]
    for n in (1, 2, 3, 10):
        assert sums.evaluate("karrasSigmas", n) == pytest.approx(core.karras_sigmas(n).tolist(), rel=1e-5)
    for sigma in (0.002, 0.28, 1.0, 5.0):
        mine = sums.evaluate("preconditioning", sigma)
        theirs = core.preconditioning(torch.tensor(sigma, dtype=torch.float64))
        assert [mine[k] for k in ("cIn", "cSkip", "cOut", "cNoise")] == pytest.approx(
            [c.item() for c in theirs]
        )


@torch.no_grad()
def test_one_call_of_the_network_is_torchs(sums, networks, cases):
    frames, actions = cases
    generator = torch.Generator().manual_seed(1)
    c_noise = torch.linspace(-0.3, 0.42, 20)
    noisy = torch.randn(20, 12, 12, generator=generator)
    theirs = networks["denoiser"](noisy, c_noise, frames[:, :4], actions)
    mine = sums.evaluate(
        "cases => cases.map(([x, c, h, a]) => [...dreamFigure.world.denoiser(Float32Array.from(x), c, typed(h), a)])",
        [
            [x.flatten().tolist(), c, h.flatten(1).tolist(), a]
            for x, c, h, a in zip(noisy, c_noise.tolist(), frames[:, :4], actions.tolist(), strict=True)
        ],
    )
    assert theirs.std() > 0.1
    torch.testing.assert_close(torch.tensor(mine).reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-4)


def sample(parts, networks, noise, history, actions, n_steps):
    """Return x of each step as torch draws it, and how near a D came to the edge between two levels, in levels."""
    core, states, edge = parts["diffusion_world_model"], [], 1.0
    sigmas = core.karras_sigmas(n_steps)
    x = sigmas[0] * noise
    for sigma, following in pairwise(sigmas):
        c_in, c_skip, c_out, c_noise = core.preconditioning(sigma)
        raw = c_skip * x + c_out * networks["denoiser"](c_in * x, c_noise[None], history, actions)
        place = (raw.clamp(-1, 1) + 1) * 127.5
        edge = min(edge, (place % 1 - 0.5).abs().min().item())
        x = x + (following - sigma) * (x - core.to_bytes(raw)) / sigma
        states.append(x)
    return states, edge


DRAW = """([noise, history, actions, n]) => {
  const states = sampling(dreamFigure.world.denoiser, Float32Array.from(noise), typed(history), actions, karrasSigmas(n));
  return [...states].map(x => [...x]);
}"""


def theirs_and_mine(sums, parts, networks, history, mine_history, actions, n_steps, seed):
    """Draw one frame with both, from the first noise for which no D comes near the edge between two levels.

    There torch and the page may round to either side, and both are right.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(200):
        noise = torch.randn(1, 12, 12, generator=generator)
        states, edge = sample(parts, networks, noise, history, actions, n_steps)
        if edge > 1e-3:
            break
    else:
        pytest.fail("200 noises, and each leads to an edge")
    given = [noise.flatten().tolist(), mine_history[0].flatten(1).tolist(), actions[0].tolist(), n_steps]
    return states[-1], torch.tensor(sums.evaluate(DRAW, given)[-1]).reshape(1, 12, 12)


@torch.no_grad()
def test_frames_are_torchs_in_twenty_cases(sums, parts, networks, cases):
    frames, actions = cases
    for i in range(20):
        past = frames[i : i + 1, :4], frames[i : i + 1, :4], actions[i : i + 1]
        theirs, mine = theirs_and_mine(sums, parts, networks, *past, 1 + i % 10, seed=i)
        assert (mine - theirs).abs().max() < ALIKE, i


@torch.no_grad()
def test_a_whole_episode_is_torchs(sums, parts, networks, cases):
    """Nine steps, each side on its own frames."""
    first = cases[0][:1, :1]
    mine_history = theirs_history = first.expand(1, 4, 12, 12)
    actions = [1, 1, 1]
    for t in range(9):
        actions = [*actions[-3:], (2, 0, 1, 2, 2, 1, 0, 0, 1)[t]]
        past = theirs_history, mine_history, torch.tensor([actions])
        theirs, mine = theirs_and_mine(sums, parts, networks, *past, 3, seed=100 + t)
        assert (mine - theirs).abs().max() < ALIKE, t
        mine_history = torch.cat([mine_history[:, 1:], mine[:, None]], dim=1)
        theirs_history = torch.cat([theirs_history[:, 1:], theirs[:, None]], dim=1)
    assert (theirs_history[0, 0] - first[0, 0]).abs().max() > 1  # it did move


@torch.no_grad()
def test_the_outcome_head_and_the_agent_are_torchs(sums, networks, cases):
    frames, actions = cases
    rewards, ends = networks["outcome"](frames[:, 3], actions[:, 3], frames[:, 4])
    logits, values = networks["agent"](frames[:, :4])
    mine = sums.evaluate(
        """cases => cases.map(([frames, action]) => {
          const { readOutcome, readAgent, outcome, act } = dreamFigure.world, f = typed(frames);
          const said = outcome(f[3], action, f[4]);
          return [[...readOutcome(f[3], action, f[4])], [...readAgent(f.slice(0, 4))],
            [said.reward, said.ended ? 1 : 0, act(f.slice(0, 4))]];
        })""",
        [[f.flatten(1).tolist(), int(a[3])] for f, a in zip(frames, actions, strict=True)],
    )
    outcome, agent, chosen = (torch.tensor(column) for column in zip(*mine, strict=True))
    torch.testing.assert_close(outcome, torch.cat([rewards, ends], dim=1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(agent, torch.cat([logits, values[:, None]], dim=1), rtol=1e-4, atol=1e-4)
    best = torch.stack([rewards.argmax(1) - 1, ends.argmax(1), logits.argmax(1)], dim=1)
    assert torch.equal(chosen, best)


def test_the_game_is_game_py(sums, parts):
    """Play 60 games, put on the same beginnings, under random actions."""
    random, game = np.random.default_rng(4), parts["game"].Catch(60)
    game.reset(seed=4)
    starts = [
        dict(zip(("column", "direction", "paddle"), map(int, start), strict=True))
        for start in zip(game.column, game.direction, game.paddle, strict=True)
    ]
    actions = random.integers(3, size=(60, 9))
    mine = sums.evaluate(
        """([starts, actions]) => starts.map((start, i) => {
          const game = Object.assign(new Catch(mulberry32(i)), start), frames = [[...game.frame()]], told = [];
          for (const action of actions[i]) { const { reward, ended } = game.step(action);
            frames.push([...game.frame()]); told.push([reward, ended ? 1 : 0]); }
          return [frames, told];
        })""",
        [starts, actions.tolist()],
    )
    frames = [game.frames()]
    for t in range(9):
        frame, reward, ended, _, infos = game.step(actions[:, t])
        frames.append(infos.get("final_obs", frame))
        assert [told[t] for _, told in mine] == np.stack([reward, ended], 1).tolist()
        if t == 8:
            assert set(reward) == {-1, 1}
    assert np.array_equal(np.array([f for f, _ in mine]), np.stack(frames, 1).reshape(60, 10, 144))


def test_games_begin_everywhere_and_noise_is_normal(sums):
    starts = sums.evaluate(
        """() => { const random = mulberry32(7), game = new Catch(random);
          return Array.from({ length: 2000 }, () => { game.start(); return [game.row, game.column, game.direction, game.paddle]; }); }"""
    )
    row, column, direction, paddle = (set(values) for values in zip(*starts, strict=True))
    assert (row, column, direction, paddle) == ({0}, set(range(10)), {-1, 1}, set(range(9)))
    noise = np.array(sums.evaluate("[...gaussians(20000, mulberry32(8))]"))
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    assert 0.93 < np.mean(np.abs(noise) < 1.96) < 0.97
    assert sums.evaluate("[...gaussians(5, mulberry32(8))]") == noise[:5].tolist()


# --- what a reader sees ---------------------------------------------------------------------------------------

STATE = """(() => { const { beside, busy, worlds } = dreamFigure;
  return { moves: beside.moves, dreamed: beside.record.length, wrong: beside.nWrong, busy, made: Object.keys(worlds).length > 0 }; })()"""
MASH = """([key, times]) => { for (let i = 0; i < times; i++) document.querySelector(".screen").dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, repeat: i > 0 })); }"""


def state(page):
    """Return where the game stands, once a step that has begun is done."""
    page.wait_for_function("!dreamFigure.busy")
    return page.evaluate(STATE)


def said(page):
    return page.locator("#playable-dream output").inner_text()


def seen(page):
    """Wait until the browser has told the figure that it is in view."""
    page.wait_for_function("dreamFigure.visible")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_figure_has_no_fault(look, width, scheme):
    page = look(width=width, scheme=scheme)
    assert browser.faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_agent_plays_before_anybody_touches_it(look):
    page = look()
    seen(page)
    page.clock.run_for(9 * 400)
    told = state(page)
    assert told["dreamed"] >= 6
    assert told["wrong"] <= 1
    assert "the agent" in said(page)
    assert page.locator(".mark.agrees").count() == told["dreamed"] - told["wrong"]
    assert page.locator(".frame .wrong").count() == 0


def test_doing_nothing_and_mashing_keys_survive(look):
    page = look()
    page.locator("#dream-agent").uncheck()
    seen(page)
    page.clock.run_for(30 * 400)
    before = state(page)
    assert before["dreamed"] >= 15
    assert "you: stay" in said(page) or "A new game" in said(page)
    steps = "dreamFigure.steps = 0; dreamFigure.beside.step = new Proxy(dreamFigure.beside.step, { apply: (f, self, given) => (dreamFigure.steps += 1, f.apply(self, given)) }); 0"
    page.evaluate(steps)
    for i in range(4):
        page.evaluate(MASH, [("ArrowLeft", "ArrowRight")[i % 2], 50])
        page.clock.run_for(340)
    assert page.evaluate("dreamFigure.steps") <= 5  # 200 keys in four ticks
    after = state(page)
    assert 0 <= after["moves"] <= 9
    assert after["wrong"] <= after["dreamed"] <= before["dreamed"] + 5
    assert 0 <= page.evaluate("dreamFigure.beside.game.paddle") <= 8
    assert page.page_errors() == []
    assert page.console_messages() == []


def test_out_of_view_nothing_is_computed(look):
    page = look(scroll=False)
    page.clock.run_for(3000)
    assert state(page) == {"moves": 0, "dreamed": 0, "wrong": 0, "busy": False, "made": False}
    page.locator("#playable-dream svg").scroll_into_view_if_needed()
    seen(page)
    page.clock.run_for(800)
    assert state(page)["moves"] > 0
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    page.wait_for_function("!dreamFigure.visible")
    before = state(page)
    page.clock.run_for(3000)
    assert state(page) == before


def test_in_a_hidden_tab_it_stops(look):
    page = look()
    seen(page)
    hide = "h => { Object.defineProperty(document, 'hidden', { get: () => h, configurable: true }); document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    before = state(page)
    page.clock.run_for(3000)
    assert state(page) == before
    page.evaluate(hide, False)
    page.clock.run_for(800)
    assert state(page) != before


def test_who_asked_for_less_motion_sees_a_still_and_steps_it(look):
    page = look(calm=True)
    seen(page)
    page.clock.run_for(1000)
    still = state(page)
    assert (still["moves"], still["dreamed"]) == (5, 4)
    assert "Move 5 of 9" in said(page)
    page.clock.run_for(5000)
    assert state(page) == still
    page.locator(".screen").press("ArrowLeft")
    page.clock.run_for(100)
    assert state(page)["moves"] == 6
    assert "you: left" in said(page)
    page.get_by_role("button", name="One step").click()
    page.clock.run_for(3000)
    assert state(page)["moves"] == 7
    assert page.locator("#playable-dream output").get_attribute("aria-live") == "polite"


def test_arrow_keys_scroll_the_page_unless_the_figure_has_the_focus(look):
    page = look(calm=True)
    seen(page)
    page.locator(".screen").focus()
    place = page.evaluate("scrollY")
    for key in ("ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    page.clock.run_for(200)
    assert page.evaluate("scrollY") == place
    assert not page.locator("#dream-agent").is_checked()  # who presses a key plays
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowUp")
    page.wait_for_function("place => scrollY < place", arg=place)


def test_the_arrows_of_the_slider_are_its_own(look):
    page = look(calm=True)
    seen(page)
    page.clock.run_for(1000)
    before = state(page)["moves"]
    page.locator("#dream-steps").press("ArrowRight")
    assert page.locator("#dream-steps").input_value() == "4"
    assert "4 sampling steps" in page.locator("#playable-dream svg").text_content()
    assert (state(page)["moves"], state(page)["dreamed"]) == (before, 0)  # another dream: counted anew
    assert page.locator("#dream-agent").is_checked()


def test_an_untrained_model_dreams_noise(look):
    page = look()
    page.locator("#dream-untrained").check()
    seen(page)
    page.clock.run_for(9 * 400)
    told = state(page)
    assert told["wrong"] == told["dreamed"] > 3
    assert page.locator(".mark.differs").count() == told["dreamed"]


def test_a_finger_plays(look):
    page = look(width=390)
    seen(page)
    page.get_by_role("button", name="Right").tap()
    page.clock.run_for(400)
    assert not page.locator("#dream-agent").is_checked()
    assert "you: right" in said(page) or "A new game" in said(page)
    page.get_by_role("button", name="Pause").tap()
    before = state(page)
    page.clock.run_for(2000)
    assert state(page) == before
    page.get_by_role("button", name="Play").tap()
    page.clock.run_for(700)
    assert state(page) != before


def test_without_weights_the_figure_is_left_out(tmp_path):
    stop = tour.Stop(PROJECT, demo={"numbers": {}, "tables": {}, "figures": {}})
    rows = tour.board([stop], Learner(tmp_path, Console(file=io.StringIO())), Schedule(tmp_path))
    page = tour.render(rows, {}, page=tmp_path / "index.html")
    assert 'id="playable-dream"' not in page
    assert "class Beside" not in page
