"""Training: a model that remembers what it saw, to which the losses, the restart and the perplexity are lent; then all yours.

Oracles: torch's Adam on the same batches in the same order, the indices that the model remembers, and a small run that learns.
"""

import copy
import itertools
import math

import oracles
import pytest
import torch
from oracles import (
    TRAIN_MISTAKES,
    Remembering,
    blobs,
    global_seed,
    look_up,
    numbered_images,
    replayed,
    seeded,
)

import vq_vae
from shared.testing.checks import assert_close, lazily, unchanged
from shared.testing.no_compiler import without_compiler

N, K = 10, 9
OPTIONS = {"batch_size": 4, "learning_rate": 0.02, "beta": 0.7}


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    """The first optimizer imports torch's compiler, which takes longer than all tests of this file."""
    with without_compiler():
        yield


@pytest.fixture
def restarts(monkeypatch):
    """Lend the other units; return what restart_dead_codes was given. It says that three restarted, and changes nothing."""
    found = []

    def restart_dead_codes(codebook, counts, sums, usage, z, *, generator=None):
        draw = torch.randint(10**9, (1,), generator=generator).item()
        given = {
            "state": (codebook, counts, sums),
            "usage": usage.clone(),
            "z": z.detach().clone(),
            "draw": draw,
        }
        found.append(given | {"generator": generator})
        Remembering.latest.note_restart()
        return 3

    monkeypatch.setattr(vq_vae, "restart_dead_codes", restart_dead_codes)
    monkeypatch.setattr(vq_vae, "vq_losses", oracles.lent_losses)
    monkeypatch.setattr(vq_vae, "perplexity", oracles.perplexity)
    return found


def trained(n_epochs, *, decay=None, train_mode=True, **options):
    """Train a model that remembers; return it, the images, and the records."""
    model, images = Remembering(N, n_codes=K, decay=decay).train(train_mode), numbered_images(N, seeded(2))
    with unchanged(images):
        records = vq_vae.train(model, images, n_epochs, **OPTIONS | options)
    return model, images, records


def epochs_of(model):
    """Return the images' numbers, epoch by epoch."""
    flat = list(itertools.chain(*model.rows))
    return [tuple(flat[i : i + N]) for i in range(0, len(flat), N)]


@pytest.mark.grades("train")
@pytest.mark.usefixtures("restarts")
@pytest.mark.parametrize("restart", [True, False])
def test_every_image_once_an_epoch(restart):
    """Batches of four, the last of two; a new random order in each epoch."""
    model, _, records = trained(5, restart=restart)
    sizes = [len(rows) for rows in model.rows]
    assert sizes, "the model is not in training mode when it sees the images, or it sees none"
    assert sizes == [4, 4, 2] * 5, (
        f"batches of {sizes[:6]} …: 10 images in batches of 4 are 4, 4 and 2, in all five epochs"
    )
    epochs = epochs_of(model)
    for epoch in epochs:
        assert sorted(epoch) == list(range(N)), (
            f"an epoch shows each image once, this one the numbers {epoch}"
        )
    assert tuple(range(N)) not in epochs[:2], "the images come in their own order, not in a random one"
    assert len(set(epochs)) == 5, "epochs show the images in the same order: draw a new one for each"
    assert len(records) == 5, f"a record per epoch: {len(records)} of 5 epochs"


@pytest.mark.grades("train")
def test_seed(restarts):
    """The seed decides on all draws, and torch's own generator on none."""
    orders, draws, states = [], [], []
    for seed, other in ((0, 1), (0, 2), (8, 1)):
        restarts.clear()
        with global_seed(other):
            orders.append(trained(3, seed=seed)[0].rows)
            states.append(torch.get_rng_state())
        assert restarts, "codes restart at the beginning of an epoch: restart_dead_codes was not called"
        assert restarts[0]["generator"] is not None, "restart_dead_codes gets no generator"
        draws.append([given["draw"] for given in restarts])
    same = "depend on torch.manual_seed: draw with a generator of your own, from seed"
    assert orders[0] == orders[1], f"the orders {same}"
    assert draws[0] == draws[1], f"the restarted rows {same}"
    seeded_anew = torch.equal(states[0], states[1])
    assert not seeded_anew, "train sets torch's own seed: draw with a generator of your own, from seed"
    assert orders[0] != orders[2], "another seed gives the same orders"
    assert len(set(draws[0])) == len(draws[0]), (
        "restart_dead_codes gets a generator in the same state every time"
    )


@pytest.mark.grades("train")
@pytest.mark.usefixtures("restarts")
@pytest.mark.parametrize("decay", [None, 0.9])
@pytest.mark.parametrize("train_mode", [True, False])
def test_training_mode(decay, train_mode):
    """Codes that a moving average moves do so in training mode only."""
    model = trained(2, decay=decay, train_mode=train_mode)[0]
    assert len(model.rows) == 6, "the model is not in training mode: model.train()"


