"""The judge of whole runs. Oracles: a clock that is told, data that is poisoned, runs that must end alike bit for bit."""

import itertools
import math
import types

import pytest
import torch
from episodes import seeded
from safetensors import safe_open

import agent as agent_module
import decoder as decoder_module
import token_world_model as core
import tokenizer as tokenizer_module
import train as module
from shared.testing.checks import expect_error
from shared.testing.no_compiler import without_compiler
from world import PLAIN, Dream

QUICK = dict(n_tokenizer=3, batch_size=4, n_dreams=3, horizon=2)
TWO_ROUNDS = ((6, 1, 1), (4, 1, 2))


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


@pytest.fixture
def no_score(monkeypatch):
    """A score that plays no game."""
    monkeypatch.setattr(module, "score", lambda *arguments, **options: 0.25)


def tiny(rounds=TWO_ROUNDS, **changed):
    return module.Settings(rounds=rounds, **{**QUICK, **changed})


def spy(monkeypatch, name, seen, of=lambda arguments, options, result: (arguments, options, result)):
    """Let `train` call this function as ever, and keep what it was asked."""
    inner = getattr(agent_module if name == "improve" else core, name)

    def wrapped(*arguments, **options):
        result = inner(*arguments, **options)
        seen.append(of(arguments, options, result))
        return result

    monkeypatch.setattr(module, name, wrapped, raising=False)


def everything(run):
    """All that was learned and collected, as one flat list of tensors."""
    states = [run.world_optimizer.state_dict()["state"], run.agent_optimizer.state_dict()["state"]]
    moments = [v for state in states for entry in state.values() for v in entry.values()]
    weights = [v for network in run.networks.values() for v in network.state_dict().values()]
    return [*weights, *moments, *run.replay, run.images, run.generator.get_state()]


def same(a, b):
    """Whether two runs ended alike, bit for bit."""
    if len(everything(a)) != len(everything(b)):
        return False
    return all(torch.equal(x, y) for x, y in zip(everything(a), everything(b), strict=True))


def without_seconds(records):
    return [
        {key: value for key, value in r.items() if key != "seconds" and not math.isnan(value)}
        for r in records
    ]


@pytest.mark.grades("train")
def test_what_is_collected(no_score, monkeypatch):
    """Half of the games are windy; the first round plays at random, the next ones with the agent; all is kept, as tokens too."""
    asked, collect = [], module.collect

    def collected(n, agent, tokenizer=None, **options):
        asked.append((n, agent, tokenizer, options))
        return collect(n, agent, tokenizer, **options)

    monkeypatch.setattr(module, "collect", collected)
    run = module.train(tiny(((6, 0, 0), (4, 0, 0)), epsilon=0.4), seed=3)
    assert sum(n for n, *_ in asked) == 10, (
        f"{[n for n, *_ in asked]} episodes are collected, expected 6 and 4"
    )
    texts = [options.get("text", 1) for *_, options in asked]
    n_windy = sum(n for (n, *_), text in zip(asked, texts, strict=True) if text == 2)
    assert n_windy == 5, f"{n_windy} of 10 games are windy, expected half"
    for i, (_, agent, tokenizer, options) in enumerate(asked):
        if i < len(asked) / 2:
            assert agent is None, "the first round does not play at random"
            continue
        assert agent is run.agent, "the second round does not play with the agent"
        assert tokenizer is run.tokenizer, (
            "the agent plays with frames as they are, not with what the tokenizer makes of them"
        )
        assert options.get("epsilon") == 0.4, "epsilon is not handed on"
        assert not options.get("greedy"), "the agent collects greedily: it would see less of the game"
    seeds = {options["seed"] for *_, options in asked}
    assert len(seeds) == 4, "the same games are played twice"
    assert run.replay.frames.shape == (10, 10, 12, 12), (
        f"frames of {len(run.replay.frames)} episodes are kept, expected all 10"
    )
    assert (run.replay.text == 2).sum() == 5, (
        f"the texts that are kept are {run.replay.text.tolist()}: half of the games are windy"
    )
    assert torch.equal(run.images, run.tokenizer.encode(run.replay.frames)), (
        "the tokens that are kept are not those of the frames"
    )
    asked.clear()
    module.train(tiny(((2, 0, 0), (2, 0, 0))), seed=4)
    assert not seeds & {options["seed"] for *_, options in asked}, "two seeds play the same games"


