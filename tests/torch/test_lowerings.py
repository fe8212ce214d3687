"""A schedule changes nothing beyond rounding: the zoo in all its lowerings, and windows that are computed again."""

import copy
import weakref
from functools import cache

import pytest
import torch
import torch_cases
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_cases import EXACT, ROOT, ZOO, Case, distance, gradients, outputs, split, vector_input, weights

import nldsl
from nldsl_torch import functions
from nldsl_torch.build import build_source, load_module, module

LAYERS = [n for n in ZOO if vector_input(n)]
TICKS = 35  # whole windows, a part of one, and chunks of every size
zoo = cache(torch_cases.zoo)


def lowered(elaborated, like: torch.nn.Module) -> torch.nn.Module:
    made = module(*elaborated.parts).double()
    made.load_state_dict(like.state_dict())
    return made


def agree(c: Case, other: torch.nn.Module, how: str) -> None:
    """Outputs, states and gradients of `other`, from a state in the middle of a window on."""
    assert how and {k: v.shape for k, v in other.initial_state(2).items()} == {k: v.shape for k, v in c.module.initial_state(2).items()}
    x = c.input(2, 3 + TICKS).requires_grad_()
    ys, ends, grads = [], [], []
    for m in (c.module, other):
        y, state = split(m, x, [3, TICKS])
        ys.append(y)
        ends.append(state)
        grads.append(gradients(m, x, y, weights(y)))
    for found, expected in (ys, ends, grads):
        assert found.keys() == expected.keys()
        for n in found:
            assert distance(expected[n], found[n]) < EXACT, (how, n)


@pytest.mark.parametrize("name", LAYERS)
def test_a_lowering_changes_nothing(name):
    c = zoo(name)
    for how, elaborated in c.elaborated.lowerings().items():
        agree(c, lowered(elaborated, c.module), how)


def test_a_model_of_many_blocks_in_all_its_lowerings():
    program = nldsl.load(ROOT / "examples" / "hope_lm.nl")
    found = program.elaborate("hope_lm", d=8, layers=2, heads=2, C=4, outer=[1, 2], inner=[8, 16]).lowerings()
    assert {"windows computed again", "every recurrence by loop"} < found.keys() and len(found) > 6
    torch.manual_seed(0)
    first, *others = (module(*e.parts).double() for e in found.values())
    given = [torch.randint(0, i.type.bound.integer, (2, 19)) for i in next(iter(found.values())).unit.inputs]
    y = outputs(first(*given))
    w = weights(y)
    expected = torch.autograd.grad(sum((y[n] * w[n]).sum() for n in y), list(first.parameters()), allow_unused=True)
    for how, other in zip(list(found)[1:], others, strict=True):
        other.load_state_dict(first.state_dict())
        z = outputs(other(*given))
        grads = torch.autograd.grad(sum((z[n] * w[n]).sum() for n in z), list(other.parameters()), allow_unused=True)
        for a, b in zip([*z.values(), *grads], [*y.values(), *expected], strict=True):
            assert distance(a, b) < EXACT, how


def test_a_state_goes_from_one_schedule_to_another():
    """In the middle of a window, in either direction, and under a standalone file too."""
    c = zoo("titans_lmm")
    loop = c.elaborated.lowerings()["every recurrence by loop"]
    a, b = c.module, lowered(loop, c.module)
    alone = load_module(build_source(*loop.parts), "alone")
    alone = next(v for v in vars(alone).values() if isinstance(v, type) and issubclass(v, torch.nn.Module))().double()
    alone.load_state_dict(a.state_dict())
    x = c.input(2, 40)
    whole, end = a(x, return_state=True)
    for first, second in ((a, b), (b, a), (a, alone)):
        y, state = first(x[:, :21], return_state=True)
        z, state = second(x[:, 21:], state=state, return_state=True)
        assert distance(torch.cat([y, z], 1), whole) < EXACT
        assert state.keys() == end.keys()
        for n in end:
            assert distance(state[n], end[n]) < EXACT


# --- windows that are computed again -----------------------------------------------------------------

WINDOWED = [n for n in LAYERS if any(f.windows is not None for f in zoo(n).forms.values())]


