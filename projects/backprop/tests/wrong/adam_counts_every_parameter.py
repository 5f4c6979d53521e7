# diagnosis: t counts steps, not parameters
# module: optimizers
class Adam(Adam):
    def _update(self, pairs):
        for name, pair in pairs.items():
            super()._update({name: pair})
