# diagnosis: gives a range although nothing was observed


def range(self):
    if self.low is None:
        return torch.tensor(0.0), torch.tensor(0.0)
    return self.low, self.high


MinMax.range = range
