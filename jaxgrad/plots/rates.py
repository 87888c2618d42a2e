"""The loss that a sweep ends with, by its learning rate: the picture by which a rate is chosen."""

from __future__ import annotations

import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.plots.drawing import COLOURS, FAINT, Axes, axes_for
from jaxgrad.sweeps import SweepResult


def loss_by_rate(result: SweepResult, *, stable: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw a sweep's last loss over the learning rate, both on logarithmic scales.

    One dot a run that did not diverge; a line through the median over the starts; the rates at which runs diverged are
    shaded, and the best run is ringed.

    Args:
      result: of ``sweep`` with several learning rates.
      stable: a rate to mark, such as ``largest_stable_rate`` gives.
      ax: where to draw; a new figure by default.

    Returns:
      The axes.

    Raises:
      InputError: if the sweep has one learning rate or none, or all runs diverged.
      InputTypeError: if it is no sweep's result. MissingExtraError: if matplotlib is not installed.
    """
    if not isinstance(result, SweepResult):
        raise InputTypeError(f"loss_by_rate: result is a {type(result).__name__}, expected what sweep returns.")
    if result.learning_rates is None or len(result.learning_rates) < 2:
        raise InputError("loss_by_rate: the sweep has no two learning rates. Pass learning_rates=[...] to sweep.")
    rates = np.asarray(result.learning_rates, np.float64)
    losses = np.asarray(result.last_losses, np.float64).reshape(len(rates), -1)
    diverged = np.asarray(result.diverged).reshape(losses.shape)
    shown = np.where(diverged | ~(losses > 0), np.nan, losses)
    if np.isnan(shown).all():
        raise InputError("loss_by_rate: every run diverged or ended at a loss of zero. Sweep other rates.")
    axes = axes_for("plots.loss_by_rate", ax, (6.4, 3.8))
    order = np.argsort(rates)
    rates, shown, diverged = rates[order], shown[order], diverged[order]
    axes.plot(np.repeat(rates, shown.shape[1]), shown.ravel(), ".", color=COLOURS[0], markersize=3, alpha=0.5)
    seen = ~np.isnan(shown).all(axis=1)
    axes.plot(rates[seen], np.nanmedian(shown[seen], axis=1), color=COLOURS[0], linewidth=1.4, label="median")
    best = result.best
    label = f"best: {best.loss:.3g} at {best.learning_rate:.3g}"
    if best.loss > 0:
        style = {"color": COLOURS[1], "markerfacecolor": "none", "markersize": 9, "linestyle": ""}
        axes.plot([best.learning_rate], [best.loss], marker="o", label=label, **style)
    bad = diverged.any(axis=1)
    if bad.any():
        axes.axvspan(
            rates[bad].min(), rates[bad].max(), color=COLOURS[1], alpha=0.12, label="runs diverge", linewidth=0
        )
    if stable is not None:
        axes.axvline(stable, color=FAINT, linestyle="--", linewidth=1, label=f"largest stable rate {stable:.3g}")
    # A run on its way to infinity would press all others into the bottom of the picture.
    most = 30 * np.nanmedian(shown[seen][0])
    if np.nanmax(shown) > most:
        axes.set_ylim(top=most, bottom=0.5 * np.nanmin(shown))
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel=f"loss in step {result.steps:,}")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return axes