@pytest.mark.grades("train")
def test_the_rate_of_the_world(no_score, monkeypatch):
    """It rises for 50 updates to the one given, falls to 0, and begins anew in the next round."""
    rates, grads = [], []

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            grads.append(self.param_groups[0]["params"][0].grad.abs().max().item())
            rates.append(self.param_groups[0]["lr"])

    monkeypatch.setattr(module, "AdamW", Watched, raising=False)
    loss = lambda world, episodes, **options: next(world.parameters()).sum() * 1e-6  # noqa: E731
    monkeypatch.setattr(module, "world_loss", loss, raising=False)
    module.train(tiny(((2, 200, 0), (2, 100, 0)), world_rate=0.02), seed=1)
    first, second = rates[:200], rates[200:]
    assert len(second) == 100, f"{len(rates)} updates of the world, expected 200 and 100"
    assert max(grads) < 1.5e-6, "old gradients add up over the updates"
    peak = max(range(200), key=first.__getitem__)
    assert first[0] < 0.1 * 0.02, f"the rate begins with {first[0]:.3g}: it rises for 50 updates"
    assert 40 <= peak <= 55, f"the rate is greatest at update {peak}: it rises for 50 updates"
    assert 0.015 < first[peak] <= 0.02, f"the greatest rate is {first[peak]:.3g}, expected nearly 0.02"
    assert first[-1] < 0.01 * 0.02, f"the rate does not fall to 0: the last one is {first[-1]:.3g}"
    assert all(a > b for a, b in itertools.pairwise(first[peak:])), "the rate does not fall steadily"
    assert max(second) > 0.005, "the rate does not begin anew in the second round"
    assert second[-1] < 0.01 * 0.02, f"the rate does not fall to 0 in the second round: {second[-1]:.3g}"


@pytest.mark.grades("train")
def test_records(monkeypatch):
    """Every 10th update of the agent and the last; what they say of the dream; seconds without the scoring."""
    clock, dreams = types.SimpleNamespace(now=50.0), []

    def scored(agent, tokenizer=None, **options):
        clock.now += 1000
        assert tokenizer is not None, (
            "the agent is scored with frames as they are, not with what the tokenizer makes of them"
        )
        assert not options, f"the score is taken with {options}, expected 1,000 calm games"
        return 0.5

    def dreamt(world, policy, text, images, actions, *, horizon, **options):
        clock.now += 1
        g = seeded(len(dreams))
        rewards, ends = torch.randn(4, 5, generator=g), torch.rand(4, 5, generator=g) < 0.4
        alive = torch.rand(4, 5, generator=g) < 0.7
        dreams.append(
            Dream(
                images.expand(5, 5, 9),
                torch.zeros(4, 5, dtype=torch.int64),
                *torch.zeros(3, 4, 5),
                rewards,
                ends,
                alive,
            )
        )
        return dreams[-1]

    monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=lambda: clock.now), raising=False)
    monkeypatch.setattr(module, "score", scored)
    monkeypatch.setattr(module, "imagine", dreamt, raising=False)
    monkeypatch.setattr(module, "improve", lambda *a, **k: 0.0, raising=False)
    run = module.train(tiny(((6, 1, 12), (4, 0, 3)), n_dreams=1), seed=1)
    keys = {"round", "update", "real_steps", "dream", "real", "seconds"}
    assert all(set(record) == keys for record in run.records), f"a record has {set(run.records[0])}"
    steps = [(r["round"], r["update"], r["real_steps"]) for r in run.records]
    assert steps == [(0, 10, 54), (0, 12, 54), (1, 3, 90)], f"records of (round, update, real steps) {steps}"
    seconds = [r["seconds"] for r in run.records]
    assert seconds == [10, 12, 15], (
        f"seconds {seconds}, expected [10, 12, 15]: the clock stands still while the score is taken"
    )
    assert {r["real"] for r in run.records} == {0.5}, "'real' is not the score"
    for record, number in zip(run.records, (10, 12, 15), strict=True):
        d = dreams[number - 1]
        ended = [
            r
            for r, e, a in zip(*(c.flatten().tolist() for c in (d.rewards, d.ends, d.alive)), strict=True)
            if e and a
        ]
        assert abs(record["dream"] - sum(ended) / len(ended)) < 1e-5, (
            f"'dream' is {record['dream']:.3f}; games that ended in the dream have the mean return {sum(ended) / len(ended):.3f}"
        )


