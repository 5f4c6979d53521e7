# diagnosis: the last, short window of a document dropped
# module: text_data

_init = Windows.__init__


def __init__(self, documents, context):
    _init(self, documents, context)
    full = self._ends - self._starts > context
    self._starts, self._ends = self._starts[full], self._ends[full]


Windows.__init__ = __init__
