"""`nldsl.load`: a checked `.nl` file whose blocks can be elaborated at given sizes and built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nldsl import tree
from nldsl.check.instances import Units, complete, headline
from nldsl.check.shapes import Types
from nldsl.core import Rule, Unit
from nldsl.diagnostics import Diagnostic, Label, NlError, did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.schedules import schedules_of
from nldsl.elaborate.scope import Constant, Scope
from nldsl.pipeline import Checked, block_parameters, check_source, check_units, distinct, names_in
from nldsl.rules import rule_of, rules_of
from nldsl.schedules import Schedule
from nldsl.source import Source

MAX_BYTES = 4_000_000


@dataclass(frozen=True)
class Elaborated:
    """One block at given parameters, with every unit it uses.

    Attributes:
        key: the unit of the block itself.
        units, types: by key; `types[key]` has the type of every stream of that unit.
        warnings: what the static passes say at these parameters.
    """

    key: str
    units: Mapping[str, Unit]
    types: Mapping[str, Types]
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def unit(self) -> Unit:
        return self.units[self.key]

    @property
    def parts(self) -> tuple[Mapping[str, Unit], Mapping[str, Types], str]:
        """(units, types, key), as backends take them."""
        return self.units, self.types, self.key

    def scheduled(self, schedules: Mapping[str, Schedule]) -> Elaborated:
        """The same with the schedules given by block; blocks not named are left to the compiler, whatever their file asks."""
        return replace(self, units={k: u.scheduled(schedules.get(u.block, Schedule())) for k, u in self.units.items()})

    def lowerings(self) -> dict[str, Elaborated]:
        """The block in all the ways in which it can be run; the line that says how is the key, the compiler's choice comes first."""
        from nldsl.lower.lowerings import lowerings

        return {how: self.scheduled(asked) for how, asked in lowerings(self.units, self.types).items()}


