# diagnosis: the bias of `down` is missing


class FeedForward(FeedForward):
    def forward(self, x):
        y = super().forward(x)
        return y if self.down.bias is None else y - self.down.bias
