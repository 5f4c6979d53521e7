"""The token world on the page, in a real Chromium: its arithmetic is torch's, token for token, and the switch leads to it."""

import contextlib
import importlib
import io
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from shared.practice.learner import Learner
from shared.practice.schedule import Schedule
from shared.projects import ROOT, load_project
from shared.tour import __main__ as tour
from shared.tour import browser

PROJECT, SIBLING = (
    load_project(ROOT / "projects" / f"{kind}_world_model") for kind in ("token", "diffusion")
)
# factors, so that untrained weights make unlike tokens and logits
LIVELY = {"embed": 30, "place": 30, "image": 3, "encoder": 3}
PARTS = ("agent", "export", "game", "token_world_model", "tokenizer", "train", "world")


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
def networks(parts):
    """Tokenizer, world and agent in torch, untrained but lively, with the very weights that the page has."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        run = parts["train"].Run(parts["train"].Settings(), seed=3, parts=parts["train"].Parts())
        for network in run.networks.values():
            network.eval()
            for name, parameter in network.named_parameters():
                factor = LIVELY.get(name.split(".")[0], 1)
                parameter.data = factor * parameter.data + 0.1 * torch.randn(parameter.shape)
    for network in run.networks.values():
        weights = parts["export"].store(network.state_dict())
        network.load_state_dict(parts["export"].restore(weights))
    return run.networks


@pytest.fixture(scope="module")
def stored(parts, networks):
    weights = {f"{name}.{key}": w for name, n in networks.items() for key, w in n.state_dict().items()}
    return parts["export"].store(weights)


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Return a function that writes a page of stops with these weights, the figure far below the top."""

    def write(**dreams):
        folder = tmp_path_factory.mktemp("tokens")
        said = {"numbers": {}, "tables": {}, "figures": {}}
        projects = {project.name: project for project in (PROJECT, SIBLING)}
        stops = [tour.Stop(projects[name], demo=said, dream=dream) for name, dream in dreams.items()]
        rows = tour.board(stops, Learner(folder, Console(file=io.StringIO())), Schedule(folder))
        page = tour.render(rows, {}, page=folder / "index.html")
        page = page.replace("<main>", '<main><div style="height: 3000px"></div>')
        (folder / "index.html").write_text(page, encoding="utf-8")
        return folder / "index.html"

    return write


@pytest.fixture(scope="module")
def alone(write, stored):
    """A page without the diffusion world."""
    return write(token_world_model=stored)


@pytest.fixture(scope="module")
def both(write, parts, stored):
    """A page with both worlds, the diffusion one trained."""
    from safetensors.torch import load_file

    diffusion = load_file(SIBLING.folder / "weights" / "catch.safetensors")
    return write(diffusion_world_model=parts["export"].store(diffusion), token_world_model=stored)


@pytest.fixture(scope="module")
def sums(chromium, alone):
    """A page whose functions are called; its figure is out of view and stands still."""
    with browser.open_page(chromium, alone) as page:
        page.evaluate("globalThis.typed = frames => frames.map(frame => Float32Array.from(frame)); 0")
        yield page


@pytest.fixture(scope="module")
def frames(parts):
    """Forty frames of windy games, (40, 12, 12), each unlike the next."""
    game = parts["game"].Catch(10, gust=0.4)
    played = [game.reset(seed=0)[0]]
    random = np.random.default_rng(0)
    for _ in range(3):
        played.append(game.step(random.integers(3, size=10))[0])
    return torch.tensor(np.concatenate(played))


# --- what the page computes -----------------------------------------------------------------------------------


def test_settings_are_the_projects_own(sums, parts):
    world, train = parts["token_world_model"].TokenWorld(parts["world"].Vocabulary()), parts["train"]
    attend, vocabulary = world.attends[0], world.vocabulary
    assert sums.evaluate("[N_HEADS, WINDOW, N_TEXTS]") == [attend.n_heads, attend.window, vocabulary.n_texts]
    assert sums.evaluate("[CALM, WINDY, GUST]") == [train.CALM, train.WINDY, train.GUST]
    assert 2 ** int(sums.locator("#dream-k").get_attribute("max")) == vocabulary.n_codes


