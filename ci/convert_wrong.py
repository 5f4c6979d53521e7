"""Turn a project's tests/wrong/ into tests/mistakes.toml: python ci/convert_wrong.py PROJECT...

A ``.cu`` file becomes an edit: the smallest run of lines that differs from the kernel, widened until it stands there once.
A ``.py`` file is an override, so it becomes an addition.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def smallest_edit(reference: str, wrong: str) -> tuple[str, str]:
    """Return the text of the reference to replace, which occurs in it once, and what stands there instead."""
    was, now = reference.splitlines(keepends=True), wrong.splitlines(keepends=True)
    blocks = [
        code
        for code in difflib.SequenceMatcher(None, was, now, autojunk=False).get_opcodes()
        if code[0] != "equal"
    ]
    blocks = [
        b for b in blocks if _code(was[b[1] : b[2]]) != _code(now[b[3] : b[4]])
    ]  # comments are no mistake
    if not blocks:
        raise ValueError("nothing differs but comments")
    a, b, c, d = blocks[0][1], blocks[-1][2], blocks[0][3], blocks[-1][4]
    while a == b or reference.count("".join(was[a:b])) != 1:
        if a > 0 and c > 0 and was[a - 1] == now[c - 1] and was[a - 1].strip():
            a, c = a - 1, c - 1
        elif b < len(was):
            b, d = b + 1, d + 1
        else:
            raise ValueError("no unique context")
    # comments between several changed places are the reference's own
    return "".join(was[a:b]).rstrip("\n"), "".join(now[c:d]).rstrip("\n")


def _code(lines: list[str]) -> str:
    return "".join(re.sub(r"//.*", "", line).strip() for line in lines)


def literal(text: str) -> str:
    """Return a TOML string: a literal one over several lines where that can hold it."""
    if "\n" not in text and not ({'"', "\\"} & set(text)):
        return f'"{text}"'
    if "'''" not in text and not text.endswith("'"):
        return f"'''\n{text}'''"
    return json.dumps(text, ensure_ascii=False)


def convert(folder: Path) -> str:
    """Return the text of mistakes.toml."""
    tables = []
    for path in sorted(folder.glob("tests/wrong/*")):
        if path.suffix not in (".py", ".cu"):
            continue
        comment = "//" if path.suffix == ".cu" else "#"
        lines = path.read_text(encoding="utf-8").splitlines()
        header, body = {}, lines
        while body and (found := re.match(rf"{comment} (diagnosis|module|kernel): (.*)", body[0])):
            header[found[1]], body = found[2], body[1:]
        table = [f"[{path.stem}]", f"diagnosis = {literal(header['diagnosis'])}"]
        if path.suffix == ".cu":
            file = f"kernels/{header['kernel']}"
            reference = (folder / file).read_text(encoding="utf-8")
            replace, by = smallest_edit(reference, "\n".join(body) + "\n")
            table += [f'file = "{file}"', f"replace = {literal(replace)}", f"with = {literal(by)}"]
        else:
            if "module" in header:
                table.append(f'file = "{header["module"]}.py"')
            table.append(f"add = {literal(chr(10).join(body).strip(chr(10)) + chr(10))}")
        tables.append("\n".join(table))
    return "\n\n".join(tables) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        project = ROOT / "projects" / name
        text = convert(project)
        (project / "tests" / "mistakes.toml").write_text(text, encoding="utf-8")
        print(name, text.count("\n["), "tables,", len(text.splitlines()), "lines")
