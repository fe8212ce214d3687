"""Property tests of `.nl` specs for suites of one's own; see docs/reference/testing.md.

    from nldsl.testing import assert_causal, assert_equivalent

    def test_my_memory():
        assert_equivalent("my_memory.nl")
        assert_causal("my_memory.nl", d=8)

Needs `pip install nldsl[verify]`: torch and hypothesis.
"""

from __future__ import annotations

from typing import Any

from nldsl.program import backend

_WHERE = {
    "nldsl_testing.assertions": (
        "assert_all", "assert_batches", "assert_cadence", "assert_causal", "assert_endings", "assert_equivalent", "assert_finite", "assert_precision",
        "assert_property", "assert_proof", "assert_slopes", "assert_splits", "assert_states", "assert_updates", "check",
    ),
    "nldsl_testing.example": ("Example", "Space", "cuts"),
    "nldsl_testing.programs": ("programs", "rule_texts"),
    "nldsl_testing.subject": ("Subject",),
    "nldsl_testing.verify": ("Budget", "Report", "verify"),
}  # fmt: skip
__all__ = sorted(name for names in _WHERE.values() for name in names)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(backend(module), name)
    raise AttributeError(f"module 'nldsl.testing' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
