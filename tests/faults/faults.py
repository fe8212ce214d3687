"""Faults in the compiler that `nldsl verify` has to find: each is one wrong line, of a kind that people write.

A fault in what reads and elaborates a text (`nldsl/elaborate`, `nldsl/vocabulary.py`) changes the interpreter and the compiler in
the same way, so only the interpreter's own reference can tell: the independent recurrences of `tests/zoo` and `tests/interpreter`
look for those. Of the checker there is what shows in a program: a bound or a shape that is wrong, a text that is let through and
has no meaning. What it refuses for its readers' sake (a rate with a value at each tick in a slow step, NL304) runs alike everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

# The examples of `--quick`, and more time: a busy machine tries as many as a quiet one.
QUICK = ("--quick", "--seconds", "60")
# More, where what has to be drawn is rare: several chunks, one of many lowerings.
LONG = ("--examples", "20", "--seconds", "40")


@dataclass(frozen=True)
class Fault:
    """One wrong place.

    Attributes:
        name: what is wrong, in a few words.
        kind: the class of fault it is one of.
        file: where, from the root of the checkout.
        old, new: the right text, which stands there once, and the wrong one.
        specs: what is verified, one after the other until a property fails: files, or options of `nldsl verify`.
        options: of `nldsl verify`, how much is tried.
        rejects: the code with which the right checker rejects the specs.
    """

    name: str
    kind: str
    file: str
    old: str
    new: str
    specs: tuple[str, ...]
    options: tuple[str, ...] = QUICK
    rejects: str = ""

    def put_into(self, text: str) -> str:
        if text.count(self.old) != 1:
            raise ValueError(f"the fault `{self.name}` has to stand once in {self.file}, not {text.count(self.old)} times: {self.old}")
        return text.replace(self.old, self.new)


LOWER, CHECK, TORCH, OPTIM = "nldsl/lower/", "nldsl/check/", "backends/nldsl_torch/", "backends/nldsl_torch/optim/"

DERIVATIVES = (
    Fault("copies are not added up", "dropped term", LOWER + "differentiate.py",
          "for axis in [a for a in work.type(value).axes if a not in wanted.axes]:", "for axis in list[Axis]():", ("shared.nl",)),
    Fault("copies are averaged", "factor", TORCH + "ops.py",
          """return f"{text(e.args[0])}.sum(-{len(t.shape) + len(t.axes)""", """return f"{text(e.args[0])}.mean(-{len(t.shape) + len(t.axes)""", ("shared.nl",)),
    Fault("half a squared norm", "factor", LOWER + "differentiate.py", "w.mul(w.mul(Num(2.0), c), a[0]),)", "w.mul(c, a[0]),)", ("delta.nl",)),
    Fault("slope of tanh", "sign", LOWER + "differentiate.py",
          '"tanh": (lambda w, a, y, c: w.mul(c, w.emit("sub", ', '"tanh": (lambda w, a, y, c: w.mul(c, w.emit("add", ', ("words.nl",)),
    Fault("projection of unit", "dropped term", LOWER + "differentiate.py",
          'work.emit("sub", c, work.mul(inner, y)), r)', "c, r)", ("words.nl",)),
    Fault("sides of a write", "argument order", LOWER + "differentiate.py",
          'lambda w, a, y, c: w.emit("outer", c, a[1])', 'lambda w, a, y, c: w.emit("outer", a[1], c)', ("delta.nl",)),
    Fault("sign of a difference", "sign", LOWER + "differentiate.py",
          '"sub": (lambda w, a, y, c: c, lambda w, a, y, c: w.neg(c))', '"sub": (lambda w, a, y, c: c, lambda w, a, y, c: c)', ("words.nl",)),
    Fault("a stop that passes", "missing stop", LOWER + "differentiate.py",
          '"stop": (lambda w, a, y, c: None,)', '"stop": (lambda w, a, y, c: c,)', ("stops.nl",)),
    Fault("writes that do not stop", "missing stop", LOWER + "differentiate.py",
          '"copy", (_stopped(work, e.args[0]),))', '"copy", (e.args[0],))', ("stops.nl",)),
    Fault("only the last use", "dropped term", LOWER + "differentiate.py",
          "adjoints[name] = work.add(adjoints[name], contribution) if name in adjoints else contribution", "adjoints[name] = contribution", ("words.nl",)),
    Fault("implicit denominator", "sign", LOWER + "implicit.py", 'work.emit("sub", Num(1.0), work.mul(kappa, alpha)',
          'work.emit("add", Num(1.0), work.mul(kappa, alpha)', ("implicit.nl",)),
    Fault("a scale on the ring", "factor", LOWER + "implicit.py",
          "return work.mul(factor.number, value)", "return value", ("implicit.nl",)),
)  # fmt: skip