def test_gelu_is_the_exact_one(sums):
    x = torch.linspace(-6, 6, 201, dtype=torch.float64)
    mine = torch.tensor(sums.evaluate("x => x.map(gelu)", x.tolist()), dtype=torch.float64)
    torch.testing.assert_close(mine, torch.nn.functional.gelu(x), rtol=0, atol=1e-6)


READ = """sequences => sequences.map(tokens => {
  const { world } = dreamFigure, cache = world.empty();
  const heard = tokens.map(token => world.read(token, cache)).filter((x, i) => i % 4 === 1);
  return heard.map(x => ["image", "reward", "end"].flatMap(head => [...world[head](x)]));
})"""


@torch.no_grad()
def test_logits_are_torchs_in_twenty_sequences(sums, networks):
    """Cached, one token at a time, while the window slides; torch reads them whole."""
    world, generator = networks["world"], torch.Generator().manual_seed(0)
    tokens = torch.randint(world.vocabulary.size, (20, 58), generator=generator)
    output, _ = world(tokens)
    theirs = torch.cat(output, dim=2)[:, 1::4]
    mine = torch.tensor(sums.evaluate(READ, tokens.tolist()))
    assert (theirs[1:] - theirs[:-1]).std(dim=(0, 1)).min() > 0.2
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)


@torch.no_grad()
def test_frames_become_torchs_tokens_and_frames_again(sums, networks, frames):
    tokenizer, generator = networks["tokenizer"], torch.Generator().manual_seed(1)
    noise = 2 * torch.rand(20, 12, 12, generator=generator) - 1  # makes more different tokens than the game
    frames = torch.cat([frames, noise])
    tokens = tokenizer.encode(frames)
    first, second = (tokenizer._vectors(frames) @ tokenizer.codebook.T).topk(2, dim=-1).values.unbind(-1)
    assert (first - second).min() > 1e-5  # no token is a matter of rounding
    assert len(tokens.unique()) > 20
    mine = sums.evaluate("frames => typed(frames).map(dreamFigure.world.encode)", frames.flatten(1).tolist())
    assert mine == tokens.tolist()
    some = torch.randint(tokenizer.codebook.shape[0], (20, 9), generator=generator)
    theirs = tokenizer.decode(some)
    drawn = sums.evaluate("all => all.map(tokens => [...dreamFigure.world.decode(tokens)])", some.tolist())
    assert theirs.std(dim=0).min() > 0.01
    torch.testing.assert_close(torch.tensor(drawn).reshape(theirs.shape), theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("temperature", "k"), [(1.0, 256), (0.3, 256), (2.0, 5), (0.7, 1), (1.5, 100), (0, 7)]
)
def test_chances_are_the_projects_own(sums, parts, temperature, k):
    logits = 3 * torch.randn(4, 256, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kept = parts["token_world_model"].top_k(logits, k)
    theirs = (kept / temperature).softmax(dim=1) if temperature else (kept == kept.amax(1, True)).double()
    script = "([all, t, k]) => all.map(logits => chances(Float64Array.from(logits), t, k))"
    mine = torch.tensor(sums.evaluate(script, [logits.tolist(), temperature, k]), dtype=torch.float64)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-15)
    assert (mine > 0).sum(dim=1).tolist() == [k if temperature else 1] * 4


def test_of_equal_logits_k_are_kept(sums):
    shares = sums.evaluate("chances(Float32Array.from([1, 2, 1, 1, 0]), 1, 3)")
    assert sorted(share > 0 for share in shares) == [False, False, True, True, True]
    assert shares[1] > 0


def test_a_uniform_number_picks_by_the_chances(sums):
    script = "us => us.map(u => pick([0, 0.2, 0, 0.5, 0.3, 0], u))"
    assert sums.evaluate(script, [0, 0.19, 0.21, 0.69, 0.71, 1 - 1e-17]) == [1, 1, 3, 3, 4, 4]
    assert sums.evaluate("pick([0.5, 0.4, 0], 0.95)") == 1  # probabilities that do not quite sum to 1


@pytest.mark.parametrize("guidance", [0, 1, 2])
def test_guidance_is_the_projects_own(sums, parts, guidance):
    a, b = torch.randn(2, 30, generator=torch.Generator().manual_seed(4)).double()
    mine = sums.evaluate("([a, b, g]) => guide(a, b, g)", [a.tolist(), b.tolist(), guidance])
    assert mine == pytest.approx(parts["token_world_model"].guide(a, b, guidance).tolist(), abs=1e-12)


