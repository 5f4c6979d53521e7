# diagnosis: training is not quantized


_fake_forward = FakeQuantized.forward


def forward(self, x):
    if not self.training:
        return _fake_forward(self, x)
    self.observer.observe(x)
    return self.layer(x)


FakeQuantized.forward = forward