@pytest.mark.grades("train")
def test_a_checkpoint_is_whole_or_not_there(no_score, monkeypatch, tmp_path):
    """A save that fails half-way leaves the file of before."""
    path = tmp_path / "run.pt"
    run = module.train(tiny(((2, 0, 1),)), checkpoint=path)
    before = path.read_bytes()

    def full(state, target):
        with open(target, "wb") as file:
            file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        module.save_checkpoint(run, path)
    assert path.read_bytes() == before, "a save that fails destroys the checkpoint"


@pytest.mark.grades("train")
@pytest.mark.parametrize("changed", ["seed", "n_dreams", "rounds"])
def test_a_foreign_checkpoint_is_refused(no_score, tmp_path, changed):
    """One of another seed or other settings is refused, by the name of its file."""
    path = tmp_path / "run.pt"
    rounds = ((2, 0, 1),)
    module.train(tiny(rounds), seed=1, checkpoint=path)
    settings = {
        "seed": tiny(rounds),
        "n_dreams": tiny(rounds, n_dreams=4),
        "rounds": tiny((*rounds, (2, 0, 1))),
    }
    with expect_error(ValueError, path.name, otherwise=f"a checkpoint of another {changed} is accepted"):
        module.train(settings[changed], seed=2 if changed == "seed" else 1, checkpoint=path)


@pytest.mark.grades("train", "Parts")
def test_parts_are_replaced(no_score, monkeypatch):
    """A control's world is the one that learns and dreams; it learns from what `change` returns; an optimizer has its rate."""
    learned = []
    spy(monkeypatch, "world_loss", learned, lambda a, o, r: a)

    def change(episodes):
        return episodes._replace(actions=torch.full_like(episodes.actions, 2))

    class Other(module.TokenWorld):
        pass

    run = module.train(tiny(((6, 2, 1),), agent_rate=0.02), parts=module.Parts(world=Other, change=change))
    assert isinstance(run.world, Other), "the world is not replaced"
    assert run.agent_optimizer.param_groups[0]["lr"] == 0.02, "agent_rate is ignored"
    for world, episodes in learned:
        assert world is run.world, "another world learns"
        assert (episodes.actions == 2).all(), "what the world learns from is not changed"
    assert not (run.replay.actions == 2).all(), "the change is kept in the replay"
    assert module.train(tiny(((6, 0, 0),))).records == [], "a round without updates of the agent has a record"


@pytest.mark.grades("train")
def test_the_clock_goes_on(no_score, monkeypatch, tmp_path):
    """Seconds go on from those of the file; the time in between does not count."""
    clock, path, collect = types.SimpleNamespace(now=50.0), tmp_path / "run.pt", module.collect

    def dreamt(*arguments, **options):
        clock.now += 10
        return core.imagine(*arguments, **options)

    def stopping(n, agent, *arguments, **options):
        if agent is not None and clock.now < 1000:
            clock.now += 1000
            raise KeyboardInterrupt
        return collect(n, agent, *arguments, **options)

    monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=lambda: clock.now), raising=False)
    monkeypatch.setattr(module, "imagine", dreamt, raising=False)
    monkeypatch.setattr(module, "collect", stopping)
    with pytest.raises(KeyboardInterrupt):
        module.train(tiny(), checkpoint=path)
    seconds = [record["seconds"] for record in module.train(tiny(), checkpoint=path).records]
    assert seconds != [10, 20], "the clock starts again where a run goes on"
    assert seconds == [10, 30], f"seconds {seconds}, expected [10, 30] of three dreams of 10 s"


