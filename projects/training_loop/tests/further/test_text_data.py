"""The judge of the data and of the small model. Oracles: hand values, laws, plain counting."""

import collections
import math
import sysconfig

import pytest
import torch

import char_gpt
import text_data
from shared.testing.checks import assert_close, expect_error


@pytest.mark.grades("standard_library")
def test_standard_library():
    """Python source, capped, deterministic, split by file with nothing on both sides."""
    train, val = text_data.standard_library(300_000)
    again = text_data.standard_library(300_000)
    assert (train, val) == again, "two calls give different text: sort, do not trust the order of a folder"
    sizes = sum(map(len, train)), sum(map(len, val))
    assert sizes == (270_000, 30_000), f"asked for 300,000 bytes, nine to one, got {sizes}"
    assert not {d for d in train if d} & set(val), "a file is on both sides of the split"
    assert all(isinstance(d, bytes) for d in train + val), "documents are bytes"
    assert sum(b"import" in d for d in train) > len(train) / 2, "this does not look like Python"
    larger, larger_val = text_data.standard_library(1_000_000)
    assert larger[: len(train) - 1] == train[:-1], "a larger cap must only add files"
    assert not set(larger[:-1]) & set(val), "a file changes sides with the cap"
    assert not set(train) & set(larger_val), "a file changes sides with the cap"
    with expect_error(ValueError, "0", otherwise="max_bytes=0 is accepted"):
        text_data.standard_library(0)


@pytest.mark.grades("Windows", "Windows.batch", "Windows.n_targets")
def test_windows_by_hand():
    """Documents of 6, 1, 3 and 5 bytes, context 4: the windows, padded, none across two documents."""
    windows = text_data.Windows([b"abcdef", b"x", b"uvw", b"12345"], 4)
    assert len(windows) == 4, (
        f"abcde, ef, uvw and 12345 make 4 windows, got {len(windows)}: is the last, short window of a document dropped?"
    )
    inputs, targets = windows.batch([0, 1, 2, 3])
    a, b, c, d, e, f = b"abcdef"
    u, v, w = b"uvw"
    expected = torch.tensor([[b, c, d, e], [f, -100, -100, -100], [v, w, -100, -100], [*b"2345"]])
    assert_close(
        targets, expected, what="targets", hint="a target is the byte after its input; -100 beyond the end"
    )
    expected = torch.tensor([[a, b, c, d], [e, f, 0, 0], [u, v, w, 0], [*b"1234"]])
    assert_close(inputs, expected, what="inputs")
    assert windows.n_targets == 5 + 2 + 4, (
        f"every byte but a first one is a target: 11, got {windows.n_targets}"
    )


@pytest.mark.grades("Windows", "Windows.batch")
def test_empty_window():
    """Index -1 has no valid target."""
    inputs, targets = text_data.Windows([b"abcdef"], 3).batch(torch.tensor([1, -1]))
    assert inputs.shape == targets.shape == (2, 3), f"shapes {tuple(inputs.shape)}, {tuple(targets.shape)}"
    assert (targets[1] == -100).all(), f"the empty window has targets {targets[1].tolist()}"
    assert targets[0].tolist() == [*b"ef", -100]
    with expect_error(ValueError, "0", otherwise="context=0 is accepted"):
        text_data.Windows([b"abc"], 0)


@pytest.mark.grades("Windows", "Windows.batch")
def test_windows_cover_the_text():
    """Every byte but the first of each document is a target exactly once."""
    documents = [bytes([k]) * n for k, n in enumerate([2, 17, 1, 0, 33, 16, 18], start=1)]
    windows = text_data.Windows(documents, 16)
    _, targets = windows.batch(range(len(windows)))
    counts = collections.Counter(targets[targets != -100].tolist())
    assert counts == {1: 1, 2: 16, 5: 32, 6: 15, 7: 17}, f"targets of each document: {dict(counts)}"


