# diagnosis: master weights are float32

_init = Trainer.__init__


def __init__(self, model, config, world=None):
    _init(
        self, model.to(PRECISIONS[config.precision]) if config.precision == "bf16" else model, config, world
    )


Trainer.__init__ = __init__
