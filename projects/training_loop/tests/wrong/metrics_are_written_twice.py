# diagnosis: 3 is not made twice
# module: metrics

_init = Reporter.__init__


def __init__(self, folder, *, first_step, total_steps, live=True):
    _init(self, folder, first_step=10**9, total_steps=total_steps, live=live)


Reporter.__init__ = __init__
