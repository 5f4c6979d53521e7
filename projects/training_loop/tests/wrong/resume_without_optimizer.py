# diagnosis: the first difference is at update

_load = Trainer.load_state_dict


def load_state_dict(self, state):
    _load(self, {**state, "optimizer": self.optimizer.state_dict()})


Trainer.load_state_dict = load_state_dict
