"""Where an equation of a jaxpr comes from: name stack, source file and line, forward or backward."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxgrad.parity.source_lines import is_installed, users_line
from jaxgrad.report.values import Site

try:  # jax has no public way to ask for the user's line of an equation
    from jax._src import source_info_util
except ImportError:  # pragma: no cover
    source_info_util = None

_DRIVER = str(Path(__file__).with_name("run_jax.py"))  # what called it is no part of the program
_TRACER = str(Path(jax.__file__).parent / "_src" / "interpreters" / "partial_eval.py")
_RULES = str(Path(jax.__file__).parent / "_src" / "custom_derivatives.py")
_TRANSFORMED = re.compile(r"\b\w+\(([^()]*)\)")


def site_of(eqn: Any, around: Site, backwards: Backwards | None = None) -> Site:
    """The site of an equation; what it does not know is taken from the call around it.

    Args:
      eqn: the equation.
      around: the site of the call that it is part of.
      backwards: where the rules of ``custom_vjp`` stand.
    """
    info = eqn.source_info
    module = "/".join(part for part in (around.module, _scopes(str(info.name_stack))) if part)
    place = users_line(_lines(info))
    if around.file and not _inside_call(info):
        # What jit made of a function is cached with the lines of its first call: this call's are those around it.
        inner = place[2] if around.library else ""
        place = around.file, around.line, inner or around.library
    place = place if place[0] else (around.file, around.line, around.library)
    if backwards and stage_of(eqn) == "gradient" and _has_rule(info):
        place = backwards.get(place[:2], place)
    return Site(eqn.primitive.name, module, *place)


def stage_of(eqn: Any) -> str:
    """``"gradient"`` for an equation that transposition made, else ``"forward"``."""
    return "gradient" if "transpose(" in str(eqn.source_info.name_stack) else "forward"


Backwards = dict[tuple[str, int], tuple[str, int, str]]
"""For the line that calls a function with a ``custom_vjp``: file, line and library of its backward rule."""


def has_backward_rules(jaxpr: Any) -> bool:
    """Whether some equation of a gradient's jaxpr comes from the backward rule of a ``custom_vjp``."""
    return any(stage_of(eqn) == "gradient" and _has_rule(eqn.source_info) for eqn in _all_equations(jaxpr))


def backward_rules(jaxpr: Any) -> Backwards:
    """Where the backward rules stand that a forward jaxpr names."""
    found: Backwards = {}
    unsure: set[tuple[str, int]] = set()
    for eqn in _all_equations(jaxpr):
        code = getattr(getattr(eqn.params.get("bwd"), "f", None), "__code__", None)
        if code is None or not eqn.primitive.name.startswith("custom_vjp_call"):
            continue
        call = users_line(_lines(eqn.source_info))[:2]
        rule = code.co_filename, code.co_firstlineno, ""
        if is_installed(code.co_filename) or found.get(call, rule) != rule:  # two of them on one line
            unsure.add(call)
        found[call] = rule
    return {call: rule for call, rule in found.items() if call not in unsure}


def _all_equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for parameter in eqn.params.values():
            for each in parameter if isinstance(parameter, (tuple, list)) else (parameter,):
                inner = getattr(each, "jaxpr", each)
                if hasattr(inner, "eqns"):
                    yield from _all_equations(inner)


def _scopes(stack: str) -> str:
    """A name stack without what transformed it: ``transpose(jvp(Net))/head`` is ``Net/head``."""
    before = None
    while before != stack:
        before, stack = stack, _TRANSFORMED.sub(r"\1", stack)
    return "/".join(part for part in stack.split("/") if part and "->" not in part)  # an einsum is no module


def _frames(info: Any) -> Iterator[tuple[Any, int]]:
    """The stack that made an equation, the innermost frame first, up to ours: code, and the place in it."""
    if source_info_util is None or info.traceback is None:
        return
    try:
        codes, places = info.traceback.raw_frames()
    except AttributeError:  # pragma: no cover - another jax
        return
    for code, place in zip(codes, places, strict=True):
        if code.co_filename == _DRIVER:
            return
        yield code, place


def _lines(info: Any) -> Iterator[tuple[str, int]]:
    """The lines that are not jax's own."""
    if source_info_util is None:
        return
    for code, place in _frames(info):
        if source_info_util.is_user_filename(code.co_filename):
            frame = source_info_util.raw_frame_to_frame(code, place)
            yield frame.file_name, frame.start_line


def _inside_call(info: Any) -> bool:
    """Whether a line of the user's stands inside the innermost function that was traced to a jaxpr of its own."""
    if source_info_util is None:
        return False
    for code, _ in _frames(info):
        if code.co_filename == _TRACER and code.co_name.startswith("trace_to_jaxpr"):
            return False
        if source_info_util.is_user_filename(code.co_filename) and not is_installed(code.co_filename):
            return True
    return False


def _has_rule(info: Any) -> bool:
    """Whether an equation was made by the call of a function with a rule of its own, not by what that calls."""
    if source_info_util is None:
        return False
    for code, _ in _frames(info):
        if code.co_filename == _RULES and code.co_qualname == "custom_vjp.__call__":
            return True
        if source_info_util.is_user_filename(code.co_filename):
            return False
    return False
