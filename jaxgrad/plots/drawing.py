"""What the pictures share: colours, and where to draw."""

from __future__ import annotations

import importlib
from typing import Any, TypeAlias

from jaxgrad.errors import require

Axes: TypeAlias = Any  # matplotlib.axes.Axes: matplotlib is imported on use only
Figure: TypeAlias = Any  # matplotlib.figure.Figure

# M. Okabe and K. Ito, "Color Universal Design" (2008): told apart by every kind of colour vision, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, FAINT = "#333333", "#8a8a8a"


def pyplot(purpose: str) -> Any:
    """Matplotlib's pyplot, or the error that names the command which installs it."""
    require("matplotlib", purpose)
    return importlib.import_module("matplotlib.pyplot")


def axes_for(purpose: str, ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or those of a new figure of so many inches."""
    plt = pyplot(purpose)
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax
