# diagnosis: exp overflows


def predict_proba(self, x):
    with np.errstate(all="ignore"):
        e = np.exp(self.forward(x))
        return e / e.sum(axis=-1, keepdims=True)


MLP.predict_proba = predict_proba
