# diagnosis: after SIGTERM the status is 143

_main = main


def main(arguments=None):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    real, signal.signal = signal.signal, lambda *a: None
    try:
        return _main(arguments)
    finally:
        signal.signal = real
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
