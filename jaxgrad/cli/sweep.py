"""``jaxgrad sweep``: the loss by the learning rate, from many runs at once."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

DESCRIPTION = """\
Train with many learning rates, and from many starts, in one compiled program, and draw the loss that each rate ends
with: on the lesson's three points, or on the columns of a table, scaled as jaxgrad fit scales them.
"""

EXAMPLES = """\
examples:
  jaxgrad sweep
  jaxgrad sweep --rates 1e-4:1:200 --starts 50 --steps 1000 --picture rates.png
  jaxgrad sweep houses.csv --x size,rooms --y price --optimizer "Adam(betas=(0.8, 0.99))"

"""


def add_to(commands: Any, exit_codes: str) -> None:
    """Add the command to the top parser."""
    parser = commands.add_parser(
        "sweep",
        help="the loss by the learning rate, from thousands of runs at once",
        description=DESCRIPTION,
        epilog=EXAMPLES + exit_codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", nargs="?", metavar="DATA", help="a table; the lesson's points by default")
    parser.add_argument("--x", metavar="NAME[,NAME]", help="the column or columns to predict from")
    parser.add_argument("--y", metavar="NAME[,NAME]", help="the column or columns to predict")
    parser.add_argument("--drop", action="store_true", help="leave out rows with a value that is missing or not finite")
    parser.add_argument(
        "--rates", default="1e-5:1:51", metavar="LOW:HIGH:N", help="at equal ratios (default 1e-5:1:51)"
    )
    parser.add_argument(
        "--starts", type=int, default=1, metavar="N", help="guesses drawn about the first one (default 1)"
    )
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="of each run (default 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the guesses (default 0)")
    parser.add_argument("--optimizer", metavar="CALL", help='torch\'s call without lr: "AdamW(weight_decay=0.1)"')
    parser.add_argument("--devices", type=int, metavar="N", help="share the runs among N devices")
    parser.add_argument("--picture", metavar="FILE.png", help="draw it there, as .png, .svg or .pdf (extra plot)")
    parser.add_argument("--json", action="store_true", help="rates and losses as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from jaxgrad.cli.sweep_setup import optimizer_of, picture_path, problem, rates_of, starts_of

    rates = rates_of(options.rates)
    path = picture_path(options.picture)
    if options.devices is not None:
        from jaxgrad import processes

        processes.set_cpu_devices(options.devices)
    from jaxgrad.sharding import rows_mesh
    from jaxgrad.sweeps import sweep

    loss, guess, data, title, stable = problem(options)
    result = sweep(
        loss,
        guess,
        data,
        optimizer_of(options.optimizer),
        steps=options.steps,
        learning_rates=rates,
        starts=starts_of(guess, options.starts, options.seed),
        mesh=rows_mesh(function="sweep") if options.devices is not None else None,
    )
    if path is not None:
        _draw(result, stable, path)
    if options.json:
        print(json.dumps(_data(result, title)))
    else:
        _show(result, title, stable, float(loss(guess, *data)))
    return 1 if result.diverged.all() else 0


def _show(result: Any, title: str, stable: float | None, at_guess: float) -> None:
    import numpy as np

    runs = result.diverged.size
    print(f"{title}: {runs:,} runs of {result.steps:,} steps")
    rates = np.asarray(result.learning_rates, np.float64)
    losses = np.asarray(result.last_losses, np.float64).reshape(len(rates), -1)
    diverged = result.diverged.reshape(losses.shape)
    middle = np.array(
        [np.median(row[~bad]) if (~bad).any() else np.nan for row, bad in zip(losses, diverged, strict=True)]
    )
    bars = _bars(middle, at_guess)
    print(f"\n{'learning rate':>14}  {'median loss':>12}  {'diverged':>8}")
    for rate, value, bad, bar in zip(rates, middle, diverged, bars, strict=True):
        number = "" if np.isnan(value) else f"{value:.6g}"
        print(f"{rate:>14.4g}  {number:>12}  {bad.sum() or '':>8}  {bar}")
    print()
    if not result.diverged.all():
        best = result.best
        print(
            f"best: a loss of {best.loss:.6g} in step {result.steps:,}, at a learning rate of {best.learning_rate:.4g}"
        )
    if stable is not None:
        print(f"gradient descent is stable below {stable:.6g}, by the curvature of the loss")
    if result.diverged.all():
        print("all runs diverge: sweep lower rates")


def _bars(losses: Any, most: float) -> list[str]:
    """A bar for each loss on a logarithmic scale; the longest for ``most`` and above, which is marked."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(np.minimum(losses, most))
    seen = logs[np.isfinite(logs)]
    low, high = (seen.min(), seen.max()) if seen.size else (0.0, 0.0)
    width, found = 30, []
    for each, loss in zip(logs, losses, strict=True):
        eighths = 0 if not np.isfinite(each) else round(8 * width * (each - low) / (high - low)) if high > low else 8
        found.append(
            "█" * (eighths // 8)
            + ("" if eighths % 8 == 0 else "▏▎▍▌▋▊▉"[eighths % 8 - 1])
            + (">" if loss > most else "")
        )
    return found


def _draw(result: Any, stable: float | None, path: Any) -> None:
    from jaxgrad.files import written_aside
    from jaxgrad.plots import loss_by_rate

    axes = loss_by_rate(result, stable=stable)
    with written_aside(path) as aside:
        axes.figure.savefig(aside, format=path.suffix[1:], dpi=150, bbox_inches="tight")


def _data(result: Any, title: str) -> dict[str, Any]:
    import numpy as np

    losses = np.asarray(result.last_losses, np.float64)
    best = None if result.diverged.all() else result.best
    return {
        "data": title,
        "steps": result.steps,
        "learning_rates": np.asarray(result.learning_rates, np.float64).tolist(),
        "losses": [[loss if math.isfinite(loss) else None for loss in row] for row in losses.tolist()],
        "diverged": result.diverged.tolist(),
        "best": best and {"index": list(best.index), "learning_rate": best.learning_rate, "loss": best.loss},
    }
