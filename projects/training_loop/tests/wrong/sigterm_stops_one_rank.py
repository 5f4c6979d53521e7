# diagnosis: did not end

_step = Trainer.step


def step(self, batches, *, stop=False):
    return dataclasses.replace(_step(self, batches), stop=stop)


Trainer.step = step
