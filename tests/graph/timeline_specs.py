"""Specs with clocks of all kinds, and random ones, for the tests of the timeline and of the proof."""

from __future__ import annotations

from hypothesis import strategies as st

SPECS = {
    "plain": "block b(d) { in x : real[d]  memory S : d -> d { minimize -dot(S(x), x) by gd(1) }  out y = S(x) }",
    "offset": "block b(d) { in x : real[d]  memory m : real[d] every 4 offset 1 { minimize -dot(m, x) over mean by gd(1) }  out y = m }",
    "window": "block b(d) { in x : real[d]  k = unit(x)  memory M : d -> d = learned { minimize 0.5 * sqnorm(M(k) - x) at start(4) by "
    "titans(theta = 0.1, eta = 0.9, alpha = 0.1) }  out y = M(k)  out z = start(2) M(k) }",
    "reset": "block b(d) { in x : real[d]  memory m : real[d] every 3 { update last m + x over last  reset every 6 }  out y = last m }",
    "nested": "block b(d) { in x : real[d]  k = unit(x)  memory F : d -> d every 2 { minimize -dot(F(k), x) by gd(0.5)  reset every 4 to G } "
    "memory G : d -> d every 4 { minimize -dot(G(k), x) over mean by momentum(0.5)  reset every 8 to H } "
    "memory H : d -> d = learned every 8 { minimize -dot(H(k), x) by gd(0.5) }  out y = F(k) }",
    "paced": "rule shrunk(a) { update a * last w }  block b(d) { in x : real[d]  memory S : real[d] = learned "
    "{ minimize 0.5 * sqnorm(S - x) by gd(0.5), shrunk(0.5) every 3 }  out y = S }",
    "instances": "block cell(d) { in x : real[d]  memory m : real[d] every 2 { minimize 0.5 * sqnorm(m - x) by gd(0.5) }  out y = x + last m } "
    "block pair(d) { in x : real[d]  h = cell(x)  memory m : real[d] every 3 { update 0.5 * last m + h over last }  out y = cell(h) + m } "
    "block b(d) { in x : real[d]  memory A : store(d -> d, window = 2) { key x  value x }  out y = pair(A(x)) }",
    "two clocks": "block b(d) { in x : real[d]  memory a : real[d] every 4 offset 1 { update 0.5 * last a + x over last } "
    "memory b : real[d] every 4 offset 3 { update 0.5 * last b + a over last }  out y = b  out z = 2 * x }",
    "delays": "block b(d) { in x, u : real[d]  memory m : real[d] = 1 { update 0.5 * last m + delay(x, 3) }  out y = last m + conv(delay(u, 2), 2) }",
}


@st.composite
def programs(draw) -> str:
    """Vector memories with random clocks, resets and windows that read inputs and each other in every version."""
    count = draw(st.integers(1, 4))
    period = st.sampled_from([1, 1, 2, 3, 4, 6])
    lines = []
    for n in range(count):
        every = draw(period)
        offset = draw(st.integers(0, every - 1))
        clock = f"every {every} offset {offset}" if offset else f"every {every}" if every > 1 else ""
        sources = ["x", f"delay(x, {draw(st.integers(1, 3))})", "last x"]
        sources += [f"{version}m{other}" for other in range(n) for version in ("", "last ", f"start({draw(st.integers(2, 4))}) ")]
        # What is defined later may be read with `last`, or as it was at the start of a window.
        sources += [f"{version}m{other}" for other in range(n, count) for version in ("last ", f"start({draw(st.integers(2, 4))}) ")]
        source = draw(st.sampled_from(sources))
        reset = draw(st.sampled_from(["", "", "", f"reset every {draw(period)}", *(f"reset every {draw(period)} to m{other}" for other in range(n))]))
        step = draw(st.sampled_from([f"update 0.9 * last m{n} + {source}{' over last' if every > 1 else ''}",
                                     f"minimize 0.5 * sqnorm(m{n} - {source}) over mean by gd(0.1)"]))  # fmt: skip
        first = "" if " to " in reset else f"= {0.3 + 0.2 * n:.1f} "
        lines.append(f"  memory m{n} : real[d] {first}{clock} {{ {step}  {reset} }}")
    # Every memory is read: a module keeps no others.
    read = " + ".join(f"{draw(st.sampled_from(['', 'last ', 'start(3) ']))}m{n}" for n in reversed(range(count)))
    return "\n".join(["block b(d) {", "  in x : real[d]", *lines, f"  out y = {read}", "}"])
