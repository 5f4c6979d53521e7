"""A careful person's answer: state made on the first use, in-place moments, the bias correction folded into the step."""

import math

import numpy as np


class Linear:
    def __init__(self, n_in, n_out, *, rng, bias=True, dtype=np.float32):
        dtype = np.dtype(dtype)
        self.weight = rng.normal(0.0, math.sqrt(2.0 / n_in), size=(n_out, n_in)).astype(dtype)
        self.parameters = {"weight": self.weight}
        self.bias = None
        if bias:
            self.bias = np.zeros((n_out,), dtype=dtype)
            self.parameters["bias"] = self.bias
        self.gradients = {name: np.zeros_like(p) for name, p in self.parameters.items()}
        self._x = None

    def forward(self, x, *, training=False, rng=None):
        x = np.asarray(x)
        self._x = x
        out = np.matmul(x, self.weight.transpose())
        if self.bias is not None:
            out = np.add(out, self.bias)
        return out

    def backward(self, grad):
        grad = np.asarray(grad)
        x, leading = self._x, tuple(range(grad.ndim - 1))
        self.gradients = {"weight": np.tensordot(grad, x, axes=(leading, leading))}
        if self.bias is not None:
            self.gradients["bias"] = np.sum(grad, axis=leading)
        return np.matmul(grad, self.weight)


class ReLU:
    parameters, gradients = {}, {}

    def __init__(self):
        self._x = None

    def forward(self, x, *, training=False, rng=None):
        self._x = np.array(x, copy=True)
        return np.where(self._x > 0, self._x, np.zeros_like(self._x))

    def backward(self, grad):
        return np.where(self._x > 0, grad, np.zeros_like(grad))


class Tanh:
    parameters, gradients = {}, {}

    def __init__(self):
        self._y = None

    def forward(self, x, *, training=False, rng=None):
        self._y = np.tanh(x)
        return self._y.copy()

    def backward(self, grad):
        return grad * (1 - self._y) * (1 + self._y)


class Sequential:
    def __init__(self, *layers):
        self._layers = list(layers)

    def _collect(self, kind):
        found = {}
        for index, layer in enumerate(self._layers):
            for name, array in getattr(layer, kind).items():
                found[str(index) + "." + name] = array
        return found

    @property
    def parameters(self):
        return self._collect("parameters")

    @property
    def gradients(self):
        return self._collect("gradients")

    def forward(self, x, *, training=False, rng=None):
        out = x
        for layer in self._layers:
            out = layer.forward(out, training=training, rng=rng)
        return out

    def backward(self, grad):
        for layer in self._layers[::-1]:
            grad = layer.backward(grad)
        return grad


class SoftmaxCrossEntropy:
    def forward(self, logits, targets):
        logits, targets = np.asarray(logits), np.asarray(targets)
        batch, classes = logits.shape
        if np.any(targets < 0) or np.any(targets >= classes):
            raise ValueError(f"targets must lie in [0, {classes}), got {targets.min()} to {targets.max()}")
        shifted = logits - np.max(logits, axis=-1, keepdims=True)
        exponentials = np.exp(shifted)
        sums = np.sum(exponentials, axis=-1)
        rows = np.arange(batch)
        losses = np.log(sums) - shifted[rows, targets]
        self._probabilities = exponentials / sums[:, None]
        self._targets = targets.copy()
        return float(np.mean(losses))

    def backward(self):
        batch, classes = self._probabilities.shape
        one_hot = np.zeros_like(self._probabilities)
        one_hot[np.arange(batch), self._targets] = 1
        return (self._probabilities - one_hot) / batch


class SGD:
    def __init__(self, lr, *, momentum=0.0):
        self.lr = lr
        self.momentum = momentum
        self._velocity = {}

    def step(self, parameters, gradients):
        for name in parameters:
            if name not in self._velocity:
                self._velocity[name] = np.zeros_like(parameters[name])
            velocity = self._velocity[name]
            velocity *= self.momentum
            velocity += gradients[name]
            parameters[name] -= self.lr * velocity


class Adam:
    def __init__(self, lr=1e-3, *, betas=(0.9, 0.999), eps=1e-8):
        self.lr = lr
        self.beta1, self.beta2 = betas
        self.eps = eps
        self._steps = 0
        self._first, self._second = {}, {}

    def step(self, parameters, gradients):
        self._steps += 1
        root = math.sqrt(1.0 - self.beta2**self._steps)
        step_size = self.lr * root / (1.0 - self.beta1**self._steps)
        for name, parameter in parameters.items():
            gradient = gradients[name]
            first = self._first.setdefault(name, np.zeros_like(parameter))
            second = self._second.setdefault(name, np.zeros_like(parameter))
            first += (1 - self.beta1) * (gradient - first)
            second += (1 - self.beta2) * (gradient * gradient - second)
            parameter[...] = parameter - step_size * first / (np.sqrt(second) + self.eps * root)


def fit(model, loss, optimizer, x, targets, *, epochs, batch_size=64, rng):
    x, targets = np.asarray(x), np.asarray(targets)
    n = x.shape[0]
    if targets.shape[0] != n:
        raise ValueError(f"x has {n} samples, targets has {targets.shape[0]}")
    means = []
    for _ in range(epochs):
        order = np.arange(n)
        rng.shuffle(order)
        summed = []
        for first in range(0, n, batch_size):
            chosen = order[first : first + batch_size]
            output = model.forward(x[chosen], training=True, rng=rng)
            summed.append(loss.forward(output, targets[chosen]) * chosen.size)
            model.backward(loss.backward())
            optimizer.step(model.parameters, model.gradients)
        means.append(math.fsum(summed) / n)
    return means