@pytest.mark.grades("epoch_order")
def test_epoch_order():
    """A permutation, the same for the same seed and epoch, another one for each other; global RNG untouched."""
    before = torch.get_rng_state()
    first = text_data.epoch_order(50, seed=3, epoch=0)
    assert sorted(first.tolist()) == list(range(50)), "an epoch must hold every window exactly once"
    assert first.tolist() != list(range(50)), "the windows are not shuffled"
    assert torch.equal(first, text_data.epoch_order(50, seed=3, epoch=0)), (
        "the order must not depend on the call"
    )
    others = [
        text_data.epoch_order(50, seed=s, epoch=e).tolist() for s, e in [(3, 1), (3, 2), (4, 0), (2, 1)]
    ]
    assert first.tolist() not in others[:2], "the sampler is not reshuffled: every epoch has the same order"
    assert len({tuple(o) for o in [first.tolist(), *others]}) == 5, (
        "seed + epoch collides: (3, 0) is not (2, 1)"
    )
    assert torch.equal(before, torch.get_rng_state()), (
        "the global generator was used: dropout would depend on it"
    )


@pytest.mark.grades("micro_batches")
@pytest.mark.parametrize("n", [24, 23, 13, 7, 2, 1])
@pytest.mark.parametrize(("n_ranks", "accumulate"), [(1, 1), (1, 4), (2, 3), (3, 2), (5, 1)])
def test_micro_batches_cover(n, n_ranks, accumulate):
    """Disjoint and covering, also for the incomplete last step; every rank makes the same number of passes."""
    indices = torch.arange(100, 100 + n)
    dealt = [
        text_data.micro_batches(indices, rank=r, n_ranks=n_ranks, accumulate=accumulate, batch_size=24)
        for r in range(n_ranks)
    ]
    seen = [i for batches in dealt for batch in batches for i in batch.tolist() if i >= 0]
    assert len(seen) == len(set(seen)), f"a window is dealt twice: {sorted(seen)}"
    assert sorted(seen) == indices.tolist(), (
        f"{n - len(seen)} of {n} windows are dropped: the last, incomplete batch counts too"
    )
    shapes = {tuple(len(batch) for batch in batches) for batches in dealt}
    assert len(shapes) == 1, f"ranks make different passes, the others would wait for ever: {shapes}"
    assert len(dealt[0]) <= accumulate, f"more than {accumulate} micro-batches"
    if n == 24:
        assert len(dealt[0]) == accumulate, f"a full step has {accumulate} micro-batches, got {len(dealt[0])}"
        assert max(len(b) for b in dealt[0]) <= math.ceil(math.ceil(24 / n_ranks) / accumulate), "too large"


@pytest.mark.grades("micro_batches")
@pytest.mark.parametrize(
    ("batch_size", "n_ranks", "accumulate"), [(8, 1, 5), (8, 1, 3), (7, 2, 3), (24, 1, 7), (10, 3, 3)]
)
def test_micro_batches_that_do_not_divide(batch_size, n_ranks, accumulate):
    """A full step of 8 windows in 5 micro-batches has 5, none of them empty, of equal length; so have 7 in 2 times 3."""
    for rank in range(n_ranks):
        dealt = text_data.micro_batches(
            torch.arange(batch_size), rank=rank, n_ranks=n_ranks, accumulate=accumulate, batch_size=batch_size
        )
        counts = [int((batch >= 0).sum()) for batch in dealt]
        case = f"{batch_size} windows, rank {rank} of {n_ranks}, accumulate={accumulate}"
        assert len(dealt) == accumulate, (
            f"{case}: a full step has {accumulate} micro-batches, got {len(dealt)}"
        )
        assert min(counts) >= 1, f"{case}: a micro-batch is empty: {counts}"
        assert len({len(batch) for batch in dealt}) == 1, f"{case}: of unequal length"
        assert len(dealt[0]) == math.ceil(math.ceil(batch_size / n_ranks) / accumulate), f"{case}: {dealt}"
        assert sum(counts) == len(range(rank, batch_size, n_ranks)), f"{case}: {dealt}"


