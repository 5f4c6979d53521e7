# diagnosis: calls the library instead
class Tanh(Tanh):
    def forward(self, x, *, training=False, rng=None):
        import torch

        y = torch.tanh(torch.tensor(x)).numpy()
        self._saved = y.shape, y
        return y
