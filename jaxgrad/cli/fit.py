"""``jaxgrad fit``: the true learning loop on the columns of a table."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

DESCRIPTION = """\
Fit a line to the columns of a table by gradient descent: shuffled batches, any of torch's optimizers, a learning rate
that drops when improvement slows, validation, checkpoints, several devices. The columns are scaled to mean 0 and
standard deviation 1 for the descent; what is printed is in their own units.

DATA is a .csv, .tsv or .parquet file, or a folder of .parquet files, and may be larger than memory (extra data).
"""

EXAMPLES = """\
examples:
  jaxgrad fit houses.csv --x size --y price
  jaxgrad fit houses.csv --x size,rooms --y price --batch-size 32 --steps 20000 --optimizer "Adam(lr=1e-2)" --plateau 5
  jaxgrad fit houses.parquet --x size --y price --batch-size 256 --checkpoint run1 --resume
  jaxgrad fit houses.csv --x size --y price --devices 2 --processes 2

"""


def add_to(commands: Any, exit_codes: str) -> None:
    """Add the command to the top parser."""
    parser = commands.add_parser(
        "fit",
        help="fit a line to the columns of a table: the true learning loop",
        description=DESCRIPTION,
        epilog=EXAMPLES + exit_codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument("data", metavar="DATA", help="the table")
    data.add_argument("--x", required=True, metavar="NAME[,NAME]", help="the column or columns to predict from")
    data.add_argument("--y", required=True, metavar="NAME[,NAME]", help="the column or columns to predict")
    data.add_argument("--drop", action="store_true", help="leave out rows with a value that is missing or not finite")
    data.add_argument("--scratch", metavar="FOLDER", help="keep a large table's numbers there, for later runs")
    data.add_argument("--no-scale", action="store_true", help="descend on the columns as they are")
    data.add_argument("--validate", type=float, metavar="SHARE", help="hold out a share of the rows, such as 0.2")
    loop = parser.add_argument_group("loop")
    loop.add_argument("--steps", type=int, default=1000, metavar="N", help="how many (default 1000)")
    loop.add_argument("--batch-size", type=int, metavar="N", help="shuffled rows a step (default: all rows)")
    loop.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffling (default 0)")
    loop.add_argument("--patience", type=int, metavar="N", help="stop after so many validations without improvement")
    optimizer = parser.add_argument_group("optimizer")
    optimizer.add_argument("--learning-rate", type=float, metavar="R", help="of gradient descent (default 0.1)")
    optimizer.add_argument("--optimizer", metavar="CALL", help='torch\'s call instead: "AdamW(lr=3e-4)"')
    optimizer.add_argument(
        "--plateau",
        type=int,
        metavar="N",
        help="divide the rate by 10 after N epochs (or steps of "
        "all rows) without improvement, as torch's ReduceLROnPlateau",
    )
    optimizer.add_argument("--accumulate", type=int, metavar="N", help="add up the gradients of N batches for a step")
    optimizer.add_argument("--clip", type=float, metavar="NORM", help="clip the gradients' norm")
    keeping = parser.add_argument_group("checkpoints")
    keeping.add_argument("--checkpoint", metavar="FOLDER", help="save there (extra checkpoint)")
    keeping.add_argument("--checkpoint-every", type=int, metavar="N", help="steps (default: a tenth of all)")
    keeping.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    many = parser.add_argument_group("many devices")
    many.add_argument("--devices", type=int, metavar="N", help="share each batch among N devices of each process")
    many.add_argument(
        "--processes", type=int, metavar="N", help="in N processes: all on this host, unless --coordinator"
    )
    many.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process, where there are several hosts")
    many.add_argument("--process-index", type=int, metavar="I", help="of this process, from 0, with --coordinator")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from jaxgrad import processes
    from jaxgrad.cli import fit_output
    from jaxgrad.cli.fit_setup import check_options, make_optimizer

    check_options(options)
    joined = processes.join_launched(options.devices)
    if options.processes is not None and not joined:
        if options.coordinator is None:
            return processes.launch(processes.this_program(), options.processes)
        processes.join(options.coordinator, options.processes, options.process_index, local_devices=options.devices)
    elif options.devices is not None and not joined:
        processes.set_cpu_devices(options.devices)

    if joined or options.coordinator is not None:
        processes.keep_output_apart()

    import jax

    from jaxgrad.sharding import rows_mesh
    from jaxgrad.table_fit import Scaling, held_out, squared_error
    from jaxgrad.tables import read_table
    from jaxgrad.training import fit

    table = read_table(options.data, options.x, options.y, dtype="float64", drop=options.drop, scratch=options.scratch)
    names = (*table.x_names, *table.y_names)
    scaling = Scaling.none(*table.data) if options.no_scale else Scaling.of(*table.data, names)
    scaled = scaling.apply(*table.data)
    data, validation = (
        held_out(*scaled, options.validate, options.seed) if options.validate is not None else (scaled, None)
    )
    optimizer = make_optimizer(options, len(data[0]))
    mesh = rows_mesh(function="fit") if options.devices is not None or jax.process_count() > 1 else None
    first = jax.process_index() == 0
    said = fit_output.header(table, options, mesh)
    if first and not options.json:
        print(said, flush=True)
    began = time.perf_counter()
    found = fit(
        squared_error,
        scaling.guess(),
        data,
        optimizer,
        steps=options.steps,
        batch_size=options.batch_size,
        key=options.seed,
        validation=validation,
        patience=options.patience,
        checkpoint=options.checkpoint,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
        mesh=mesh,
        progress=first and not options.json and sys.stderr.isatty(),
    )
    if first:
        fit_output.show(found, scaling, table, options, time.perf_counter() - began)
    return 130 if found.stopped == "interrupted" else 0
