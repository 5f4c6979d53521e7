# diagnosis: both ranks drop the same units

_manual_seed = torch.manual_seed
torch = type("torch", (), {**vars(torch), "manual_seed": staticmethod(lambda seed: _manual_seed(0))})