@pytest.mark.grades("train")
def test_each_network_learns_in_its_time(no_score, monkeypatch):
    """While the agent learns, the others stay, and get no gradients; while the world learns, the agent stays."""
    worlds, agents, runs = [], [], []
    inner = agent_module.improve

    def snapshot(networks):
        return [
            x.clone() for n in networks for p in n.parameters() for x in (p.detach(), p.grad) if x is not None
        ]

    class Watched(module.Run):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            runs.append(self)
            agents.append(snapshot([self.agent]))

    def improve(*arguments, **options):
        worlds.append(snapshot([runs[0].tokenizer, runs[0].world]))
        agents.append(snapshot([runs[0].agent]))
        return inner(*arguments, **options)

    monkeypatch.setattr(module, "Run", Watched)
    monkeypatch.setattr(module, "improve", improve, raising=False)
    run = module.train(tiny(((6, 2, 3),)), seed=2)
    worlds.append(snapshot([run.tokenizer, run.world]))
    for a, b in itertools.pairwise(worlds):
        assert len(a) == len(b), "the agent's loss gives the world gradients"
        assert all(map(torch.equal, a, b)), "the agent's learning changes the world or the tokenizer"
    assert len(agents[0]) == len(agents[1]), "learning the world gives the agent gradients"
    assert all(map(torch.equal, agents[0], agents[1])), "learning the world changes the agent"
    assert not all(
        map(torch.equal, agents[1][: len(agents[0])], (p.detach() for p in run.agent.parameters()))
    ), "the agent does not learn"


@pytest.mark.grades("train")
def test_tokens_are_learned_once(no_score, monkeypatch):
    """In the first round, on all its frames, before the world learns from its tokens; never again."""
    calls, train_tokenizer = [], tokenizer_module.train_tokenizer
    before = []

    def trained(tokenizer, frames, n_updates, **options):
        calls.append((tokenizer, frames.clone(), n_updates))
        before.extend(p.detach().clone() for p in tokenizer.parameters())
        train_tokenizer(tokenizer, frames, n_updates, **options)
        calls.append([p.detach().clone() for p in tokenizer.parameters()])

    monkeypatch.setattr(module, "train_tokenizer", trained, raising=False)
    learned = []
    spy(monkeypatch, "world_loss", learned, lambda a, o, r: a[1])
    run = module.train(tiny(((6, 2, 1), (4, 1, 1)), n_tokenizer=5), seed=1)
    assert len(calls) == 2, f"the tokens are learned {len(calls) // 2} times: once, in the first round"
    (tokenizer, frames, n_updates), after = calls
    assert tokenizer is run.tokenizer, "another tokenizer is trained"
    assert n_updates == 5, f"{n_updates} updates of the tokenizer, expected 5"
    assert frames.shape == (60, 12, 12), (
        f"the tokenizer learns from frames {tuple(frames.shape)}, expected all 60 of the round"
    )
    assert torch.equal(frames, run.replay.frames[:6].flatten(0, 1)), "the tokenizer learns from other frames"
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), (
        "the tokenizer does not learn"
    )
    assert all(map(torch.equal, after, run.tokenizer.parameters())), (
        "the tokenizer goes on learning: its tokens change their meaning"
    )
    assert not run.tokenizer.training, "the tokenizer is not ready for use: eval()"
    rows = {tuple(image.flatten().tolist()) for image in run.images}
    for episodes in learned:
        for image in episodes.images:
            assert tuple(image.flatten().tolist()) in rows, (
                "the world learns from tokens that are not those of the trained tokenizer"
            )


