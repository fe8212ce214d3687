"""The catalogue of diagnostics: one entry a code, the text of `nldsl explain CODE`.

Hundreds: 0 text and syntax, 1 names and elaboration, 2 shapes, 3 clocks, causality and initialisation,
4 memories, objectives and ownership, 5 ranges and stability, 6 lowering, 7 training, 8 command line and files.
"""

from __future__ import annotations

from nldsl.catalogue import commands, lowering, memories, names, ranges, shapes, syntax, time, training
from nldsl.catalogue.page import Code

__all__ = ["CODES", "Code"]

CODES: dict[str, Code] = {
    code: page
    for module in (syntax, names, shapes, time, memories, ranges, lowering, training, commands)
    for code, page in module.PAGES.items()
}
