# diagnosis: the variance is used as the standard deviation

_VARIANCES.update(
    he=lambda n_in, n_out: (2 / n_in) ** 2,
    xavier=lambda n_in, n_out: (2 / (n_in + n_out)) ** 2,
    lecun=lambda n_in, n_out: (1 / n_in) ** 2,
)