PASSES = (
    Fault("the other branch", "wrong choice", LOWER + "constants.py", "values[0] is None or values[0] > 0 else", "values[0] is None or values[0] >= 0 else",
          ("words.nl",)),
    Fault("zero minus", "sign", LOWER + "constants.py", 'e.args[1] if zero[0] and e.op == "add" else None', "e.args[1] if zero[0] else None",
          ("words.nl",)),
    Fault("a factor of -1 is a copy", "sign", LOWER + "copies.py", "number(e.args[0]) == 1.0:", "number(e.args[0]) in (1.0, -1.0):", ("words.nl",)),
    Fault("two delays are one", "stale value", LOWER + "share.py", 'tuple(a for a in e.attrs if e.op != "attend" or a[0] != "of"))', "())", ("past.nl",)),
    Fault("now is before", "off by one tick", LOWER + "share.py", "else (type(atom).__name__, atom.name)", "else atom.name", ("past.nl",)),
    Fault("readers first", "wrong order", LOWER + "order.py", "done.append(waiting.pop(stack.pop()))", "done.insert(0, waiting.pop(stack.pop()))", ("delta.nl",)),
    Fault("transposed write", "argument order", LOWER + "rewrite.py",
          'self.emit("outer", e.args[1], e.args[0], hint=hint)', 'self.emit("outer", e.args[0], e.args[1], hint=hint)', ("sides.nl",)),
    Fault("factors gathered as a sum", "factor", LOWER + "rewrite.py", "else Num(left[0] * right[0])",
          "else Num(left[0] + right[0])", ("delta.nl", "words.nl")),
    Fault("maps before their recurrence", "wrong order", LOWER + "schedule.py",
          "(0 if plain and _is_map(p, recurrent, nodes) else 1)", "0", ("delta.nl", "past.nl", "scan.nl")),
    Fault("an implicit read of the future", "future read", LOWER + "plan.py", '"delay", (Ref(atom.name),), ticks=1)', '"copy", (Ref(atom.name),))', ("past.nl",)),
    Fault("a register of two ticks", "off by one tick", LOWER + "plan.py", "(Ref(atom.name),), ticks=1)", "(Ref(atom.name),), ticks=2)", ("past.nl",)),
    Fault("rounded values in parallel", "dtype", LOWER + "plan.py", "if e.name in names or any(isinstance(a, Ref) and a.name in names for a in e.args):",
          "if False:", ("rounding.nl",)),
    Fault("channels of the wrong side", "wrong side", LOWER + "plan.py", "channels = factor.values if transposed else factor.keys\n    span",
          "channels = None\n    span", ("channels.nl",)),
)  # fmt: skip

