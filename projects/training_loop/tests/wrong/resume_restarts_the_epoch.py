# diagnosis: the first difference is at update

_load = Trainer.load_state_dict


def load_state_dict(self, state):
    _load(self, state)
    self.progress.position = 0


Trainer.load_state_dict = load_state_dict
