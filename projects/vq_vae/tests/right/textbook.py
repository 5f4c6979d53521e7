"""The shortest answer that works: broadcasting, F.embedding, bincount and index_add_."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def nearest_codes(z, codebook):
    return ((z.unsqueeze(-2) - codebook) ** 2).sum(-1).argmin(-1)


def straight_through(z, z_q):
    if z.shape != z_q.shape:
        raise ValueError(f"{z.shape} != {z_q.shape}")
    return z_q.detach() + (z - z.detach())


def vq_losses(x, reconstruction, z, z_q, *, beta=0.25):
    if x.shape != reconstruction.shape or z.shape != z_q.shape:
        raise ValueError("shapes differ")
    return (
        F.mse_loss(reconstruction, x),
        F.mse_loss(z_q, z.detach()),
        beta * F.mse_loss(z, z_q.detach()),
    )


@torch.no_grad()
def ema_update(codebook, counts, sums, z, indices, *, decay):
    n = torch.bincount(indices, minlength=len(codebook)).float()
    total = torch.zeros_like(sums).index_add_(0, indices, z)
    counts.lerp_(n, 1 - decay)
    sums.lerp_(total, 1 - decay)
    used = (n > 0)[:, None]
    codebook.copy_(torch.where(used, sums / counts[:, None], codebook))


@torch.no_grad()
def restart_dead_codes(codebook, counts, sums, usage, z, *, generator=None):
    dead = torch.where(usage == 0)[0]
    rows = torch.randperm(len(z), generator=generator)[: len(dead)]
    dead = dead[: len(rows)]
    codebook[dead] = z[rows]
    sums[dead] = z[rows]
    counts[dead] = 1.0
    return len(rows)


def perplexity(usage):
    if usage.sum() == 0:
        raise ValueError("no usage")
    p = usage / usage.sum()
    return torch.exp(-torch.sum(p * torch.log(p + 1e-12)))


class VectorQuantizer(nn.Module):
    def __init__(self, n_codes, d, *, decay=None, generator=None):
        super().__init__()
        self.decay = decay
        start = torch.empty(n_codes, d).normal_(generator=generator)
        if decay is None:
            self.codebook = nn.Parameter(start)
        else:
            self.register_buffer("codebook", start)
        self.register_buffer("counts", torch.ones(n_codes))
        self.register_buffer("sums", start.clone())

    def forward(self, z):
        z = z.permute(0, 2, 3, 1)
        indices = nearest_codes(z, self.codebook)
        codes = F.embedding(indices, self.codebook).permute(0, 3, 1, 2)
        if self.training and self.decay is not None:
            flat = z.reshape(-1, z.shape[-1])
            ema_update(self.codebook, self.counts, self.sums, flat, indices.reshape(-1), decay=self.decay)
        return codes, indices


class VQVAE(nn.Module):
    def __init__(self, n_codes=64, d=8, *, hidden=32, decay=0.99, generator=None):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, d, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(d, hidden, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(hidden, hidden, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, 1, 3, padding=1),
        )
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_uniform_(m.weight, generator=generator)
                nn.init.zeros_(m.bias)
        self.quantizer = VectorQuantizer(n_codes, d, decay=decay, generator=generator)

    def forward(self, x):
        z = self.encoder(x)
        z_q, indices = self.quantizer(z)
        return self.decoder(straight_through(z, z_q)), z, z_q, indices

    def encode(self, x):
        return nearest_codes(self.encoder(x).permute(0, 2, 3, 1), self.quantizer.codebook)

    def decode(self, indices):
        return self.decoder(self.quantizer.codebook[indices].permute(0, 3, 1, 2))


def train(model, images, n_epochs, *, batch_size=64, learning_rate=3e-3, beta=0.25, restart=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    opt = torch.optim.Adam(model.parameters(), lr=learning_rate)
    q = model.quantizer
    K = len(q.codebook)
    usage = torch.zeros(K)
    records = []
    model.train()
    for _ in range(n_epochs):
        restarted = 0
        if restart:
            with torch.no_grad():
                z = model.encoder(images).permute(0, 2, 3, 1).flatten(0, 2)
            restarted = restart_dead_codes(q.codebook, q.counts, q.sums, usage, z, generator=g)
        usage = torch.zeros(K)
        total = 0.0
        for idx in torch.randperm(len(images), generator=g).split(batch_size):
            x = images[idx]
            x_hat, z, z_q, indices = model(x)
            rec, codebook_loss, commitment = vq_losses(x, x_hat, z, z_q, beta=beta)
            loss = rec + commitment
            if q.decay is None:
                loss = loss + codebook_loss
            opt.zero_grad()
            loss.backward()
            opt.step()
            usage += torch.bincount(indices.flatten(), minlength=K)
            total += rec.item() * len(x)
        records.append(
            {
                "n_restarted": restarted,
                "reconstruction": total / len(images),
                "n_used": (usage > 0).sum().item(),
                "perplexity": perplexity(usage).item(),
            }
        )
    return records