@pytest.mark.grades("train_coarse")
def test_train_coarse(monkeypatch):
    """8 codes; the decoder learns frames beside what the tokenizer makes of them, once its tokens are learned."""
    order, state = [], torch.get_rng_state()
    tokens, paint = tokenizer_module.train_tokenizer, decoder_module.train_decoder

    def first(tokenizer, frames, n_updates, **options):
        order.append(("tokenizer", frames.clone(), n_updates))
        tokens(tokenizer, frames, n_updates, **options)

    def second(decoder, frames, means, n_updates, **options):
        order.append(("decoder", frames.clone(), means.clone(), n_updates))
        assert not means.requires_grad, "the means carry gradients of the tokenizer"
        paint(decoder, frames, means, n_updates, **options)

    monkeypatch.setattr(module, "train_tokenizer", first, raising=False)
    monkeypatch.setattr(module, "train_decoder", second, raising=False)
    networks = module.train_coarse(n_games=3, n_updates=2, seed=5)
    assert torch.equal(torch.get_rng_state(), state), "torch's own random numbers are used"
    assert list(networks) == ["tokenizer", "decoder"], f"networks {list(networks)}"
    assert [entry[0] for entry in order] == ["tokenizer", "decoder"], (
        "the decoder learns before the tokens are there"
    )
    assert len(networks["tokenizer"].codebook) == 8, (
        f"{len(networks['tokenizer'].codebook)} codes, expected 8"
    )
    (_, frames, n_tokens), (_, same_frames, means, n_paint) = order
    assert (n_tokens, n_paint) == (2, 2), f"{n_tokens} and {n_paint} updates, expected 2 of each"
    assert frames.shape == (30, 12, 12), f"frames {tuple(frames.shape)}, expected all 30 of 3 games"
    assert torch.equal(frames, same_frames), "tokenizer and decoder learn from other frames"
    tokenizer = networks["tokenizer"]
    with torch.no_grad():
        wanted = tokenizer.decode(tokenizer.encode(frames))
    assert torch.allclose(means, wanted, atol=1e-6), (
        "the means are not what the trained tokenizer makes of the frames"
    )
    other = module.train_coarse(n_games=3, n_updates=2, seed=6)["decoder"]
    again = module.train_coarse(n_games=3, n_updates=2, seed=6)["decoder"]
    assert all(map(torch.equal, other.parameters(), again.parameters())), (
        "the same seed gives another decoder"
    )


@pytest.mark.grades
@pytest.mark.parametrize("coarse", [False, True], ids=["catch", "coarse"])
def test_main(no_score, monkeypatch, tmp_path, capsys, coarse):
    """It saves weights by their name, and a checkpoint by the seed; it says what came out."""
    monkeypatch.setattr(module, "__file__", str(tmp_path / "train.py"))
    monkeypatch.setattr(module, "LONG", ((3, 1, 1),))
    settings, train_coarse = module.Settings, module.train_coarse
    monkeypatch.setattr(module, "Settings", lambda **k: settings(**{**QUICK, **k}))
    monkeypatch.setattr(
        module, "train_coarse", lambda **k: train_coarse(**{**k, "n_games": 2, "n_updates": 1})
    )
    monkeypatch.setattr("sys.argv", ["train.py", "--seed", "7", *(["--coarse"] if coarse else [])])
    module.main()
    if coarse:
        module.load_coarse(tmp_path / "weights" / "coarse.safetensors")
        return
    assert (tmp_path / "build" / "catch_7.pt").exists(), "no checkpoint is written"
    assert "0.25" in capsys.readouterr().out, "the score is not told"
    with safe_open(tmp_path / "weights" / "catch.safetensors", "pt") as file:
        assert file.metadata()["rounds"] == "((3, 1, 1),)", f"the note says {file.metadata()}"
    module.load_weights(tmp_path / "weights" / "catch.safetensors")


@pytest.mark.grades("train")
def test_what_the_world_learns_from(no_score, monkeypatch):
    """Whole episodes, each with its own text, actions, rewards and ends; every episode at some time."""
    learned = []
    spy(monkeypatch, "world_loss", learned, lambda a, o, r: a[1])
    run = module.train(tiny(((6, 9, 0),), batch_size=5), seed=1)
    games = [tuple(c[i].flatten().tolist() for c in (r.text, run.images, r.actions, r.rewards, r.ends)) for r in [run.replay] for i in range(6)]  # fmt: skip
    met = set()
    for episodes in learned:
        assert episodes.images.shape == (5, 10, 9), (
            f"the world learns from images {tuple(episodes.images.shape)}, expected whole episodes (5, 10, 9)"
        )
        for i in range(5):
            row = tuple(column[i].flatten().tolist() for column in episodes)
            assert row in games, "text, tokens, actions, rewards and ends are not those of one episode"
            met.add(games.index(row))
    assert met == set(range(6)), f"the world learns from the episodes {sorted(met)} of 6"


