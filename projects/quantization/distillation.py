"""Distillation: a small student learns from a teacher's logits, also where there are no labels.

    loss = α · T² · KL(softmax(teacher/T) ‖ softmax(student/T)) + (1 - α) · cross_entropy(student, labels)

Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section 2.
"""

from __future__ import annotations

import math
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["distillation_loss", "train_student"]


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 4.0,
    alpha: float = 0.9,
) -> Tensor:
    """Compare a student with its teacher, softened by a temperature, and with the labels where there are any.

    ``alpha · T² · mean over rows of Σ_c p_c (log p_c - log s_c)``, with p = softmax(teacher/T) and s = softmax(student/T),
    plus ``(1 - alpha) · cross_entropy(student, labels)``. Without labels the first term stands alone, unweighted. T² keeps
    the size of the gradient: softened logits have gradients of 1/T, and p - s is of order 1/T as well.

    student_logits, teacher_logits : (batch, classes); no gradient flows to the teacher. labels : (batch,) int64.
    temperature above 0: the higher, the more the small probabilities count ("dark knowledge"). alpha : 0 to 1. Result (), of the
    student's dtype. The divergence is computed in float64: it is a small difference, times T². ValueError if the shapes differ
    or are not (batch, classes), the batch is empty, labels are not int64 classes, or an option is out of its range.

    Source: Hinton et al. 2015, arXiv 1503.02531, section 2 and 2.1.
    """
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape or not len(student_logits):
        raise ValueError(
            f"logits must be (batch, classes), got {student_logits.shape} and {teacher_logits.shape}"
        )
    if not 0 < temperature < math.inf or not 0 <= alpha <= 1:
        raise ValueError(f"finite temperature > 0 and 0 <= alpha <= 1 are needed, got {temperature}, {alpha}")
    student = F.log_softmax(student_logits.double() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach().double() / temperature, dim=-1)
    soft = temperature**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()
    soft = soft.to(student_logits.dtype)
    if labels is None:
        return soft
    _check_labels(labels, *student_logits.shape)
    return alpha * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)


def train_student(
    student: nn.Module,
    inputs: Tensor,
    *,
    teacher: nn.Module | None = None,
    labels: Tensor | None = None,
    n_steps: int = 600,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    temperature: float = 4.0,
    generator: torch.Generator,
) -> None:
    """Train `student` in place with Adam: on a teacher's logits, on labels, or on both; leave it in evaluation mode.

    Each step draws `batch_size` rows, gives them to the student in one call, in training mode, and minimises
    `distillation_loss` with alpha 0.9 and `temperature`; without a teacher, cross entropy.
    student, teacher : (batch, features) to (batch, classes). The teacher is put into evaluation mode and gets no gradient.
    inputs : (n, features); labels : (n,) int64. `generator` draws the batches, with replacement, and is the only source of
    randomness but for dropout in the student. ValueError if there is neither a teacher nor labels (nothing to learn from), no
    input, not a label for each, or n_steps or batch_size is no count.
    """
    if teacher is None and labels is None:
        raise ValueError("a teacher or labels are needed: there is nothing to learn from")
    if not len(inputs) or (labels is not None and labels.shape != inputs.shape[:1]):
        raise ValueError(f"inputs (n, features) and n labels are needed, got {len(inputs)} inputs")
    for name, count, least in (("n_steps", n_steps, 0), ("batch_size", batch_size, 1)):
        if not isinstance(count, Integral) or count < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {count!r}")
    targets = None
    if teacher is not None:
        teacher.eval()
        with torch.no_grad():
            targets = teacher(inputs)
    optimizer = torch.optim.Adam(student.parameters(), lr=learning_rate)
    student.train()
    for _ in range(n_steps):
        rows = torch.randint(len(inputs), (batch_size,), generator=generator)
        logits, batch_labels = student(inputs[rows]), None if labels is None else labels[rows]
        if targets is None:
            assert batch_labels is not None
            loss = F.cross_entropy(logits, batch_labels)
        else:
            loss = distillation_loss(logits, targets[rows], batch_labels, temperature=temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    student.eval()


def _check_labels(labels: Tensor, batch: int, classes: int) -> None:
    """Refuse what cross_entropy would take as something else: probabilities, and -100 as a row to leave out."""
    if labels.dtype != torch.int64 or labels.shape != (batch,):
        raise ValueError(f"labels must be ({batch},) int64, got {tuple(labels.shape)} {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")