FORMS = (
    Fault("subtracted input", "sign", LOWER + "scan.py", 'return b if op == "add" else work.neg(b)', "return b", ("scan.nl",)),
    Fault("decay of the state alone", "decay order", LOWER + "scan.py",
          "tuple(None if x is None else work.emit(e.op, x, by) for x in left)",
          "(None if left[0] is None else work.emit(e.op, left[0], by), left[1])", ("scan.nl",)),
    Fault("decay before the write", "decay order", LOWER + "affine.py",
          'replace(f, number=self.work.mul(a, f.number, "c"))) for b, f in w.terms)',
          'replace(f, number=self.work.mul(a, f.number, "c")) if b in self.states else f) for b, f in w.terms)', ("hebb.nl",)),
    Fault("an added difference", "sign", LOWER + "affine.py", "b if e.op == \"add\" else self._scale(b, Num(-1.0)), e.span)", "b, e.span)",
          ("hebb.nl", "delta.nl")),
    Fault("a read before is a read after", "off by one tick", LOWER + "affine.py", "state = operator.name if isinstance(operator, Ref) and",
          "state = operator.name if", ("delta.nl",)),
    Fault("logarithm of sigmoid", "sign", LOWER + "retention.py", 'work.emit("softplus", work.neg(e.args[0]))', 'work.emit("softplus", e.args[0])',
          ("delta.nl",)),
    Fault("logarithm of a root", "factor", LOWER + "retention.py", "work.mul(Num(0.5), log(work", "work.mul(Num(2.0), log(work", ("hebb.nl",)),
    Fault("retention above 1", "wrong bound", LOWER + "retention.py", "0 <= interval(a).low and interval(a).high <= 1", "0 <= interval(a).low",
          ("gates.nl",)),
    Fault("windows without a phase", "window phase", LOWER + "windows.py", "return ticks, first % ticks", "return ticks, 0", ("slow.nl",)),
    Fault("windows of the slowest", "missed ticks", LOWER + "windows.py", "ticks = gcd(*(n for n, _ in marks),", "ticks = max(*(n for n, _ in marks),",
          ("clocks.nl",)),
    Fault("subtracted gradients", "sign", LOWER + "windows.py", 'Equation(name, "add", (Last(name), e.args[0])', 'Equation(name, "sub", (Last(name), e.args[0])',
          ("slow.nl",)),
    Fault("a slow stream that changes", "stale value", LOWER + "windows.py", "isinstance(a, Last) and a.name not in fast)", "isinstance(a, Last))",
          ("deep.nl", "reset.nl", "slow.nl")),
)  # fmt: skip

MODULES = (
    Fault("a copy goes by its own name", "wrong order", LOWER + "stagger.py",
          "if of not in alive and copy in alive:", "if of in alive and copy in alive:", ("rounds.nl",)),
    Fault("a param has the dimensions of a stream", "wrong axis", TORCH + "streams.py",
          "x.expand(*lead, *x.shape[x.dim() - rank :])", "x.expand(*lead, *x.shape[len(lead) :])", ("constant.nl",)),
    Fault("a short past", "off by one tick", TORCH + "keeping.py", '- (1 if e.op == "conv" else 0)', "- 1", ("past.nl",)),
    Fault("first state carried", "wrong carry", TORCH + "steps.py", "{now}[:, -1]'", "{now}[:, 0]'", ("scan.nl",)),
    Fault("state of a part is lost", "state not returned", TORCH + "steps.py", "new |= whole(part_, ", "whole(part_, ", ("parts.nl",)),
    Fault("ticks are not counted", "tick counter", TORCH + "module.py", '= state[":tick"] + T', '= state[":tick"] + 1', ("past.nl",)),
    Fault("the caller's state is written", "aliasing", TORCH + "module.py", '"        new = dict(state)"', '"        new = state"', ("delta.nl",)),
    Fault("a learned start is zero", "initial state", TORCH + "module.py", "if state.learned is not None:", "if False:", ("delta.nl",)),
    Fault("an identity of ones", "initial state", TORCH + "initial.py", "torch.eye({shape[-1]}", "torch.full(({shape[-1]}, {shape[-1]}), 1.0",
          ("hebb.nl",)),
    Fault("sign of a first value", "initial state", TORCH + "initial.py", 'return f"(-{_value(a', 'return f"(+{_value(a', ("first.nl",)),
    Fault("no brackets", "wrong order", TORCH + "body.py", 'char in "+-*/@"', 'char in "*/@"', ("past.nl",)),
    Fault("a clock one tick late", "off by one tick", TORCH + "recurrence.py", "state.offset, '(tick + 1)')", "state.offset, 'tick')",
          ("slow.nl",)),
    Fault("a reset one tick late", "off by one tick", TORCH + "recurrence.py", 'f"if tick % {s.reset} == 0:"', 'f"if tick % {s.reset} == 1:"', ("reset.nl",)),
    Fault("sums are never cleared", "dropped flush", TORCH + "recurrence.py", "{total} = torch.zeros_like({total})", "{total} = {total}", ("slow.nl",)),
    Fault("mean of one tick less", "wrong count", TORCH + "recurrence.py", "/ {memory.every}", "/ {memory.every - 1}", ("slow.nl",)),
    Fault("resets in the wrong order", "wrong order", TORCH + "recurrence.py",
          "next(s for s in waiting if s.base not in {w.name for w in waiting})", "next(s for s in waiting)", ("reset.nl",)),
    Fault("no step at the end of a stream", "dropped flush", TORCH + "finish.py", "states = due(unit)\n    if states:",
          "states = []\n    if states:", ("ends.nl",)),
    Fault("a step at each end of a stream", "dropped flush", TORCH + "finish.py", "{text} if fresh and {since}", "{text} if {since}", ("ends.nl",)),
    Fault("gradients that outlive their stream", "dropped flush", TORCH + "finish.py", "torch.zeros_like(state[\"{key}\"])'", "state[\"{key}\"]'", ("ends.nl",)),
    Fault("a mean of the ticks there are", "wrong count", TORCH + "finish.py", "/ {memory.every}", "/ max(1, tick % {memory.every})", ("ends.nl",)),
    Fault("stop does not detach", "missing stop", TORCH + "ops.py", '"stop": "{}.detach()"', '"stop": "{}"', ("stops.nl",)),
    Fault("no rounding", "dtype", TORCH + "ops.py", '"bfloat16": "{}.bfloat16()"', '"bfloat16": "{}"', ("rounding.nl",)),
    Fault("the other extreme", "wrong choice", TORCH + "ops.py", "torch.{e.op}imum(", "torch.{'min' if e.op == 'max' else 'max'}imum(", ("words.nl",)),
    Fault("softmax over the batch", "wrong axis", TORCH + "ops.py", '"{}.softmax(-1)"', '"{}.softmax(0)"', ("store.nl",)),
    Fault("copies in the wrong place", "wrong axis", TORCH + "ops.py", "present = [axis in given.axes for axis in wanted.axes]",
          "present = [axis in given.axes for axis in wanted.axes[::-1]]", ("heads.nl",)),
)  # fmt: skip