EPISODE = """([frame, actions, uniforms, settings]) => {
  const { world } = dreamFigure, random = () => uniforms.shift(), steps = [];
  let dream = TokenDream.begin(Float32Array.from(frame), world);
  for (const action of actions) {
    const going = dream.after(action, undefined, { ...settings, world, random }), before = JSON.stringify(dream);
    let next = going.next();
    while (!next.done) next = going.next();
    if (JSON.stringify(dream) !== before) throw Error("a dream was changed");
    dream = next.value;
    steps.push([dream.tokens, dream.said.reward, dream.said.ended ? 1 : 0, [...dream.frame]]);
  }
  return steps;
}"""


@torch.no_grad()
def torchs_episode(core, networks, frame, text, actions, sampling, uniforms, draw):
    """Return images, rewards, ends and frames as `next_frame` says them, `draw` in place of the project's."""
    world, tokenizer = networks["world"], networks["tokenizer"]
    texts = [text] if sampling.guidance == 1 else [text, 0 * text]
    images = tokenizer.encode(frame[None, None])
    tokens = [core.interleave(t, images, actions[None, :0], world.vocabulary) for t in texts]
    _, cache = world(torch.cat(tokens))
    steps, given = [], iter(uniforms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "draw", lambda logits, sampling, generator=None: draw(logits, sampling, given))
        for action in actions[:, None]:
            image, reward, end, cache = core.next_frame(world, text, action, cache, sampling)
            steps.append((image[0], reward.argmax(1)[0] - 1, end.argmax(1)[0], tokenizer.decode(image)[0]))
    return [torch.stack(column) for column in zip(*steps, strict=True)]


@pytest.mark.parametrize("guidance", [0, 1, 2])
@pytest.mark.parametrize(("temperature", "k"), [(0, 256), (0.8, 30), (1.2, 256)])
def test_an_episode_is_torchs_token_for_token(sums, parts, networks, frames, guidance, temperature, k):
    """Eight steps, the window slides from the fourth; uniform numbers are handed to both."""
    core, edges = parts["token_world_model"], []

    def draw(logits, sampling, uniforms):
        if sampling.temperature == 0:
            first, second = logits[0].topk(2).values
            edges.append((first - second).item())
            return logits.argmax(dim=1)
        sums_up_to = (core.top_k(logits, sampling.k) / sampling.temperature).softmax(dim=1).cumsum(dim=1)
        u = next(uniforms)
        edges.append((sums_up_to - u).abs().min().item())
        return (sums_up_to > u).int().argmax(dim=1)

    actions, text = torch.tensor([1, 2, 0, 0, 2, 1, 1, 2]), torch.tensor([2])
    sampling = parts["world"].Sampling(float(guidance), temperature, k)
    for seed in range(20):  # the first episode in which nothing is a matter of rounding
        uniforms, edges[:] = np.random.default_rng(seed).random(72).tolist(), []
        theirs = torchs_episode(core, networks, frames[seed], text, actions, sampling, uniforms, draw)
        if min(edges) > 1e-5:
            break
    else:
        pytest.fail("twenty episodes, and each leads to an edge")
    settings = {"text": 2, "guidance": guidance, "temperature": temperature, "k": k}
    given = [frames[seed].flatten().tolist(), actions.tolist(), uniforms, settings]
    tokens, rewards, ends, drawn = zip(*sums.evaluate(EPISODE, given), strict=True)
    assert list(tokens) == theirs[0].tolist()
    assert (list(rewards), list(ends)) == (theirs[1].tolist(), theirs[2].tolist())
    assert (torch.tensor(drawn).reshape(8, 12, 12) - theirs[3]).abs().max() < 1e-3
    assert len(theirs[0].unique()) > 9