@cache
def again(name: str) -> torch.nn.Module:
    c = zoo(name)
    return lowered(c.elaborated.lowerings()["windows computed again"], c.module)


class Meter(TorchDispatchMode):
    """Bytes of all storages that operations have made and that are still alive, and the most there were."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, weakref.ref] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and id(storage := t.untyped_storage()) not in self.alive:
                self.alive[id(storage)] = weakref.ref(storage, self._gone(id(storage), storage.nbytes()))
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
        return out

    def _gone(self, key: int, size: int):
        def forget(_):
            del self.alive[key]
            self.now -= size

        return forget


@pytest.mark.parametrize("name", WINDOWED)
def test_computed_again_gradients_are_those_of_torch(name):
    """Higher derivatives too, against those of the windows that are kept."""
    c, x = zoo(name), zoo(name).input(2, 20)
    found = []
    for m in (c.module, again(name)):
        given = x.clone().requires_grad_()
        loss = sum(y.square().sum() for y in outputs(m(given)).values())
        try:
            first = torch.autograd.grad(loss, [given, *m.parameters()], create_graph=True, allow_unused=True, materialize_grads=True)
        except NotImplementedError:  # chunk forms have first derivatives only
            found.append(None)
            continue
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [given, *m.parameters()], allow_unused=True, materialize_grads=True)
        found.append([*first, *second])
    if None in found:
        assert found == [None, None]
        return
    for a, b in zip(*found, strict=True):
        assert distance(b, a) < 1e-8


DEEP = """
block net(d) { in x : real[d]  param up : d -> 8 * d  param down : 8 * d -> d  out y = x + down(gelu(up(x))) }
block deep(d) {
  in x : real[d]
  param Wk, Wv, Wq : d -> d
  memory M : net(d) = learned CLOCK
  out y = M(unit(Wq(x)))
}
"""
CLOCKS = {
    "anchored": "{ minimize 0.5 * sqnorm(M(unit(Wk(x))) - unit(Wv(x))) at start(64) by titans(0.001, 0.9, 0.01) }",
    "slow": "every 64 { minimize 0.5 * sqnorm(M(unit(Wk(x))) - unit(Wv(x))) over sum by momentum(0.001) }",
}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("batch", [4, 16])
def test_windows_computed_again_take_less_memory(clock, batch):
    """At the peak of forward and reverse together; gradients are the same."""
    program = nldsl.load(DEEP.replace("CLOCK", CLOCKS[clock]))
    torch.manual_seed(0)
    plain = program.module("deep", d=16, dtype=torch.float64)
    less = program.module("deep", d=16, dtype=torch.float64, schedule="M recompute")
    less.load_state_dict(plain.state_dict())
    x = torch.randn(batch, 512, 16, dtype=torch.float64)
    most, grads = [], []
    for m in (plain, less):
        with Meter() as meter:
            m(x).square().sum().backward()
        most.append(meter.most)
        grads.append([p.grad for p in m.parameters()])
    for a, b in zip(*grads, strict=True):
        assert distance(b, a) < EXACT
    assert most[1] < 0.45 * most[0], most


def test_under_autocast_windows_are_computed_again_as_they_were():
    program = nldsl.load(DEEP.replace("CLOCK", CLOCKS["anchored"]))
    torch.manual_seed(0)
    plain, less = program.module("deep", d=16), program.module("deep", d=16, schedule="M recompute")
    less.load_state_dict(plain.state_dict())
    x = torch.randn(2, 150, 16)
    for m in (plain, less):
        with torch.autocast("cpu", torch.bfloat16):
            y = m(x)
        y.float().square().sum().backward()  # outside: the reverse has to find the dtype of the forward pass
    for p, q in zip(plain.parameters(), less.parameters(), strict=True):
        assert distance(q.grad, p.grad) < 1e-2


def test_without_gradients_nothing_is_computed_twice(monkeypatch):
    m = copy.deepcopy(again("titans_lmm"))
    x = zoo("titans_lmm").input(2, 40)
    monkeypatch.setattr(functions._Again, "apply", None)
    with torch.no_grad():
        assert m(x).shape[1] == 40