KERNELS = (
    Fault("the start is kept as after one tick", "wrong carry", TORCH + "chunks.py", 'self.say("P = p1[..., -1:]")', 'self.say("P = p1[..., :1]")', ("chunks.nl",)),
    Fault("known writes do not last", "wrong carry", TORCH + "chunks.py", "{'F' if self.known else 'None'}", "None", ("hebb.nl",)),
    Fault("an unknown sees itself", "mask diagonal", TORCH + "kernels.py", 'parts = [f"{after}.tril(-1)"]', 'parts = [f"{after}"]', ("writes.nl",)),
    Fault("the first tick forgets", "initial state", TORCH + "kernels.py", "before = self.before(self.p[s, m], 1.0 if s == m else 0.0)",
          "before = self.before(self.p[s, m], 0.0)", ("hebb.nl", "delta.nl")),
    Fault("momentum of the same tick", "off by one tick", TORCH + "kernels.py", "{L} @ ({self.before(self.K[s, w.name])} *", "{L} @ ({self.K[s, w.name]} *",
          ("delta.nl",)),
    Fault("a read before, with the decay", "off by one tick", TORCH + "kernels.py", "{self.weighted(probe, factor)}, {n}, exclusive=True)",
          "{self.weighted(probe, factor)}, {n})", ("channels.nl",)),
    Fault("no gradient of the retention", "dropped gradient", TORCH + "runtime.py", "given = M.sum(-1) - M.sum(-2) + given", "pass", ("delta.nl",)),
    Fault("no gradient of what is kept", "dropped gradient", TORCH + "runtime.py", "dP = _keep_grad(starts, dends, P) if need[6] else None",
          "dP = None", ("delta.nl",)),
    Fault("gradient of the system", "mask diagonal", TORCH + "runtime.py", "(dy @ delta.mT).tril_(-1)", "(dy @ delta.mT).triu_(1)", ("delta.nl",)),
    Fault("each chunk reads the first start", "wrong carry", TORCH + "runtime.py", "out = Q @ starts.mT", "out = Q @ starts[:, :1].mT", ("chunks.nl",), LONG),
    Fault("a stretch starts anew", "wrong carry", TORCH + "runtime.py",
          "out, state = block(*part, state)\n        outs.append(out)\n    return torch.cat(outs, axis) if len(outs) > 1 else outs[0], state",
          "out, last = block(*part, state)\n        outs.append(out)\n    return torch.cat(outs, axis) if len(outs) > 1 else outs[0], last", ("chunks.nl",)),
    Fault("a window of one more", "mask diagonal", TORCH + "runtime.py", "((j > i) & (j <= i + window))", "((j >= i) & (j <= i + window))", ("store.nl",)),
    Fault("the next pair is seen", "future read", TORCH + "runtime.py", "(j <= i + window))", "(j <= i + window + 1))", ("store.nl",)),
    Fault("half precision in a solve", "dtype", TORCH + "runtime.py", "return x.float() if x.dtype in (torch.half, torch.bfloat16) else x", "return x",
          ("delta.nl",)),
    Fault("a filter run backwards", "argument order", TORCH + "streams.py", "P - j, n) * weight[..., j]", "P - j, n) * weight[..., -j]", ("past.nl",)),
    Fault("the past in the wrong order", "wrong carry", TORCH + "streams.py",
          "    x = torch.cat([past, x], 1)\n    return x", "    x = torch.cat([past.flip(1), x], 1)\n    return x", ("past.nl",)),
    Fault("the past is not returned", "state not returned", TORCH + "streams.py", "return x[:, :T], x[:, T:]", "return x[:, :T], past", ("past.nl",)),
    Fault("ticks of each call", "tick counter", TORCH + "streams.py", "device=x.device) + start).expand", "device=x.device)).expand", ("past.nl",)),
    Fault("ticks of a loop", "tick counter", TORCH + "streams.py", "clock = [before + t] if", "clock = [t] if", ("slow.nl",)),
    Fault("unit without its root of small", "wrong constant", TORCH + "words.py", ".sum(-1, keepdim=True) + 1e-6)", ".sum(-1, keepdim=True) + 1e-5)",
          ("delta.nl",)),
    Fault("norm writes into its input", "in place", TORCH + "words.py", ".mean(-1, keepdim=True) + 1e-6)", ".mean(-1, keepdim=True) + 0 * x.mul_(2).sum() + 1e-6)",
          ("parts.nl",)),
    Fault("gradient of a first state", "dropped gradient", TORCH + "streams.py", "torch.cat([s0[:, None], s[:, :-1]], 1), du[:, 0] * a[:, 0]",
          "torch.cat([s0[:, None], s[:, :-1]], 1), du[:, 0]", ("scan.nl",)),
    Fault("a cut inside a window", "window phase", TORCH + "streams.py", "ticks - (before - phase) % ticks)]", "ticks - before % ticks)]", ("slow.nl",)),
    Fault("one pair too few", "state not returned", TORCH + "streams.py", "x.shape[-2] - (window - 1)) :, :]", "x.shape[-2] - (window - 2)) :, :]", ("store.nl",)),
    Fault("derivative of a power", "dropped gradient", TORCH + "matrices.py", "slope = high ** (p - 1) *", "slope = high**p *", ("matrices.nl",)),
    Fault("solved for the transpose", "argument order", TORCH + "matrices.py", "torch.linalg.solve(a, b.expand", "torch.linalg.solve(a.mT, b.expand",
          ("matrices.nl",)),
)  # fmt: skip

