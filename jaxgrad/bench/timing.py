"""The clock: several things timed in turn, so that what slows the machine for a while slows all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

# Threads of OpenMP and of XLA spin for some milliseconds after their work, in the hope of more; they are let go to
# sleep before another contender's turn.
PAUSE = 0.02

# What takes milliseconds is run again until its turn has lasted so long, and the middle one of these counts: the first
# run after a rest finds cold caches and a processor that has slowed down.
TURN = 0.1
_MOST_RUNS = 100


def seconds(run: Callable[[], Any], repeats: int) -> list[float]:
    """How long each of some runs takes, on the wall's clock."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return found


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    before: Callable[[str], None] = lambda name: None,
    each: Callable[[str, float, Any], None],
    pause: float = PAUSE,
    turn: float = 0.0,
) -> None:
    """Time some runs in turn, A B C A B C ..., never A A B B: a slow minute of the machine then meets all alike.

    Args:
      runs: by name, in the order of their turns; each returns once its result is there.
      repeats: how many rounds.
      before: is told the name before each run, off the clock.
      each: is handed the name, the seconds and the result of each turn, off the clock.
      pause: seconds of rest before each turn.
      turn: seconds that a turn lasts at least, in as many runs as that takes, up to a hundred.
    """
    for _ in range(repeats):
        for name, run in runs.items():
            taken: list[float] = []
            result, spent = None, 0.0
            gc.collect()
            time.sleep(pause)
            while not taken or (spent < turn and len(taken) < _MOST_RUNS):
                del result  # or the assignment below would let it go on the clock
                before(name)
                start = time.perf_counter()
                result = run()
                taken.append(time.perf_counter() - start)
                spent += taken[-1]
            each(name, statistics.median(taken), result)
            del result
