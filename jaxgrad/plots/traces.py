"""A run over its loss: the landscape with the way down, and the loss per step."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.model import LinearParams
from jaxgrad.plots.drawing import COLOURS, INK, MARKERS, Axes, axes_for
from jaxgrad.pytrees import short
from jaxgrad.stability import largest_stable_rate
from jaxgrad.trace import Trace


def loss_surface(trace: Trace, *more_traces: Trace, ax: Axes | None = None) -> Axes:
    """Draw the lesson's loss over ``w`` and ``b``, and the way that descent took across it.

    Contours of the mean squared error of the trace's data, computed in float64; each trace's path (the guess, then
    ``w, b`` after each step); arrows of the negative gradient at visited points, as recorded, all to one scale and
    thinned out where points crowd; the least-squares minimum.

    Args:
      trace: from ``run_lesson`` or a framework's ``run``; any data, ``w`` and ``b`` with one entry each.
      *more_traces: others on the same data, such as other learning rates.
      ax: where to draw; a new figure by default.

    Returns:
      The axes: ``w`` to the right, ``b`` upwards; to one scale, so that gradients cross contours at right angles,
      unless the path is more than four times as long in one direction as in the other.

    Raises:
      InputError: if ``w`` or ``b`` has more than one entry, the data differ, or a value is not finite.
      InputTypeError: if something is not a trace. MissingExtraError: if matplotlib is not installed.
    """
    traces = _checked("loss_surface", (trace, *more_traces))
    _check_one_surface(traces)
    axes = axes_for("plots.loss_surface", ax, (5.0, 5.2))

    paths = [_path(each) for each in traces]
    lowest, curvature, least = _parabola(trace)
    low, high, one_scale = _window(np.vstack([lowest, *paths]))
    _draw_contours(axes, low, high, lowest, curvature, least)
    for number, (each, path) in enumerate(zip(traces, paths, strict=True)):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "linewidth": 0.9}
        size = 3.2 + len(traces) - 1 - number  # where paths are the same, each is seen around the next
        style |= {"markersize": size, "markerfacecolor": "white", "markeredgewidth": 0.8}
        axes.plot(*path.T, label=_named(each, traces), **style)
    _draw_arrows(axes, traces, paths, high - low)
    guesses = np.unique([path[0] for path in paths], axis=0)
    for name, points, marker, size in (("guess", guesses, "o", 7), ("minimum", lowest[None], "*", 11)):
        label = f"{name} ({points[0, 0]:.4g}, {points[0, 1]:.4g})" if len(points) == 1 else name
        style = {"color": "white", "markeredgecolor": INK, "markersize": size, "linestyle": "", "zorder": 5}
        axes.plot(*points.T, marker=marker, label=label, **style)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="w", ylabel="b")
    axes.set_title("loss over w and b", fontsize=10)
    axes.set_aspect("equal" if one_scale else "auto")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8, frameon=False)
    return axes


def loss_curves(traces: Iterable[Trace], ax: Axes | None = None) -> Axes:
    """Draw the loss after each number of steps, on a logarithmic scale: one line per trace, named at its end.

    Args:
      traces: from ``run_lesson`` or a framework's ``run``; usually one for each learning rate.
      ax: where to draw; a new figure by default.

    Returns:
      The axes: a line has ``steps + 1`` points, from the loss of the guess to ``loss again``. A rate above the
      largest stable one is named as diverging. Losses of zero have no place on the scale and are left out.

    Raises:
      InputError: if there is no trace, or a value is not finite.
      InputTypeError: if something is not a trace. MissingExtraError: if matplotlib is not installed.
    """
    if isinstance(traces, Trace):
        raise InputTypeError("loss_curves: traces is one Trace, expected several. Pass them in a list: [trace].")
    shown = _checked("loss_curves", tuple(traces))
    if not any((trace["loss"] > 0).any() for trace in shown):
        raise InputError(
            "loss_curves: every loss is zero, which has no place on a logarithmic scale. Start from another guess."
        )
    axes = axes_for("plots.loss_curves", ax, (6.4, 3.8))

    ends = []
    for trace, colour in zip(shown, cycle(COLOURS), strict=False):
        losses = np.append(trace["loss"], trace["loss again"]).astype(np.float64)
        axes.plot(losses, color=colour, linewidth=1.6, label=_named(trace, shown))
        positive = np.flatnonzero(losses > 0)
        if positive.size:
            diverges = trace.learning_rate > largest_stable_rate(trace["x"], LinearParams(*trace.before(0)))
            name = _named(trace, shown) + (", diverges" if diverges else "")
            ends.append((name, colour, int(positive[-1]), float(losses[positive[-1]])))
    axes.set_yscale("log", nonpositive="mask")
    axes.set(xlabel="steps", ylabel="loss (mean squared error)", xlim=(0, max(trace.steps for trace in shown)))
    axes.xaxis.set_major_locator(importlib.import_module("matplotlib.ticker").MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    _name_ends(axes, ends)
    return axes


def _checked(function: str, traces: tuple[Any, ...]) -> tuple[Trace, ...]:
    """Refuse what is not a trace, or holds a value that has no place in a picture."""
    if not traces:
        raise InputError(f"{function}: got no traces, expected at least one. Pass what run_lesson returns.")
    for number, trace in enumerate(traces, start=1):
        if not isinstance(trace, Trace):
            raise InputTypeError(
                f"{function}: trace {number} is a {type(trace).__name__}, expected a Trace. "
                "Pass what run_lesson returns."
            )
        for name in trace:
            if not np.isfinite(trace[name]).all():
                raise InputError(
                    f"{function}: {name} of trace {number} is not finite everywhere, expected finite values. "
                    "Record fewer steps, or a smaller learning rate."
                )
    return traces


def _check_one_surface(traces: tuple[Trace, ...]) -> None:
    """Refuse traces that have no common surface over two numbers."""
    for number, trace in enumerate(traces, start=1):
        for name in ("guess.w", "guess.b"):
            if trace[name].size != 1:
                raise InputError(
                    f"loss_surface: {name} of trace {number} is {short(trace[name])}, expected one entry: a surface "
                    "has two directions, w and b. Run the lesson with one w and one b."
                )
        if any(not np.array_equal(np.ravel(trace[name]), np.ravel(traces[0][name])) for name in ("x", "y")):
            raise InputError(
                f"loss_surface: trace {number} has other x or y than trace 1, expected the same data, whose loss is "
                "the surface. Draw one picture for each."
            )


def _named(trace: Trace, traces: Sequence[Trace]) -> str:
    rate = f"learning rate {trace.learning_rate:g}"
    if len({each.learning_rate for each in traces}) == len(traces):
        return rate
    return f"{rate}, {trace.framework} {trace.route}"


def _columns(trace: Trace, *names: str) -> np.ndarray:
    """Values with one entry each, side by side in float64: ``[steps, names]``."""
    return np.column_stack([np.ravel(trace[name]).astype(np.float64) for name in names])


def _path(trace: Trace) -> np.ndarray:
    """The points ``w, b`` that descent visited, the guess first: ``[steps + 1, 2]``."""
    return np.vstack([_columns(trace, "guess.w", "guess.b"), _columns(trace, "w", "b")])


def _parabola(trace: Trace) -> tuple[np.ndarray, np.ndarray, float]:
    """The loss as ``least + d @ curvature @ d``, with ``d`` the way from its lowest point: exact, and no cancellation.

    Returns:
      The lowest point ``[2]`` (the one nearest to the origin where a valley has many), curvature ``[2, 2]``, least.
    """
    x, y = (np.ravel(trace[name]).astype(np.float64) for name in ("x", "y"))
    factors = np.column_stack([x, np.ones_like(x)])
    lowest = np.linalg.lstsq(factors, y, rcond=None)[0]
    return lowest, factors.T @ factors / x.size, float(np.mean((y - factors @ lowest) ** 2))


def _window(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """The corners of the picture, and whether both directions have one scale."""
    low, high = points.min(axis=0), points.max(axis=0)
    size = float(np.abs(points).max()) or 1.0
    spans = np.where(high - low > 1e-6 * size, high - low, 0.0)  # less is rounding: the run starts at the minimum
    widest = float(spans.max()) or size
    one_scale = bool(spans.min() == 0 or widest <= 4 * spans.min())
    margin = 0.65 * (np.full(2, widest) if one_scale else spans)
    return (low + high) / 2 - margin, (low + high) / 2 + margin, one_scale


def _draw_contours(
    axes: Axes, low: np.ndarray, high: np.ndarray, lowest: np.ndarray, curvature: np.ndarray, least: float
) -> None:
    """Contours at 1, 3, 10, 30, ... above the least loss, each with its loss on it."""
    w, b = (np.linspace(low[i], high[i], 241) for i in range(2))
    away = np.stack(np.meshgrid(w, b), axis=-1) - lowest
    above = np.einsum("...i,ij,...j->...", away, curvature, away)
    top = math.log10(above.max())
    powers = range(math.floor(top) - 3, math.floor(top) + 1)
    levels = [level for power in powers for level in (power, power + math.log10(3)) if top - 2.6 < level < top]
    heights = np.log10(np.maximum(above, 10.0 ** (levels[0] - 1)))
    bands = [levels[0] - 1, *levels, levels[-1] + 1]
    # Only the pale part of the map is used: the paths must stand out on it.
    axes.contourf(w, b, heights, bands, cmap="Greys", vmin=bands[0], vmax=bands[0] + 3 * (bands[-1] - bands[0]))
    lines = axes.contour(w, b, heights, levels, colors="#9a9a9a", linewidths=0.6, linestyles="solid")
    axes.clabel(lines, fmt=lambda height: f"{least + 10**height:.5g}", fontsize=7, colors="#5f5f5f")


def _draw_arrows(axes: Axes, traces: Sequence[Trace], paths: Sequence[np.ndarray], extent: np.ndarray) -> None:
    """The negative gradient at visited points that are at least a twelfth of the picture apart."""
    places, slopes = [], []
    for trace, path in zip(traces, paths, strict=True):
        last = np.full(2, np.inf)
        for place, gradient in zip(path, _columns(trace, "w.grad", "b.grad"), strict=False):
            if np.hypot(*(place - last) / extent) >= 1 / 12:
                last = place
                places.append(place)
                slopes.append(-gradient)
    longest = float(np.hypot(*np.divide(slopes, extent).T).max()) or 1.0
    look = {"angles": "xy", "scale_units": "xy", "scale": 6 * longest, "width": 0.004, "headwidth": 4.5, "zorder": 4}
    axes.quiver(*np.transpose(places), *np.transpose(slopes), color=INK, **look)
    sign = {"marker": r"$\longrightarrow$", "markersize": 17, "markeredgewidth": 0, "linestyle": ""}
    axes.plot([], [], color=INK, label="negative gradient", **sign)  # for the legend, which cannot show arrows


def _name_ends(axes: Axes, ends: Sequence[tuple[str, str, int, float]]) -> None:
    """Write each line's name to the right of its last point, lower where it would run into another."""
    low, high = np.log10(axes.get_ylim())
    points = 72 * axes.get_window_extent().height / axes.figure.dpi
    look = {"textcoords": "offset points", "va": "center", "fontsize": 8.5, "color": INK, "annotation_clip": False}
    line = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)}
    ceiling = math.inf
    for name, colour, step, value in sorted(ends, key=lambda end: -end[3]):
        wanted = (math.log10(value) - low) / (high - low) * points
        placed = min(wanted, ceiling)
        ceiling = placed - 12  # the height of a name, in points
        place = {"xy": (step, value), "xytext": (12, placed - wanted)}
        axes.annotate(name, **place, **look, arrowprops=line | {"color": colour})
