# diagnosis: the mean is subtracted: RMS norm does not centre


class RMSNorm(RMSNorm):
    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps) * self.weight
