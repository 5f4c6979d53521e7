# diagnosis: yield after every step

_lazy = euler


def euler(denoiser, x, sigmas, **options):
    yield from list(_lazy(denoiser, x, sigmas, **options))
