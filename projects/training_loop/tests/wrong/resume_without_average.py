# diagnosis: the averaged weights are not restored

_load = Trainer.load_state_dict


def load_state_dict(self, state):
    _load(self, {**state, "ema": Ema(self.model, self.config.ema_decay).state_dict()})


Trainer.load_state_dict = load_state_dict
