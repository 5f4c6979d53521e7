# diagnosis: calls the library instead


def linear(x, weight, bias=None):
    import torch

    x, weight = torch.tensor(x), torch.tensor(weight)
    return torch.nn.functional.linear(x, weight, None if bias is None else torch.tensor(bias)).numpy()
