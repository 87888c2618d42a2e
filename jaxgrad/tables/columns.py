"""Which columns of a table are meant."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jaxgrad.errors import InputError, InputTypeError

_SHOWN = 20


def check_names(argument: str, wanted: Any) -> None:
    """Refuse what is neither a name nor a list of names."""
    names = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InputTypeError(
            f"read_table: {argument} is {wanted!r}, expected the name of a column, or a list of names. "
            f"Pass {argument}='size', say."
        )
    if not any(names):
        raise InputError(f"read_table: {argument} names no column. Pass {argument}='size', say.")


def possible_names(wanted: str | Sequence[str]) -> set[str]:
    """Every name that may be meant: a text with commas is one name or several."""
    if isinstance(wanted, str):
        return {wanted.strip(), *_split(wanted)}
    return {name.strip() for name in wanted}


def find_columns(
    path: Path, names: Sequence[str], argument: str, wanted: str | Sequence[str]
) -> tuple[list[int], bool]:
    """Where the wanted columns stand, and whether they are one column rather than a list of them.

    Args:
      path: the table, the start of every message.
      names: of all its columns.
      argument: ``"x"`` or ``"y"``.
      wanted: a name; ``"a,b"`` is two unless a column has that very name; or a list of names.

    Raises:
      InputError: if a column is missing, there more than once, or asked for more than once.
    """
    there = [name.strip() for name in names]
    single = isinstance(wanted, str) and (wanted.strip() in there or len(_split(wanted)) == 1)
    if isinstance(wanted, str):
        asked = [wanted.strip()] if single else _split(wanted)
    else:
        asked = [name.strip() for name in wanted]
    if missing := [name for name in asked if name not in there]:
        raise InputError(f"{path}: {argument}={wanted!r}, but {_said(missing)} not there. {_choice(missing, there)}")
    for name in asked:
        if (count := there.count(name)) > 1:
            raise InputError(f"{path}: {count} columns are named {name!r}, expected one. Rename all but one.")
        if asked.count(name) > 1:
            raise InputError(f"{path}: column {name!r} is asked for twice, for {argument}. Name it once.")
    return [there.index(name) for name in asked], single


def check_apart(path: Path, names: Sequence[str], x: list[int], y: list[int]) -> None:
    """Refuse a column that is both an input and the truth."""
    if both := set(x) & set(y):
        name = names[min(both)].strip()
        raise InputError(f"{path}: column {name!r} is in x and in y, which would predict it from itself. Name others.")


def _split(wanted: str) -> list[str]:
    return [part for name in wanted.split(",") if (part := name.strip())] or [""]


def _said(missing: list[str]) -> str:
    listed = ", ".join(map(repr, missing))
    return f"column {listed} is" if len(missing) == 1 else f"columns {listed} are"


def _choice(missing: list[str], there: list[str]) -> str:
    lower = {name.lower(): name for name in there}
    near = [lower[close[0]] for name in missing if (close := get_close_matches(name.lower(), lower, 1, 0.6))]
    meant = f"Did you mean {' and '.join(map(repr, near))}? " if near else ""
    rest = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return f"{meant}The table has {', '.join(map(repr, there[:_SHOWN]))}{rest}."
