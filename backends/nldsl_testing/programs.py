"""Strategies for whole well-typed `.nl` programs and rules.

    from hypothesis import given
    from nldsl.testing import programs

    @given(programs())
    def test_it(text): ...

The last block of a text is `main`; all its parameters have defaults. Few texts are refused by the checker: give those
to `hypothesis.assume`.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from nldsl_testing.grammar_blocks import main_block
from nldsl_testing.grammar_expressions import Draw
from nldsl_testing.grammar_structures import File, rule_text


@st.composite
def programs(draw: Any, *, wild: bool = False, memories: int = 3) -> str:
    """Texts of programs with up to so many memories in a place of the main block.

    With `wild`, retentions, rates and keys have no bound, so values may grow until they overflow.
    """
    choice = Draw(draw, wild)
    file = File(choice)
    main = main_block(choice, file, memories)
    return f"{file.text()}\n{main}"


@st.composite
def rule_texts(draw: Any) -> str:
    """Texts of one rule `learner`, which learns on tensors of any shape."""
    return rule_text(Draw(draw), "learner", "rate = 0.1, beta = 0.9")


__all__ = ["programs", "rule_texts"]
