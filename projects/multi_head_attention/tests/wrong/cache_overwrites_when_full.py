# diagnosis: are accepted


def append(self, key, value):
    if key.ndim != 4 or key.shape != value.shape:
        raise ValueError(f"wrong shapes {tuple(key.shape)} {tuple(value.shape)}")
    if torch.is_grad_enabled() and (key.requires_grad or value.requires_grad):
        raise ValueError("no gradients")
    start, end = self._length, self._length + key.shape[2]
    if end > self.max_tokens:
        start, end = 0, min(key.shape[2], self.max_tokens)
        key, value = key[:, :, :end], value[:, :, :end]
    if not start:
        shape = (*key.shape[:2], self.max_tokens, key.shape[3])
        self._keys, self._values = key.new_empty(shape), value.new_empty(shape)
    elif self._keys[:, :, :0].shape != key[:, :, :0].shape or self._keys.dtype != key.dtype:
        raise ValueError("other tokens")
    self._keys[:, :, start:end] = key
    self._values[:, :, start:end] = value
    self._length = end
    return self._keys[:, :, :end], self._values[:, :, :end]


KeyValueCache.append = append