@torch.no_grad()
def test_the_agent_sees_what_the_tokenizer_makes_of_frames(sums, networks, frames):
    seen = networks["tokenizer"].decode(networks["tokenizer"].encode(frames)).unflatten(0, (10, 4))
    logits, values = networks["agent"](seen)
    mine, chosen = sums.evaluate(
        """histories => { const { world } = dreamFigure;
          return [histories.map(h => [...world.readAgent(typed(h).map(frame => world.decode(world.encode(frame))))]), histories.map(h => world.act(typed(h)))]; }""",
        frames.unflatten(0, (10, 4)).flatten(2).tolist(),
    )
    theirs = torch.cat([logits, values[:, None]], dim=1)
    assert theirs.std(dim=0).min() > 1e-3
    torch.testing.assert_close(torch.tensor(mine), theirs, rtol=0, atol=1e-3)
    assert chosen == logits.argmax(dim=1).tolist()


def test_wind_is_that_of_game_py(sums, parts):
    """Play 60 games, put on the same beginnings and into the same gusts."""
    random, game = np.random.default_rng(4), parts["game"].Catch(60, gust=0.4)
    game.reset(seed=4)
    names = ("column", "direction", "paddle")
    starts = [
        dict(zip(names, map(int, start), strict=True))
        for start in zip(game.column, game.direction, game.paddle, strict=True)
    ]
    actions, chance, sides = random.integers(3, size=(60, 9)), random.random((60, 9)), random.random((60, 9))
    mine = sums.evaluate(
        """([starts, actions, chance, sides]) => starts.map((start, i) => {
          const told = [], numbers = actions[i].flatMap((_, t) => chance[i][t] < 0.4 ? [chance[i][t], sides[i][t]] : [chance[i][t]]);
          const game = Object.assign(new Catch(mulberry32(i), 0.4), start, { random: () => numbers.shift() });
          for (const action of actions[i]) { const { reward, ended } = game.step(action); told.push([game.column, game.direction, reward, ended ? 1 : 0]); }
          return told;
        })""",
        [starts, actions.tolist(), chance.tolist(), sides.tolist()],
    )
    for t in range(9):

        class Given:  # in place of the random numbers of game.py
            random = staticmethod(lambda n, t=t: chance[:, t])
            choice = staticmethod(lambda either, n, t=t: np.where(sides[:n, t] < 0.5, -1, 1))
            integers = staticmethod(lambda n, size: np.zeros(size, dtype=int))

        game._np_random = Given()
        _, reward, ended, _, _ = game.step(actions[:, t])
        told = np.array([steps[t] for steps in mine])
        assert np.array_equal(told[:, 2], reward)
        assert np.array_equal(told[:, 3], ended)
        if t < 8:  # then the next game begins
            assert np.array_equal(told[:, 0], game.column)
            assert np.array_equal(told[:, 1], game.direction)
    assert (chance < 0.4).mean() == pytest.approx(0.4, abs=0.1)


GAMES = """() => {
  const { world } = dreamFigure, beside = new Beside(mulberry32(5), TokenDream, 0, world);
  for (let move = 0; move < 100; move++) {  // ten games, each nine moves and a new beginning
    const going = beside.step(world.act(beside.real), { world, text: CALM, guidance: 1, temperature: 1, k: 256 });
    while (!going.next().done);
  }
  return [beside.record.length, beside.nWrong];
}"""


def test_with_the_committed_weights_it_dreams_the_game(chromium, write, parts):
    """In the calm, the agent plays: a tokenizer or a world that int8 or a rounded file has spoilt dreams another game."""
    from safetensors.torch import load_file

    weights = load_file(PROJECT.folder / "weights" / "catch.safetensors")
    page = write(token_world_model=parts["export"].store(weights))
    with browser.open_page(chromium, page) as page:
        n_dreamed, n_wrong = page.evaluate(GAMES)
    assert n_dreamed == 80
    assert n_wrong <= 16


# --- what a reader sees ---------------------------------------------------------------------------------------

STATE = """(() => { const { beside, kind, worlds } = dreamFigure;
  return { moves: beside.moves, dreamed: beside.record.length, kind, gust: beside.game.gust, made: Object.keys(worlds) }; })()"""
SEEN = """[...document.querySelectorAll("#playable-dream .token")].filter(e => e.getClientRects().length).map(e =>
  [Number(e.nextSibling.textContent), e.classList.contains("changed"), e.classList.contains("other")])"""


