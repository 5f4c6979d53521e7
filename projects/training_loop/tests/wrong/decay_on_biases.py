# diagnosis: biases are decayed
# module: optimization


def parameter_groups(model, weight_decay):
    embeddings = {
        id(p) for m in model.modules() if isinstance(m, (nn.Embedding, nn.LayerNorm)) for p in m.parameters()
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) not in embeddings], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in embeddings], "weight_decay": 0.0},
    ]
