"""An answer in loops: a code at a time, a one-hot matrix, swapped axes, rows drawn by sorting random numbers."""

import torch
from torch import nn
from torch.nn.functional import mse_loss, one_hot


def nearest_codes(z, codebook):
    best = torch.full(z.shape[:-1], float("inf"))
    index = torch.zeros(z.shape[:-1], dtype=torch.long)
    for k in range(codebook.shape[0]):
        distance = torch.linalg.vector_norm(z.detach() - codebook[k].detach(), dim=-1)
        closer = distance < best
        best = torch.where(closer, distance, best)
        index = torch.where(closer, torch.tensor(k), index)
    return index


def straight_through(z, z_q):
    if z.shape != z_q.shape:
        raise ValueError("z and z_q must have the same shape")
    return z + z_q.detach() - z.detach()


def vq_losses(x, reconstruction, z, z_q, *, beta=0.25):
    for a, b in ((x, reconstruction), (z, z_q)):
        if a.shape != b.shape:
            raise ValueError(f"{a.shape} and {b.shape} differ")
    with torch.no_grad():
        fixed_z, fixed_codes = z.clone(), z_q.clone()
    return mse_loss(x, reconstruction), mse_loss(fixed_z, z_q), mse_loss(fixed_codes, z).mul(beta)


@torch.no_grad()
def ema_update(codebook, counts, sums, z, indices, *, decay):
    for k in range(codebook.shape[0]):
        mine = indices == k
        counts[k] = decay * counts[k] + (1 - decay) * mine.sum()
        sums[k] = decay * sums[k] + (1 - decay) * z[mine].sum(0)
        if mine.any():
            codebook[k] = sums[k] / counts[k]


@torch.no_grad()
def restart_dead_codes(codebook, counts, sums, usage, z, *, generator=None):
    order = torch.rand(z.shape[0], generator=generator).argsort().tolist()
    restarted = 0
    for k in range(codebook.shape[0]):
        if usage[k] == 0 and order:
            codebook[k] = z[order.pop()]
            sums[k] = codebook[k]
            counts[k] = 1
            restarted += 1
    return restarted


def perplexity(usage):
    total = usage.sum().item()
    if total == 0:
        raise ValueError("nothing was used")
    entropy = torch.zeros(())
    for n in usage:
        if n > 0:
            p = n / total
            entropy = entropy - p * torch.log(p)
    return entropy.exp()


class VectorQuantizer(nn.Module):
    def __init__(self, n_codes, d, *, decay=None, generator=None):
        super().__init__()
        self.decay = decay
        codebook = torch.normal(0.0, 1.0, (n_codes, d), generator=generator)
        if decay is not None:
            self.register_buffer("codebook", codebook)
        else:
            self.codebook = nn.Parameter(codebook)
        self.register_buffer("counts", torch.full((n_codes,), 1.0))
        self.register_buffer("sums", torch.clone(codebook))

    def forward(self, z):
        batch, d, height, width = z.shape
        vectors = z.flatten(2).transpose(1, 2)  # (B, H·W, d)
        indices = nearest_codes(vectors, self.codebook)
        codes = one_hot(indices, len(self.codebook)).float() @ self.codebook
        if self.training and self.decay is not None:
            ema_update(
                self.codebook,
                self.counts,
                self.sums,
                vectors.detach().reshape(-1, d),
                indices.reshape(-1),
                decay=self.decay,
            )
        return codes.transpose(1, 2).reshape(z.shape), indices.reshape(batch, height, width)


class VQVAE(nn.Module):
    def __init__(self, n_codes=64, d=8, *, hidden=32, decay=0.99, generator=None):
        super().__init__()
        self.encoder = nn.Sequential()
        self.encoder.append(nn.Conv2d(1, hidden, 3, 1, 1)).append(nn.ReLU())
        self.encoder.append(nn.Conv2d(hidden, hidden, 4, 2, 1)).append(nn.ReLU())
        self.encoder.append(nn.Conv2d(hidden, d, 1, 1, 0))
        self.decoder = nn.Sequential()
        self.decoder.append(nn.Conv2d(d, hidden, 3, 1, 1)).append(nn.ReLU())
        self.decoder.append(nn.ConvTranspose2d(hidden, hidden, 4, 2, 1)).append(nn.ReLU())
        self.decoder.append(nn.Conv2d(hidden, 1, 3, 1, 1))
        for name, parameter in self.named_parameters():
            if "weight" in name:
                nn.init.kaiming_uniform_(parameter, generator=generator)
            else:
                parameter.data.zero_()
        self.quantizer = VectorQuantizer(n_codes, d, decay=decay, generator=generator)

    def forward(self, x):
        z = self.encoder(x)
        z_q, indices = self.quantizer(z)
        return self.decoder(straight_through(z, z_q)), z, z_q, indices

    def encode(self, x):
        was = self.quantizer.training
        self.quantizer.eval()
        indices = self.quantizer(self.encoder(x))[1]
        self.quantizer.train(was)
        return indices

    def decode(self, indices):
        return self.decoder(self.quantizer.codebook[indices].swapaxes(2, 3).swapaxes(1, 2))


def train(model, images, n_epochs, *, batch_size=64, learning_rate=3e-3, beta=0.25, restart=True, seed=0):
    generator = torch.Generator()
    generator.manual_seed(seed)
    quantizer = model.quantizer
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    usage = [0] * len(quantizer.codebook)
    records = []
    for _ in range(n_epochs):
        n_restarted = 0
        if restart:
            model.eval()
            z = model(images)[1].detach()
            rows = z.flatten(2).transpose(1, 2).reshape(-1, z.shape[1])
            state = quantizer.codebook, quantizer.counts, quantizer.sums
            n_restarted = restart_dead_codes(*state, torch.tensor(usage), rows, generator=generator)
        model.train()
        usage = [0] * len(quantizer.codebook)
        order = torch.randperm(len(images), generator=generator)
        total, start = 0.0, 0
        while start < len(images):
            x = images[order[start : start + batch_size]]
            reconstruction, z, z_q, indices = model(x)
            first, second, third = vq_losses(x, reconstruction, z, z_q, beta=beta)
            loss = first + third if quantizer.decay is not None else first + second + third
            for parameter in model.parameters():
                parameter.grad = None
            loss.backward()
            optimizer.step()
            for k in indices.flatten().tolist():
                usage[k] += 1
            total += float(first.detach()) * len(x)
            start += batch_size
        records.append(
            {
                "n_restarted": float(n_restarted),
                "reconstruction": total / len(images),
                "n_used": float(sum(n > 0 for n in usage)),
                "perplexity": float(perplexity(torch.tensor(usage))),
            }
        )
    return records
