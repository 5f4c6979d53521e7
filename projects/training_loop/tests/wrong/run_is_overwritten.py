# diagnosis: a run is overwritten without a word

_init = _Run.__init__


def __init__(self, config, world, fingerprint):
    _init(self, dataclasses.replace(config, resume=True), world, fingerprint)
    self.config = config


_Run.__init__ = __init__
