# diagnosis: the scores are not divided by sqrt(head width)
# module: unet


def forward(self, x: Tensor) -> Tensor:
    B, C, H, W = x.shape
    # (B, 3C, H, W) -> three of (B, heads, pixels, width)
    q, k, v = self.qkv(self.norm(x)).reshape(B, 3, self.n_heads, C // self.n_heads, H * W).mT.unbind(1)
    weights = (q @ k.mT).softmax(dim=-1)
    out: Tensor = x + self.out((weights @ v).mT.reshape(B, C, H, W))
    return out


SelfAttention.forward = forward
