"""The judge of distillation.

Oracles: values worked by hand, torch's KL divergence and cross entropy in float64, and six students on real digits.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import accuracy, digits, digits_mlp
from torch import nn

import distillation
from shared.testing.checks import assert_close, expect_error


@pytest.mark.grades("distillation_loss")
def test_loss_by_hand():
    """Two classes, teacher 3:1, student 1:1 at T = 2: 4·(3/4 ln(3/2) + 1/4 ln(1/2))."""
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    mistakes = {
        "the factor T² is missing": expected / 4,
        "the divergence is the wrong way round: teacher first": 4
        * (0.5 * math.log(2 / 3) + 0.5 * math.log(2)),
        "the temperature is ignored": 0.9 * math.log(1.8) + 0.1 * math.log(0.2),
    }
    got = distillation.distillation_loss(student, teacher, temperature=2.0)
    assert_close(got, torch.tensor(expected), what="loss", rtol=1e-5, mistakes=mistakes)
    got = distillation.distillation_loss(student, teacher, torch.tensor([1]), temperature=2.0, alpha=0.25)
    mixed = 0.25 * expected + 0.75 * math.log(2)
    mistakes = {"alpha weighs the labels, not the teacher": 0.75 * expected + 0.25 * math.log(2)}
    assert_close(got, torch.tensor(mixed), what="loss with labels", rtol=1e-5, mistakes=mistakes)


@pytest.mark.grades("distillation_loss")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_loss_as_torch(temperature, generator):
    """As torch's batch mean of the KL divergence; large logits do not overflow; the teacher gets no gradient."""
    student = (torch.randn(7, 5, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    teacher = (torch.randn(7, 5, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    labels = torch.randint(5, (7,), generator=generator)
    kl = F.kl_div(
        F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1), reduction="batchmean"
    )
    wanted = 0.3 * temperature**2 * kl + 0.7 * F.cross_entropy(student, labels)
    got = distillation.distillation_loss(student, teacher, labels, temperature=temperature, alpha=0.3)
    mistakes = {
        "divided by the classes as well: the mean is over rows": lambda: (
            wanted - 0.3 * temperature**2 * kl * 0.8
        )
    }
    assert_close(got, wanted, n=35, what="loss", mistakes=mistakes)
    got.backward()
    assert teacher.grad is None or not teacher.grad.any(), "the teacher gets a gradient"
    (expected,) = torch.autograd.grad(
        0.3
        * temperature**2
        * F.kl_div(
            F.log_softmax(student / temperature, -1),
            F.softmax(teacher.detach() / temperature, -1),
            reduction="batchmean",
        )
        + 0.7 * F.cross_entropy(student, labels),
        student,
    )
    assert_close(student.grad, expected, n=35, what="gradient")
    huge = distillation.distillation_loss(student.detach() * 1e4, teacher.detach() * 1e4)
    assert torch.isfinite(huge), f"logits of 1e4 give {huge.item()}"


@pytest.mark.grades("distillation_loss")
def test_loss_bad_input():
    """Shapes, empty batches, options."""
    x = torch.zeros(2, 3)
    for arguments, options in [
        ((x, torch.zeros(2, 4)), {}),
        ((torch.zeros(3), torch.zeros(3)), {}),
        ((torch.zeros(0, 3), torch.zeros(0, 3)), {}),
        ((x, x), {"temperature": 0.0}),
        ((x, x), {"temperature": math.nan}),
        ((x, x), {"alpha": 1.5}),
        ((x, x), {"alpha": -0.1}),
    ]:
        with expect_error(ValueError, otherwise=f"{[a.shape for a in arguments]} {options} is accepted"):
            distillation.distillation_loss(*arguments, **options)
    classes = torch.tensor([1, 2])
    for alpha in (0.0, 1.0):
        got = float(distillation.distillation_loss(x, x, classes, alpha=alpha))
        wanted = (1 - alpha) * math.log(3)  # as the teacher, and a third for each class
        assert abs(got - wanted) < 1e-6, f"alpha={alpha}: {got}, expected {wanted}"


def student(seed):
    """Return a small network, initialised from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.mark.grades("train_student")
def test_training_is_reproducible():
    """The generator is the only source of randomness; with nothing to learn from there is an error."""
    pixels, classes, _, _ = digits()
    results = []
    for seed in (1, 1, 2):
        network = student(0)
        generator = torch.Generator().manual_seed(seed)
        distillation.train_student(network, pixels, labels=classes, n_steps=3, generator=generator)
        results.append(network[0].weight.detach())
    assert torch.equal(results[0], results[1]), "the same seed gives two students"
    assert not torch.equal(results[0], results[2]), "the generator is ignored"
    assert not network.training, "the student must end in evaluation mode"
    teacher, network = nn.Sequential(nn.Dropout(0.5), student(1)).train(), student(0)
    distillation.train_student(network, pixels, teacher=teacher, n_steps=1, generator=torch.Generator())
    assert not teacher.training, "the teacher teaches in evaluation mode, without its dropout"
    with expect_error(ValueError, otherwise="neither teacher nor labels, and no error"):
        distillation.train_student(student(0), pixels, generator=torch.Generator())


@pytest.mark.grades("train_student")
@pytest.mark.parametrize("taught", ["by a teacher", "by labels", "by both"])
def test_steps_of_training(taught, generator):
    """Where all rows are one, the batches do not matter: Adam on the loss of the docstring, with every option."""
    inputs, labels = torch.randn(1, 64, generator=generator).expand(9, -1), torch.full((9,), 3)
    teacher = None if taught == "by labels" else student(1)
    network, wanted, sizes = student(0), student(0), []
    network.register_forward_pre_hook(lambda module, args: sizes.append((module.training, *args[0].shape)))
    distillation.train_student(
        network,
        inputs,
        teacher=teacher,
        labels=None if taught == "by a teacher" else labels,
        n_steps=4,
        batch_size=5,
        learning_rate=0.02,
        temperature=1.7,
        generator=torch.Generator(),
    )
    assert sizes == [(True, 5, 64)] * 4, f"4 steps with 5 rows each, in training mode, got {sizes}"
    optimizer = torch.optim.Adam(wanted.parameters(), lr=0.02)
    for _ in range(4):
        logits = wanted(inputs)
        loss = F.cross_entropy(logits, labels)
        if teacher is not None:
            softened = (F.log_softmax(net(inputs) / 1.7, -1) for net in (wanted, teacher))
            soft = 1.7**2 * F.kl_div(*softened, reduction="batchmean", log_target=True)
            loss = soft if taught == "by a teacher" else 0.9 * soft + 0.1 * loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    step = (network(inputs[:1]) - student(0)(inputs[:1])).detach()
    expected = (wanted(inputs[:1]) - student(0)(inputs[:1])).detach()
    assert_close(step, expected, rtol=1e-3, what=f"what four steps {taught} change in the logits")


@pytest.mark.grades("train_student", "distillation_loss")
def test_unlabelled_digits_beat_sixty_labels():
    """In all of six seeds a student of the teacher's logits beats the same student of 60 labels."""
    pixels, classes, held_out, held_out_classes = digits()
    teacher = digits_mlp()
    before = [parameter.detach().clone() for parameter in teacher.parameters()]
    for seed in range(6):
        distilled, labelled = student(seed), student(seed)
        rows = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))[:60]
        for network, options in (
            (distilled, {"inputs": pixels, "teacher": teacher}),
            (labelled, {"inputs": pixels[rows], "labels": classes[rows]}),
        ):
            distillation.train_student(network, **options, generator=torch.Generator().manual_seed(seed))
        with_teacher, with_labels = (accuracy(n, held_out, held_out_classes) for n in (distilled, labelled))
        assert with_teacher > with_labels, (
            f"seed {seed}: {with_teacher:.1%} from logits, {with_labels:.1%} from 60 labels"
        )
        assert with_teacher > 0.9, f"seed {seed}: the distilled student reads only {with_teacher:.1%}"
    assert all(map(torch.equal, before, teacher.parameters())), "the teacher was trained as well"


@pytest.mark.grades("distillation_loss")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("temperature", [20.0, 1000.0])
def test_loss_at_a_high_temperature(temperature, dtype, generator):
    """The divergence is a difference of nearly equal logarithms: of order 1/T², times T²."""
    student, teacher = (torch.randn(64, 10, generator=generator).to(dtype) for _ in range(2))
    centred = [logits.double() - logits.double().mean(1, keepdim=True) for logits in (student, teacher)]
    limit = (centred[0] - centred[1]).square().mean(1).mean() / 2  # for T to infinity, Hinton's equation 4
    got = distillation.distillation_loss(student, teacher, temperature=temperature)
    assert got.dtype == dtype, f"the loss has the student's dtype, got {got.dtype}"
    error = abs(float(got) / float(limit) - 1)
    allowed = 3 / temperature + {torch.float16: 1e-3, torch.bfloat16: 8e-3}.get(dtype, 0)
    assert error < allowed, (
        f"{float(got):.4f} at T = {temperature:g}, near {float(limit):.4f} by T² · (a small difference)"
    )


@pytest.mark.grades("distillation_loss")
def test_labels_that_are_no_classes(generator):
    """-100 is not left out, probabilities are not taken for labels, and an infinite temperature is not NaN."""
    logits, other = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)
    for labels in ([1, -100, 2], [1, 4, 2], [0, -1, 1]):
        with expect_error(ValueError, "labels", otherwise=f"labels {labels} of four classes are accepted"):
            distillation.distillation_loss(logits, other, torch.tensor(labels))
    for labels in (
        torch.softmax(other, -1),
        torch.tensor([1, 2]),
        torch.tensor([[1], [2], [3]]),
        torch.ones(3),
    ):
        with expect_error(ValueError, "labels", otherwise=f"labels of {tuple(labels.shape)} {labels.dtype}"):
            distillation.distillation_loss(logits, other, labels)
    for temperature in (math.inf, math.nan):
        with expect_error(ValueError, "temperature", otherwise=f"temperature={temperature} is accepted"):
            distillation.distillation_loss(logits, other, temperature=temperature)
    for labels in ([0, 3, 1], [3, 3, 0]):
        assert torch.isfinite(distillation.distillation_loss(logits, other, torch.tensor(labels)))


