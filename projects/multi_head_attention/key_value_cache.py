"""The keys and values of the tokens so far: what makes generating text one token at a time affordable.

Source: Shazeer 2019, "Fast transformer decoding: one write-head is all you need", arXiv 1911.02150, section 2.3.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """The keys and values of the tokens so far, so that a new token costs one row of attention, not a whole pass.

    One cache serves one attention layer and one batch of sequences; a copy of it may serve a copy of the layer. The
    memory for all `max_tokens` is taken at the first `append`, which tells batch size, heads, width, dtype and device;
    later ones write into it and copy nothing.

    Parameters
    ----------
    max_tokens : int
        How many tokens fit, 1 or more.

    Raises
    ------
    ValueError
        If `max_tokens` is not a positive integer.

    Examples
    --------
    >>> cache = KeyValueCache(max_tokens=4)
    >>> keys, values = cache.append(torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8))
    >>> len(cache), keys.shape
    (3, torch.Size([1, 2, 3, 8]))
    """

    def __init__(self, max_tokens: int) -> None:
        if not isinstance(max_tokens, int | Integral) or isinstance(max_tokens, bool) or max_tokens < 1:
            raise ValueError(f"max_tokens must be a positive integer, got {max_tokens!r}")
        self.max_tokens = int(max_tokens)
        self._length = 0
        self._layer: int | None = None  # the id of the layer whose tokens these are
        self._keys = self._values = torch.empty(0)

    def __len__(self) -> int:
        """Return how many tokens are held."""
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy starts with: not the layer, which may have been copied too."""
        return self.__dict__ | {"_layer": None}

    def reset(self) -> None:
        """Forget all tokens and keep the memory; the next sequences may have another layer, batch size or dtype."""
        self._length, self._layer = 0, None

    def append(self, key: Tensor, value: Tensor, *, layer: object = None) -> tuple[Tensor, Tensor]:
        """Add one or several tokens and return the keys and values of all tokens so far.

        Parameters
        ----------
        key, value : (B, n_kv_heads, T, d_head) tensor
            Of the new tokens, in order. They are copied.
        layer : object, optional
            Whose tokens they are. The layers of a model need a cache each: in one, a layer would attend to the keys
            of another.

        Returns
        -------
        keys, values : (B, n_kv_heads, len(cache), d_head) tensors
            Views of the cache's memory: do not write into them, and do not use them after a `reset`.

        Raises
        ------
        ValueError
            If the tokens do not fit into what is left (the message holds how many are new, how many are held, and
            `max_tokens`); if the two differ in shape, or from the tokens already held in anything but T; if those are of
            another `layer`; or if they require a gradient while gradients are on: writing in place would lose it, so decode under
            ``torch.no_grad()`` and train without a cache. Then nothing has changed.
        """
        if key.ndim != 4 or key.shape != value.shape:
            raise ValueError(
                "key and value must both be (B, n_kv_heads, T, d_head), "
                f"got {tuple(key.shape)} and {tuple(value.shape)}"
            )
        if torch.is_grad_enabled() and (key.requires_grad or value.requires_grad):
            raise ValueError("a cache keeps no gradient: use it under torch.no_grad(), and train without it")
        owner = self._layer if layer is None else id(layer)
        if self._length and self._layer not in (None, owner):
            raise ValueError(
                "the cache holds the tokens of another layer: each layer needs a cache of its own"
            )
        B, H, T, d_head = key.shape
        if self._length + T > self.max_tokens:
            raise ValueError(
                f"the cache is full: it holds {self._length} of {self.max_tokens} tokens, {T} more do not fit"
            )
        shape = (B, H, self.max_tokens, d_head)
        if self._keys.shape != shape or self._keys.dtype != key.dtype or self._keys.device != key.device:
            if self._length:
                held = tuple(self._keys[:, :, : self._length].shape)
                raise ValueError(
                    f"the cache holds {held} {self._keys.dtype} on {self._keys.device}, "
                    f"so it cannot take {(B, H, T, d_head)} {key.dtype} on {key.device}"
                )
            with torch.inference_mode(False):  # what is made in that mode could not be written to outside it
                self._keys, self._values = key.new_empty(shape), value.new_empty(shape)
        end = self._length + T
        self._keys[:, :, self._length : end] = key
        self._values[:, :, self._length : end] = value
        self._length, self._layer = end, owner
        return self._keys[:, :, :end], self._values[:, :, :end]
