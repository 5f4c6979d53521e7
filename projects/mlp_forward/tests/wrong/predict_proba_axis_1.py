# diagnosis: the last axis is right only for rank 2


def predict_proba(self, x):
    logits = self.forward(x)
    axis = min(1, logits.ndim - 1)
    e = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


MLP.predict_proba = predict_proba