WINDOWS = (
    Fault("after for before", "off by one tick", TORCH + "windows.py", "= {now} - {tight(added)}", "= {now}", ("deep.nl",)),
    Fault("a window that is not reset", "dropped reset", TORCH + "windows.py", "{to} if tick % {s.reset} == 0 else", "{to} if tick == 0 else", ("reset.nl", "deep.nl")),
    Fault("sums of all windows", "dropped flush", TORCH + "windows.py", 'cleared = f"torch.zeros_like({self.final(total)})"', "cleared = self.final(total)", ("slow.nl",)),
    Fault("an offset the wrong way", "window phase", TORCH + "recurrence.py", "({done} - {offset})", "({done} + {offset})", ("slow.nl",)),
    Fault("writes of a window do not decay", "decay order", TORCH + "window_kernels.py", "\" * {self.once(f'{tail}.unsqueeze(-1)', 'f')}\"", '""',
          ("starts.nl",)),
    Fault("the window's end is its start", "wrong carry", TORCH + "window_kernels.py", "{K}.select(-2, -1)", "{K}.select(-2, 0)",
          ("deep.nl",)),
    Fault("one write of two", "dropped term", LOWER + "affine.py", "work.at(w.span), getattr(before, other), getattr", "work.at(w.span), Vector(), getattr",
          ("solved.nl",)),
    Fault("solved with the other sign", "sign", TORCH + "runtime.py", "solve_triangular(-_exact(A), _exact(x)", "solve_triangular(_exact(A), _exact(x)", ("solved.nl",)),
    Fault("solved without what is written", "dropped term", TORCH + "window_kernels.py", "terms.insert(0, self.vector(side.constant))", "pass", ("solved.nl",)),
    Fault("a reverse that is not turned", "argument order", TORCH + "runtime.py", "solve_triangular(-_exact(A).mT, _exact(d), upper=True",
          "solve_triangular(-_exact(A), _exact(d), upper=False", ("solved.nl",)),
    Fault("gradient of the tick before", "off by one tick", TORCH + "runtime.py", "[d.narrow(dim, 1, d.shape[dim] - 1)", "[d.narrow(dim, 0, d.shape[dim] - 1)", ("solved.nl",)),
    Fault("gradient of the smaller of two", "wrong choice", TORCH + "reverse.py", "torch.where(x > y, d,", "torch.where(x < y, d,", ("chosen.nl",)),
    Fault("gradient of what is not chosen", "wrong choice", TORCH + "adjoint_rules.py", '(b, f"0.0, {d}")', '(b, f"{d}, 0.0")', ("chosen.nl",)),
    Fault("gradient of a tick's past", "off by one tick", TORCH + "streams.py", "torch.cat([d_before[:, 1:], torch", "torch.cat([d_before[:, :-1], torch", ("chosen.nl",)),
    Fault("the first tick for the last", "off by one tick", TORCH + "window_ends.py", '.select({1 + len(self.types[atom.name].axes)}, -1)"',
          '.select({1 + len(self.types[atom.name].axes)}, 0)"', ("bias.nl",)),
    Fault("seen at all ticks", "future read", TORCH + "window_ends.py", "after[n] if last else self.body.text(Last(n))", "after[n]", ("again.nl",)),
    Fault("a window's mean", "wrong count", TORCH + "window_ends.py", "/ {memory.every}", "/ {memory.every + 1}", ("slow.nl",)),
    Fault("gradient of a difference", "sign", TORCH + "adjoint_rules.py", '"sub": _sum(True)', '"sub": _sum(False)', ("network.nl",)),
    Fault("gradient of a quotient", "sign", TORCH + "adjoint_rules.py", "/ {to.value(b)}\", b), fresh=True, minus=True)", "/ {to.value(b)}\", b), fresh=True)",
          ("network.nl", "deep.nl", "slow.nl")),
    Fault("gradient of the last tick", "sign", TORCH + "adjoint_rules.py", "'sub' if opposite else 'add'", "'add'", ("bias.nl",)),
    Fault("a gradient replaced", "dropped gradient", TORCH + "adjoint.py", 'lines.append(f"{d} {sign}= {text}" if self.owned[name]', 'lines.append(f"{d} = {text}" if self.owned[name]',
          ("network.nl", "deep.nl")),
    Fault("a gradient written in place of another's", "aliasing", TORCH + "adjoint_rules.py",
          "_like(to, op, d, a), fresh=False)\n        if b", "_like(to, op, d, a), fresh=True)\n        if b", ("network.nl", "deep.nl", "clocks.nl")),
    Fault("shape of a transpose", "wrong axis", TORCH + "adjoint_shapes.py", "return (*first[:-2], first[-1], first[-2])", "return first", ("network.nl", "deep.nl")),
    Fault("a mean over what was repeated", "factor", TORCH + "reverse.py", "else x.sum_to_size(shape)", "else x.sum_to_size(shape) / x.shape[0]", ("network.nl", "deep.nl")),
    Fault("a write decays in its own tick, in reverse", "off by one tick", TORCH + "reverse.py", "given.cumsum(-1) - given", "given.cumsum(-1)", ("rates.nl",)),
    Fault("projection of norm in reverse", "dropped term", TORCH + "reverse.py", "(d - y * (d * y).mean(-1, keepdim=True)) * scale", "d * scale", ("network.nl",)),
    Fault("second derivative of gelu", "wrong constant", TORCH + "reverse.py", "mul_(0.3989422804014327)", "mul_(0.3989)", ("network.nl", "deep.nl")),
)  # fmt: skip

