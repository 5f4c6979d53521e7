# diagnosis: a parameter is in the groups twice
# module: optimization


def parameter_groups(model, weight_decay):
    decay, rest = [], []
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if p.requires_grad:
                matrix = name == "weight" and not isinstance(module, (nn.Embedding, nn.LayerNorm))
                (decay if matrix else rest).append(p)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
