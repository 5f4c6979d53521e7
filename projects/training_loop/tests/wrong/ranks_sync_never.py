# diagnosis: is every micro-batch divided by


@contextlib.contextmanager
def gradient_sync(model, enabled):
    if hasattr(model, "no_sync"):
        with model.no_sync():
            yield
    else:
        yield
