# diagnosis: the skip connection is missing
# module: unet


def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
    if x.shape[-1] % 2 or x.shape[-2] % 2:
        raise ValueError(f"height and width must be even, got {tuple(x.shape)}")
    if labels is None:
        labels = torch.full((len(x),), self.embed_class.num_embeddings - 1, device=x.device)
    embedding = self.embed_noise(fourier_features(c_noise, self.n_features)) + self.embed_class(labels)
    embedding = self.mix(functional.silu(embedding))

    details = self.down_block(self.first(x), embedding)  # 8×8: kept for the way up
    h = self.bottom_1(self.down(details), embedding)  # 4×4
    h = self.bottom_2(self.attention(h), embedding)
    h = self.up(functional.interpolate(h, scale_factor=2.0, mode="nearest"))  # 8×8 again
    h = self.up_block(torch.cat([h, h], dim=1), embedding)
    out: Tensor = self.last(functional.silu(self.last_norm(h)))
    return out


UNet.forward = forward
