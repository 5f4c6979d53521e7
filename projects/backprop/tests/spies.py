"""A model, a loss and an optimizer that write down what a training loop does with them."""

import numpy as np


class Spy:
    """Model, loss and optimizer in one, all correct and trivial, that write down what happens to them."""

    def __init__(self):
        self.parameters, self.gradients = {"weight": np.zeros(1)}, {"weight": np.zeros(1)}
        self.events, self.inputs, self.batches, self.modes = [], [], [], []
        spy = self

        class Loss:
            def forward(self, output, targets):
                spy.events.append("loss forward")
                spy.inputs.append((output.copy(), targets.copy()))
                spy.batches.append((output[:, 0].copy(), targets.copy()))
                return float(output.mean())

            def backward(self):
                spy.events.append("loss backward")
                return np.full(1, 123.0)

        self.loss = Loss()

    def forward(self, x, *, training=False, rng=None):
        self.events.append("forward")
        self.modes.append((training, rng))
        return x

    def backward(self, gradient):
        assert gradient[0] == 123.0, "model.backward did not get what loss.backward returned"
        self.events.append("backward")
        return gradient

    def step(self, parameters, gradients):
        assert parameters["weight"] is self.parameters["weight"], "step does not get model.parameters"
        assert gradients["weight"] is self.gradients["weight"], "step does not get model.gradients"
        assert set(parameters) == set(gradients) == {"weight"}, (
            "step takes model.parameters and model.gradients"
        )
        self.events.append("step")


def run_fit(fit, n=10, x=None, targets=None, **options):
    """Let a training loop loose on a spy; sample i is the number i, and its target 100 + i."""
    spy, x = Spy(), np.arange(n, dtype=np.float64)[:, None] if x is None else x
    options = {"epochs": 2, "batch_size": 4, "rng": np.random.default_rng(0)} | options
    options = {name: value for name, value in options.items() if value is not None}
    return spy, fit(spy, spy.loss, spy, x, 100 + np.arange(n) if targets is None else targets, **options)
