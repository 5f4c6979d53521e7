"""Einsum, closures for the way back, a mean divided by the sum of its weights."""

import numpy as np
from numpy import einsum


class Layer:
    def __init__(self):
        self.parameters, self.gradients = {}, {}

    def backward(self, grad):
        return self.back(grad)


class Linear(Layer):
    def __init__(self, n_in, n_out, *, rng, bias=True, dtype=np.float32):
        super().__init__()
        draws = rng.standard_normal(size=(n_out, n_in), dtype=dtype)
        draws *= (2 / n_in) ** 0.5
        self.parameters["weight"] = draws
        if bias:
            self.parameters["bias"] = np.zeros(n_out, dtype=dtype)

    def forward(self, x, *, training=False, rng=None):
        weight = self.parameters["weight"]
        y = einsum("...i,oi->...o", x, weight)
        if "bias" in self.parameters:
            y += self.parameters["bias"]

        def back(grad):
            rows, inputs = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
            self.gradients.update(weight=einsum("no,ni->oi", rows, inputs))
            if "bias" in self.parameters:
                self.gradients.update(bias=einsum("no->o", rows).copy())
            return einsum("...o,oi->...i", grad, weight)

        self.back = back
        return y


class ReLU(Layer):
    def forward(self, x, *, training=False, rng=None):
        y = np.clip(x, 0, None)
        gate = np.heaviside(x, 0).astype(x.dtype)
        self.back = lambda grad: gate * grad
        return y


class Tanh(Layer):
    def forward(self, x, *, training=False, rng=None):
        y = np.tanh(x)
        slope = 1 - y * y
        self.back = lambda grad: slope * grad
        return y


class Sequential:
    def __init__(self, *layers):
        self.steps = dict(enumerate(layers))

    parameters = property(lambda self: dict(self.named("parameters")))
    gradients = property(lambda self: dict(self.named("gradients")))

    def named(self, what):
        for index, layer in self.steps.items():
            yield from ((f"{index}.{name}", array) for name, array in getattr(layer, what).items())

    def forward(self, x, *, training=False, rng=None):
        if not self.steps:
            return x
        *first, last = self.steps.values()
        for layer in first:
            x = layer.forward(x, training=training, rng=rng)
        return last.forward(x, training=training, rng=rng)

    def backward(self, grad):
        for index in sorted(self.steps, reverse=True):
            grad = self.steps[index].backward(grad)
        return grad


class SoftmaxCrossEntropy:
    def forward(self, logits, targets):
        n, classes = logits.shape
        if not set(np.unique(targets).tolist()) <= set(range(classes)):
            raise ValueError("targets must be classes")
        self.one_hot = np.eye(classes, dtype=logits.dtype)[targets]
        top = logits.max(1)
        shifted = np.exp(logits - top[:, None])
        self.softmax = shifted / shifted.sum(1, keepdims=True)
        below_top = einsum("nc,nc->n", self.one_hot, top[:, None] - logits)
        return float((below_top + np.log(shifted.sum(1))).sum() / n)

    def backward(self):
        return (self.softmax - self.one_hot) / len(self.one_hot)


class SGD:
    def __init__(self, lr, *, momentum=0.0):
        self.lr, self.momentum = lr, momentum
        self.velocity = {}

    def step(self, parameters, gradients):
        for name, theta in parameters.items():
            if name in self.velocity:
                self.velocity[name] = self.momentum * self.velocity[name] + gradients[name]
            else:
                self.velocity[name] = np.array(gradients[name])
            np.subtract(theta, self.lr * self.velocity[name], out=theta)


class Adam:
    def __init__(self, lr=1e-3, *, betas=(0.9, 0.999), eps=1e-8):
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weights = [0.0, 0.0]
        self.sums = [{}, {}]

    def step(self, parameters, gradients):
        self.weights = [beta * w + 1 - beta for beta, w in zip(self.betas, self.weights)]
        for name, theta in parameters.items():
            means = []
            for power, (beta, weight, sums) in enumerate(zip(self.betas, self.weights, self.sums), start=1):
                sums[name] = (
                    beta * sums.get(name, np.zeros_like(theta)) + (1 - beta) * gradients[name] ** power
                )
                means.append(sums[name] / weight)
            np.subtract(theta, self.lr * means[0] / (np.sqrt(means[1]) + self.eps), out=theta)


def fit(model, loss, optimizer, x, targets, *, epochs, batch_size=64, rng):
    n = len(x)
    if n != len(targets):
        raise ValueError("x and targets differ in length")
    losses = []
    for _ in range(epochs):
        order = np.argsort(rng.random(n))
        mean = 0.0
        for chosen in np.split(order, range(batch_size, n, batch_size)):
            mean += (
                len(chosen)
                / n
                * loss.forward(model.forward(x[chosen], training=True, rng=rng), targets[chosen])
            )
            model.backward(loss.backward())
            optimizer.step(model.parameters, model.gradients)
        losses.append(mean)
    return losses
