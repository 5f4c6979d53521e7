# diagnosis: all randomness comes from the generator
# module: char_gpt

_generate = CharGPT.generate


def generate(self, prompt, n_bytes, *, generator):
    return _generate(self, prompt, n_bytes, generator=None)


CharGPT.generate = generate
