"""``jaxgrad bench``: what things cost, as ratios measured in one run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxgrad.errors import InputError

NAMES = ("lesson", "rows", "sweep", "batches", "first")
SIZES = ("steps", "rows", "runs", "batch_size")
OF_COMPARE = {"layers": 12, "width": 768, "heads": 12, "tokens": 64}

DESCRIPTION = """\
Measure side by side, in one run, and print ratios. Nothing else should run meanwhile.

  lesson    the lesson's loop on 3 points, every loss kept
  rows      loss and gradient over many rows
  sweep     many runs at once, each with its own start and learning rate
  batches   mini-batches of shuffled rows
  first     a fresh process to its first result, compilation included
  compare   jaxgrad.compare on GPT-2 (124 million parameters, random weights), beside the two programs run plainly
            op by op; needs the extra ports; runs alone

Without a name the first five run, some minutes in all. They are done in torch, NumPy, JAX, jaxgrad and C, as far as
torch and a C compiler are installed, in turn, and each answer is held against float64: one that is wrong has no time.
"""

EXAMPLES = """\
examples:
  jaxgrad bench --quick
  jaxgrad bench lesson rows --grow --json=speed.json
  jaxgrad bench sweep --runs 1000 --steps 100 --repeats 9
  jaxgrad bench compare --layers 2 --width 64 --heads 2 --json

exit codes of bench:
  0  measured
  1  a contender's answer was wrong, or it failed
  2  usage or bad input
"""


def add_to(commands: Any, exit_codes: str) -> None:
    """Add the command to the top parser."""
    parser = commands.add_parser(
        "bench",
        help="what things cost, as ratios measured in one run",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="what to measure (default: all but compare)")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a first look: the ratios mean little")
    for name in SIZES:
        text = f"in the tasks that have {name.replace('_', ' ')}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
    parser.add_argument("--repeats", type=int, metavar="N", help="timed rounds (default 5; with --quick 2)")
    parser.add_argument("--grow", action="store_true", help="also at smaller sizes and on several virtual devices")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory, which takes a process each")
    for name, default in OF_COMPARE.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"compare: of GPT-2 (default {default})")
    parser.add_argument(
        "--json", nargs="?", const="", metavar="PATH", help="as JSON, on standard output or to a file (--json=PATH)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    names = _checked_names(options)
    path = _checked_path(options.json)
    if names == ["compare"]:
        return _compare(options, path)
    from jaxgrad.bench.measuring import check_count
    from jaxgrad.bench.tasks import TASKS

    tasks = [TASKS[name] for name in names]
    sizes = {task.name: _sizes(task, options) for task in tasks}
    for name in SIZES:
        if getattr(options, name) is not None and not any(name in task.sizes for task in tasks):
            raise InputError(f"bench: {', '.join(names)} has no --{name.replace('_', '-')}. Leave it out.")
    repeats = options.repeats if options.repeats is not None else 2 if options.quick else 5
    check_count("bench", "repeats", repeats)
    measured = _Measured()
    try:
        with _progress() as say:
            for task in tasks:
                measured.add(task, sizes[task.name], repeats, options, say)
    except KeyboardInterrupt:
        measured.interrupted = True
    return _tell(measured, options, path)


class _Measured:
    """What was measured until now."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.growths: list[Any] = []
        self.interrupted = False

    def add(self, task: Any, sizes: dict[str, int], repeats: int, options: argparse.Namespace, say: Any) -> None:
        """Measure one more task; raises KeyboardInterrupt if it was interrupted, with what it has kept."""
        from jaxgrad.bench.growth import grow
        from jaxgrad.bench.measuring import measure

        memory = not (options.no_memory or options.quick)
        result = measure(task, sizes, repeats=repeats, memory=memory, say=say)
        self.results.append(result)
        if result.interrupted:
            raise KeyboardInterrupt
        if options.grow:
            self.growths += grow(task, result, say=say)


