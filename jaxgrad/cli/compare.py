"""``jaxgrad compare FILE.py``: a torch training step against its JAX port."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from jaxgrad.errors import InputError, InputTypeError, ProgramError, require

DESCRIPTION = """\
Compare a torch training step with its JAX port: the same computation, the same but for rounding, or different, and
then where the two first part. No mapping between layers, no tolerance.

FILE.py is your own code and is run. It defines three functions without arguments:
  torch_program() -> jaxgrad.TorchProgram(module, loss)     loss(module, *batch) -> scalar tensor
  jax_program()   -> jaxgrad.JaxProgram(params, loss)       loss(params, *batch) -> scalar array
  batches()       -> [(x, y), ...]                          one batch a step, numpy arrays
"""

EXAMPLES = """\
examples:
  jaxgrad compare port.py
  jaxgrad compare port.py --json
  jaxgrad compare port.py --html report.html

"""

FUNCTIONS = ("torch_program", "jax_program", "batches")


def add_to(commands: Any, exit_codes: str) -> None:
    """Add the command to the top parser."""
    parser = commands.add_parser(
        "compare",
        help="a torch training step against its JAX port, with the first divergence",
        description=DESCRIPTION,
        epilog=EXAMPLES + exit_codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE.py", help="defines torch_program(), jax_program() and batches()")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--html", metavar="PATH", help="write the report as a page, too")
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="judge jax.jit of the JAX step too; by default where it takes seconds at most to compile",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    require("torch", "jaxgrad compare")
    from jaxgrad.parity.engine import compare

    try:
        given = load(Path(options.file))
        report = compare(given["torch_program"], given["jax_program"], given["batches"], compiled=options.compiled)
    except ProgramError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__, file=sys.stderr)
        raise
    if options.html is not None:
        report.to_html(options.html)
    print(json.dumps(report.to_data(), allow_nan=False) if options.json else report)
    return report.verdict.exit_code


def load(path: Path) -> dict[str, Any]:
    """Run a file and call the three functions that it must define.

    Raises:
      InputError: if there is no such file, or it does not define all three. ProgramError: if it raises.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Pass a Python file that defines {', '.join(FUNCTIONS)}.")
    spec = importlib.util.spec_from_file_location(f"jaxgrad_compared_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file. Pass one whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and the like look their module up
    sys.path.insert(0, str(path.parent.resolve()))  # what lies beside the file can be imported
    try:
        spec.loader.exec_module(module)
        missing = [name for name in FUNCTIONS if not callable(getattr(module, name, None))]
        if missing:
            raise InputError(f"{path}: defines no {', '.join(missing)}(). Define {', '.join(FUNCTIONS)}, see --help.")
        return {name: getattr(module, name)() for name in FUNCTIONS}
    except (InputError, InputTypeError):
        raise
    except Exception as error:
        raise ProgramError(f"{path}: raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
