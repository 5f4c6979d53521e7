"""The judge of the tokenizer. Oracles: an encoder and a decoder whose answers are known, sums by hand in float64."""

from itertools import pairwise

import pytest
import torch
from episodes import seeded, wake
from torch import nn

import tokenizer as module
from shared.testing.checks import assert_close, unchanged
from shared.testing.no_compiler import without_compiler

DOUBLE = torch.float64
N_CODES, D = 6, 5


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


class Told(nn.Module):
    """An encoder that gives the vector whose number stands in the first pixel of each 4 × 4 patch: lengths far from 1."""

    def __init__(self, n=12, d=D):
        super().__init__()
        self.table = nn.Parameter(torch.randn(n, d, generator=seeded(1)) * torch.linspace(0.3, 4, n)[:, None])

    def forward(self, x):
        return self.table[x[:, 0, ::4, ::4].round().long()].permute(0, 3, 1, 2)


class Drawn(nn.Module):
    """A decoder that adds up a picture per number of a code, at each place one of its own."""

    def __init__(self, d=D, scale=0.2):
        super().__init__()
        self.pictures = nn.Parameter(scale * torch.randn(9, d, 4, 4, generator=seeded(2)))

    def forward(self, grid):
        tiles = torch.einsum("bdp,pdij->bpij", grid.flatten(2), self.pictures)
        return tiles.unflatten(1, (3, 3)).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)[:, None]


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def small(*, scale=0.2, **options):
    """A tokenizer of known codes with a known encoder and decoder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = module.Tokenizer(N_CODES, **{"d": D, "width": 4, **options})
    tokenizer.encoder, tokenizer.decoder = Told(), Drawn(scale=scale)
    with torch.no_grad():
        tokenizer.codebook.copy_(unit(torch.randn(N_CODES, D, generator=seeded(3))))
        tokenizer.sums.copy_(tokenizer.codebook * torch.linspace(0.5, 2, N_CODES)[:, None])
    return tokenizer.eval()


def frames_of(numbers):
    """Frames (..., 12, 12) whose patches hold these numbers (..., 9), and noise elsewhere."""
    frames = torch.rand(*numbers.shape[:-1], 12, 12, generator=seeded(4)) - 0.5
    frames[..., ::4, ::4] = numbers.unflatten(-1, (3, 3)).float()
    return frames


def some_numbers(*shape, n=12):
    return torch.randint(n, (*shape, 9), generator=seeded(5))


def choices(tokenizer, numbers):
    """Tokens (..., 9) by hand: the greatest cosine, one vector at a time."""
    vectors, codes = tokenizer.encoder.table.detach().double(), tokenizer.codebook.double()
    best = [max(range(N_CODES), key=lambda j, v=v: float(v @ codes[j] / codes[j].norm())) for v in vectors]
    return torch.tensor(best)[numbers]


def picture(tokenizer, codes):
    """A frame (12, 12) of nine vectors, pixel by pixel, float64."""
    frame, pictures = torch.zeros(12, 12, dtype=DOUBLE), tokenizer.decoder.pictures.detach().double()
    for place in range(9):
        row, column = divmod(place, 3)
        tile = sum(codes[place, i] * pictures[place, i] for i in range(codes.shape[1]))
        frame[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = tile
    return frame


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.grades("Tokenizer")
@pytest.mark.parametrize("leading", [(3,), (2, 5), (2, 1, 3)], ids=str)
def test_shapes(leading):
    """Any leading axes; tokens are int64 and below n_codes; each frame is encoded and decoded by itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = wake(module.Tokenizer(37, d=6, width=5)).eval()
    frames = 2 * torch.rand(*leading, 12, 12, generator=seeded(1)) - 1
    with torch.no_grad(), unchanged(frames):
        tokens = tokenizer.encode(frames)
    assert tokens.shape == (*leading, 9), f"tokens {tuple(tokens.shape)}, expected {(*leading, 9)}"
    assert tokens.dtype == torch.int64, f"tokens are {tokens.dtype}"
    assert tokens.min() >= 0, f"token {tokens.min()} is negative"
    assert tokens.max() < 37, f"token {tokens.max()} of 37 codes"
    assert len(tokens.unique()) > 1, "all tokens are alike"
    alone = [tokenizer.encode(frame[None])[0] for frame in frames.flatten(0, -3)]
    assert torch.equal(tokens.flatten(0, -2), torch.stack(alone)), "frames are mixed when they are encoded"
    tokens = torch.randint(37, (*leading, 9), generator=seeded(2))
    with torch.no_grad(), unchanged(tokens):
        decoded = tokenizer.decode(tokens)
    assert decoded.shape == (*leading, 12, 12), (
        f"frames {tuple(decoded.shape)}, expected {(*leading, 12, 12)}"
    )
    alone = torch.stack([tokenizer.decode(row[None])[0] for row in tokens.flatten(0, -2)])
    assert (decoded.flatten(0, -3) - alone).abs().max() < 1e-5, "frames are mixed when they are decoded"


