# diagnosis: mean and root depend on x too


class LayerNorm(LayerNorm):
    def forward(self, x):
        with torch.no_grad():
            mean = x.mean(-1, keepdim=True)
            root = torch.rsqrt((x - mean).square().mean(-1, keepdim=True) + self.eps)
        y = (x - mean) * root * self.weight
        return y if self.bias is None else y + self.bias
