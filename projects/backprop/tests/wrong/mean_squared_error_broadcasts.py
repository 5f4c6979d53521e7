# diagnosis: broadcasts to (4, 4) and averages the wrong differences
class MeanSquaredError(MeanSquaredError):
    def forward(self, prediction, target):
        self._saved = prediction - target
        return float((self._saved**2).mean())
