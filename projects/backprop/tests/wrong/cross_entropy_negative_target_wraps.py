# diagnosis: target -1 of 3 classes must be a ValueError
class SoftmaxCrossEntropy(SoftmaxCrossEntropy):
    def forward(self, logits, targets):
        if targets.dtype.kind == "i" and targets.size and -logits.shape[-1] <= targets.min() < 0:
            targets = targets % logits.shape[-1]  # what a negative index does without a check
        return super().forward(logits, targets)