@pytest.mark.grades("train")
def test_dreams(no_score, monkeypatch):
    """Calm, from the first frames of real games, with the agent looking at decoded frames; each dream improves the agent once."""
    asked, improved, imagine = [], [], core.imagine

    def dreamt(world, policy, text, images, actions, **options):
        dream = imagine(world, policy, text, images, actions, **options)
        assert not any(column.requires_grad for column in dream), "a dream carries gradients"
        asked.append((world, text, images, actions, options, dream))
        return dream

    monkeypatch.setattr(module, "imagine", dreamt, raising=False)
    spy(monkeypatch, "improve", improved)
    run = module.train(tiny(((8, 1, 4),), n_dreams=5, horizon=3), seed=2)
    assert len(asked) == 4, f"{len(asked)} dreams, expected one for each update of the agent"
    firsts = {tuple(row) for row in run.images[:, 0].tolist()}
    met = set()
    for world, text, images, actions, options, _ in asked:
        assert world is run.world, "the agent dreams in another world"
        assert text.tolist() == [1] * 5, (
            f"the dreams have the texts {text.tolist()}: five calm ones are expected"
        )
        assert images.shape == (5, 1, 9), (
            f"dreams begin with images {tuple(images.shape)}, expected (5, 1, 9)"
        )
        assert actions.shape == (5, 0), (
            f"dreams begin after the actions {tuple(actions.shape)}, expected none"
        )
        assert {tuple(row) for row in images[:, 0].tolist()} <= firsts, (
            "a dream begins in the middle of a game: it begins with its first frame"
        )
        met |= {tuple(row) for row in images[:, 0].tolist()}
        assert options["horizon"] == 3, f"a dream has {options['horizon']} steps, expected 3"
        assert options.get("sampling", PLAIN) == PLAIN, "tokens are not drawn plainly"
    assert len(met) > len(firsts) / 2, "all dreams begin with the same few frames"
    for (_, _, _, _, _, dream), (arguments, _, _) in zip(asked, improved, strict=True):
        agent, optimizer, given, frames = arguments
        assert agent is run.agent, "another agent is improved"
        assert optimizer is run.agent_optimizer, "another optimizer is used"
        assert all(map(torch.equal, given, dream)), "the agent does not learn from the dream as it is"
        assert torch.equal(frames, run.tokenizer.decode(dream.images)), (
            "the agent does not learn from the dream's decoded frames"
        )
        assert not frames.requires_grad, "frames carry gradients of the tokenizer"