@pytest.mark.grades("train_student")
def test_training_on_what_does_not_fit(generator):
    """Labels for other inputs, no inputs, and steps that are no count, are refused before the first step."""
    student, inputs, labels = nn.Linear(4, 3), torch.randn(8, 4, generator=generator), torch.arange(8) % 3
    cases = [
        ("inputs", {"labels": labels[:7]}),
        ("inputs", {"labels": torch.cat([labels, labels])}),
        *(("n_steps", {"labels": labels, "n_steps": bad}) for bad in (-1, 2.0, "3", None)),
        *(("batch_size", {"labels": labels, "batch_size": bad}) for bad in (0, -4, 4.0, None)),
    ]
    before = student.weight.detach().clone()
    for name, options in cases:
        with expect_error(ValueError, name, otherwise=f"{name} that do not fit are accepted: {options}"):
            distillation.train_student(student, inputs, generator=generator, **{"n_steps": 1, **options})
    with expect_error(ValueError, "inputs", otherwise="no inputs are accepted"):
        distillation.train_student(student, inputs[:0], labels=labels[:0], generator=generator)
    assert torch.equal(student.weight, before), "a refused call trained the student"
    counts = {"n_steps": np.int64(0), "batch_size": np.int64(4)}
    distillation.train_student(student, inputs, labels=labels, generator=generator, **counts)
    assert torch.equal(student.weight, before), "no step, no change"
