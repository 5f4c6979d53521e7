"""The units in other words, a model that remembers what it saw, and images to learn: it uses nothing of the graded files."""

import contextlib
import math

import torch
from torch import nn

DOUBLE = torch.float64


def seeded(seed=0):
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape, generator, scale=1.0):
    """Return normal numbers, float32."""
    return scale * torch.randn(shape, generator=generator)


def gradients(output, inputs, cotangent=1.0):
    """Return the gradients of sum(cotangent · output); zeros where it does not depend on an input."""
    if not output.requires_grad:
        raise AssertionError("the result is detached from its inputs: no gradient flows back")
    product = (output * cotangent).sum()
    return torch.autograd.grad(product, inputs, allow_unused=True, materialize_grads=True, retain_graph=True)


@contextlib.contextmanager
def global_seed(seed):
    """Seed torch's global generator for a while."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# --- what stands in for the learner's units ---------------------------------------------------------------------------


def squared_distances(z, codebook):
    """Return ‖z - e‖² of every pair in float64, from the differences themselves."""
    return (z.detach().double()[..., None, :] - codebook.detach().double()).square().sum(-1)


def nearest_codes(z, codebook):
    return squared_distances(z, codebook).argmin(-1)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, z_q):
        return z_q.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def straight_through(z, z_q):
    return _StraightThrough.apply(z, z_q)


def vq_losses(x, reconstruction, z, z_q, *, beta=0.25):
    terms = (reconstruction - x), (z_q - z.detach()), (z - z_q.detach())
    a, b, c = (term.square().sum() / term.numel() for term in terms)
    return a, b, beta * c


def averaged(codebook, counts, sums, z, indices, decay, wrong=None):
    """Return codebook, counts and sums after one moving average, vector by vector in float64; `wrong` makes one mistake."""
    K, d = codebook.shape
    n, total = torch.zeros(K, dtype=DOUBLE), torch.zeros(K, d, dtype=DOUBLE)
    for vector, k in zip(z.detach().double(), indices.tolist(), strict=True):
        n[k] += 1
        total[k] += vector
    used = torch.ones(K, dtype=torch.bool) if wrong == "all rows" else n > 0
    keep, new = (1 - decay, decay) if wrong == "exchanged" else (decay, 1 - decay)
    new = 1.0 if wrong == "no weight" else new
    codes, old_counts, old_sums = (t.detach().double().clone() for t in (codebook, counts, sums))
    counts, sums = keep * old_counts + new * n, keep * old_sums + new * total
    if wrong == "only the chosen decay":
        counts, sums = torch.where(used, counts, old_counts), torch.where(used[:, None], sums, old_sums)
    moved = sums / counts[:, None]
    if wrong == "moves the codes":
        moved = keep * codes + new * total / n[:, None]
    if wrong == "batch mean":
        moved = total / n[:, None]
    if wrong == "over n":
        moved = sums / n[:, None]
    if wrong == "old counts":
        moved = sums / old_counts[:, None]
    if wrong == "too early":
        moved = old_sums / old_counts[:, None]
    if wrong == "old sums":
        moved = old_sums / counts[:, None]
    if wrong == "smoothed":
        all_counts = counts.sum()
        moved = sums / ((counts + 1e-2) / (all_counts + K * 1e-2) * all_counts)[:, None]
    codes[used] = moved[used]
    return codes, counts, sums


EMA_MISTAKES = {
    "exchanged": "decay and 1 - decay are exchanged: the old counts and sums are kept with weight decay",
    "no weight": "what is new is added without its weight 1 - decay",
    "all rows": "codes that this batch did not choose move too: they stay as they are",
    "only the chosen decay": "counts and sums of codes that were not chosen decay too: all rows do",
    "moves the codes": "the average is of the codes: it is the counts and the sums that are averaged; a code is sums/counts",
    "batch mean": "the codes become the mean of this batch alone: the history in counts and sums is lost",
    "over n": "the sums are divided by the counts of this batch, not by the averaged counts",
    "old counts": "the sums are divided by the counts from before the update",
    "old sums": "the sums from before the update are used",
    "too early": "the codes are sums/counts from before the update: first counts and sums, then the codes",
    "smoothed": "the counts are smoothed: the code is sums/counts, nothing added",
}


@torch.no_grad()
def ema_update(codebook, counts, sums, z, indices, *, decay):
    assert z.ndim == 2, f"ema_update takes vectors (n, d), and got z of shape {tuple(z.shape)}"
    assert indices.shape == z.shape[:1], (
        f"ema_update takes an index for each vector, and got indices {tuple(indices.shape)} for z {tuple(z.shape)}"
    )
    used = torch.bincount(indices, minlength=len(codebook)) > 0
    codes, *others = averaged(codebook, counts, sums, z, indices, decay)
    codebook[used] = codes[used].float()
    for tensor, new in zip((counts, sums), others, strict=True):
        tensor.copy_(new)


def perplexity(usage):
    total = float(usage.sum())
    shares = [float(u) / total for u in usage if u > 0]
    return torch.tensor(math.prod(p**-p for p in shares))


class VectorQuantizer(nn.Module):
    def __init__(self, n_codes, d, *, decay=None, generator=None):
        super().__init__()
        self.decay, self.had_generator = decay, generator is not None
        codes = torch.randn(n_codes, d, generator=generator)
        if decay is None:
            self.codebook = nn.Parameter(codes)
        else:
            self.register_buffer("codebook", codes)
        self.register_buffer("counts", torch.ones(n_codes))
        self.register_buffer("sums", codes.detach().clone())

    def forward(self, z):
        indices = nearest_codes(z.permute(0, 2, 3, 1), self.codebook)
        codes = look_up(self.codebook, indices)
        if self.decay is not None and self.training:
            vectors = z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1])
            ema_update(self.codebook, self.counts, self.sums, vectors, indices.reshape(-1), decay=self.decay)
        return codes, indices


def look_up(codebook, indices):
    """Return the codes (B, d, H, W) of indices (B, H, W), by a matrix product that carries the gradient."""
    one_hot = (indices[..., None] == torch.arange(len(codebook))).to(codebook.dtype)
    return torch.einsum("bhwk,kd->bdhw", one_hot, codebook)


# --- a model that remembers -------------------------------------------------------------------------------------------


def numbered_images(n, generator):
    """Return images (n, 1, 8, 8) of unequal brightness, each with its number in the first pixel."""
    images = torch.rand(n, 1, 8, 8, generator=generator) * torch.linspace(0.2, 1, n)[:, None, None, None]
    images[:, 0, 0, 0] = torch.arange(n) / n
    return images


class Remembering(nn.Module):
    """An autoencoder that notes which images it sees, and chooses codes by their number and the epoch, four codes an epoch.

    Image i has the code (i mod 3) + 2·epoch, mod K; only at the first place of image 0 is a fourth, so one code is chosen once.
    It remembers what it sees in training, not in evaluation.
    """

    latest = None

    def __init__(self, n_images, *, n_codes=9, d=3, decay=None):
        super().__init__()
        generator = seeded(3)
        Remembering.latest, self.n_images = self, n_images
        self.events, self.rows, self.losses, self.usage, self.encoders = [], [], [], [], []
        self.encoder, self.decoder = nn.Conv2d(1, d, 2, stride=2), nn.ConvTranspose2d(d, 1, 2, stride=2)
        self.quantizer = VectorQuantizer(n_codes, d, decay=decay, generator=generator)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(normal(*p.shape, generator=generator, scale=0.5))

    def forward(self, x):
        rows = (x[:, 0, 0, 0] * self.n_images).round().long()
        epoch = sum(map(len, self.rows)) // self.n_images
        result = self.reconstruct(x, rows, epoch)
        if not self.training:
            return result
        self.events.append("batch")
        self.rows.append(rows.tolist())
        self.losses.append((result[0] - x).detach().double().square().mean().item())
        self.usage.append(result[3].flatten().bincount(minlength=len(self.quantizer.codebook)))
        return result

    def reconstruct(self, x, rows, epoch):
        z = self.encoder(x)
        n_codes = len(self.quantizer.codebook)
        indices = ((rows % 3 + 2 * epoch) % n_codes)[:, None, None].repeat(1, 4, 4)
        indices[rows == 0, 0, 0] = (3 + 2 * epoch) % n_codes
        z_q = look_up(self.quantizer.codebook, indices)
        return self.decoder(straight_through(z, z_q)), z, z_q, indices

    def encode(self, x):
        return nearest_codes(self.encoder(x).permute(0, 2, 3, 1), self.quantizer.codebook)

    def decode(self, indices):
        return self.decoder(look_up(self.quantizer.codebook, indices))

    def note_restart(self):
        self.events.append("restart")
        self.encoders.append([p.detach().clone() for p in self.encoder.parameters()])

    def state(self):
        """Return all parameters in one vector."""
        return torch.cat([p.detach().flatten() for p in self.parameters()])


TRAIN_MISTAKES = {
    "no zero_grad": "gradients add up from batch to batch: zero_grad is missing",
    "no codebook term": "the codebook's term moves no code: it belongs to the loss, and the codebook to the optimizer",
    "with codebook term": "the codebook's term is in the loss although a moving average moves the codes",
    "no commitment": "the commitment is not in the loss",
    "no reconstruction": "the reconstruction is not in the loss",
    "beta ignored": "beta is not handed on",
    "beta twice": "β is in the third term already",
    "default rate": "learning_rate is not handed on",
    "patched": "vq_losses gets what straight_through made of the codes: its codebook term moves the encoder, and no code",
    "SGD": "trained with plain SGD, not with Adam",
    "AdamW": "trained with AdamW, which shrinks the weights too",
}


def replayed(start, images, rows, *, beta, rate, wrong=None):
    """Train a copy of `start` on the same batches in the same order; return its parameters. `wrong` makes one mistake."""
    n = start.n_images
    kinds = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}
    optimizer = kinds.get(wrong, torch.optim.Adam)(
        start.parameters(), lr=3e-3 if wrong == "default rate" else rate
    )
    beta = {"beta ignored": 0.25, "beta twice": beta**2}.get(wrong, beta)
    seen = 0
    for batch in rows:
        batch = torch.tensor(batch)
        x = images[batch]
        reconstruction, z, z_q, _ = start.reconstruct(x, batch, seen // n)
        seen += len(batch)
        z_q = straight_through(z, z_q) if wrong == "patched" else z_q
        terms = list(lent_losses(x, reconstruction, z, z_q, beta=beta))
        learns = isinstance(start.quantizer.codebook, nn.Parameter)
        absent = {"no codebook term": 1, "no commitment": 2, "no reconstruction": 0}.get(wrong)
        if not (learns or wrong == "with codebook term"):
            terms[1] = 0
        if absent is not None:
            terms[absent] = 0
        if wrong != "no zero_grad":
            optimizer.zero_grad()
        sum(terms).backward()
        optimizer.step()
    return start.state()


def lent_losses(x, reconstruction, z, z_q, *, beta=0.25):
    """vq_losses, but where no code is learned the codebook's term moves z, so that one sees whether it was added."""
    a, b, c = vq_losses(x, reconstruction, z, z_q, beta=beta)
    return a, b if z_q.requires_grad else (z_q - z).square().mean(), c


def blobs(n, generator):
    """Return images (n, 1, 8, 8) in [0, 1]: a bright spot, and a bar across or down; learned in seconds."""
    at = torch.arange(8.0)
    y, x, bar = (8 * torch.rand(3, n, 1, generator=generator)).unbind()
    spot = torch.exp(-((at - y) ** 2) / 3)[:, :, None] * torch.exp(-((at - x) ** 2) / 3)[:, None, :]
    line = torch.exp(-((at - bar) ** 2) / 0.8)
    across = torch.rand(n, 1, 1, generator=generator) < 0.5
    lines = torch.where(across, line[:, :, None], line[:, None, :])
    return torch.maximum(spot, 0.7 * lines)[:, None]
