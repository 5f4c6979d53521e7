# diagnosis: goes on differently after loading
# module: optimization

_load = Ema.load_state_dict


def load_state_dict(self, state):
    _load(self, state)
    self.n_updates = 0


Ema.load_state_dict = load_state_dict
