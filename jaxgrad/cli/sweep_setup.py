"""What ``jaxgrad sweep`` makes of its options before it trains."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxgrad.errors import InputError, require

_PICTURES = (".png", ".svg", ".pdf")


def rates_of(text: str) -> np.ndarray:
    """``"1e-4:1:50"`` as 50 rates at equal ratios."""
    parts = text.split(":")
    try:
        low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
        good = len(parts) == 3 and 0 < low < high < math.inf and count >= 2
    except (ValueError, IndexError):
        good, low, high, count = False, 0.0, 0.0, 0
    if not good:
        raise InputError(
            f"sweep: --rates {text}, expected LOW:HIGH:N with positive rates and at least two of them. Pass 1e-4:1:50."
        )
    return np.geomspace(low, high, count).astype(np.float32)


def picture_path(text: str | None) -> Path | None:
    """Where to draw, refused before the runs if that cannot be."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix not in _PICTURES:
        raise InputError(f"sweep: --picture {text}, expected a name that ends in {', '.join(_PICTURES)}.")
    if not path.parent.is_dir():
        raise InputError(f"sweep: --picture {text}, but {path.parent} is no folder. Make it, or pass another path.")
    require("matplotlib", "sweep --picture")
    return path


def problem(options: argparse.Namespace) -> tuple[Any, Any, tuple[Any, ...], str, float | None]:
    """Loss, guess, data, a title, and the largest stable rate of gradient descent where the optimizer is that."""
    from jaxgrad.losses import loss
    from jaxgrad.model import LinearParams

    if (options.data is None) != (options.x is None and options.y is None) or (options.x is None) != (
        options.y is None
    ):
        raise InputError("sweep: DATA, --x and --y belong together. Pass all three, or none for the lesson's points.")
    if options.data is None or options.x is None or options.y is None:
        from jaxgrad.lesson import LESSON_TRUTH, LESSON_X
        from jaxgrad.stability import largest_stable_rate

        x = np.asarray(LESSON_X, np.float32)
        y = np.asarray(LESSON_TRUTH.w * x + LESSON_TRUTH.b, np.float32)
        guess = LinearParams(np.array(2, np.float32), np.array(6, np.float32))
        stable = largest_stable_rate(x, guess) if options.optimizer is None else None
        return loss, guess, (x, y), "the lesson's points", stable
    from jaxgrad.table_fit import Scaling, squared_error
    from jaxgrad.tables import read_table
    from jaxgrad.training.advice import largest_stable_rate as by_curvature

    table = read_table(options.data, options.x, options.y, dtype="float64", drop=options.drop)
    scaling = Scaling.of(*table.data, (*table.x_names, *table.y_names))
    guess, data = scaling.guess(), scaling.apply(*table.data)
    stable = by_curvature(squared_error, guess, data) if options.optimizer is None else None
    return squared_error, guess, data, f"{options.data} (scaled), {table.rows:,} rows", stable


def starts_of(guess: Any, count: int, seed: int) -> Any:
    """Guesses drawn about one, which is the first of them; None if it is the only one."""
    import jax

    if count < 1:
        raise InputError(f"sweep: --starts {count}, expected a whole number from 1 on.")
    if count == 1:
        return None
    random = np.random.default_rng(seed)

    def about(leaf: Any) -> np.ndarray:
        drawn = random.standard_normal((count, *np.shape(leaf))).astype(np.float32)
        drawn[0] = 0
        return np.asarray(leaf, np.float32) + drawn

    return jax.tree.map(about, guess)


def optimizer_of(call: str | None) -> Any:
    """From torch's call to what makes an optax transformation of a rate; None for the update by hand.

    The direction is built once; the rate, which differs from run to run, comes last, as torch applies it.
    """
    if call is None:
        return None
    import optax

    from jaxgrad.cli.optim import parsed
    from jaxgrad.torch_optim.pieces import build
    from jaxgrad.torch_optim.rates import scheduled
    from jaxgrad.torch_optim.specs import checked
    from jaxgrad.torch_optim.translate import pieces_of

    name, given = parsed(call)
    if "lr" in given:
        raise InputError(f"sweep: --optimizer {call} has an lr, which is what is swept. Leave it out.")
    pieces = pieces_of(name, checked(name, {**given, "lr": 1.0}), scheduled=True)

    def of_rate(rate: Any) -> optax.GradientTransformation:
        return scheduled(build(pieces), lambda count: rate)

    return of_rate
