# diagnosis: is step restored?

_load = Trainer.load_state_dict


def load_state_dict(self, state):
    _load(self, state)
    self.progress.step = 0


Trainer.load_state_dict = load_state_dict
