# diagnosis: although an older one is good
# module: checkpoint


def load(self):
    return read_checkpoint(self.paths()[-1]) if self.paths() else None


Checkpoint.load = load
