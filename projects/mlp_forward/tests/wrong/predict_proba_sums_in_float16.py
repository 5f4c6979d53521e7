# diagnosis: summed in float16

def predict_proba(self, x):
    logits = self.forward(x)
    with np.errstate(all="ignore"):
        e = np.exp(logits - logits.max(axis=-1, keepdims=True))
        total = np.add.accumulate(e, axis=-1)[..., -1:]  # what a sum in float16 gives
        return e / total


MLP.predict_proba = predict_proba
