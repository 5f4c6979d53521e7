"""Find calls of host functions in kernels: nvcc refuses them, and to the host's compiler they are calls like any other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .text import ATTRIBUTE, Text, device_functions, matching

TRANSPARENT = re.compile(r"(?:\bnamespace\b[\w\s:]*|\bextern\s*\"C\"\s*)$")
TEMPLATE = re.compile(r"\btemplate\s*<(?:[^<>]|<[^<>]*>)*>")
FUNCTION = re.compile(r"([~\w]+)\s*\([^{}]*\)\s*(?:noexcept\s*)?(?:->[^{}()]*)?$")
NO_FUNCTION = re.compile(r"\b(?:struct|class|union|enum|operator)\b|=|^\s*(?:if|for|while|switch)\b")
FOR_THE_DEVICE = re.compile(r"\b(?:__device__|__global__|constexpr)\b")


def functions(plain: str) -> Iterator[tuple[str, str]]:
    """Find the functions that are defined at namespace scope: what stands before the body, and the name."""
    position = start = 0
    while match := re.compile(r"[;{}]").search(plain, position):
        position = match.end()
        if match.group() == "{":
            head = re.sub(TEMPLATE, "", re.sub(ATTRIBUTE, "", plain[start : match.start()]))
            if not TRANSPARENT.search(head):
                position = matching(plain, match.start()) + 1
                if not position:
                    return
                name = FUNCTION.search(head.strip())
                if name and not NO_FUNCTION.search(head.split("(")[0]):
                    yield head, name[1]
        start = position


def find_host_call(text: Text) -> tuple[int, str] | None:
    """Return position and name of the first call of a host function in a kernel or a device function."""
    host = {name for head, name in functions(text.plain) if not FOR_THE_DEVICE.search(head)}
    # A function is for the device if one declaration of its name says so.
    host -= set(
        re.findall(
            r"\b(?:__device__|__global__|constexpr)\b[^;{}()]*?\b(\w+)\s*\(",
            re.sub(ATTRIBUTE, "", text.plain),
        )
    )
    for low, high, _ in device_functions(text.plain):
        before = text.plain[max(0, low - 2000) : low]
        for match in re.compile(r"(?<![\w.:>])(\w+)\s*\(").finditer(text.plain, low, high):
            name = match[1]
            own = rf"\b{name}\s*[=,){{]"  # a lambda, or a functor that is passed
            if (
                name in host
                and not re.search(own, text.plain[low:high])
                and not re.search(own, before.rsplit(";", 1)[-1])
            ):
                return match.start(1), name
    return None