class Program:
    """A `.nl` file without errors.

    Attributes:
        source: its text.
        diagnostics: its warnings.
    """

    def __init__(self, checked: Checked):
        self.checked = checked
        self.source = checked.source
        self.diagnostics = checked.diagnostics

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(self._items(tree.Block))

    @property
    def rules(self) -> dict[str, tree.Rule]:
        """The rules of the file by name; those of the library are in `all_rules`."""
        return self._items(tree.Rule)

    @property
    def all_rules(self) -> dict[str, tree.Rule]:
        return rules_of(self.checked.top)

    @property
    def trains(self) -> dict[str, tree.Train]:
        return self._items(tree.Train)

    @property
    def root_blocks(self) -> tuple[str, ...]:
        """The blocks that no other block uses; all, where each is used."""
        nodes: dict[str, tree.Block] = self._items(tree.Block)
        return _roots({name: names_in(node.body) for name, node in nodes.items()})

    @property
    def root_rules(self) -> tuple[str, ...]:
        """The rules of the file that no other leads to; all, where each is led to."""
        found = {name: {*names_in(node.body), *_otherwise(node)} for name, node in self.rules.items()}
        roots = tuple(n for n in _roots(found) if isinstance(self.rules[n], tree.Rule))
        return roots or tuple(found)

    def block_formals(self, block: str) -> frozenset[str]:
        """The parameters of a block that are blocks themselves."""
        return frozenset(block_parameters(self.checked.file)[block])

    @property
    def top(self) -> Scope:
        """The names of the file, above those of the library."""
        return self.checked.top

    def _items(self, kind: type) -> dict[str, Any]:
        return {item.name: item for item in self.checked.file.items if isinstance(item, kind) and not isinstance(item, tree.Import)}

    def block(self, name: str) -> tree.Block:
        """The tree of a block.

        Raises:
            NlError: there is none of that name.
        """
        blocks: dict[str, tree.Block] = self._items(tree.Block)
        if name not in blocks:
            near = did_you_mean(name, blocks)
            raise NlError(
                Diagnostic("NL803", f"{self.source.name} has no block `{name}`",
                           expected=_listed(blocks) or "a file with a block", found=f"`{name}`",
                           help=f"did you mean `{near}`?" if near else None))  # fmt: skip
        return blocks[name]

    def symbolic(self, block: str) -> Elaborated:
        """A block as it was checked: sizes without a given value are symbols.

        Raises:
            NlError: it takes blocks as parameters, so there is nothing to show without them.
        """
        node, key = self.block(block), self.checked.keys[block]
        if key is None:
            needed = block_parameters(self.checked.file)[block]
            raise NlError(*(_missing(node, f, "cell") for f in node.formals if f.name in needed))
        return _reached(key, self.checked.units)

    def elaborate(self, block: str, sizes: Mapping[str, Any] | None = None, /, **more: Any) -> Elaborated:
        """One block at concrete parameters: whole numbers, floats, lists of them, and names of blocks.

        Parameters are given by name, or as a dict `sizes`, where a name like `dtype` means nothing else.

        Raises:
            NlError: a parameter is missing, unknown or does not fit.
        """
        node, sizes = self.block(block), {**(sizes or {}), **more}
        units = Units(self.checked.top)
        formals = self._formals(node, sizes)
        key = units.block(node, formals)
        found = distinct(check_units(units))
        errors = [d for d in found if d.severity == "error"]
        if errors:
            raise NlError(*_not_a_size(node, formals, set(sizes), errors))
        assert key is not None
        return _reached(key, units, found)

    def _formals(self, node: tree.Block, sizes: Mapping[str, Any]) -> dict[str, Any]:
        names = {f.name: f for f in node.formals}
        wrong: list[Diagnostic] = []
        given: dict[str, Any] = {}
        for name, value in sizes.items():
            if name not in names:
                near = did_you_mean(name, names)
                wrong.append(
                    Diagnostic("NL805", f"the block `{node.name}` has no parameter `{name}`", (Label(headline(node)),),
                               expected=_listed(names) or "no parameters", found=f"`{name}`",
                               help=f"did you mean `{near}`?" if near else None))  # fmt: skip
                continue
            core = self._value(value)
            if core is None:
                wrong.append(
                    Diagnostic("NL806", f"the value of `{name}` is not one a parameter can have", (Label(names[name].span),),
                               expected="a whole number, a float, a list of these or the name of a block", found=repr(value)))  # fmt: skip
            else:
                given[name] = core
        formals = complete(node, given, {}, self.checked.top)
        absent = [f for f in node.formals if f.name not in formals and f.name not in sizes]
        for formal in [f for f in absent if f.default is None] or absent:
            if not wrong or formal.default is None:
                wrong.append(_missing(node, formal, "64"))
        if wrong:
            raise NlError(*wrong)
        return formals

    def _value(self, value: Any) -> Any:
        """A Python value as a constant of the language, or None."""
        if isinstance(value, bool):
            return None
        if isinstance(value, int):
            return Dim.of(value)
        if isinstance(value, (float, Dim)):
            return value
        if isinstance(value, str):
            found = self.checked.top.find(value)
            return found.value if isinstance(found, Constant) else None
        if isinstance(value, (list, tuple)):
            items = [self._value(v) for v in value]
            return None if any(i is None for i in items) else tuple(items)
        return None

    def module(
        self, block: str, sizes: Mapping[str, Any] | None = None, /, *, dtype: Any = None, device: Any = None, compile: bool = False,
        schedule: str | Mapping[str, str] | None = None, **more: Any,
    ) -> Any:  # fmt: skip
        """The block as a `torch.nn.Module`: `forward(x, state=None, return_state=False)`, `step`, `initial_state`.

        With `compile`, `torch.compile` fuses what has no state, and windows; the first call then takes seconds, at any length. `schedule` is what
        stands between the braces of a `schedule`, of this block or of several by name; it replaces the file's.

        Raises:
            NlError: a parameter does not fit, the schedule asks for what is not proven, or the torch backend is not installed.
        """
        elaborated = self.elaborate(block, {**(sizes or {}), **more})
        if schedule is not None:
            texts = {block: schedule} if isinstance(schedule, str) else schedule
            asked = schedules_of({self.block(name): text for name, text in texts.items()}, self.top)
            elaborated = elaborated.scheduled({**self.top.schedules, **asked})
        return backend("nldsl_torch").module(*elaborated.parts, dtype=dtype, device=device, compile=compile)

    def interpreter(self, block: str, sizes: Mapping[str, Any] | None = None, /, **more: Any) -> Any:
        """The block run tick by tick: the meaning of the language."""
        elaborated = self.elaborate(block, {**(sizes or {}), **more})
        return backend("nldsl_interpreter").Interpreter(*elaborated.parts)

    def rule(self, name: str, sizes: Mapping[str, int] | None = None, /, **structure: int) -> Rule:
        """A rule of the file or of the library on a tensor, as a unit whose ticks are steps.

        Sizes are those of the tensor, by the names of `on` (`n` without it); left out they are symbols.

        Raises:
            NlError: there is none of that name, or it is not an optimizer.
        """
        return rule_of(self.checked.top, name, structure, sizes)

    def optimizer(self, rule: str, params: Any, /, **numbers: Any) -> Any:
        """A rule, or several by routes, as a `torch.optim.Optimizer`; see `nldsl.optimizer`."""
        return backend("nldsl_torch.optim.build").optimizer(self, rule, params, **numbers)

    def optimizer_class(self, rule: str, **structure: int) -> Any:
        """The class of a rule, a subclass of `torch.optim.Optimizer`."""
        return backend("nldsl_torch.optim.build").optimizer_class(self, rule, structure)

    def reveal(self, block: str, name: str) -> str:
        """The type and clock of a stream, as the reference pages show it: `dk -> dv each h every 1`."""
        shown = self.symbolic(block)
        types = shown.types[shown.key]
        if name not in types:
            near = did_you_mean(name, types)
            raise NlError(
                Diagnostic("NL803", f"the block `{block}` has no stream `{name}`", (Label(headline(self.block(block))),),
                           found=f"`{name}`", help=f"did you mean `{near}`?" if near else None))  # fmt: skip
        every = next((s.every for s in shown.unit.states if s.name == name), 1)
        text = str(types[name])
        plain, each = [*text.split(" each ", 1), ""][:2]
        return f"{plain} every {every}" + (f" each {each}" if each else "")


