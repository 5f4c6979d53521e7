"""Keep torch's compiler out of tests that use an optimizer: the first one would import it, which takes seconds."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any


class _NoCompiler(types.ModuleType):
    """Stands for torch._dynamo, of which an optimizer needs two functions that do nothing; for any other, the real one comes."""

    graph_break = staticmethod(lambda *args, **kwargs: None)
    disable = staticmethod(lambda function=None, *args, **kwargs: function)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _leave()
        import torch._dynamo

        return getattr(torch._dynamo, name)


def _leave() -> None:
    if isinstance(sys.modules.get("torch._dynamo"), _NoCompiler):
        import torch

        del sys.modules["torch._dynamo"], torch._dynamo


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Put a stand-in in the place of torch._dynamo, unless that is loaded already; take it away afterwards."""
    import torch

    if "torch._dynamo" not in sys.modules:
        sys.modules["torch._dynamo"] = torch._dynamo = _NoCompiler("torch._dynamo")
    try:
        yield
    finally:
        _leave()
