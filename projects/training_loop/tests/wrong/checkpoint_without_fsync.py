# diagnosis: no fsync before the rename
# module: checkpoint

os = type("os", (), {**vars(os), "fsync": staticmethod(lambda descriptor: None)})
