# diagnosis: no fsync before the rename
# module: checkpoint

_os = os


class _NoSync:
    def __getattr__(self, name):
        return (lambda descriptor: None) if name == "fsync" else getattr(_os, name)


os = _NoSync()