@pytest.mark.grades("Tokenizer")
def test_codes_have_length_one():
    """From the start, all unlike each other; sums begin where the codes are."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tokenizer = module.Tokenizer(50, d=7, width=3)
    lengths = tokenizer.codebook.norm(dim=1)
    assert (lengths - 1).abs().max() < 1e-5, f"codes have lengths {lengths.min():.3g} to {lengths.max():.3g}"
    assert tokenizer.codebook.shape == (50, 7), f"the codebook is {tuple(tokenizer.codebook.shape)}"
    assert (tokenizer.codebook @ tokenizer.codebook.T - torch.eye(50)).max() < 0.999, "two codes are alike"
    names = {name for name, _ in tokenizer.named_parameters()}
    assert not names & {"codebook", "sums"}, "codes are learned by the optimizer, not by a moving average"
    assert "codebook" in tokenizer.state_dict(), "the codebook is not saved with the weights"


@pytest.mark.grades("Tokenizer")
def test_tokens_by_hand():
    """The code in whose direction the vector points, whatever its length, place by place, row by row."""
    tokenizer, numbers = small(), some_numbers(4, 2)
    got, want = tokenizer.encode(frames_of(numbers)), choices(tokenizer, numbers)
    vectors, codes = tokenizer.encoder.table.detach(), tokenizer.codebook
    assert_close(
        got, want, what="tokens",
        mistakes={
            "the tokens come in column order": want.unflatten(-1, (3, 3)).mT.flatten(-2),
            "the farthest code is taken": (vectors @ codes.T).argmin(1)[numbers],
        },
    )  # fmt: skip


@pytest.mark.grades("Tokenizer")
def test_decode_by_hand():
    """The codes of the tokens, place by place, through the decoder; cut to [-1, 1]."""
    for scale in (0.2, 2.0):
        tokenizer, tokens = small(scale=scale), torch.randint(N_CODES, (5, 9), generator=seeded(6))
        codes = tokenizer.codebook.double()
        plain = torch.stack([picture(tokenizer, codes[row]) for row in tokens])
        turned = tokens.unflatten(-1, (3, 3)).mT.flatten(-2)
        with torch.no_grad():
            got = tokenizer.decode(tokens)
        assert_close(
            got, plain.clamp(-1, 1).float(), rtol=1e-5, what="the decoded frames",
            mistakes={
                "frames are not cut to [-1, 1]": plain,
                "the tokens are taken in column order": torch.stack([picture(tokenizer, codes[row]) for row in turned]).clamp(-1, 1),
            },
        )  # fmt: skip


# --- the loss ---------------------------------------------------------------------------------------------------------


def loss_by_hand(tokenizer, frames, numbers, beta, *, length_one=True, drawn_from_codes=True):
    """Both terms of L in float64, and the gradient with respect to the encoder's table."""
    table = tokenizer.encoder.table.detach().double()
    z = (unit(table) if length_one else table)[numbers]
    codes = tokenizer.codebook.double()[choices(tokenizer, numbers)]
    x_hat = torch.stack([picture(tokenizer, row) for row in (codes if drawn_from_codes else z)])
    off = x_hat - frames.double()
    first, second = off.square().mean(), (z - codes).square().mean()
    pictures, pull = tokenizer.decoder.pictures.detach().double(), torch.zeros_like(z)
    for b in range(len(frames)):
        for place in range(9):
            row, column = divmod(place, 3)
            tile = off[b, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            pull[b, place] = 2 * (pictures[place] * tile).sum((1, 2)) / off.numel()
    drag = 2 * (z - codes) / z.numel()
    straight, commitment = (along(table, numbers, g) for g in (pull, beta * drag))
    return first, second, straight, commitment


def along(table, numbers, g):
    """The gradient of vectors of length 1 as one of the table's vectors: what changes their length does not count."""
    z, total = unit(table), torch.zeros_like(table)
    for number, row in zip(numbers.flatten().tolist(), g.flatten(0, -2), strict=True):
        total[number] += (row - z[number] * (row @ z[number])) / table[number].norm()
    return total


@pytest.mark.grades("Tokenizer")
@pytest.mark.parametrize("beta", [None, 0.0, 0.7])
def test_the_loss_by_hand(beta):
    """The two means; a scalar; and the tokens. In eval mode nothing moves."""
    tokenizer, numbers = small(), some_numbers(4)
    frames = frames_of(numbers)
    first, second, _, _ = loss_by_hand(tokenizer, frames, numbers, 0.25 if beta is None else beta)
    options, used = ({}, 0.25) if beta is None else ({"beta": beta}, beta)
    codebook, sums = tokenizer.codebook.clone(), tokenizer.sums.clone()
    with unchanged(frames):
        loss, tokens = tokenizer.loss(frames, **options)
    moved = not (torch.equal(codebook, tokenizer.codebook) and torch.equal(sums, tokenizer.sums))
    assert not moved, "codes or their sums move though it is in eval mode"
    assert torch.equal(tokens, choices(tokenizer, numbers)), "the tokens are not those of the frames"

    def by_hand(**changed):
        a, b, _, _ = loss_by_hand(tokenizer, frames, numbers, used, **changed)
        return a + used * b

    assert_close(
        loss, (first + used * second).float(), rtol=1e-4, what=f"the loss with beta {beta}",
        mistakes={
            "the commitment is missing": first,
            "beta is ignored": first + 0.25 * second,
            "vectors keep their own length, expected 1": lambda: by_hand(length_one=False),
            "the decoder sees the vectors, not the codes": lambda: by_hand(drawn_from_codes=False),
            "sums instead of means": first * frames.numel() + used * second * 9 * D * len(frames),
        },
    )  # fmt: skip


@pytest.mark.grades("Tokenizer")
def test_the_gradient_goes_straight_through():
    """The encoder's gradient is the decoder's at the codes, plus the commitment's; the codes get none."""
    tokenizer, numbers = small(), some_numbers(4)
    frames = frames_of(numbers)
    loss, _ = tokenizer.loss(frames, beta=0.7)
    loss.backward()
    assert not tokenizer.codebook.requires_grad, "the codes get a gradient: they follow by a moving average"
    _, _, straight, commitment = loss_by_hand(tokenizer, frames, numbers, 0.7)
    got = tokenizer.encoder.table.grad
    assert got is not None, "no gradient reaches the encoder"
    assert_close(
        got, (straight + commitment).float(), rtol=1e-4, what="the encoder's gradient",
        mistakes={
            "the reconstruction gives the encoder no gradient: is it straight-through?": commitment,
            "the commitment gives the encoder no gradient": straight,
        },
    )  # fmt: skip
    assert tokenizer.decoder.pictures.grad.any(), "the decoder gets no gradient"


# --- codes that follow ------------------------------------------------------------------------------------------------


@pytest.mark.grades("Tokenizer")
def test_codes_follow_their_vectors():
    """Three batches by hand: sums decay, also those that nothing chose; a code that nothing chose stays."""
    tokenizer, decay = small(decay=0.8).train(), 0.8
    codes, sums = tokenizer.codebook.double().clone(), tokenizer.sums.double().clone()
    z = unit(tokenizer.encoder.table.detach().double())
    batches = [some_numbers(2, n=n) for n in (12, 2, 12)]
    for i, numbers in enumerate(batches):
        before, chosen = tokenizer.codebook.clone(), [
            max(range(N_CODES), key=lambda j, v=z[m]: float(v @ codes[j])) for m in numbers.flatten()
        ]  # fmt: skip
        _, tokens = tokenizer.loss(frames_of(numbers))
        assert tokens.flatten().tolist() == chosen, "tokens are those of before the codes move"
        for k in range(N_CODES):
            mine = [z[m] for m, j in zip(numbers.flatten().tolist(), chosen, strict=True) if j == k]
            sums[k] = decay * sums[k] + (1 - decay) * sum(mine, torch.zeros(D, dtype=DOUBLE))
            codes[k] = unit(sums[k]) if mine else codes[k]
        unused = [k for k in range(N_CODES) if k not in chosen]
        assert unused or i != 1, "defect in the test: every code is chosen"
        still = (tokenizer.codebook[unused] - before[unused]).abs()
        assert not (still > 1e-5).any(), "a code that nothing chose moves"
        lengths = tokenizer.codebook.norm(dim=1)
        assert (lengths - 1).abs().max() < 1e-4, f"codes have moved to lengths up to {lengths.max():.3g}"
        assert not torch.equal(tokenizer.codebook, before), "the codes do not move in training mode"
        moved, sum_of = tokenizer.codebook, tokenizer.sums
        assert_close(
            sum_of, sums.float(), rtol=1e-4, what=f"the sums after batch {i}", hint="sums do not follow their formula: do all of them decay?"
        )  # fmt: skip
        assert_close(moved, codes.float(), rtol=1e-4, what=f"the codes after batch {i}", hint="a code has not the direction of its sum")  # fmt: skip


@pytest.mark.grades("Tokenizer")
def test_restart():
    """Codes of usage 0 stand where vectors of the frames are, with new sums; all others stay; how many is returned."""
    tokenizer, numbers = small(), some_numbers(30)
    frames, usage = frames_of(numbers), torch.tensor([3.0, 0.0, 1.0, 0.0, 0.0, 7.0])
    codes, sums, dead = tokenizer.codebook.clone(), tokenizer.sums.clone(), [1, 3, 4]
    with unchanged(usage, frames):
        n = tokenizer.restart(usage, frames, generator=seeded(1))
    assert n == 3, f"{n} codes are said to start anew, expected 3"
    assert not torch.equal(tokenizer.codebook[dead], codes[dead]), "codes of usage 0 do not start anew"
    assert torch.equal(tokenizer.codebook[[0, 2, 5]], codes[[0, 2, 5]]), "a code that was used starts anew"
    assert torch.equal(tokenizer.sums[[0, 2, 5]], sums[[0, 2, 5]]), "the sum of a code that was used changes"
    cosine = tokenizer.codebook[dead] @ unit(tokenizer.encoder.table.detach()).T
    assert (cosine.amax(1) - 1).abs().max() < 1e-5, "a new code is not at a vector of these frames"
    assert torch.equal(tokenizer.sums[dead], tokenizer.codebook[dead]), (
        "the sums of codes that start anew are those of before"
    )
    assert tokenizer.restart(torch.ones(N_CODES), frames) == 0, "codes start anew though all are used"


@pytest.mark.grades("Tokenizer")
def test_restart_draws_any_vector():
    """All vectors alike, from any frame and place, by the generator alone."""
    numbers = torch.arange(12).repeat(3).reshape(4, 9)
    tokenizer, places, state = small(), [], torch.get_rng_state()
    for seed in range(40):
        tokenizer.restart(torch.zeros(N_CODES), frames_of(numbers), generator=seeded(seed))
        cosine = tokenizer.codebook @ unit(tokenizer.encoder.table.detach()).T
        places += cosine.argmax(1).tolist()
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"
    counts = torch.tensor(places).bincount(minlength=12)
    assert counts.min() > 6, f"240 codes start anew at these vectors, so many at each: {counts.tolist()}"


# --- training ---------------------------------------------------------------------------------------------------------


class Watched(nn.Module):
    """A tokenizer whose loss is one number: Adam moves it by just the learning rate. It remembers what it is asked."""

    def __init__(self, n_codes=5):
        super().__init__()
        self.register_buffer("codebook", torch.eye(n_codes))
        self.place, self.places = nn.Parameter(torch.zeros(())), []
        self.batches, self.restarts, self.modes, self.encoded = [], [], [], []

    def loss(self, frames, **options):
        """Each batch chooses the code of its number modulo five, once per frame."""
        self.places.append(self.place.item())
        self.batches.append(frames.clone())
        self.modes.append(self.training)
        tokens = torch.full((len(frames), 9), (len(self.batches) - 1) % len(self.codebook))
        return self.place * 1.0, tokens

    def encode(self, frames):
        """A frame chooses the code that stands in its last pixel, at all places."""
        self.encoded.append(len(self.batches))
        return frames[..., -1, -1, None].long().expand(*frames.shape[:-2], 9).clone()

    def restart(self, usage, frames, *, generator=None):
        self.restarts.append((len(self.batches), usage.clone(), frames.clone()))
        return 0


def watched(n_updates, *, chosen=(0,) * 40, **options):
    """Train the toy on frames that say their number, and in the last pixel the code that they choose."""
    tokenizer = Watched().eval()
    frames = torch.arange(float(len(chosen)))[:, None, None].repeat(1, 12, 12)
    frames[:, -1, -1] = torch.tensor(chosen)
    with unchanged(frames):
        module.train_tokenizer(tokenizer, frames, n_updates, generator=seeded(1), **options)
    return tokenizer


@pytest.mark.grades("train_tokenizer")
def test_batches_and_rate():
    """Random frames; a rate up to the one given, that falls to zero; in training mode, and ready for use afterwards."""
    state = torch.get_rng_state()
    tokenizer = watched(120, batch_size=16, learning_rate=0.02)
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"
    assert len(tokenizer.batches) == 120, f"{len(tokenizer.batches)} updates, expected 120"
    assert {len(batch) for batch in tokenizer.batches} == {16}, "batches of another size"
    counts = torch.cat(tokenizer.batches)[:, 0, 0].long().bincount(minlength=40)
    assert counts.min() > 20, f"frames are not used alike: {counts.tolist()}"
    assert all(tokenizer.modes), "it is not trained in training mode: the codes would stay"
    assert not tokenizer.training, "it is not ready for use afterwards: eval()"
    grad = tokenizer.place.grad
    assert grad is None or grad.abs() <= 1, (
        f"after 120 updates the gradient is {grad}, expected 1: old ones add up"
    )
    places = [*tokenizer.places, tokenizer.place.item()]
    rates = [a - b for a, b in pairwise(places)]
    assert max(rates) == pytest.approx(0.02, rel=0.02), (
        f"the greatest rate is {max(rates):.3g}, expected 0.02"
    )
    assert rates[-1] < 0.01 * max(rates), f"the rate does not fall to zero: the last one is {rates[-1]:.3g}"


@pytest.mark.grades("train_tokenizer")
def test_when_codes_start_anew():
    """At the first update and every 50 from then on, by what was chosen since; not in the last 30 %."""
    tokenizer = watched(253, batch_size=3)
    at = [n for n, _, _ in tokenizer.restarts]
    assert at == [0, 50, 100, 150], (
        f"codes start anew before the updates {at}, expected [0, 50, 100, 150] of 253"
    )
    assert not tokenizer.restarts[0][1].any(), "before the first update a code is said to be used"
    for n, usage, frames in tokenizer.restarts[1:]:
        assert usage.tolist() == [270.0] * 5, (
            f"usage before update {n} is {usage.tolist()}, expected 10 batches of 27 tokens for each code: the last 50 updates count"
        )
        assert torch.equal(frames, tokenizer.batches[n]), "codes start anew at other frames than the batch's"


@pytest.mark.grades("train_tokenizer")
@pytest.mark.parametrize(
    "chosen", [(3, 1, 1), (3, *[1] * 1300, 4), (*[0] * 999, 4, 2, *[0] * 1000)], ids=["3", "1302", "2001"]
)
def test_codes_that_no_frame_chooses_become_zero(chosen):
    """In the end, whatever the last batches chose, and by all frames, however many; the other codes stay."""
    tokenizer = watched(9, chosen=chosen, batch_size=2)
    assert tokenizer.encoded, "codes that no frame chooses keep their place: in the end they become 0"
    assert min(tokenizer.encoded) == 9, "it is decided before the end which codes are used"
    for code in set(chosen):
        row = tokenizer.codebook[code]
        assert row.any(), f"code {code} becomes 0, though one of {len(chosen)} frames chooses it"
        assert torch.equal(row, torch.eye(5)[code]), "a code that a frame chooses changes in the end"
    for code in set(range(5)) - set(chosen):
        assert not tokenizer.codebook[code].any(), (
            f"code {code}, which no frame chooses, keeps its place: it may win by 1e-5, and not in half precision"
        )


@pytest.mark.grades("Tokenizer", "train_tokenizer")
def test_codes_that_became_zero_are_never_chosen():
    """Of 40 codes and 4 kinds of patches few are in use; they have length 1, and choose the same in half precision."""
    kinds = torch.rand(4, 4, 4, generator=seeded(7)).round() * 2 - 1
    numbers = torch.randint(4, (30, 3, 3), generator=seeded(8))
    frames = kinds[numbers].permute(0, 1, 3, 2, 4).reshape(30, 12, 12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = module.Tokenizer(40, width=8)
    module.train_tokenizer(tokenizer, frames, 4, batch_size=8, generator=seeded(1))
    with torch.no_grad():
        tokens = tokenizer.encode(frames)
        used = tokens.flatten().bincount(minlength=40) > 0
        assert used.sum() < 40, "defect in the test: all codes are in use"
        assert not tokenizer.codebook[~used].any(), "a code that no frame chooses keeps its place in the end"
        lengths = tokenizer.codebook[used].norm(dim=1)
        assert (lengths - 1).abs().max() < 1e-5, "a code that a frame chooses has another length than 1"
        tokenizer.codebook.copy_(tokenizer.codebook.half().float())
        assert torch.equal(tokenizer.encode(frames), tokens), "in half precision frames have other tokens"
