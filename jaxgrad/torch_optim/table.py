"""The table of the documentation: each torch optimizer, the optax call of the same name, and the exact translation."""

from __future__ import annotations

from typing import Any

from jaxgrad.torch_optim.measure import translation
from jaxgrad.torch_optim.specs import checked

ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}),
    ("Adam", {"lr": 1e-2}),
    ("Adam", {"lr": 1e-2, "weight_decay": 0.1}),
    ("Adam", {"lr": 1e-2, "amsgrad": True}),
    ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
    ("Adamax", {"lr": 1e-2}),
    ("NAdam", {"lr": 1e-2}),
    ("RAdam", {"lr": 1e-2}),
    ("RMSprop", {"lr": 1e-2}),
    ("RMSprop", {"lr": 1e-2, "momentum": 0.9, "centered": True}),
    ("Adagrad", {"lr": 0.1}),
    ("Adadelta", {"lr": 1.0}),
    ("Rprop", {"lr": 1e-2}),
    ("ASGD", {"lr": 1e-2, "lambd": 1e-2}),
    ("Adafactor", {"lr": 1e-2}),
    ("Muon", {"lr": 1e-2}),
)
"""What is measured: each optimizer, and its options that stock optax has otherwise."""


def table(torch: Any) -> str:
    """The table in Markdown, measured now against torch."""
    lines = [
        f"Measured against torch {torch.__version__}: 200 steps of a small regression. Differences in float64, "
        "relative to the",
        "largest parameter; both given the same gradients, and (free) each with its own.",
        "",
        "| torch | optax, same name | difference | exact translation | difference (free) | why |",
        "|---|---|---|---|---|---|",
    ]
    for name, options in ROWS:
        found = translation(name, checked(name, options), torch)
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        exact = found.exact
        assert exact is not None
        why = "the same" if found.naive_measured.same else "; ".join(found.reasons)
        lines.append(
            f"| `{name}({given})` | `{found.naive[-1].function}` | {found.naive_measured.difference:.0e} | "
            f"{'stock' if 'torch_optim.' not in found.code else '`torch_optim`'} | {exact.difference:.0e} "
            f"({exact.free:.0e}) | {why} |"
        )
    return "\n".join(lines)
