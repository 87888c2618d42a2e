"""Whose code a line is: the user's own, or that of an installed package, Python's library or ours."""

from __future__ import annotations

import re
import site
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_PACKAGES = re.compile(r".*[\\/](?:site|dist)-packages[\\/]")
_OURS = str(Path(__file__).parents[1])
_LIBRARIES = tuple(
    {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
        _OURS,
    }
)


@cache
def is_installed(file: str) -> bool:
    """Whether a file belongs to an installed package, to Python's library or to jaxgrad, or is generated code."""
    if file.startswith("<"):
        return not file.startswith(("<stdin", "<ipython"))
    return file.startswith(_LIBRARIES) or _PACKAGES.match(file) is not None


def library_line(file: str, line: int) -> str:
    """A line of an installed package, from the package's name on: ``"flax/linen/normalization.py:361"``."""
    inside = _PACKAGES.sub("", file)
    if inside == file:
        longest = max((each for each in _LIBRARIES if file.startswith(each)), key=len, default="")
        inside = file.removeprefix(longest).lstrip("\\/")
        inside = f"jaxgrad/{inside}" if longest == _OURS else inside
    return f"{inside}:{line}"


def users_line(frames: Iterable[tuple[str, int]]) -> tuple[str, int, str]:
    """The line to name, of the lines of a stack, the innermost first.

    Args:
      frames: file and line of each.

    Returns:
      File and line of the innermost one that is the user's own, and the line of a package that is further inside, if
      there is one. Where none is the user's, the innermost one; ``("", 0, "")`` where there is none.
    """
    innermost: tuple[str, int] | None = None
    for file, line in frames:
        if innermost is None:
            innermost = file, line
        if not is_installed(file):
            return file, line, library_line(*innermost) if innermost[0] != file and is_installed(innermost[0]) else ""
    return (*innermost, "") if innermost is not None else ("", 0, "")