KEPT = (
    Fault("a filter run backwards in a window", "argument order", TORCH + "keeping.py", ".select(-1, {j})", ".select(-1, {e.attr('ticks') - 1 - j})", ("kept.nl",)),
    Fault("pairs that are not kept", "state not returned", TORCH + "keeping.py", "{self.after[key]} = latest({x}, {window})", "{self.after[key]} = {self.before[key]}", ("kept.nl",)),
    Fault("the first ticks are kept", "wrong carry", TORCH + "keeping.py", "{whole}.narrow({time}, {n}, {kept})", "{whole}.narrow({time}, 0, {kept})", ("kept.nl",)),
    Fault("a store that is only looked at", "state not returned", LOWER + "share.py", "kept[first[key]] = replace(kept[first[key]], attrs=e.attrs)", "pass", ("kept.nl",)),
    Fault("the weights of the tick before", "off by one tick", TORCH + "ops.py", """{text(e.args[0])}[..., 0]\"""", """{text(e.args[0])}[..., 1]\"""", ("kept.nl",)),
    Fault("turned on in reverse", "sign", LOWER + "differentiate.py", '"turn": (lambda w, a, y, c: w.emit("turn_back"', '"turn": (lambda w, a, y, c: w.emit("turn"', ("kept.nl",)),
    Fault("the weight of another pair", "wrong choice", TORCH + "reverse.py", "mine * q, p.diagonal(P, -2, -1)", "mine * q, p.diagonal(0, -2, -1)", ("kept.nl",)),
    Fault("weights that do not sum to one", "dropped term", TORCH + "reverse.py", "(meant - p * meant.sum(-1, keepdim=True)) *", "meant *", ("kept.nl",)),
)  # fmt: skip

