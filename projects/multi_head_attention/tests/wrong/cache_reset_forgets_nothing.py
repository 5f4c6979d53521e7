# diagnosis: after reset len() is


KeyValueCache.reset = lambda self: self._keys.zero_() if self._length else None
