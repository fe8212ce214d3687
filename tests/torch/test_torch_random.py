"""Random linear memories: whatever the algebra makes of them is the interpreter's value."""

from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_cases import case, check, distance, outputs, split
from torch_programs import HEAD

from nldsl.diagnostics import NlError
from nldsl.lower import plan

numbers = st.sampled_from(["a", "b", "c", "0.9", "0.5 * b", "1 - 0.5 * c", "1", "exp(-softplus(sum(v)))"])
rates = st.sampled_from(["0.4 * b", "0.3", "0.5 * a * c", "0"])
keys = st.sampled_from(["k", "unit(v)", "unit(q)", "unit(x)"])
values = st.sampled_from(["v", "x", "A * q", "0.5 * last S(k)", "b * v"])
terms = st.one_of(
    st.builds("0.5 * sqnorm(S({}) - {})".format, keys, values),
    st.builds("{} * sqnorm(S({}) - {})".format, st.sampled_from(["0.3", "b"]), keys, values),
    st.builds("-dot(S({}), {})".format, keys, values),
    st.builds("0.5 * sqnorm(transpose(S)({}) - {})".format, keys, values),
    st.builds("mean(S({}) * {})".format, keys, values),
)
objectives = st.lists(terms, min_size=1, max_size=3).map(" + ".join).map(lambda text: text.replace("+ -", "- "))
steps = st.one_of(
    st.builds("decay({})".format, numbers),
    st.just("decay(A)"),
    st.just("decay_values(A)"),
    st.builds("gd({})".format, rates),
    st.builds("gd({})".format, rates),
    st.builds("momentum({}, {})".format, rates, numbers),
    st.builds("titans(theta = {}, eta = {}, alpha = 0.1 * c)".format, rates, numbers),
)
reads = st.lists(
    st.sampled_from(["S(q)", "last S(q)", "a * last S(x)", "transpose(S)(v)", "transpose(last S)(k)", "(S(k) - v)", "dot(last S(k), v) * x", "tanh(S(q)) * A",
                     "S(k) * S(q)", "S(last S(q))"]), min_size=1, max_size=3).map(" + ".join)  # fmt: skip
inits = st.sampled_from(["zeros", "learned", "eye"])
writes = st.lists(
    st.sampled_from(["a * last S", "A * last S", "0.5 * last S", "scale_values(A, last S)", "outer(v, k)", "b * outer(v, k)", "-outer(last S(k), b * k)",
                     "-0.3 * outer(last S(k) - v, k)", "A * outer(x, unit(q))", "-outer(0.3 * unit(v), transpose(last S)(unit(v)))", "0.1 * outer(transpose(last S)(k), k)"]),
    min_size=1, max_size=4, unique=True).map(" + ".join).map(lambda text: text.replace("+ -", "- "))  # fmt: skip


def memory(body: str, init: str, out: str) -> str:
    return f"block m(d) {{\n{HEAD}  memory S : d -> d = {init} {{ {body} }}\n  out y = {out}\n}}\n"


def chained(body: str, init: str, out: str, key: str, learner: str) -> str:
    second = f"  memory M : d -> d {{ minimize 0.5 * sqnorm(M({key}) - v) by {learner} }}\n"
    return memory(body, init, f"{out} + M(q)").replace("  out y", f"{second}  out y")


learned = st.builds("minimize {} by {}".format, objectives, st.lists(steps, min_size=1, max_size=4).map(", ".join))
implicit = st.builds(
    "minimize {} by {}implicit({}){}".format,
    terms,
    st.sampled_from(["", "decay(a), ", "gd(0.2), "]),
    rates,
    st.sampled_from(["", ", decay(A)", ", gd(0.2)"]),
)
bodies = st.one_of(learned, learned, writes.map("update {}".format))
programs = st.one_of(
    st.builds(memory, bodies, inits, reads),
    st.builds(memory, bodies, inits, reads),
    st.builds(
        chained,
        bodies,
        inits,
        reads,
        st.sampled_from(["unit(S(q))", "unit(last S(k) + x)"]),
        st.lists(steps, min_size=1, max_size=2).map(", ".join),
    ),
)


@contextmanager
def small_chunks(size=4):
    """Chunks of four ticks, so that a short sequence has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_chunk", lambda machine, transposed: size)
        yield


def same(text: str, refused: tuple[str, ...] = ()) -> None:
    with small_chunks():
        c = case(text, "m", d=3)
        try:
            c.module  # noqa: B018
        except NlError as wrong:
            if wrong.diagnostics[0].code in refused:
                return
            raise
        assert all(f.chunk == 4 for f in c.forms.values() if f.machine is not None)
        check(c, [1, 11], 1, 1e-9)
        x = c.input(2, 11)
        whole = outputs(c.module(x))
        parts, _ = split(c.module, x, [5, 1, 1, 4])
        assert all(distance(parts[n], y) < 1e-9 for n, y in whole.items())


few = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
many = settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))


@few
@given(programs)
def test_some(text):
    same(text)


@settings(few, max_examples=5)
@given(st.builds(memory, implicit, inits, reads))
def test_some_implicit(text):
    same(text, refused=("NL602",))


@pytest.mark.soak
@many
@given(programs)
def test_many(text):
    same(text)


@pytest.mark.soak
@settings(many, max_examples=150)
@given(st.builds(memory, implicit, inits, reads))
def test_many_implicit(text):
    same(text, refused=("NL602",))
