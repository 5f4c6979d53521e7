# diagnosis: no message

_Flag.__bool__ = lambda self: False
