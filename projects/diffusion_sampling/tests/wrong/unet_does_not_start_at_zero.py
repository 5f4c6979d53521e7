# diagnosis: conv_2 must start at zero
# module: unet


def _zero(layer):
    return layer
