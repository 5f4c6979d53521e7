"""A careful person's answer: an autograd function of its own, expanded squares, scatter_add_, multinomial, a data loader."""

import math
from collections import Counter

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def nearest_codes(z, codebook):
    with torch.no_grad():
        vectors = z.detach().reshape(-1, codebook.size(1))
        scores = vectors @ codebook.t() - 0.5 * codebook.pow(2).sum(dim=1)
        return scores.max(dim=1).indices.reshape(z.shape[:-1])


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, z_q):
        return z_q.view_as(z_q)

    @staticmethod
    def backward(ctx, g):
        return g, None


def straight_through(z, z_q):
    if tuple(z.shape) != tuple(z_q.shape):
        raise ValueError(f"z is {tuple(z.shape)}, z_q is {tuple(z_q.shape)}")
    return _Pass.apply(z, z_q.detach())


def _mean_square(a, b):
    if a.shape != b.shape:
        raise ValueError(f"expected two tensors of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return torch.mean((a - b) ** 2)


def vq_losses(x, reconstruction, z, z_q, *, beta=0.25):
    reconstruction_loss = _mean_square(x, reconstruction)
    codebook_loss = _mean_square(z.detach(), z_q)
    commitment_loss = _mean_square(z_q.detach(), z)
    return reconstruction_loss, codebook_loss, commitment_loss * beta


def ema_update(codebook, counts, sums, z, indices, *, decay):
    with torch.no_grad():
        z = z.detach()
        new_counts = torch.zeros_like(counts).scatter_add_(
            0, indices, torch.ones_like(indices, dtype=counts.dtype)
        )
        new_sums = torch.zeros_like(sums).scatter_add_(0, indices[:, None].expand_as(z), z)
        counts.copy_(decay * counts + (1.0 - decay) * new_counts)
        sums.copy_(decay * sums + (1.0 - decay) * new_sums)
        for k in torch.unique(indices):
            codebook[k] = sums[k] / counts[k]


def restart_dead_codes(codebook, counts, sums, usage, z, *, generator=None):
    with torch.no_grad():
        dead = (usage == 0).nonzero().squeeze(1)
        n = min(dead.numel(), z.size(0))
        if n == 0:
            return 0
        dead = dead[:n]
        picked = torch.multinomial(torch.ones(z.size(0)), n, replacement=False, generator=generator)
        new = z.detach().index_select(0, picked)
        codebook.index_copy_(0, dead, new)
        sums.index_copy_(0, dead, new)
        counts.index_fill_(0, dead, 1.0)
        return n


def perplexity(usage):
    used = usage[usage > 0].double()
    if used.numel() == 0:
        raise ValueError("usage is zero everywhere: no code was chosen")
    p = used / used.sum()
    return torch.exp(-(p * p.log()).sum()).float()


class VectorQuantizer(nn.Module):
    def __init__(self, n_codes, d, *, decay=None, generator=None):
        super().__init__()
        self.n_codes, self.d, self.decay = n_codes, d, decay
        initial = torch.randn((n_codes, d), generator=generator)
        self.register_buffer("counts", torch.ones(n_codes))
        self.register_buffer("sums", initial.detach().clone())
        if decay is None:
            self.register_parameter("codebook", nn.Parameter(initial))
        else:
            self.register_buffer("codebook", initial)

    def forward(self, z):
        B, d, H, W = z.shape
        flat = z.permute(0, 2, 3, 1).contiguous().view(B * H * W, d)
        chosen = nearest_codes(flat, self.codebook)
        codes = self.codebook.index_select(0, chosen)
        if self.decay is not None and self.training:
            ema_update(self.codebook, self.counts, self.sums, flat.detach(), chosen, decay=self.decay)
        return codes.view(B, H, W, d).permute(0, 3, 1, 2).contiguous(), chosen.view(B, H, W)


def _drawn(layer, generator):
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class Decoder(nn.Module):
    def __init__(self, d, hidden, generator):
        super().__init__()
        self.first = _drawn(nn.Conv2d(d, hidden, kernel_size=3, padding="same"), generator)
        self.up = _drawn(nn.ConvTranspose2d(hidden, hidden, kernel_size=4, stride=2, padding=1), generator)
        self.last = _drawn(nn.Conv2d(hidden, 1, kernel_size=3, padding="same"), generator)

    def forward(self, codes):
        return self.last(torch.relu(self.up(torch.relu(self.first(codes)))))


class VQVAE(nn.Module):
    def __init__(self, n_codes=64, d=8, *, hidden=32, decay=0.99, generator=None):
        super().__init__()
        self.quantizer = VectorQuantizer(n_codes, d, decay=decay, generator=generator)
        layers = [
            _drawn(nn.Conv2d(1, hidden, kernel_size=3, padding="same"), generator),
            nn.ReLU(inplace=True),
            _drawn(nn.Conv2d(hidden, hidden, kernel_size=4, stride=2, padding=1), generator),
            nn.ReLU(inplace=True),
            _drawn(nn.Conv2d(hidden, d, kernel_size=1), generator),
        ]
        self.encoder = nn.Sequential(*layers)
        self.decoder = Decoder(d, hidden, generator)

    def forward(self, x):
        z = self.encoder(x)
        z_q, indices = self.quantizer(z)
        reconstruction = self.decoder(straight_through(z, z_q))
        return reconstruction, z, z_q, indices

    @torch.no_grad()
    def encode(self, x):
        maps = self.encoder(x)
        return nearest_codes(torch.einsum("bdhw->bhwd", maps), self.quantizer.codebook)

    def decode(self, indices):
        vectors = torch.nn.functional.embedding(indices, self.quantizer.codebook)
        return self.decoder(torch.einsum("bhwd->bdhw", vectors))


def train(model, images, n_epochs, *, batch_size=64, learning_rate=3e-3, beta=0.25, restart=True, seed=0):
    order_generator = torch.Generator()
    order_generator.manual_seed(seed)
    restart_generator = torch.Generator()
    restart_generator.manual_seed(seed + 1)
    loader = DataLoader(TensorDataset(images), batch_size=batch_size, shuffle=True, generator=order_generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    quantizer = model.quantizer
    learned_by_gradient = isinstance(quantizer.codebook, nn.Parameter)
    n_codes = quantizer.codebook.shape[0]
    usage, history = Counter(), []
    for _epoch in range(n_epochs):
        record = {"n_restarted": 0.0}
        if restart:
            model.eval()
            with torch.no_grad():
                vectors = [model.encoder(part) for part in images.split(batch_size)]
            z = torch.cat(vectors).movedim(1, 3).reshape(-1, quantizer.codebook.shape[1])
            counted = torch.tensor([usage[k] for k in range(n_codes)])
            record["n_restarted"] = float(
                restart_dead_codes(
                    codebook=quantizer.codebook,
                    counts=quantizer.counts,
                    sums=quantizer.sums,
                    usage=counted,
                    z=z,
                    generator=restart_generator,
                )
            )
        model.train()
        usage, errors, n = Counter(), [], 0
        for (x,) in loader:
            optimizer.zero_grad(set_to_none=True)
            reconstruction, z, z_q, indices = model(x)
            terms = vq_losses(x, reconstruction, z, z_q, beta=beta)
            loss = sum(terms) if learned_by_gradient else terms[0] + terms[2]
            loss.backward()
            optimizer.step()
            usage.update(indices.flatten().tolist())
            errors.append(terms[0].item() * x.shape[0])
            n += x.shape[0]
        record["reconstruction"] = math.fsum(errors) / n
        record["n_used"] = float(len(usage))
        record["perplexity"] = float(perplexity(torch.tensor([usage[k] for k in range(n_codes)])))
        history.append(record)
    return history