@pytest.mark.grades("micro_batches")
def test_micro_batches_refuse():
    """Too many windows, none, or fewer than ranks times micro-batches."""
    deal = text_data.micro_batches
    for n, accumulate, mention in [(9, 1, "9"), (0, 1, "0"), (8, 0, "0"), (8, 5, "5")]:
        with expect_error(ValueError, mention, otherwise=f"{n} windows, accumulate={accumulate} is accepted"):
            deal(torch.arange(n), rank=0, n_ranks=2, accumulate=accumulate, batch_size=8)
    for rank, n_ranks in ((2, 2), (-1, 2), (0, 0)):
        with expect_error(
            ValueError, str(rank), otherwise=f"rank {rank} of {n_ranks} gets windows of another"
        ):
            deal(torch.arange(8), rank=rank, n_ranks=n_ranks, accumulate=1, batch_size=8)


@pytest.mark.grades("Windows.batch", "Windows")
def test_batch_refuses():
    """Indices that are no integers, or not in one row, would be taken for others."""
    windows = text_data.Windows([b"abcdef"], 2)
    bad = [[0.7, 1.2], torch.tensor([True, False]), torch.zeros(2, 2, dtype=torch.int64)]
    for indices in bad:
        with expect_error(TypeError, "indices", otherwise=f"{indices} are taken for other windows"):
            windows.batch(indices)
    inputs, _ = windows.batch([])
    assert inputs.shape == (0, 2), f"no indices, and inputs of {tuple(inputs.shape)}"
    for dtype in (torch.int32, torch.uint8):
        inputs, targets = windows.batch(torch.tensor([1, 0], dtype=dtype))
        assert (inputs.tolist(), targets.tolist()) == ([[99, 100], [97, 98]], [[100, 101], [98, 99]]), (
            f"{dtype}"
        )


@pytest.mark.grades("bigram_bits_per_byte")
def test_bigram_by_hand():
    """Train on abab: after a comes b twice of 2 + 256; b a once. Validate on abc, without its first byte."""
    got = text_data.bigram_bits_per_byte([b"abab"], [b"abc", b"", b"a"])
    expected = (-math.log2(3 / 258) - math.log2(1 / 257)) / 2
    assert_close(got, expected, rtol=1e-12, what="bits per byte")
    across = text_data.bigram_bits_per_byte([b"ab", b"ab"], [b"ba"])
    assert_close(across, 8.0, rtol=1e-12, what="b a, never seen", hint="pairs do not span two documents")
    for nothing in ([], [b"", b"a"]):
        with expect_error(ValueError, "val", otherwise=f"{nothing} has no pair, and a score"):
            text_data.bigram_bits_per_byte([b"ab"], nothing)


def gpt(**options):
    torch.manual_seed(0)
    return char_gpt.CharGPT(**{"context": 12, "d_model": 16, "n_layers": 2, "n_heads": 4, **options})


@pytest.mark.grades("CharGPT", "CharGPT.forward")
def test_gpt_is_causal(generator):
    """Logits (B, T, 256); a position does not see what follows it, and does see what comes before."""
    model = gpt().eval()
    tokens = torch.randint(0, 256, (3, 9), generator=generator)
    logits = model(tokens)
    assert logits.shape == (3, 9, 256), f"expected (3, 9, 256), got {tuple(logits.shape)}"
    changed = tokens.clone()
    changed[:, 5] = (tokens[:, 5] + 1) % 256
    difference = (model(changed) - logits).abs().amax(dim=(0, 2))
    assert (difference[:5] < 1e-6).all(), "a position sees the future: the mask must be causal"
    assert (difference[5:] > 1e-6).all(), "a position does not see the past"
    swapped = tokens[:, [1, 0, *range(2, 9)]]
    assert (model(swapped)[:, 5] - logits[:, 5]).abs().max() > 1e-6, (
        "the order does not matter: no positions?"
    )
    with expect_error(ValueError, "13", otherwise="more tokens than the context are accepted"):
        model(torch.zeros(1, 13, dtype=torch.long))
    with expect_error(ValueError, "5", otherwise="n_heads=5 does not divide 16"):
        gpt(n_heads=5)
    for name in ("n_heads", "d_model", "context"):
        with expect_error(ValueError, name, "0", otherwise=f"{name}=0 is accepted"):
            gpt(**{name: 0})
    for shape in ((9,), (1, 3, 9)):
        with expect_error(ValueError, str(shape), otherwise=f"tokens {shape} are taken for (B, T)"):
            model(torch.zeros(shape, dtype=torch.long))


