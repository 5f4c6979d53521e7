"""All of yours together: laws of a real world, a world that learns a rule, and a dream in it that keeps to the rule."""

import pytest
import torch
from oracles import normal, pieces, seeded
from toys import Constant

import token_world_model as twm
from shared.testing.checks import assert_close, assert_imports_only
from shared.testing.no_compiler import without_compiler
from world import Episodes, Sampling, Vocabulary

NETWORK = ("interleave", "rotate", "CausalSelfAttention", "TokenWorld")
ALL = (*NETWORK, "world_loss", "guide", "top_k", "draw", "next_frame", "imagine")
WORDS = Vocabulary(n_codes=6, n_image=2, n_texts=3, n_actions=3)


@pytest.mark.grades
def test_imports():
    """torch, world.py and the standard library."""
    assert_imports_only(twm, {"torch", "world"})


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    """An optimizer would import torch's compiler, which takes a second."""
    with without_compiler():
        yield


def small(window=12, seed=0, n_layers=2):
    """A small world with loud weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        world = twm.TokenWorld(WORDS, d=24, n_heads=2, n_layers=n_layers, window=window)
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in world.parameters():
            if parameter.ndim == 2:
                parameter.copy_(
                    normal(*parameter.shape, generator=generator, scale=1.5 * parameter.shape[1] ** -0.5)
                )
    return world


def stack(output):
    return torch.cat(tuple(output), dim=-1)


@pytest.mark.grades(*NETWORK)
@torch.no_grad()
def test_cached_logits():
    """Token by token and in unequal parts, when the window has slid more than three times: to 1e-5 in double precision."""
    world = small(window=10).double()
    tokens = twm.interleave(*pieces(3, 10, seeded(1), WORDS), WORDS)
    whole = stack(world(tokens)[0])
    for sizes in ((1,) * 40, (7, 1, 12, 3, 1, 16), (39, 1)):
        said, cache, at = [], None, 0
        for size in sizes:
            output, cache = world(tokens[:, at : at + size], cache)
            said.append(stack(output))
            at += size
        hint = "with a cache the world says something else: positions, places or pasts do not go on where the cache ends"
        assert_close(
            torch.cat(said, dim=1), whole, rtol=1e-5, what=f"logits in parts of {sizes[:4]} …", hint=hint
        )


@pytest.mark.grades(*NETWORK)
@torch.no_grad()
def test_actions_lead_on():
    """Another action at step t changes what is said of image t + 1, reward and end of t; nothing before."""
    world = small(window=40)
    text, images, actions = pieces(3, 5, seeded(2), WORDS)
    changed = actions.clone()
    changed[:, 2] = (actions[:, 2] + 1) % 3
    one, other = (stack(world(twm.interleave(text, images, a, WORDS))[0]) for a in (actions, changed))
    moved = (one != other).any(-1).any(0).nonzero()[:, 0].tolist()
    assert moved[0] == 2 * 4 + 3, f"the action of step 2, token 11, changes what is said at {moved[0]} first"
    assert moved == list(range(11, 20)), (
        f"the action of step 2 changes what is said at {moved}, expected 11 to 19"
    )


@pytest.mark.grades(*ALL)
@torch.no_grad()
def test_dream_is_what_the_world_says():
    """At temperature 0 each token of a guided dream is the likeliest of the mixed logits of the whole, window and all."""
    world, sampling = small(window=9).double(), Sampling(guidance=2.0, temperature=0.0)
    text, images, actions = pieces(5, 2, seeded(3), WORDS, last_action=False)
    dream = twm.imagine(
        world,
        Constant([0.2, 0.3, 0.5]),
        text,
        images,
        actions,
        horizon=8,
        sampling=sampling,
        generator=seeded(4),
    )
    done = torch.cat([actions, dream.actions.T], dim=1)
    both = [world(twm.interleave(t, dream.images, done, WORDS))[0].image for t in (text, 0 * text)]
    place = torch.arange(both[0].shape[1]) % WORDS.step
    said = (2 * both[0] - both[1])[:, place < WORDS.n_image].argmax(-1).unflatten(1, (10, 2))
    hint = "the dream is not what the world says of the whole: the cache's positions, the texts of the two halves, or the mixture"
    assert_close(dream.images[:, 2:], said[:, 2:], what="images of a dream at temperature 0", hint=hint)


def rule(text, image, action):
    """The next image: what the action and the text say, and the first token from before; reward and end are the action's and the image's."""
    following = torch.stack([2 * action + text - 1, image[:, 0]], dim=1)
    return following, action - 1.0, image[:, 0] > 3


def games(n, n_steps, generator):
    """Episodes that follow the rule."""
    text = torch.randint(1, 3, (n,), generator=generator)
    images, steps = [torch.randint(0, 6, (n, 2), generator=generator)], []
    for _ in range(n_steps - 1):
        action = torch.randint(0, 3, (n,), generator=generator)
        following, reward, end = rule(text, images[-1], action)
        images.append(following)
        steps.append((action, reward, end))
    return Episodes(
        text, torch.stack(images, dim=1), *(torch.stack(column, dim=1) for column in zip(*steps, strict=True))
    )


@pytest.mark.grades(*ALL)
def test_a_world_learns_the_rule():
    """50 updates; then a dream follows the rule, its rewards and ends too."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        world = twm.TokenWorld(WORDS, d=32, n_heads=2, n_layers=2, window=12)
    generator = seeded(5)
    optimizer = torch.optim.Adam(world.parameters())
    losses = []
    n = 50
    for i in range(n):
        loss = twm.world_loss(world, games(64, 4, generator), generator=generator)
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (i + 1) / 8) * (1 - i / n)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0], (
        f"the loss goes from {losses[0]:.2f} to {losses[-1]:.2f} in {n} updates: nothing is learned"
    )
    start = games(200, 2, generator)
    first = start.images[:, :1]
    dream = twm.imagine(
        world,
        Constant([0.2, 0.3, 0.5]),
        start.text,
        first,
        first[:, :0, 0],
        horizon=4,
        sampling=Sampling(temperature=0.3, k=2),
        generator=generator,
    )
    right = {"first tokens": [], "second tokens": [], "rewards": [], "ends": []}
    for t in range(4):
        image, reward, end = rule(start.text, dream.images[:, t], dream.actions[t])
        same = *(dream.images[:, t + 1] == image).T, dream.rewards[t] == reward, dream.ends[t] == end
        for column, part in zip(right.values(), same, strict=True):
            column.append(part.double().mean().item())
    for name, shares in right.items():
        told = ", ".join(f"{share:.2f}" for share in shares)
        mean = sum(shares) / 4
        assert mean > 0.75, (
            f"in four steps of a dream the {name} follow the rule that was learned with shares {told}"
        )
