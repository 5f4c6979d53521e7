"""Networks and data that the tests share.

The first step of an optimizer imports torch._dynamo, for seconds. Here it counts against the limit of no single test.
"""

import functools

import torch
import torch._dynamo
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Block(nn.Module):
    """A pre-norm transformer block whose projections are all nn.Linear."""

    def __init__(self, width, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        B, T, D = x.shape
        query, key, value = self.qkv(self.norm1(x)).reshape(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(B, T, D)
        x = x + self.out(mixed)
        return x + self.mlp(self.norm2(x))


def _seeded(build):
    """Build with torch's own initialisation from a fixed seed, and leave the global generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def mlp():
    """Return 64-128-96-10."""

    def build():
        return nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 10)
        ).eval()

    return _seeded(build)


def cnn():
    """Return a convolutional network with batch norms whose statistics and affine parameters are not trivial."""

    def build():
        model = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 16, 3, padding=1, stride=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )
        for norm in (model[1], model[4]):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
        for _ in range(30):
            model(torch.rand(64, 1, 8, 8) * 3)
        return model.eval()

    return _seeded(build)


def block():
    """Return a transformer block of width 96."""
    return _seeded(lambda: Block(96, 4)).eval()


@functools.cache
def digits():
    """Return 1437 digits to train on and 360 to test with: pixels in 0..1, (n, 64), and classes."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    pixels = torch.tensor(data.data, dtype=torch.float32)[order] / 16
    classes = torch.tensor(data.target)[order]
    return pixels[:1437], classes[:1437], pixels[1437:], classes[1437:]


def train(model, pixels, classes, *, n_steps=200, learning_rate=3e-3):
    """Train in place."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.train()
    for _ in range(n_steps):
        rows = torch.randint(len(pixels), (64,), generator=generator)
        loss = F.cross_entropy(model(pixels[rows]), classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@functools.cache
def digits_mlp():
    """Return an MLP that reads digits."""
    pixels, classes, _, _ = digits()
    return train(mlp(), pixels, classes).eval()


def accuracy(model, pixels, classes):
    """Return the share of right answers."""
    with torch.no_grad():
        return (model(pixels).argmax(1) == classes).float().mean().item()


def signal(name, generator):
    """Return a model, calibration batches and a test batch."""
    if name == "block":
        return (
            block(),
            [torch.randn(6, 20, 96, generator=generator)] * 2,
            torch.randn(5, 20, 96, generator=generator),
        )
    shape = (1, 8, 8) if name == "cnn" else (64,)
    batches = [torch.rand(100, *shape, generator=generator) * 3 for _ in range(4)]
    return {"cnn": cnn, "mlp": mlp}[name](), batches[:3], batches[3]


def run(model, x):
    with torch.no_grad():
        return model(x)


def kinds(model):
    return [type(module).__name__ for module in model.modules() if not list(module.children())]
