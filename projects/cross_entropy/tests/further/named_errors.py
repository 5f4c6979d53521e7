"""An error that names an argument or a value, as a word of its own."""

from __future__ import annotations

import contextlib
import re

from shared.testing.checks import expect_error


@contextlib.contextmanager
def error_names(error, *words, otherwise):
    """Assert that the block raises `error`, with each of `words` in its message: "1" is not named by "10"."""
    said = ""
    with expect_error(error, otherwise=otherwise):
        try:
            yield
        except error as raised:
            said = str(raised)
            raise
    missing = [word for word in words if not re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.]\w|\w)", said)]
    assert not missing, (
        f"the {error.__name__} should name {' and '.join(map(repr, missing))}, so that the caller finds the bad value; "
        f"it says: {said}"
    )
