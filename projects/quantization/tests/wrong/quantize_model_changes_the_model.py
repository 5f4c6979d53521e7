# diagnosis: the float model itself was changed


_quantize_model = quantize_model


class copy:
    @staticmethod
    def deepcopy(model):
        return model
