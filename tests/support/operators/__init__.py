"""JAX twins of torch's operators, by torch's name; each takes the arguments of the torch function."""

from __future__ import annotations

from support.operators.elementwise import TWINS as _elementwise
from support.operators.fourier import TWINS as _fourier
from support.operators.linear_algebra import TWINS as _linear_algebra
from support.operators.losses import TWINS as _losses
from support.operators.networks import TWINS as _networks
from support.operators.reductions import TWINS as _reductions
from support.operators.shapes import TWINS as _shapes

TWINS = _elementwise | _fourier | _linear_algebra | _losses | _networks | _reductions | _shapes
