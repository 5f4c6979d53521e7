"""The scripts of the page share one scope: of two functions with one name, the later would silently take the place of the other."""

import re
from collections import Counter

from shared.tour.__main__ import PLAY

DECLARATION = re.compile(r"^(?:async )?(?:function\*?|class|const|let) (\w+)(.*)", re.MULTILINE)


def test_no_name_is_declared_twice():
    declared = Counter()
    for path in PLAY.glob("*.js"):
        for name, rest in DECLARATION.findall(path.read_text(encoding="utf-8")):
            declared.update([name, *re.findall(r", ([A-Z][A-Z_]+) = ", rest)])  # const A = 1, B = 2;
    assert {"softmax", "FLOAT_BYTES", "SECTOR_BYTES", "Catch", "sampling"} <= set(declared)
    assert [name for name, n in declared.items() if n > 1] == []
