"""The whole on real data: handwritten digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import backprop
import optimizers


@pytest.fixture(scope="module")
def digits():
    """Training and held-out part of scikit-learn's handwritten digits, pixels in [0, 1], float32."""
    data = load_digits()
    pixels = (data.data / 16).astype(np.float32)
    return train_test_split(pixels, data.target, test_size=360, random_state=0, stratify=data.target)


def shifted(images, dy, dx):
    """Move 8x8 images by one pixel; what leaves is lost, what enters is blank."""
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    return padded[:, 1 - dy : 9 - dy, 1 - dx : 9 - dx].reshape(-1, 64)


@pytest.mark.grades("Linear", "ReLU", "Sequential", "SoftmaxCrossEntropy", "AdamW", "fit")
@pytest.mark.parametrize("seed", range(5))
def test_digits(seed, digits):
    """Handwritten digits: 97.5 % or better on the held-out part, from any of five seeds."""
    x, x_held_out, y, y_held_out = digits
    moves = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
    x, y = np.concatenate([shifted(x, *move) for move in moves]), np.tile(y, len(moves))
    rng, lr, epochs = np.random.default_rng(seed), 1e-2, 20
    network = backprop.Sequential(
        backprop.Linear(64, 128, rng=rng), backprop.ReLU(), backprop.Linear(128, 10, rng=rng)
    )
    optimizer = optimizers.AdamW(lr, weight_decay=0.1)
    for epoch in range(epochs):
        optimizer.lr = lr * (1 + np.cos(np.pi * epoch / epochs)) / 2
        losses = backprop.fit(network, backprop.SoftmaxCrossEntropy(), optimizer, x, y, epochs=1, rng=rng)
    assert losses[-1] < 0.1, (
        f"the training loss is {losses[-1]:.3f} after {epochs} epochs: it should be near 0.01"
    )
    accuracy = float((network.forward(x_held_out).argmax(axis=1) == y_held_out).mean())
    assert accuracy >= 0.975, f"accuracy {accuracy:.2%} on the held-out digits, expected at least 97.5%"
