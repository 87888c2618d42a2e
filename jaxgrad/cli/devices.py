"""``jaxgrad devices``: what JAX sees here."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

DESCRIPTION = """\
List the devices that JAX sees, with their memory, and how to use all of them.
"""

EXAMPLES = """\
examples:
  jaxgrad devices
  jaxgrad devices --json

"""


def add_to(commands: Any, exit_codes: str) -> None:
    """Add the command to the top parser."""
    parser = commands.add_parser(
        "devices",
        help="what JAX sees here: devices, memory, versions",
        description=DESCRIPTION,
        epilog=EXAMPLES + exit_codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="the list as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    found = _found()
    if options.json:
        print(json.dumps(found))
        return 0
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    print(f"{versions}; {found['cores']} processor cores")
    for each in found["devices"]:
        memory = "" if each["memory_bytes"] is None else f", {each['memory_bytes'] / 2**30:.1f} GiB"
        print(f"  {each['id']}: {each['platform']}, {each['kind']}{memory}")
    if found["platform"] == "cpu" and len(found["devices"]) == 1 and found["cores"] > 1:
        print(
            "the CPU is one device to JAX; to share batches among its cores: "
            f"jaxgrad fit ... --devices {found['cores']}"
        )
    elif len(found["devices"]) > 1:
        print(f"to share each batch among them: jaxgrad fit ... --devices {len(found['devices'])}")
    return 0


def _found() -> dict[str, Any]:
    from importlib.metadata import version

    import jax

    devices = jax.devices()
    return {
        "versions": {name: version(name) for name in ("jaxgrad", "jax", "jaxlib")},
        "platform": devices[0].platform,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processes": jax.process_count(),
        "devices": [
            {
                "id": device.id,
                "platform": device.platform,
                "kind": device.device_kind,
                "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
            }
            for device in devices
        ],
    }
