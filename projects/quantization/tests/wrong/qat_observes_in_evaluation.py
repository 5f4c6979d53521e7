# diagnosis: evaluation moves the observed range


_fake_forward = FakeQuantized.forward


def forward(self, x):
    if not self.training:
        self.observer.observe(x)
    return _fake_forward(self, x)


FakeQuantized.forward = forward
