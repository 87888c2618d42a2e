"""``jaxgrad bench``: what things cost, as ratios measured in one run."""

from __future__ import annotations

import argparse
import json
from typing import Any

DESCRIPTION = """\
Measure side by side, in one run, and print ratios. Nothing else should run meanwhile.

  compare   jaxgrad.compare on GPT-2 (124 million parameters, random weights), beside the two programs run plainly
            op by op; needs the extra ports
"""

EXAMPLES = """\
examples:
  jaxgrad bench compare
  jaxgrad bench compare --layers 2 --width 64 --heads 2 --json

"""


def add_to(commands: Any, exit_codes: str) -> None:
    """Add the command to the top parser."""
    parser = commands.add_parser(
        "bench",
        help="what things cost, as ratios measured in one run",
        description=DESCRIPTION,
        epilog=EXAMPLES + exit_codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=("compare",), help="what to measure")
    parser.add_argument("--layers", type=int, default=12, metavar="N", help="of the model (default 12)")
    parser.add_argument("--width", type=int, default=768, metavar="N", help="of its hidden states (default 768)")
    parser.add_argument("--heads", type=int, default=12, metavar="N", help="of its attention (default 12)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="in the batch (default 64)")
    parser.add_argument("--json", action="store_true", help="the measurement as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from jaxgrad.bench import bench_compare

    found = bench_compare(layers=options.layers, width=options.width, heads=options.heads, tokens=options.tokens)
    if options.json:
        print(json.dumps(found))
        return 0
    taken = found["seconds"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    print(f"GPT-2 with {found['parameters'] / 1e6:.4g} million parameters, {versions}, {found['device']}")
    print(f"  torch, forward and backward      {taken['torch']:8.2f} s")
    print(f"  JAX, the same, op by op          {taken['jax']:8.2f} s")
    print(f"  compare                          {taken['compare']:8.2f} s")
    print(f"  compare, the first time          {taken['compare the first time']:8.2f} s")
    print(f"  {found['ratio']:.2f} times both; peak memory {found['peak_gib']:.1f} GiB; {found['verdict']}")
    return 0
