# diagnosis: gate and up are swapped


class FeedForward(FeedForward):
    def forward(self, x):
        if self.activation == "swiglu":
            return self.down(self.dropout(self.gate(x) * F.silu(self.up(x))))
        return super().forward(x)
