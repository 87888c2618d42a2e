"""The command line: parse, call, print, exit code. One module a command; no logic lives here."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from jaxgrad.cli import bench, compare, devices, fit, lesson, optim, sweep
from jaxgrad.errors import DivergenceError, JaxgradError

EXIT_CODES = """\
exit codes:
  0  the same (identical, or only rounding differs)
  1  different, or the run diverges
  2  usage or bad input
  3  inconclusive: nothing to compare with, or not enough
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; each command's module adds its own."""
    top = argparse.ArgumentParser(
        prog="jaxgrad",
        description="The torch autograd lesson as pure JAX functions, and a proof, step by step, that it is the same.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the versions of jaxgrad, jax and optax, and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for module in (lesson, compare, optim, fit, sweep, devices, bench):
        module.add_to(commands, EXIT_CODES)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
      arguments: without the program's name; ``sys.argv[1:]`` by default.

    Returns:
      The exit code. Errors that jaxgrad raises on purpose become one line on standard error.
    """
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except DivergenceError as error:
        print(f"jaxgrad: {error}", file=sys.stderr)
        return 1
    except JaxgradError as error:
        print(f"jaxgrad: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        said = "; ".join(("interrupted", *getattr(stopped, "__notes__", ())))
        print(f"jaxgrad: {said}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) is gone: end quietly
        _drop_output()
        return 0
    except OSError as error:  # a full disk, say
        _drop_output()
        print(f"jaxgrad: {error}", file=sys.stderr)
        return 2


def _run(arguments: Sequence[str] | None) -> int:
    top = parser()
    try:
        options = top.parse_args(_with_negative_numbers(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as stop:  # argparse exits by itself for --help and for a usage error
        return int(stop.code or 0)
    if options.version:
        from importlib.metadata import version

        print(", ".join(f"{package} {version(package)}" for package in ("jaxgrad", "jax", "optax")))
        return 0
    if options.command is None:
        top.print_help()
        return 2
    return options.run(options)


def _with_negative_numbers(arguments: Sequence[str]) -> list[str]:
    """``--b -1e-3`` as ``--b=-1e-3``: argparse before Python 3.14 takes the exponent for an option."""
    joined: list[str] = []
    for argument in arguments:
        negative = argument.startswith("-") and "e" in argument.lower() and _is_number(argument)
        if negative and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _drop_output() -> None:
    """Let what is still buffered go nowhere, or Python complains of it when it flushes at exit."""
    with contextlib.suppress(OSError):  # an output that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
