# diagnosis: only the last batch counts


def observe(self, x):
    self.low, self.high = _extremes(x, self.axis)


MinMax.observe = observe