@pytest.fixture
def look(chromium, both):
    """Return a function that opens a page and scrolls to the figure; there time passes by `page.clock` alone."""
    with contextlib.ExitStack() as stack:

        def look(path=both, *, calm=False, width=1280, scheme="light", scroll=True):
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
                page.wait_for_function("dreamFigure.visible")
                page.clock.run_for(1000 if calm else 0)  # who asked for less motion sees a still: five moves
            return page

        yield look


def state(page):
    """Return where the game stands, once a move that has begun is done."""
    while page.evaluate("dreamFigure.busy"):
        page.clock.run_for(10)
    return page.evaluate(STATE)


def paused(look):
    """Open the token world at the first frame of a game that is paused."""
    page = look()
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("tokens", exact=True).check()
    return page


def step(page, key="ArrowLeft"):
    """Make one move of a game that is paused."""
    page.locator(".screen").press(key)
    page.clock.run_for(100)
    return state(page)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_figure_has_no_fault_whatever_the_switch_says(look, width, scheme):
    page = look(calm=True, width=width, scheme=scheme)
    for kind in ("diffusion", "tokens"):
        page.get_by_label(kind, exact=True).check()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        texts = page.locator("#playable-dream svg text:visible")
        edge = page.locator("#playable-dream svg").bounding_box()
        for box in texts.evaluate_all("all => all.map(e => e.getBoundingClientRect())"):
            assert edge["x"] - 1 <= box["left"] <= box["right"] <= edge["x"] + edge["width"] + 1
            assert box["bottom"] <= edge["y"] + edge["height"] + 1
    assert browser.faults(page) == []


def test_a_slider_behind_the_switch_that_changes_nothing_is_found_out(look, both, tmp_path):
    page, note = both.read_text(encoding="utf-8"), "this.note.textContent = note;"
    assert page.count(note) == 1
    (tmp_path / "index.html").write_text(page.replace(note, ""), encoding="utf-8")
    found = browser.faults(look(tmp_path / "index.html", calm=True))
    for name in ("steps", "temperature"):  # one on each side
        assert f"slider dream-{name} changes nothing" in found


def test_the_switch_is_worked_by_keys(look):
    page = look(calm=True)
    assert state(page)["moves"] == 5
    page.locator("#dream-diffusion").focus()
    page.keyboard.press("ArrowRight")
    told = state(page)
    assert (told["kind"], told["moves"], told["dreamed"]) == ("tokens", 0, 0)  # a new game
    assert page.locator("#dream-agent").is_checked()  # the arrow was for the switch
    only = {"diffusion": ("steps", "untrained"), "tokens": ("guidance", "temperature", "k", "windy")}
    for kind, key in (("tokens", "ArrowLeft"), ("diffusion", "ArrowRight")):
        for name in sum(only.values(), ()):
            assert page.locator(f"#dream-{name}").is_visible() == (name in only[kind]), name
        assert len(page.evaluate(SEEN)) == (18 if kind == "tokens" else 0)
        assert page.locator("#playable-dream figcaption:visible").count() == 1
        page.keyboard.press(key)
    assert state(page)["kind"] == "tokens"


def test_tokens_are_shown_as_integers_and_those_that_changed_are_marked(look):
    page = paused(look)
    world = "dreamFigure.world, { real, dream } = dreamFigure.beside"
    tokens = (
        f"(() => {{ const world = {world}; return [world.encode(real.at(-1)), dream.tokens].flat(); }})()"
    )
    before = page.evaluate(tokens)
    assert [number for number, _, _ in page.evaluate(SEEN)] == before
    assert before[:9] == before[9:]  # both begin with the same frame
    for move in range(1, 5):
        assert step(page)["moves"] == move
        now = page.evaluate(tokens)
        shown = page.evaluate(SEEN)
        assert [number for number, _, _ in shown] == now
        assert [changed for _, changed, _ in shown] == [a != b for a, b in zip(now, before, strict=True)]
        other = [a != b for a, b in zip(now[:9], now[9:], strict=True)]
        assert [differs for _, _, differs in shown] == [False] * 9 + other
        n_changed = sum(changed for _, changed, _ in shown[9:])
        said = page.locator("#playable-dream output").inner_text()
        assert f"{n_changed} of its 9 tokens changed" in said or move == 1
        before = now
    assert any(other)  # it is not trained


