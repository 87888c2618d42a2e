"""``jaxgrad optim``: a torch optimizer as optax code, and where the call of the same name differs."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.util
import json
from typing import Any

from jaxgrad.errors import InputError, require

DESCRIPTION = """\
Print the optax code that makes the steps of a torch optimizer, and say how far the optax optimizer of the same name
ends from torch over 200 steps, and why. The argument is read as data, and never run.
"""

EXAMPLES = """\
examples:
  jaxgrad optim "AdamW(lr=3e-4, betas=(0.9, 0.95))"
  jaxgrad optim "SGD(lr=0.1, momentum=0.9, dampening=0.1)" --json
  jaxgrad optim --table

"""


def add_to(commands: Any, exit_codes: str) -> None:
    """Add the command to the top parser."""
    parser = commands.add_parser(
        "optim",
        help="a torch optimizer as optax code",
        description=DESCRIPTION,
        epilog=EXAMPLES + exit_codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "optimizer", nargs="?", help='torch\'s call, without the parameters: "SGD(lr=0.1, momentum=0.9)"'
    )
    parser.add_argument(
        "--table", action="store_true", help="a Markdown table of all optimizers, measured (needs torch)"
    )
    parser.add_argument("--json", action="store_true", help="code and measurement as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from jaxgrad.torch_optim.measure import translation
    from jaxgrad.torch_optim.specs import checked
    from jaxgrad.torch_optim.table import table

    if options.table:
        print(table(require("torch", "jaxgrad optim --table")))
        return 0
    if options.optimizer is None:
        raise InputError('optim: no optimizer. Pass torch\'s call: jaxgrad optim "SGD(lr=0.1, momentum=0.9)".')
    name, given = parsed(options.optimizer)
    torch = require("torch", "jaxgrad optim") if importlib.util.find_spec("torch") else None
    found = translation(name, checked(name, given), torch)
    if options.json:
        print(json.dumps(_as_json(found), indent=2))
    else:
        print(_as_text(found))
    return 0


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of a call, read as data.

    Args:
      text: ``"torch.optim.AdamW(lr=3e-4)"``, or without the dots; or the name alone.

    Raises:
      InputError: if it is not a call with named literals.
    """
    expected = 'Expected a call with named numbers: "AdamW(lr=3e-4, betas=(0.9, 0.95))".'
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise InputError(f"optim: {text!r} is not Python. {expected}") from error
    arguments: list[ast.keyword] = []
    if isinstance(node, ast.Call):
        if node.args:
            raise InputError(f"optim: {text!r} has an argument without a name. {expected}")
        node, arguments = node.func, node.keywords
    if isinstance(node, ast.Attribute):
        if ast.unparse(node.value) not in ("torch.optim", "optim"):
            raise InputError(f"optim: {ast.unparse(node)} is not in torch.optim. {expected}")
        name = node.attr
    elif isinstance(node, ast.Name):
        name = node.id
    else:
        raise InputError(f"optim: {text!r} is not a call. {expected}")
    found: dict[str, Any] = {}
    for argument in arguments:
        if argument.arg is None or argument.arg in found:
            raise InputError(f"optim: {text!r} has ** or the same option twice. {expected}")
        try:
            found[argument.arg] = ast.literal_eval(argument.value)
        except ValueError as error:
            said = ast.unparse(argument.value)
            raise InputError(f"optim: {argument.arg}={said} is not a literal. {expected}") from error
    return name, found


def _as_text(found: Any) -> str:
    from jaxgrad.torch_optim.pieces import code_in_line

    ours = "torch_optim." in found.code
    lines = ["import optax", *(["from jaxgrad import torch_optim"] if ours else []), ""]
    lines += [f"optimizer = {found.code}", ""]
    if not ours and found.naive_measured.same:
        lines.append(f"the same as in {found.truth}: {_measured(found.naive_measured)}")
        return "\n".join(lines)
    if found.exact is not None:
        lines.append(f"the same as in {found.truth}: {_measured(found.exact)}")
    lines += [f"not the same: {code_in_line(found.naive)}", f"  {_measured(found.naive_measured)}"]
    lines += [f"  since {reason}" for reason in found.reasons]
    return "\n".join(lines)


def _measured(measured: Any) -> str:
    return (
        f"{measured.difference:.1g} apart after 200 steps (float64), {measured.units:.2g} rounding units in one step "
        "(float32)"
    )


def _as_json(found: Any) -> dict[str, Any]:
    from jaxgrad.torch_optim.pieces import code_in_line

    def of(measured: Any) -> Any:
        return None if measured is None else {**dataclasses.asdict(measured), "same": measured.same}

    return {
        "torch": {"optimizer": found.name, "options": found.options},
        "code": found.code,
        "exact": of(found.exact),
        "naive": {"code": code_in_line(found.naive), **of(found.naive_measured)},
        "reasons": list(found.reasons),
        "held against": found.truth,
    }
