# diagnosis: precision=bf16: the head computed in

PRECISIONS = dict.fromkeys(PRECISIONS, torch.float32)