@pytest.mark.grades("CharGPT", "CharGPT.forward")
def test_gpt_starts_uniform_and_tied(generator):
    """Untrained, the loss is that of guessing, log 256; head and embedding are one parameter; dropout acts in training."""
    model = gpt(dropout=0.5)
    tokens = torch.randint(0, 256, (8, 12), generator=generator)
    loss = torch.nn.functional.cross_entropy(
        model.eval()(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    )
    assert abs(loss.item() - math.log(256)) < 0.3, (
        f"the first loss is {loss.item():.2f}, expected log 256 = 5.55"
    )
    assert sum(p.shape == (256, 16) for p in model.parameters()) == 1, (
        "the head must share the embedding's weight"
    )
    model.train()
    assert not torch.equal(model(tokens), model(tokens)), "dropout=0.5 does nothing in train mode"


@pytest.mark.grades("CharGPT")
def test_gpt_starts_as_described():
    """Matrices have variance 1/fan-in, those that end a branch that over 2·n_layers; embeddings are small; biases are 0, gains 1."""
    model = gpt(d_model=64, n_layers=3, n_heads=8, context=40)
    vectors = [p for p in model.parameters() if p.ndim == 1]
    assert all((p == p[0]).all() and p[0] in (0, 1) for p in vectors), "biases start at 0, gains at 1"
    embeddings = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    for weight in embeddings:
        assert 0.01 < weight.std() < 0.1, (
            f"an embedding of {tuple(weight.shape)} starts with {weight.std():.3f}"
        )
    matrices = [p for p in model.parameters() if p.ndim == 2 and min(p.shape) >= 64]
    layers = [w for w in matrices if all(w is not e for e in embeddings)]
    gains = sorted(w.std().item() * w.shape[1] ** 0.5 for w in layers)
    wanted = [6**-0.5] * 6 + [1.0] * (len(layers) - 6)
    assert all(abs(a / b - 1) < 0.06 for a, b in zip(gains, wanted, strict=True)), (
        f"std·sqrt(fan-in) of the matrices: {[round(g, 2) for g in gains]}, expected {[round(g, 2) for g in wanted]}"
    )


@pytest.mark.grades("CharGPT", "CharGPT.forward")
def test_gpt_looks_at_its_neighbours():
    """Without attention and feed-forward a position still sees the three bytes before it, and no earlier one."""
    model = gpt().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2 and min(p.shape) >= 16 and p.shape != (256, 16):
                p.zero_()
    tokens = torch.arange(20, 32)[None]
    seen = []
    for k in range(12):
        changed = tokens.clone()
        changed[0, k] = 200
        if (model(changed) - model(tokens))[0, 8].abs().max() > 1e-6:
            seen.append(k)
    assert seen == [5, 6, 7, 8], f"position 8 sees positions {seen}, not 5 to 8: the last four embeddings"


@pytest.mark.grades("CharGPT", "CharGPT.forward")
def test_gpt_drops_in_every_branch():
    """Dropout of 1 leaves nothing of embedding and branches: all logits of a position are 0."""
    model = gpt(dropout=0.9999999)
    with torch.no_grad():
        logits = model(torch.arange(12)[None])
    assert not logits.any(), "something passes by the dropout after the embedding or at the end of a branch"


class Alphabet(char_gpt.CharGPT):
    """After each byte comes the next one."""

    def forward(self, tokens):
        self.seen = [*getattr(self, "seen", []), tokens.shape[1]]
        return 60.0 * torch.nn.functional.one_hot((tokens + 1) % 256, 256)


@pytest.mark.grades("CharGPT.generate")
def test_gpt_generates_beyond_its_context():
    """Each byte follows the last one; the model sees the last bytes that fit its context."""
    model = Alphabet(context=3, d_model=8, n_layers=1, n_heads=2).eval()
    text = model.generate(b"ab", 5, generator=torch.Generator().manual_seed(0))
    assert text == b"abcdefg", f"after each byte comes the next one of the alphabet: {text}"
    assert model.seen == [2, 3, 3, 3, 3], f"with a context of 3 the model saw {model.seen} bytes"


@pytest.mark.grades("CharGPT.generate")
def test_gpt_generates():
    """The prompt and n more bytes, the same for the same generator, without touching the global one."""
    model, before = gpt().eval(), torch.get_rng_state()
    texts = [model.generate(b"def ", 30, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert all(isinstance(t, bytes) and len(t) == 34 and t.startswith(b"def ") for t in texts), texts
    assert texts[0] == texts[1] != texts[2], "all randomness comes from the generator"
    generator = torch.Generator().manual_seed(1)
    assert model.generate(b"a", 0, generator=generator) == b"a", "no bytes are asked for"
    for prompt, n_bytes, mention in ((b"", 3, "prompt"), ("def", 3, "prompt"), (b"a", -1, "-1")):
        with expect_error(ValueError, mention, otherwise=f"{prompt!r} is continued by {n_bytes} bytes"):
            model.generate(prompt, n_bytes, generator=generator)
    assert torch.equal(before, torch.get_rng_state()), (
        "sampling used the global generator: a resumed run would differ"
    )


@pytest.mark.grades("standard_library")
def test_split_of_a_small_library(tmp_path, monkeypatch):
    """Each file is whole on one side, about a tenth of them for validation; tests and installed packages are left out."""
    for k in range(300):
        folder = tmp_path / f"package{k % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"module{k}.py").write_bytes(b"file %d\r\n" % k)
    for name in ("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"):
        (tmp_path / "package1" / name).mkdir()
        (tmp_path / "package1" / name / "module.py").write_bytes(b"left out")
    (tmp_path / "_sysconfigdata_x.py").write_bytes(b"left out")
    (tmp_path / "module.txt").write_bytes(b"left out")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    train, val = text_data.standard_library(1_000_000)
    everything = sorted(train + val)
    assert everything == sorted(b"file %d\n" % k for k in range(300)), (
        f"{len(everything)} files of 300, with Unix line ends; in them: {set(everything) - {b'file %d' % k for k in range(300)}}"
    )
    assert 10 <= len(val) <= 60, f"about 30 files of 300 are for validation, not {len(val)}"
    assert (train, val) == text_data.standard_library(1_000_000), "the same split each time"
    some_train, some_val = text_data.standard_library(100)
    assert (len(b"".join(some_train)), len(b"".join(some_val))) == (90, 10), (
        "nine tenths and one tenth of 100 bytes"
    )
    assert b"".join(train).startswith(b"".join(some_train)), (
        "a smaller cap takes the first files of the larger one"
    )


@pytest.mark.grades("Windows", "Windows.batch")
def test_window_without_its_last_target():
    """A document as long as the context has one target less, also alone in its batch."""
    inputs, targets = text_data.Windows([b"abcd"], 4).batch([0])
    assert inputs.tolist() == [[*b"abcd"]], f"inputs: {inputs.tolist()}"
    assert targets.tolist() == [[*b"bcd", -100]], (
        f"targets: {targets.tolist()}: nothing follows the last byte"
    )


@pytest.mark.grades("Windows", "Windows.batch")
def test_empty_window_before_others():
    """Index -1: inputs of 0, and no target counts."""
    inputs, targets = text_data.Windows([b"abcdef", b"xyz"], 2).batch([-1, 0])
    assert inputs.tolist() == [[0, 0], [97, 98]], (
        f"inputs of an empty window and of the first: {inputs.tolist()}"
    )
    assert targets.tolist() == [[-100, -100], [98, 99]], f"targets: {targets.tolist()}"