@pytest.mark.grades("train")
@pytest.mark.usefixtures("restarts")
@pytest.mark.parametrize("decay", [None, 0.9], ids=["codes learn by gradient", "by a moving average"])
@pytest.mark.parametrize("options", [{}, {"restart": False, "beta": 3.0}, {"learning_rate": 1e-3}], ids=str)
def test_parameters_move(decay, options):
    """Every parameter after three epochs, against torch's Adam on the same batches."""
    start = Remembering(N, n_codes=K, decay=decay)
    model, images, _ = trained(3, decay=decay, **options)
    how = OPTIONS | options
    how = {"beta": how["beta"], "rate": how["learning_rate"]}
    expected = replayed(copy.deepcopy(start), images, model.rows, **how)
    mistakes = {
        diagnosis: lazily(replayed, copy.deepcopy(start), images, model.rows, **how, wrong=wrong)
        for wrong, diagnosis in TRAIN_MISTAKES.items()
    }
    mistakes["no parameter moved"] = start.state()
    # float32 over nine steps of Adam, which divides by the root of the squared gradients
    assert_close(model.state(), expected, rtol=2e-4, what="parameters after training", mistakes=mistakes)


@pytest.mark.grades("train")
@pytest.mark.parametrize("decay", [None, 0.9])
def test_restart_at_the_start_of_an_epoch(decay, restarts):
    """With the usage of the whole epoch before, none in the first; with the vectors of all images, as they are then."""
    model, images, _ = trained(4, decay=decay)
    assert model.events == ["restart", "batch", "batch", "batch"] * 4, (
        f"an epoch begins with a restart: {model.events}"
    )
    quantizer = model.quantizer
    for epoch, given in enumerate(restarts):
        for name, tensor in zip(("codebook", "counts", "sums"), given["state"], strict=True):
            same = tensor.data_ptr() == getattr(quantizer, name).data_ptr()
            assert same, f"restart_dead_codes gets a copy of {name}: what it writes is lost"
        batches = model.usage[: 3 * epoch]
        zero = torch.zeros(K, dtype=torch.int64)
        before = sum(batches[-3:], zero) > 0
        used = given["usage"] > 0
        assert epoch or not used.any(), "in the first epoch all codes restart: nothing has been used yet"
        wrong = {
            "the usage is of the last batch alone: it counts over the whole epoch": batches[-1] > 0
            if epoch
            else zero > 0,
            "the usage adds up over all epochs: what counts is the epoch before": sum(batches, zero) > 0,
        }
        for diagnosis, value in wrong.items():
            assert torch.equal(before, value) or not torch.equal(used, value), diagnosis
        said = f"codes in use {used.nonzero().flatten().tolist()}, expected {before.nonzero().flatten().tolist()}"
        assert torch.equal(used, before), (
            f"the usage of epoch {epoch} is not that of the epoch before: {said}"
        )
        weight, bias = model.encoders[epoch]
        with torch.no_grad():
            vectors = torch.nn.functional.conv2d(images, weight, bias, stride=2)
        check_vectors(given["z"], vectors, epoch)


def check_vectors(z, maps, epoch):
    """Compare the rows of z with the vectors of all images, in any order."""
    vectors = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    said = f"it gets {tuple(z.shape)} in epoch {epoch}, expected {tuple(vectors.shape)}"
    assert z.shape == vectors.shape, f"restart_dead_codes gets the vectors of all images, (n·4·4, d): {said}"
    viewed = torch.allclose(z, maps.reshape(vectors.shape))
    assert not viewed, (
        "the maps are viewed as vectors without a permute: a vector is made of neighbouring pixels"
    )
    gaps = (z[:, None] - vectors).abs().amax(-1)
    near = gaps < 1e-4 * vectors.abs().max()
    same = near.any(0).all() and near.any(1).all()
    assert same, f"the vectors of epoch {epoch} are not what the encoder says of all images at that time"


@pytest.mark.grades("train")
def test_no_restart(restarts):
    """restart=False: no code restarts, and the record says 0."""
    _, _, records = trained(2, restart=False)
    assert not restarts, "codes restart although restart=False"
    assert [record["n_restarted"] for record in records] == [0, 0], "n_restarted is 0 where nothing restarts"