@pytest.mark.grades("train")
def test_what_the_agent_is_asked_in_its_dream(no_score, monkeypatch):
    """The decoded frames of the dream's own images, and nothing of another dream."""
    seen = []

    class Watched(module.ActorCritic):
        def forward(self, frames):
            if not torch.is_grad_enabled():
                seen.append(frames.clone())
            return super().forward(frames)

    monkeypatch.setattr(module, "ActorCritic", Watched)
    dreams = []
    spy(monkeypatch, "imagine", dreams, lambda a, o, r: r)
    run = module.train(tiny(((4, 1, 2),), n_dreams=3, horizon=2), seed=2)
    assert len(seen) == 6, f"the agent is asked {len(seen)} times in two dreams of two steps, expected 6"
    for i, frames in enumerate(seen):
        with torch.no_grad():
            decoded = run.tokenizer.decode(dreams[i // 3].images)
        wanted = torch.stack([decoded[:, max(0, p)] for p in range(i % 3 - 3, i % 3 + 1)], dim=1)
        assert torch.allclose(frames, wanted, atol=1e-5), (
            "in a dream the agent does not see its last four images, decoded"
        )


@pytest.mark.grades("train", "Run", "Settings")
def test_a_run_repeats(no_score):
    """The same seed ends alike bit for bit; another does not; torch's own numbers are not touched."""
    state = torch.get_rng_state()
    run = module.train(tiny(), seed=3)
    assert torch.equal(torch.get_rng_state(), state), "torch's own random numbers are used"
    again = module.train(tiny(), seed=3)
    assert same(run, again), "the same seed gives another run"
    assert without_seconds(run.records) == without_seconds(again.records), "the same seed gives other records"
    assert not same(run, module.train(tiny(((6, 0, 0),)), seed=4)), "the seed is ignored"
    assert run.n_rounds == 2, f"{run.n_rounds} rounds are complete, expected 2"
    assert list(run.networks) == ["tokenizer", "world", "agent"], f"networks {list(run.networks)}"
    networks = run.tokenizer, run.world, run.agent
    assert all(a is b for a, b in zip(run.networks.values(), networks, strict=True)), (
        "networks by a wrong name"
    )


@pytest.mark.grades("train")
def test_no_real_transition_reaches_the_agent(no_score, monkeypatch):
    """Rewards, ends, actions and later frames are poisoned before the agent learns: it is the same."""
    clean = module.train(tiny(((6, 2, 3),)), seed=2)
    imagine = core.imagine
    poisoned = []

    def poison(world, policy, *arguments, **options):
        replay, images = poisoned[0].replay, poisoned[0].images
        replay.rewards.fill_(50.0)
        replay.ends.fill_(True)
        replay.frames[:, 1:] = 50.0
        replay.actions.fill_(2)
        images[:, 1:] = 0
        return imagine(world, policy, *arguments, **options)

    class Watched(module.Run):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            poisoned.append(self)

    monkeypatch.setattr(module, "Run", Watched)
    monkeypatch.setattr(module, "imagine", poison, raising=False)
    run = module.train(tiny(((6, 2, 3),)), seed=2)
    assert all(map(torch.equal, run.agent.parameters(), clean.agent.parameters())), (
        "a real transition reaches the agent's loss"
    )


@pytest.mark.grades("train")
def test_a_run_goes_on_where_it_stopped(no_score, monkeypatch, tmp_path):
    """Stopped in its second round, it ends as if it had never stopped, bit for bit; once complete it does nothing more."""
    whole = module.train(tiny(), seed=3)
    path, collect = tmp_path / "deep" / "run.pt", module.collect

    def stopping(n, agent, *arguments, **options):
        if agent is not None:
            raise KeyboardInterrupt
        return collect(n, agent, *arguments, **options)

    monkeypatch.setattr(module, "collect", stopping)
    with pytest.raises(KeyboardInterrupt):
        module.train(tiny(), seed=3, checkpoint=path)
    monkeypatch.setattr(module, "collect", collect)
    assert path.exists(), "nothing was saved after the first round"
    run = module.train(tiny(), seed=3, checkpoint=path)
    assert len(run.replay.frames) == 10, f"{len(run.replay.frames)} episodes after going on, expected 10"
    assert same(run, whole), "a run that was stopped ends otherwise"
    assert without_seconds(run.records) == without_seconds(whole.records), "its records are others"
    monkeypatch.setattr(module, "collect", None)
    again = module.train(tiny(), seed=3, checkpoint=path)
    assert same(again, whole), "a complete run is not loaded"
    assert not again.tokenizer.training, "the tokenizer is not ready for use after going on: eval()"


@pytest.mark.grades("train")
def test_the_world_learns(no_score, monkeypatch):
    """Its loss falls; gradients are cut to norm 1 and do not add up over updates."""
    losses = []
    spy(monkeypatch, "world_loss", losses, lambda a, o, r: r.item())
    run = module.train(tiny(((20, 25, 0),), batch_size=8), seed=0)
    before, after = sum(losses[:4]) / 4, sum(losses[-4:]) / 4
    assert after < 0.8 * before, (
        f"the loss goes from {before:.2f} to {after:.2f} in 25 updates: does it learn?"
    )
    norm = (
        torch.stack([p.grad.square().sum() for p in run.world.parameters() if p.grad is not None])
        .sum()
        .sqrt()
    )
    assert norm < 1 + 1e-4, f"the gradient's norm is {norm:.2f}: it is not cut to 1"