OPTIMIZERS = (
    Fault("a slow memory at each step", "missed ticks", LOWER + "rule.py", "        if e.name in resting:\n            continue", "        if False:\n            continue",
          ("rules.nl --rule clocked",)),
    Fault("a sum for a mean", "wrong count", LOWER + "rule.py", 'if e.attr("over") == "mean":', 'if e.attr("over") == "median":', ("rules.nl --rule clocked",)),
    Fault("a sum that goes on", "dropped flush", LOWER + "rule.py", 'Equation(e.name, "copy", (Num(0.0),), e.span)', 'Equation(e.name, "copy", (Ref(renamed[e.name]),), e.span)',
          ("rules.nl --rule clocked",)),
    Fault("a cache that stays", "stale value", LOWER + "rule.py", 'Equation(name, "copy", (Ref(inside[n], span[n]),), span[n])',
          'Equation(name, "copy", (Last(name, span[n]),), span[n])', ("rules.nl --rule cached",)),
    Fault("differences commute", "sign", LOWER + "algebra.py", 'COMMUTATIVE = {"add",', 'COMMUTATIVE = {"sub", "add",', ("rules.nl --rule clocked",)),
    Fault("states that start apart are one", "initial state", LOWER + "algebra.py", "(types[s.name], s.init, clocks.get(s.name))", "(types[s.name], clocks.get(s.name))",
          ("rules.nl --rule apart",)),
    Fault("written before it is read", "in place", LOWER + "segments.py", "return self.stage[reader.name] > stage", "return False", ("rules.nl --rule late",)),
    Fault("numbers are rounded", "dtype", LOWER + "rounding.py", 'if e.op == "bfloat16":\n        return True', 'if e.op == "bfloat16":\n        return False', ("rounding.nl",)),
    Fault("every step is the first", "tick counter", OPTIM + "table.py", "self.value += 1.0", "self.value = 1.0", ("--rule adamw",)),
    Fault("a number that stays", "state not returned", OPTIM + "table.py", 'dial.set(scalars[f"new {name}"])', "pass", ("rules.nl --rule functions",)),
    Fault("the scale for the number", "off by one", OPTIM + "native.py", "nl_scalars[{i + 1}]", "nl_scalars[{i}]", ("--rule adamw",)),
    Fault("gradients of the first tensor", "wrong carry", OPTIM + "native.py", "nl_pass(at, lo - ends[k], stop - ends[k], scalars);", "nl_pass(at, lo, stop, scalars);",
          ("--rule adamw",)),
    Fault("a clock one step early", "off by one tick", OPTIM + "program.py", "((t - offset) % every == 0)", "((t + 1 - offset) % every == 0)",
          ("rules.nl --rule clocked",)),
    Fault("steps of a clock", "off by one tick", OPTIM + "ticks.py", 'return "t"', 'return "(t + 1)"', ("--rule adamw",)),
    Fault("a square for a cube", "wrong constant", OPTIM + "cpp.py", 'return f"{base} * {base} * {base}"', 'return f"{base} * {base}"', ("rules.nl --rule functions",)),
    Fault("the other extreme in C++", "wrong choice", OPTIM + "cpp.py", "'<' if e.op == 'max' else '>'", "'>' if e.op == 'max' else '<'", ("rules.nl --rule functions",)),
    Fault("sign of the first number", "initial state", OPTIM + "source.py", 'return f"-({_init(a)})"', 'return f"({_init(a)})"', ("rules.nl --rule functions",)),
    Fault("the other choice", "wrong choice", OPTIM + "numbers.py", "else a if c > 0 else b", "else a if c >= 0 else b", ("rules.nl --rule late",)),
    Fault("half of a square", "factor", OPTIM + "numbers.py", "beta=beta, alpha=alpha)\n\n\ndef _gram", "beta=beta, alpha=2 * alpha)\n\n\ndef _gram", ("--rule muon",)),
    Fault("a new state is not zero", "initial state", OPTIM + "perform.py", "return made.fill_(value)", "return made.fill_(value + 1)", ("--rule adamw",)),
)  # fmt: skip

