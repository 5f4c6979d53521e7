# diagnosis: is a tile skipped that the last query of its block may still see


def columns(self, rows):
    last = rows.start + 1 + self.n_keys - self.n_queries if self.causal else self.n_keys
    return _spans(min(last, self.n_keys), self.key_chunk)


_Tiles.columns = columns
