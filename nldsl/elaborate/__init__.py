"""Tree to core: names resolved, `for` unrolled, rules inlined, one operation an equation."""

from nldsl.elaborate.unit import elaborate_unit

__all__ = ["elaborate_unit"]
