"""``jaxgrad lesson``: every step of the lesson, JAX beside torch, and the verdict."""

from __future__ import annotations

import argparse
import importlib
import json
from threading import Thread
from typing import Any

DESCRIPTION = """\
Run the torch autograd lesson with pure JAX functions and hold each value against torch's:
guess w and b, predict Q = w x + b, measure mse(y, Q), differentiate, adjust, predict again.

Where torch is installed it runs live beside JAX, unless the very same version's values for
this run ship with jaxgrad; where it is not, the recorded values serve for the lesson's own run.
"""

EXAMPLES = """\
examples:
  jaxgrad lesson
  jaxgrad lesson --steps 1000 --route jit
  jaxgrad lesson --steps 1000 --route exact --update sgd --torch live
  jaxgrad lesson --data points.csv --learning-rate 1e-3 --steps 100 --json

"""


def add_to(commands: Any, exit_codes: str) -> None:
    """Add the command to the top parser."""
    parser = commands.add_parser(
        "lesson",
        help="the lesson step by step, JAX beside torch, with the verdict",
        description=DESCRIPTION,
        epilog=EXAMPLES + exit_codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="how many times to adjust (default 1)")
    parser.add_argument("--learning-rate", type=float, default=0.1, metavar="R", help="default 0.1")
    parser.add_argument(
        "--route",
        choices=("functional", "jit", "optax", "exact"),
        default="functional",
        help="op by op (default); each step compiled; op by op with optax.sgd; compiled and rounded as torch rounds",
    )
    parser.add_argument(
        "--update",
        choices=("hand", "sgd"),
        help="the torch update to follow: w - lr * w.grad, or torch.optim.SGD; --route exact follows either "
        "(default hand), optax is held against sgd, the others against hand",
    )
    parser.add_argument("--torch", choices=("live", "recorded"), help="run torch now, or use its recorded values")
    parser.add_argument("--w", type=float, default=2.0, metavar="W", help="the guess of the slope (default 2)")
    parser.add_argument("--b", type=float, default=6.0, metavar="B", help="the guess of the intercept (default 6)")
    parser.add_argument("--data", metavar="FILE.csv", help="your own points: a header and two columns, x and y")
    parser.add_argument("--json", action="store_true", help="all values in exact bits, as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from jaxgrad.frameworks import torch_choice, torch_recorded
    from jaxgrad.lesson import LESSON_X, compile_ahead, run_lesson
    from jaxgrad.parity.lesson import compare_lessons
    from jaxgrad.report.values import Verdict
    from jaxgrad.stability import check_descends

    x, y, title = None, None, "the lesson's points"
    if options.data is not None:
        from jaxgrad.points import read_points

        x, y, columns = read_points(options.data)
        title = f"{options.data}: {len(x)} points, x is {columns[0]!r}, y is {columns[1]!r}"
        x, y = x.tolist(), y.tolist()  # Python numbers take JAX's default dtype, float32
    own_run = x is None and torch_recorded.covers(options.w, options.b, options.learning_rate, options.steps)
    source = torch_choice.choose(options.torch, recorded_covers=own_run)
    # XLA compiles outside Python's lock: the printing side is imported meanwhile.
    for work in (
        lambda: compile_ahead(len(x or LESSON_X)),
        lambda: importlib.import_module("jaxgrad.cli.lesson_output"),
    ):
        Thread(target=work).start()  # Python waits for it at exit: XLA dies if it compiles any longer
    order = torch_choice.sum_order(source) if options.route == "exact" else None
    trace = run_lesson(
        x,
        y,
        options.w,
        options.b,
        learning_rate=options.learning_rate,
        steps=options.steps,
        route=options.route,
        update=options.update,
        sum_order=order,
    )
    check_descends(trace)
    torch_trace = torch_choice.run(source, trace) if source else None
    compared = compare_lessons(trace, torch_trace, sum_order=order) if torch_trace else None
    from jaxgrad.cli.lesson_output import as_data, show

    if options.json:
        print(json.dumps(as_data(trace, torch_trace, source, compared), allow_nan=False))
    else:
        show(trace, torch_trace, source, compared, title)
    return compared.verdict.exit_code if compared else Verdict.INCONCLUSIVE.exit_code
