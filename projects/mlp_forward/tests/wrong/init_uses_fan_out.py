# diagnosis: the variance uses the outputs of the layer (fan-out)

_VARIANCES["he"] = lambda n_in, n_out: 2 / n_out
