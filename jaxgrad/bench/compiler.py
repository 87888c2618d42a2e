"""The C programs, compiled where they are measured, for the processor that they run on."""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.resources
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxgrad.bench.contenders import LeftOutError

FLAGS = ("-O3", "-march=native", "-ffast-math")
COMPILERS = ("cc", "gcc", "clang")


def find_compiler() -> list[str] | None:
    """The command of a C compiler: ``$CC``, or the first of cc, gcc and clang that is installed."""
    given = shlex.split(os.environ.get("CC", ""))
    for command in ([given] if given else []) + [[name] for name in COMPILERS]:
        if path := shutil.which(command[0]):
            return [path, *command[1:]]
    return None


def compiler_version() -> str | None:
    """The first line of what the compiler says of itself."""
    command = find_compiler()
    if command is None:
        return None
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0] if said else command[0]


def library(name: str, **defined: int) -> tuple[Any, str]:
    """Compile ``c/NAME.c`` and load it.

    Args:
      name: of the source, without its ending.
      defined: macros, such as ``POINTS=3``: what JAX knows when it compiles, C may know as well.

    Returns:
      The library, for ``call``; and how it was compiled, in words.

    Raises:
      LeftOutError: if there is no compiler, or it fails.
    """
    return _library(name, tuple(sorted(defined.items())))


@functools.cache
def _library(name: str, defined: tuple[tuple[str, int], ...]) -> tuple[Any, str]:
    command = find_compiler()
    if command is None:
        raise LeftOutError(f"no C compiler: none of $CC, {', '.join(COMPILERS)} is installed")
    source = (importlib.resources.files("jaxgrad.bench") / "c" / f"{name}.c").read_text()
    folder = Path(tempfile.mkdtemp(prefix="jaxgrad-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / f"{name}.c").write_text(source)
    macros = [f"-D{macro}={value}" for macro, value in defined]
    said = ""
    for threads in (["-fopenmp"], []):  # Apple's clang has no OpenMP
        compiled = [*command, *FLAGS, *threads, *macros, "-fPIC", "-c", f"{name}.c", "-o", f"{name}.o"]
        # Linked without -ffast-math: with it gcc links code that switches denormal numbers off in the whole process,
        # the other contenders' too.
        linked = [*command, "-shared", *threads, f"{name}.o", "-o", f"{name}.so"]
        for each in (compiled, linked):
            done = subprocess.run(each, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                said = (done.stderr.strip().splitlines() or ["no message"])[0]
                break
        else:
            return ctypes.CDLL(str(folder / f"{name}.so")), " ".join([*FLAGS, *threads])
    raise LeftOutError(f"{Path(command[0]).name} cannot compile {name}.c: {said}")


def pointer(array: np.ndarray) -> Any:
    """The address of a contiguous array, for C."""
    if not array.flags.c_contiguous:
        raise ValueError("C reads contiguous arrays alone")
    return ctypes.c_void_p(array.ctypes.data)