def _roots(used: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    inside = {other for name, names in used.items() for other in names if other != name}
    return tuple(name for name in used if name not in inside) or tuple(used)


def _otherwise(node: tree.Rule) -> tuple[str, ...]:
    """The rule that takes what this one does not accept."""
    other = getattr(node, "otherwise", None)
    return (getattr(other, "id", str(other)),) if other is not None else ()


def load(path_or_text: str | Path) -> Program:
    """A program from a file, or from text (a str with a newline or a `{`).

    >>> load("block half(d) { in x : real[d]  out y = 0.5 * x }").blocks
    ('half',)

    Raises:
        NlError: with every error of the file.
    """
    checked = check_source(read_source(path_or_text))
    if checked.errors:
        raise NlError(*checked.errors)
    return Program(checked)


def read_source(path_or_text: str | Path) -> Source:
    """The text of a file under its name, or text itself.

    Raises:
        NlError: there is no such file, or it is not a text.
    """
    if isinstance(path_or_text, str) and ("\n" in path_or_text or "{" in path_or_text):
        return Source("<text>", path_or_text)
    if path_or_text == "":
        raise NlError(Diagnostic("NL801", "this is neither the name of a file nor a text: it is empty", expected="a .nl file, or text with a block"))
    path = Path(path_or_text)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        near = did_you_mean(path.name, _neighbours(path))
        raise NlError(
            Diagnostic("NL801", f"cannot read '{path}': {reason}", expected="a .nl file",
                       help=f"did you mean '{path.with_name(near)}'?" if near else None)) from None  # fmt: skip
    if len(data) > MAX_BYTES:
        raise NlError(Diagnostic("NL003", f"'{path}' is too large", expected="a file of at most 1 MB", found="more"))
    try:
        return Source(str(path), data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise NlError(
            Diagnostic("NL802", f"'{path}' is not a text", expected="UTF-8",
                       found=f"the byte {data[error.start]:#04x} at {error.start}")) from None  # fmt: skip


def _neighbours(path: Path) -> list[str]:
    try:
        return [p.name for p in path.parent.iterdir() if p.suffix == ".nl"]
    except OSError:
        return []


def backend(package: str) -> Any:
    """Import a backend when it is first needed: the front end itself never imports torch.

    Raises:
        NlError: it or something it needs is not installed.
    """
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        ours = (error.name or "").startswith("nldsl")
        raise NlError(
            Diagnostic("NL808", f"this needs `{package}`, which cannot be used here: {error}",
                       expected="nldsl with all its parts" if ours else "an environment that has torch",
                       help=None if ours else "pip install torch")) from error  # fmt: skip


def _reached(key: str, units: Units, warnings: tuple[Diagnostic, ...] = ()) -> Elaborated:
    """The unit and all it uses, callers first."""
    order = [key]
    for k in order:
        order += [i.unit for i in units.units[k].instances if i.unit is not None and i.unit not in order]
    return Elaborated(key, {k: units.units[k] for k in order}, {k: units.types[k] for k in order}, warnings)


def _missing(node: tree.Block, formal: tree.Formal, example: str) -> Diagnostic:
    quoted = example if example.isdigit() else f'"{example}"'
    return Diagnostic(
        "NL804", f"the block `{node.name}` needs a value for `{formal.name}`", (Label(formal.span),), expected=f"{formal.name} = ...",
        found="none", help=f"-D {formal.name}={example}, or {formal.name}={quoted} in Python")  # fmt: skip


def _not_a_size(
    node: tree.Block, formals: Mapping[str, Any], given: set[str], errors: list[Diagnostic]
) -> list[Diagnostic]:
    """A dimension that is not a whole number above 0 is told by the parameters it comes from."""
    places = [d.spans[0].span.text for d in errors if d.code == "NL201"]
    told: list[tuple[bool, Diagnostic]] = []
    for formal in node.formals:
        value, default = formals[formal.name], formal.default
        exact = value.constant if isinstance(value, Dim) else None
        if not any(re.search(rf"\b{formal.name}\b", place) for place in places) or (exact is not None and exact.denominator == 1 and exact >= 1):
            continue
        if exact is not None and exact.denominator > 1 and isinstance(default, tree.Binary) and default.op == "/":
            over, under = default.left.span.text, default.right.span.text
            found = ", ".join(f"{n} = {formals[n]}" for n in formals if n in (over, under)) or str(value)
            message, expected = f"`{over}` is not divisible by `{under}`", f"`{over}` a multiple of `{under}`"
        else:
            message, expected, found = f"`{formal.name}` is a size", "a whole number above 0", f"{formal.name} = {value}"
        wrong = Diagnostic("NL806", message, (Label(formal.span),), expected=expected, found=found)
        told.append((formal.name in given, wrong))
    if not told:
        return [_fraction(d, formals) if d.code == "NL201" else d for d in errors]
    # What was given wrong is the reason for sizes computed from it; one message is enough for sizes with one reason.
    reasons = [d for is_given, d in told if is_given] or [d for _, d in told]
    first = {d.message: d for d in reversed(reasons)}
    return [*reversed(first.values()), *(d for d in errors if d.code != "NL201")]


def _fraction(error: Diagnostic, formals: Mapping[str, Any]) -> Diagnostic:
    """A dimension computed in place, `d / n`, with the values it was computed from."""
    place = error.spans[0].span.text
    values = ", ".join(f"{name} = {value}" for name, value in formals.items() if re.search(rf"\b{name}\b", place))
    return Diagnostic("NL806", f"`{place}` is not a whole number above 0", error.spans, expected=error.expected, found=values or error.found)


def _listed(names: Any) -> str:
    return ", ".join(f"`{n}`" for n in names)


__all__ = ["Elaborated", "Program", "backend", "load", "read_source"]
