# diagnosis: optimizer.lr is read once only
# module: optimizers
class Adam(Adam):
    def __init__(self, lr=1e-3, **options):
        super().__init__(lr, **options)
        self._first_lr = lr

    def _update(self, pairs):
        scheduled, self.lr = self.lr, self._first_lr
        super()._update(pairs)
        self.lr = scheduled
