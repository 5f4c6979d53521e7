# diagnosis: -100 beyond the end
# module: text_data

_init = Windows.__init__


def __init__(self, documents, context):
    _init(self, [b"".join(documents)], context)


Windows.__init__ = __init__
