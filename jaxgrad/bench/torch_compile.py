"""torch.compile, or why it does not run here."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

from jaxgrad.bench.contenders import LeftOutError

COMPILERS = ("c++", "g++", "clang++")


def compiled(torch: Any, function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The compiled function, compiled for these arguments by one call.

    Raises:
      LeftOutError: if torch cannot compile here.
    """
    if not (os.environ.get("CXX") or any(shutil.which(name) for name in COMPILERS)):
        raise LeftOutError("torch.compile has no C++ compiler")
    made = torch.compile(function, fullgraph=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own parts, which its users cannot act on
            made(*arguments)
    except Exception as error:  # what it raises has as many classes as it has stages
        first = (str(error).strip().splitlines() or [""])[0]
        version = f"torch {torch.__version__}, Python {sys.version_info[0]}.{sys.version_info[1]}"
        raise LeftOutError(f"torch.compile fails here ({version}): {type(error).__name__}: {first}") from error
    return made
