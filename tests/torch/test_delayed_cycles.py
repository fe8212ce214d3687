"""A stream may read a delay of itself: what it was some ticks before, 0 before the first."""

import pytest
import torch
from torch_cases import case, check

from nldsl.pipeline import check_source
from nldsl.source import Source

HEAD = "  in x : real[d]\n  param W : d -> d = normal(0.5)\n  param v : real[d] = ones\n"
BODIES = {
    "by one": "y0 = tanh(W(delay(y0, 1)) + x)  out y = y0",
    "by three": "y0 = tanh(W(delay(y0, 3)) + x)  out y = y0",
    "an output": "out y = tanh(W(delay(y, 1)) + x)",
    "of an expression": "y0 = tanh(z + x)  z = delay(W(y0), 2)  out y = y0 + z",
    "two of one": "y0 = tanh(W(delay(y0, 1)) + 0.5 * delay(y0, 2) + x)  out y = y0",
    "two streams": "a = tanh(W(delay(b, 1)) + x)  b = tanh(delay(a, 2) - x)  out y = a + b",
    "a number times it": "g = sigmoid(dot(v, x))  y0 = g * delay(y0, 1) + x  out y = y0",
    "copies": "each h in 2 { param V : d -> d = normal(0.5)  u = tanh(V(delay(u, 2)) + x) }  out y = flatten(u)",
    "interlocked": "a = tanh(last b + x)  b = 0.5 * last a + delay(W(last b), 2)  out y = a + b",
    "an operator": "M = 0.5 * last M + outer(unit(x), tanh(last M(x) + x))  out y = M(x)",
    "a read of a memory": "memory S : d -> d { minimize 0.5 * sqnorm(S(unit(delay(r, 1) + x)) - x) by decay(0.9), gd(0.5) }  r = tanh(S(x))  out y = r",
    "a memory": "memory s : real[d] = learned { update 0.5 * tanh(W(delay(s, 1))) + x }  out y = s",
    "on the way to a loss": "memory F : d -> d = learned every 2 { minimize e over sum by gd(0.1) }\n"
                            "  y0 = tanh(W(delay(y0, 1)) + last F(x))  e = 0.5 * sqnorm(y0 - x)  out y = y0",
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_all_forms_agree(body: str) -> None:
    check(case(f"block m(d) {{\n{HEAD}  {body}\n}}\n", "m", d=3), [1, 11], 2, 1e-9)


@pytest.mark.parametrize(("body", "step"), [
    (BODIES["by one"], lambda W, x, y: torch.tanh(y(1) @ W.T + x)),
    (BODIES["by three"], lambda W, x, y: torch.tanh(y(3) @ W.T + x)),
    (BODIES["two of one"], lambda W, x, y: torch.tanh(y(1) @ W.T + 0.5 * y(2) + x)),
    (BODIES["a memory"], lambda W, x, y: 0.5 * torch.tanh(y(1) @ W.T) + x),
])  # fmt: skip
def test_a_literal_loop(body, step) -> None:
    c = case(f"block m(d) {{\n{HEAD}  {body}\n}}\n", "m", d=3)
    x, ys = c.input(2, 6), []
    for t in range(6):
        ys.append(step(c.module.W.detach(), x[:, t], lambda n: ys[-n] if len(ys) >= n else torch.zeros(2, 3).double()))
    assert torch.allclose(c.module(x), torch.stack(ys, 1), rtol=1e-12)


@pytest.mark.parametrize("word", ["delay(y0, 0)", "conv(y0, 3)", "rope(y0)"])
def test_what_reads_this_tick_is_refused_with_a_help_that_can_be_typed(word: str) -> None:
    def errors(text: str):
        return check_source(Source("b.nl", f"block m(d) {{\n  in x : real[d]\n  y0 = tanh({text} + x)\n  out y = y0\n}}\n")).errors

    (found,) = errors(word)
    assert (found.code, found.message, found.found, found.help) == ("NL310", "`y0` depends on itself within one tick", "`y0` reads `y0`", "last y0")
    assert not errors(word.replace("y0", "last y0"))
