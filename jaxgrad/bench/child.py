"""``python -m jaxgrad.bench.child``: what only a process of its own can tell, as JSON on its output.

memory TASK CONTENDER SIZES          the memory of one contender's run; SIZES as JSON
time TASK CONTENDER SIZES REPEATS    its times, on the devices that the environment gives it
first WAY SIZES                      what one of ``first_runs`` finds
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

# A cache of compiled programs would spare one process what another paid for.
_CACHES = ("JAX_COMPILATION_CACHE_DIR",)


class ChildError(Exception):
    """A child ended with an error; the message is its last line."""


def call(*arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a child to its result.

    Args:
      arguments: its command line.
      environment: what differs from this process's.

    Raises:
      ChildError: if it failed.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _CACHES}
    done = subprocess.run(
        [sys.executable, "-m", __name__, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**inherited, **(environment or {})},
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ChildError(said[-1].strip() if said else f"ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def memory_of(task_name: str, contender_name: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Run a contender once, and say what that held."""
    from jaxgrad.bench import memory
    from jaxgrad.bench.tasks import TASKS

    task = TASKS[task_name]
    contender = next(each for each in task.contenders if each.name == contender_name)

    def prepared_for(problem: Any) -> Any:
        prepared = contender.prepare(problem)
        if prepared.before is not None:
            prepared.before()
        return prepared

    # Once on a small problem: the compiler and all libraries are then in memory.
    prepared_for(task.problem({**sizes, **task.quick})).run()
    memory.reset_peak()
    before = memory.resident()
    problem = task.problem(sizes)
    prepared = prepared_for(problem)
    whole = memory.reset_peak()  # the making of the data is not the contender's
    result = prepared.run()
    peak = memory.peak()
    del result
    return {"before": before, "peak": peak, "data": problem.data_bytes, "whole": whole}


def times_of(task_name: str, contender_name: str, sizes: dict[str, int], repeats: int) -> dict[str, Any]:
    """The seconds of a contender's runs, the first left out, and whether its answers were right."""
    from jaxgrad.bench.measuring import measure
    from jaxgrad.bench.tasks import TASKS

    result = measure(TASKS[task_name], sizes, repeats=repeats, memory=False, only=(contender_name,))
    entry = result.entry(contender_name)
    return {
        "state": entry.state,
        "reason": entry.reason,
        "units": entry.units,
        "seconds": entry.seconds.all if entry.seconds else None,
    }


def first_result(way: str, sizes: dict[str, int]) -> dict[str, Any]:
    """What a way of training finds."""
    from jaxgrad.bench.first_runs import WAYS, points

    return {"params": WAYS[way](*points(sizes["rows"]), sizes["steps"])}


def main(arguments: list[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    match arguments:
        case ["memory", task, contender, sizes]:
            found = memory_of(task, contender, json.loads(sizes))
        case ["time", task, contender, sizes, repeats]:
            found = times_of(task, contender, json.loads(sizes), int(repeats))
        case ["first", way, sizes]:
            found = first_result(way, json.loads(sizes))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code)  # what the libraries do at their end is no part of the work
