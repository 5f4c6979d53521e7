# diagnosis: the sign is lost


def unpack_int4(packed):
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).to(torch.int8)
