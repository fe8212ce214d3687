"""The static passes in their order. Each is a pure function `(unit, types) -> diagnostics` in a file of its own.

`UNTYPED` need no types and run on units with errors too.
"""

from __future__ import annotations

from collections.abc import Callable

from nldsl.check.causality import causality
from nldsl.check.clocks import clocks
from nldsl.check.gradient_flow import gradient_flow
from nldsl.check.initialisation import initialisation
from nldsl.check.objectives import objectives
from nldsl.check.ownership import ownership
from nldsl.check.recurrences import recurrences
from nldsl.check.shapes import Types
from nldsl.check.sharing import sharing
from nldsl.check.stability import stability
from nldsl.core import Unit
from nldsl.diagnostics import Diagnostic

Pass = Callable[[Unit, Types], list[Diagnostic]]

UNTYPED: tuple[tuple[str, Pass], ...] = (("causality", causality), ("recurrences", recurrences))
TYPED: tuple[tuple[str, Pass], ...] = (
    ("clocks", clocks),
    ("initialisation", initialisation),
    ("ownership", ownership),
    ("objectives", objectives),
    ("sharing", sharing),
    ("ranges", stability),
    ("gradient flow", gradient_flow),
)
