# diagnosis: the embedding has no effect
# module: unet


def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
    h = self.conv_1(functional.silu(self.norm_1(x)))
    scale, shift = self.modulation(functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
    h = self.norm_2(h)
    out: Tensor = self.skip(x) + self.conv_2(functional.silu(h))
    return out


ResidualBlock.forward = forward
