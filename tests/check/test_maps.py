"""A block without params, memories and a past is its equations, wherever it is used."""

import pytest
import torch

import nldsl
from nldsl.testing import assert_property

ERROR = "block err(d, scale = 0.5) { in a, b : real[d]  out l = scale * sqnorm(a - b) }\n"
HEAD = "in x : real[d]  param K : d -> d  k = unit(K(x))"
WAYS = {
    "an objective": "memory S : d -> d = zeros {{ minimize {} by gd(0.5) }}  out y = S(k)",
    "a stream that is one": "memory S : d -> d = zeros {{ minimize e by gd(0.5) }}  e = {}  out y = S(k)",
    "in a recurrence": "memory S : d -> d = zeros {{ update 0.5 * last S - 0.1 * outer(last S(k) * {}, k) + outer(x, k) }}  out y = S(k)",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_use_is_the_equations(way):
    """The same numbers, bit for bit, as with the body written by hand."""
    read = "S(k)" if way == "an objective" else "last S(k)"
    made = []
    for use in (f"err({read}, x, scale = 0.25)", f"0.25 * sqnorm({read} - x)"):
        program = nldsl.load(f"{ERROR}block m(d) {{ {HEAD}  {WAYS[way].format(use)} }}")
        assert not program.elaborate("m", d=3).unit.instances
        torch.manual_seed(0)
        made.append(program.module("m", d=3))
    x = torch.randn(2, 7, 3)
    assert torch.equal(made[0](x), made[1](x))


def test_in_copies():
    text = f"{ERROR}block m(d, n = 2) {{ {HEAD}  each h in n {{ memory S : d -> d = zeros {{ minimize err(S(k), x) by gd(0.5) }}  o = S(k) }}  out y = flatten(o) }}"
    assert_property(text, ["lowerings", "splits"], examples=3, seconds=20)


def test_maps_of_maps_and_of_lists():
    text = """
block power(d, p = 2) { in x : real[d]  chain y = x over i in 1 .. p { y = y * x }  out z = y }
block both(d) { in x : real[d]  out z = power(x, p = 3) - power(x) }
block m(d) { in x : real[d]  out y = both(x) }
"""
    x = torch.randn(1, 2, 3)
    torch.testing.assert_close(nldsl.load(text).module("m", d=3)(x), x**3 - x**2)


def test_what_is_kept_or_unknown_is_compiled_once():
    """A block with a param, a past, several outputs, or a parameter that is read off its arguments, is a block of its own."""
    for body in ("param W : d -> d  out y = W(x)", "out y = delay(x, 1)", "out y = x  out z = 2 * x", "out y = x / d"):
        use = "f(x)" if "z" not in body else "g.y"
        more = "g = f(x)" if "z" in body else ""
        program = nldsl.load(f"block f(d) {{ in x : real[d]  {body} }} block m(d) {{ in x : real[d]  {more}  out y = {use} }}")
        assert len(program.elaborate("m", d=3).unit.instances) == 1
    divided = nldsl.load("block f(d = 4) { in x : real[d]  out y = x / d } block m(d) { in x : real[d]  out y = f(x) }").module("m", d=2)
    assert torch.equal(divided(torch.ones(1, 1, 2)), torch.full((1, 1, 2), 0.5))
    assert not nldsl.load(
        "block f(d) { in x : real[d]  out y = x / d } block m(d) { in x : real[d]  out y = f(x, d = d) }").elaborate("m", d=3).unit.instances  # fmt: skip


def test_its_arguments_have_the_types_it_declares(codes):
    size = "block f(d = 4) { in a : real[d]  out l = sqnorm(a) }\n"
    assert codes(size + "block m(d) { in x : real[d]  out y = f(x) * x }") == []  # read off the argument
    assert "NL202" in codes(size + "block m(d = 3) { in x : real[d]  out y = f(x, d = 4) * x }")
    assert "NL110" in codes(ERROR + "block m(d) { in x : real[d]  out y = err(x) * x }")
    assert "NL110" in codes(ERROR + "block m(d) { in x : real[d]  out y = err(x, x, scales = 2) * x }")


def test_many_uses_of_many_uses_end(codes):
    """A program too large is refused, in no more time than one that is not."""
    text = "block b0(d) { in x : real[d]  out y = 2 * x }\n"
    text += "".join(f"block b{i}(d) {{ in x : real[d]  out y = b{i - 1}(x) + b{i - 1}(x) }}\n" for i in range(1, 30))
    assert set(codes(text)) == {"NL003"}
