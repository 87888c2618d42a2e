"""A report as plain data, and as a JSON file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxgrad.files import write_text
from jaxgrad.report.values import Divergence, Report


def as_data(report: Report) -> dict[str, Any]:
    """Plain data: strings, numbers, lists and dictionaries; a number that is not finite is None."""
    data = {
        "verdict": report.verdict.name,
        "meaning": report.verdict.value,
        "reason": report.reason,
        "first": _divergence(report.first) if report.first else None,
        "divergences": [_divergence(each) for each in report.divergences],
        "coverage": report.coverage,
        "rounding": asdict(report.rounding) if report.rounding else None,
        "effect": asdict(report.effect) | {"visible": report.effect.visible} if report.effect else None,
        "losses": [{"torch": ours, "jax": theirs} for ours, theirs in report.losses],
        "notes": list(report.notes),
        "internal": list(report.internal),
        "torch": report.torch,
        "jax": report.jax,
        "steps": report.steps,
    }
    return _finite(data)


def _divergence(found: Divergence) -> dict[str, Any]:
    return asdict(found)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(report: Report, path: Path) -> None:
    """Write the report; the file is replaced only once the new one is whole."""
    write_text(path, json.dumps(as_data(report), indent=1, allow_nan=False) + "\n")