def test_windy_games_are_windy_on_both_sides(look):
    page = paused(look)
    svg, said = page.locator("#playable-dream svg"), "dreamFigure.settings.text"
    assert (state(page)["gust"], page.evaluate(said)) == (0, 1)
    assert "calm, guidance 1, temperature 1, all tokens" in svg.text_content()
    assert step(page)["moves"] == 1
    page.locator("#dream-windy").check()
    assert (state(page)["moves"], state(page)["gust"], page.evaluate(said)) == (0, 0.4, 2)
    assert "windy" in svg.text_content()
    page.get_by_label("diffusion", exact=True).check()
    assert state(page)["gust"] == 0  # it knows no wind


def test_the_sliders_of_the_token_world_reach_its_draws(look):
    page = paused(look)
    for name, value in (("guidance", "2.5"), ("temperature", "0.3"), ("k", "3")):
        page.locator(f"#dream-{name}").fill(value)
    assert "guidance 2.5, temperature 0.3, top 8" in page.locator("#playable-dream svg").text_content()
    assert page.locator("#dream-k").get_attribute("aria-valuetext") == "top 8"
    page.evaluate(
        """() => { const { world } = dreamFigure; dreamFigure.given = []; const { chances: before } = globalThis;
          globalThis.chances = (...given) => { dreamFigure.given.push(given.slice(1)); return before(...given); }; }"""
    )
    step(page)
    step(page)
    assert page.evaluate("dreamFigure.given") == [[0.3, 8]] * 9  # the first move was shown
    assert page.evaluate("dreamFigure.beside.dream.caches.length") == 2  # with the text and without
    page.locator("#dream-temperature").fill("1")
    assert (state(page)["moves"], state(page)["dreamed"]) == (2, 0)  # the same game, counted anew
    page.locator("#dream-guidance").fill("1")
    assert state(page)["moves"] == 0
    step(page)
    assert page.evaluate("dreamFigure.beside.dream.caches.length") == 1


def test_a_move_under_way_ends_unseen_when_the_switch_is_thrown(look):
    page = paused(look)
    step(page)
    assert page.evaluate("dreamFigure.advance(), dreamFigure.busy")
    page.get_by_label("diffusion", exact=True).check()
    page.clock.run_for(1000)
    assert (state(page)["moves"], state(page)["kind"]) == (0, "diffusion")
    assert step(page)["moves"] == 1
    assert page.page_errors() == []


@pytest.mark.parametrize(
    ("name", "kind"), [("diffusion_world_model", "diffusion"), ("token_world_model", "tokens")]
)
def test_both_projects_lead_to_the_figure(look, name, kind):
    page = look(calm=True, scroll=False)
    assert page.locator(f"#{name} figure").count() == 0
    page.get_by_label("diffusion" if kind == "tokens" else "tokens", exact=True).check()
    page.locator(f"#{name}").get_by_role("link", name="Play in this world").click()
    page.wait_for_function("dreamFigure.visible")
    page.clock.run_for(1000)
    assert state(page)["kind"] == kind
    assert page.get_by_label(kind, exact=True).is_checked()
    assert page.url.endswith("#playable-dream")


def test_alone_the_link_leads_to_the_figure_too(look, alone):
    page = look(alone, calm=True, scroll=False)
    page.get_by_role("link", name="Play in this world").click()
    page.wait_for_function("dreamFigure.visible")
    assert (state(page)["kind"], page.page_errors()) == ("tokens", [])


def test_alone_it_needs_no_switch_and_waits_until_it_is_seen(look, alone):
    page = look(alone, scroll=False)
    page.clock.run_for(2000)
    assert state(page) == {"moves": 0, "dreamed": 0, "kind": "tokens", "gust": 0, "made": []}
    assert page.locator("input[type=radio]").count() == 0
    assert page.locator("#dream-steps").is_hidden()
    page.locator("#playable-dream svg").scroll_into_view_if_needed()
    page.wait_for_function("dreamFigure.visible")
    assert [number for number, _, _ in page.evaluate(SEEN)] == 2 * page.evaluate(
        "dreamFigure.beside.dream.tokens"
    )
    page.clock.run_for(4 * 400)
    told = state(page)
    assert told["moves"] > 1
    assert told["made"] == ["tokens"]
    assert "the agent" in page.locator("#playable-dream output").inner_text()
