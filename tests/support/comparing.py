"""``compare`` for tests of what it judges operation by operation: four fifths of its time go into compiling."""

from __future__ import annotations

from functools import partial

import jaxgrad

compare = partial(jaxgrad.compare, compiled=False)