CHECKER = (
    Fault("a negative is itself", "wrong bound", CHECK + "interval.py", "return Interval(-a.high, -a.low)", "return Interval(a.low, a.high)", ("gates.nl",)),
    Fault("a sum is no larger", "wrong bound", CHECK + "interval.py", "Interval(a.low + b.low, a.high + b.high)", "Interval(a.low + b.low, max(a.high, b.high))", ("gates.nl",)),
    Fault("tanh is not negative", "wrong bound", CHECK + "ranges.py", '"tanh": _unary(lambda a: monotone(math.tanh, a))', '"tanh": lambda e, r: Interval(0.0, 1.0)', ("gates.nl",)),
    Fault("cycles within a tick", "accepts", CHECK + "causality.py", "    if not core:\n        return []", "    return []", ("cycle.nl",), QUICK, "NL310"),
    Fault("resets in a circle", "accepts", CHECK + "clocks.py", "if state.base is not None and (wrong := _base(reading, state)) is not None:",
          "if (wrong := None) is not None:", ("circle.nl",), QUICK, "NL403"),
    Fault("no first value", "accepts", CHECK + "initialisation.py", "if a.low < 0 or (name", "if a.high < 0 or (name", ("nowhere.nl",), QUICK, "NL303"),
    Fault("any length", "accepts", "nldsl/vocabulary.py", 'x.kind != "real" or x.shape != (w.domain,)', 'x.kind != "real"', ("shape.nl",), QUICK, "NL202"),
)  # fmt: skip

FAULTS = DERIVATIVES + PASSES + FORMS + MODULES + KERNELS + WINDOWS + KEPT + OPTIMIZERS + CHECKER
