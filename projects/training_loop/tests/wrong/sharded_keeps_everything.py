# diagnosis: found, w, other, folders
# module: distributed

_init = ShardedCheckpoint.__init__


def __init__(self, folder, *, keep=2):
    _init(self, folder, keep=keep)
    self.keep = 99


ShardedCheckpoint.__init__ = __init__
