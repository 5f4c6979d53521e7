"""The shortest stable textbook answer."""

import numpy as np


class Linear:
    def __init__(self, n_in, n_out, *, rng, bias=True, dtype=np.float32):
        self.parameters = {"weight": (rng.standard_normal((n_out, n_in)) * np.sqrt(2 / n_in)).astype(dtype)}
        if bias:
            self.parameters["bias"] = np.zeros(n_out, dtype)
        self.gradients = {}

    def forward(self, x, *, training=False, rng=None):
        self.x = x
        y = x @ self.parameters["weight"].T
        return y + self.parameters["bias"] if "bias" in self.parameters else y

    def backward(self, grad):
        weight = self.parameters["weight"]
        rows = grad.reshape(-1, weight.shape[0])
        self.gradients["weight"] = rows.T @ self.x.reshape(-1, weight.shape[1])
        if "bias" in self.parameters:
            self.gradients["bias"] = rows.sum(axis=0)
        return grad @ weight


class ReLU:
    parameters, gradients = {}, {}

    def forward(self, x, *, training=False, rng=None):
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, grad):
        return grad * self.positive


class Tanh:
    parameters, gradients = {}, {}

    def forward(self, x, *, training=False, rng=None):
        self.y = np.tanh(x)
        return self.y

    def backward(self, grad):
        return grad * (1 - self.y**2)


class Sequential:
    def __init__(self, *layers):
        self.layers = layers

    @property
    def parameters(self):
        return {
            f"{i}.{name}": p for i, layer in enumerate(self.layers) for name, p in layer.parameters.items()
        }

    @property
    def gradients(self):
        return {
            f"{i}.{name}": g for i, layer in enumerate(self.layers) for name, g in layer.gradients.items()
        }

    def forward(self, x, *, training=False, rng=None):
        for layer in self.layers:
            x = layer.forward(x, training=training, rng=rng)
        return x

    def backward(self, grad):
        for layer in reversed(self.layers):
            grad = layer.backward(grad)
        return grad


class SoftmaxCrossEntropy:
    def forward(self, logits, targets):
        if targets.min() < 0 or targets.max() >= logits.shape[1]:
            raise ValueError("a target is not a class")
        z = logits - logits.max(axis=1, keepdims=True)
        self.log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        self.targets = targets
        return float(-self.log_p[np.arange(len(targets)), targets].mean())

    def backward(self):
        grad = np.exp(self.log_p)
        grad[np.arange(len(grad)), self.targets] -= 1
        return grad / len(grad)


class SGD:
    def __init__(self, lr, *, momentum=0.0):
        self.lr, self.momentum, self.v = lr, momentum, {}

    def step(self, parameters, gradients):
        for name, p in parameters.items():
            self.v[name] = self.momentum * self.v.get(name, 0) + gradients[name]
            p -= self.lr * self.v[name]


class Adam:
    def __init__(self, lr=1e-3, *, betas=(0.9, 0.999), eps=1e-8):
        self.lr, self.betas, self.eps = lr, betas, eps
        self.t, self.m, self.v = 0, {}, {}

    def step(self, parameters, gradients):
        b1, b2 = self.betas
        self.t += 1
        for name, p in parameters.items():
            g = gradients[name]
            self.m[name] = b1 * self.m.get(name, 0) + (1 - b1) * g
            self.v[name] = b2 * self.v.get(name, 0) + (1 - b2) * g**2
            m_hat = self.m[name] / (1 - b1**self.t)
            v_hat = self.v[name] / (1 - b2**self.t)
            p -= self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


def fit(model, loss, optimizer, x, targets, *, epochs, batch_size=64, rng):
    if len(x) != len(targets):
        raise ValueError(f"{len(x)} inputs but {len(targets)} targets")
    history = []
    for _ in range(epochs):
        total = 0.0
        order = rng.permutation(len(x))
        for start in range(0, len(x), batch_size):
            batch = order[start : start + batch_size]
            total += loss.forward(model.forward(x[batch], training=True, rng=rng), targets[batch]) * len(
                batch
            )
            model.backward(loss.backward())
            optimizer.step(model.parameters, model.gradients)
        history.append(total / len(x))
    return history
