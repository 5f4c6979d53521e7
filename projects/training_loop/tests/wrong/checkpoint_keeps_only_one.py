# diagnosis: the newest two are kept
# module: checkpoint

_init = Checkpoint.__init__


def __init__(self, folder, *, keep=2):
    _init(self, folder, keep=keep)
    self.keep = 1


Checkpoint.__init__ = __init__