def _tell(measured: _Measured, options: argparse.Namespace, path: Path | None) -> int:
    from jaxgrad.bench.machine import this_machine
    from jaxgrad.bench.values import SCHEMA
    from jaxgrad.cli.bench_output import show

    machine = this_machine()
    data = {
        "schema": SCHEMA,
        "quick": options.quick,
        "interrupted": measured.interrupted,
        "machine": machine,
        "tasks": [result.to_data() for result in measured.results],
        "growth": [growth.to_data() for growth in measured.growths],
    }
    _write(data, options.json, path)
    if options.json != "":
        show(machine, measured.results, measured.growths, quick=options.quick)
    if measured.interrupted:
        print("jaxgrad: interrupted; the above was measured until then", file=sys.stderr)
        return 130
    return 0 if all(result.good for result in measured.results) else 1


def _write(data: dict[str, Any], given: str | None, path: Path | None) -> None:
    if path is not None:
        from jaxgrad.files import write_text

        write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")
    elif given is not None:
        print(json.dumps(data, allow_nan=False))


def _checked_names(options: argparse.Namespace) -> list[str]:
    """The tasks in the order given, each once."""
    names = list(dict.fromkeys(options.tasks)) or list(NAMES)
    known = (*NAMES, "compare")
    for name in names:
        if name not in known:
            raise InputError(f"bench: there is no task {name!r}, expected {', '.join(known)}. Pass one of them.")
    of_compare = [name for name in OF_COMPARE if getattr(options, name) is not None]
    if "compare" not in names:
        if of_compare:
            raise InputError(f"bench: --{of_compare[0]} is for compare alone. Pass it with: jaxgrad bench compare.")
        return names
    if len(names) > 1:
        raise InputError("bench: compare runs alone, since it fills the memory. Run jaxgrad bench compare by itself.")
    others = [name for name in (*SIZES, "repeats") if getattr(options, name) is not None]
    others += [name for name in ("quick", "grow", "no_memory") if getattr(options, name)]
    if others:
        raise InputError(f"bench: compare has no --{others[0].replace('_', '-')}. Pass --layers, --width or --tokens.")
    return names


def _checked_path(given: str | None) -> Path | None:
    """Where the JSON goes, refused before the work where it cannot go there."""
    if not given:
        return None
    path = Path(given)
    if given in (*NAMES, "compare"):
        raise InputError(
            f"bench: --json {given} would write a file named {given}. Pass the tasks first, or --json=PATH."
        )
    if path.is_dir():
        raise InputError(f"bench: --json={given} is a folder, expected a file. Pass {path / 'bench.json'}, say.")
    if not path.parent.is_dir():
        raise InputError(f"bench: --json={given} is in a folder that does not exist. Make {path.parent} first.")
    return path


def _sizes(task: Any, options: argparse.Namespace) -> dict[str, int]:
    from jaxgrad.bench.measuring import check_sizes

    given = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    start = task.quick if options.quick else {}
    sizes = check_sizes(task, {**start, **{name: size for name, size in given.items() if name in task.sizes}})
    if sizes.get("batch_size", 1) > sizes.get("rows", sizes.get("batch_size", 1)):
        raise InputError(
            f"bench {task.name}: --batch-size {sizes['batch_size']} is more than the {sizes['rows']} rows. "
            "Pass a smaller one, or more --rows."
        )
    return sizes


@contextmanager
def _progress() -> Iterator[Any]:
    """A line on standard error that says what runs, where somebody watches."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as status:
        yield lambda text: status.update(text)


def _compare(options: argparse.Namespace, path: Path | None) -> int:
    from jaxgrad.bench import bench_compare
    from jaxgrad.cli.bench_output import show_compare

    given = {name: getattr(options, name) for name in OF_COMPARE}
    found = bench_compare(**{name: OF_COMPARE[name] if size is None else size for name, size in given.items()})
    _write(found, options.json, path)
    if options.json != "":
        show_compare(found)
    return 0
