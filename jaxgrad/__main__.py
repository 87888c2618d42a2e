"""The program: ``jaxgrad`` and ``python -m jaxgrad``."""

import gc
import sys

from jaxgrad.cli import main


def program() -> int:
    """Run the command line in a process of its own; returns the exit code."""
    # Importing jax makes half a million objects that live to the end; looking for garbage among them again and
    # again takes a tenth of the time of a short command (measured).
    gc.set_threshold(200_000, 20, 20)
    return main()


if __name__ == "__main__":
    sys.exit(program())
