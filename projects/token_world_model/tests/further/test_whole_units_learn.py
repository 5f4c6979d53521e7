"""The judge of what each network learns in a few updates. It takes longest, so it comes last."""

import pytest
import torch
from episodes import seeded

import agent as agent_module
import decoder as decoder_module
import tokenizer as tokenizer_module
from shared.testing.no_compiler import without_compiler
from world import Dream


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


@pytest.mark.grades("Tokenizer", "train_tokenizer")
def test_a_tokenizer_learns_frames():
    """A few updates on frames of four kinds of patches: a third of the error of the mean frame; the generator decides."""
    kinds = torch.rand(4, 4, 4, generator=seeded(7)).round() * 2 - 1
    patches = kinds[torch.randint(4, (40, 3, 3), generator=seeded(8))]
    frames = patches.permute(0, 1, 3, 2, 4).reshape(40, 12, 12)

    def trained(n_updates):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            tokenizer = tokenizer_module.Tokenizer(12, width=16)
        tokenizer_module.train_tokenizer(
            tokenizer, frames, n_updates, batch_size=16, learning_rate=1e-2, generator=seeded(1)
        )
        with torch.no_grad():
            tokens = tokenizer.encode(frames)
            return tokens, (tokenizer.decode(tokens) - frames).square().mean().item()

    tokens, error = trained(150)
    mean = (frames - frames.mean(0)).square().mean().item()
    assert error < mean / 3, f"the error is {error:.3f}; the mean frame's is {mean:.3f}: does it learn?"
    assert len(tokens.unique()) >= 4, f"{len(tokens.unique())} codes are in use for four kinds of patches"
    assert trained(5)[1] == trained(5)[1], "the same generator trains another tokenizer"


@pytest.mark.grades("Decoder", "train_decoder")
def test_a_decoder_learns():
    """The loss on frames that are their own means falls to less than a half."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = decoder_module.Decoder(width=12)
    frames = (torch.rand(40, 12, 12, generator=seeded(1)) - 0.5).sign()

    def loss():
        with torch.no_grad():
            return decoder_module.decoder_loss(decoder, frames, frames, generator=seeded(9)).item()

    before = loss()
    decoder_module.train_decoder(
        decoder, frames, frames, 60, batch_size=16, learning_rate=1e-2, generator=seeded(1)
    )
    after = loss()
    assert after < before / 2, f"the loss goes from {before:.2f} to {after:.2f} in 60 updates: does it learn?"


@pytest.mark.grades("ActorCritic", "improve")
def test_learns_a_toy():
    """Reward 1 for the action that the newest frame shows, else -1: after 25 batches of one-step dreams it is taken."""
    g = seeded(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        agent = agent_module.ActorCritic(width=8)
    optimizer = torch.optim.Adam(agent.parameters(), 3e-3)

    def scene(n):
        wanted = torch.randint(3, (n,), generator=g)
        frames = -torch.ones(n, 2, 12, 12)
        frames[torch.arange(n), 0, :, 4 * wanted] = 1.0
        return frames, wanted

    def seen(frames):
        return frames[:, :1].expand(-1, 4, -1, -1)

    for _ in range(25):
        frames, wanted = scene(64)
        with torch.no_grad():
            logits, values = agent(seen(frames))
        action = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
        log_probs = logits.log_softmax(1).gather(1, action[:, None])[:, 0]
        rewards = torch.where(action == wanted, 1.0, -1.0)
        yes = torch.ones(64, dtype=torch.bool)
        columns = (action, log_probs, values, torch.full((64,), 9.0), rewards, yes, yes)
        images = torch.zeros(64, 2, 9, dtype=torch.int64)
        agent_module.improve(
            agent, optimizer, Dream(images, *(c[None] for c in columns)), frames, generator=g
        )
    frames, wanted = scene(300)
    with torch.no_grad():
        right = (agent(seen(frames))[0].argmax(1) == wanted).float().mean()
    assert right > 0.9, f"the agent takes the rewarded action in {right:.0%} of cases"
