# diagnosis: dropout is still on in evaluation mode


class FeedForward(FeedForward):
    def forward(self, x):
        p, self.dropout.p = self.dropout.p, 0.0
        h = self.down
        self.down = nn.Identity()
        hidden = super().forward(x)
        self.down, self.dropout.p = h, p
        return self.down(F.dropout(hidden, p))  # training=True is the default
