"""All hand-written ports, by name."""

from __future__ import annotations

from support import (  # each registers its ports
    ports_dense as ports_dense,
    ports_frameworks as ports_frameworks,
    ports_sequence as ports_sequence,
    ports_structure as ports_structure,
    ports_vision as ports_vision,
)
from support.porting import PORTS, Port, Programs

__all__ = ["PORTS", "Port", "Programs"]
