import pytest

from nldsl.pipeline import check_source
from nldsl.source import Source


@pytest.fixture
def codes():
    """The codes of a text, in order of place."""
    return lambda text: [d.code for d in check_source(Source("t.nl", text)).diagnostics]


@pytest.fixture
def block(codes):
    """The codes of a block with input x, a unit key k and the given statements."""
    return lambda body, out="S(k)": codes(
        f"block b(d) {{\n  in x : real[d]\n  param a : d -> 1\n  alpha = a(x)\n  k = unit(x)\n  {body}\n  out y = {out} * alpha\n}}"
    )
