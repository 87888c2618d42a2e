"""Where an equation of a jaxpr comes from: name stack, source file and line, forward or backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jaxgrad.report.values import Site

try:  # jax has no public way to ask for the user's line of an equation
    from jax._src import source_info_util
except ImportError:  # pragma: no cover
    source_info_util = None

_JAX = str(Path(jax.__file__).parent)


def site_of(eqn: Any, around: Site) -> Site:
    """The site of an equation; what it does not know is taken from the call around it."""
    stack = str(eqn.source_info.name_stack)
    module = "/".join(part for part in (around.module, stack) if part)
    file, line = _user_line(eqn.source_info) or (around.file, around.line)
    return Site(eqn.primitive.name, module, file, line)


def stage_of(eqn: Any) -> str:
    """``"gradient"`` for an equation that transposition made, else ``"forward"``."""
    return "gradient" if "transpose(" in str(eqn.source_info.name_stack) else "forward"


def _user_line(source_info: Any) -> tuple[str, int] | None:
    if source_info_util is None:
        return None
    try:
        frame = source_info_util.user_frame(source_info.traceback)
    except (AttributeError, TypeError):  # jax before and after took different arguments
        try:
            frame = source_info_util.user_frame(source_info)
        except (AttributeError, TypeError):
            return None
    return (frame.file_name, frame.start_line) if frame is not None else None
