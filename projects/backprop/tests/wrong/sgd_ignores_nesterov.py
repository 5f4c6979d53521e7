# diagnosis: nesterov is ignored
# module: optimizers
class SGD(SGD):
    def __init__(self, lr, *, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
        self.nesterov = False