@pytest.mark.grades("train")
def test_defaults(restarts):
    """Batches of 64, a learning rate of 0.003, β 0.25, restarts, and the seed 0."""
    runs = []
    for options in ({}, {"seed": 0}):
        model, images = Remembering(70, n_codes=K), numbered_images(70, seeded(2))
        start = copy.deepcopy(model)
        vq_vae.train(model, images, 2, **options)
        runs.append(model)
    assert [len(rows) for rows in model.rows] == [64, 6] * 2, "batch_size is 64 by default"
    assert restarts, "restart is True by default"
    assert runs[0].rows == runs[1].rows, "seed is 0 by default"
    expected = replayed(start, images, model.rows, beta=0.25, rate=3e-3)
    hint = "beta is 0.25 by default, and learning_rate 0.003"
    assert_close(runs[0].state(), expected, rtol=2e-4, what="parameters after training", hint=hint)


@pytest.mark.grades("train")
@pytest.mark.usefixtures("restarts")
@pytest.mark.parametrize("decay", [None, 0.9])
def test_records(decay):
    """Numbers of the whole epoch: a last batch that is smaller weighs less, and usage is over all images."""
    model, _, records = trained(3, decay=decay)
    names = {"n_restarted", "reconstruction", "n_used", "perplexity"}
    for epoch, record in enumerate(records):
        missing = names - set(record)
        assert not missing, f"a record lacks {sorted(missing)}: {record}"
        here = slice(3 * epoch, 3 * epoch + 3)
        losses, usages = model.losses[here], model.usage[here]
        usage, all_usage = sum(usages), sum(model.usage[: here.stop])
        mean = (4 * losses[0] + 4 * losses[1] + 2 * losses[2]) / 10
        wrong = {
            "reconstruction": {
                "a mean over batches: the last one is smaller, so weigh each by its images": sum(losses) / 3,
                "this is the loss of the last batch, not of the epoch": losses[2],
                "this is a sum over the batches, not a mean": sum(losses),
                "this is a sum over the images, not a mean": 10 * mean,
            },
            "n_used": {
                "this counts the codes of the last batch, not of the epoch": (usages[2] > 0).sum().item(),
                "this counts over all epochs so far": (all_usage > 0).sum().item(),
                "a code that was chosen once is in use too": (usage > 1).sum().item(),
                "this is how many codes nothing chose": (usage == 0).sum().item(),
                "this counts vectors, not codes": usage.sum().item(),
            },
            "perplexity": {
                "this is the perplexity of the last batch, not of the epoch": value(usages[2]),
                "a mean of the batches' perplexities: it is one number, of the usage of the epoch": sum(
                    map(value, usages)
                )
                / 3,
                "this is the perplexity over all epochs so far": value(all_usage),
            },
            "n_restarted": {},
        }
        right = {
            "reconstruction": mean,
            "n_used": (usage > 0).sum().item(),
            "perplexity": value(usage),
            "n_restarted": 3,
        }
        for name in ("n_restarted", "reconstruction", "n_used", "perplexity"):
            got = record[name]
            assert isinstance(got, float | int), f"{name} is a {type(got).__name__}, expected a plain number"
            mistakes = {
                d: v for d, v in wrong[name].items() if not math.isclose(v, right[name], rel_tol=1e-4)
            }
            expected = torch.tensor(float(right[name]), dtype=torch.float64)
            got = torch.tensor(float(got), dtype=torch.float64)
            assert_close(got, expected, rtol=1e-5, what=f"{name} of epoch {epoch}", mistakes=mistakes)


def value(usage):
    return oracles.perplexity(usage).item()


UNITS = ("nearest_codes", "straight_through", "vq_losses", "ema_update", "restart_dead_codes", "perplexity")


@pytest.mark.grades(*UNITS, "VectorQuantizer", "VQVAE", "train")
@pytest.mark.parametrize("decay", [0.9, None])
def test_whole_run(decay):
    """All parts yours, on spots and bars: it learns, and uses nearly all of its codes."""
    images = blobs(240, seeded(0))
    model = vq_vae.VQVAE(24, 4, hidden=12, decay=decay, generator=seeded(1))
    with unchanged(images):
        records = vq_vae.train(model, images, 8, batch_size=24, learning_rate=1e-2, seed=3)
    variance = (images - images.mean(0)).square().mean().item()
    share = records[-1]["reconstruction"] / variance
    assert share < 0.5, (
        f"after eight epochs the error is {share:.2f} of the images' variance: it does not learn"
    )
    n_used = records[-1]["n_used"]
    assert n_used >= 0.9 * 24, f"{n_used:.0f} of 24 codes are in use at the end: dead codes restart"
    assert records[0]["n_restarted"] == 24, "in the first epoch all codes restart"
    model.eval()
    with torch.no_grad():
        tokens = model.encode(images)
        error = (model.decode(tokens) - images).square().mean().item() / variance
        codes = look_up(model.quantizer.codebook, tokens)
        assert_close(model.decode(tokens), model.decoder(codes), rtol=1e-4, what="decoded tokens")
    assert error < 0.5, f"the tokens alone give an error of {error:.2f} of the images' variance"
