# diagnosis: wrong shape

MLP.predict = lambda self, x: self.forward(x).argmax(axis=0)
