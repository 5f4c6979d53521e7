# diagnosis: the decay goes through the moments (L2)
# module: optimizers
class AdamW(AdamW):
    step = Adam.step
