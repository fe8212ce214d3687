"""A plan as a class: params, state, `forward` and `step`."""

from __future__ import annotations

from dataclasses import dataclass

from nldsl.core import Equation, Ref
from nldsl.lower.schedule import Attention, Call, Recurrence, Region
from nldsl.names import identifier
from nldsl_torch.finish import finish_method
from nldsl_torch.initial import initial, is_zeros, size
from nldsl_torch.steps import StepWriter

SCALES = ("copy", "neg", "add", "sub", "mul", "div", "tanh")  # of what an operator gives: it still makes the output


@dataclass
class ClassWriter(StepWriter):
    """Writes the functions and the class of one unit."""

    # --- the whole -------------------------------------------------------------------------------

    def write(self) -> list[str]:
        """Functions first, then the class."""
        for n, step in enumerate(self.plan.steps):
            match step:
                case Region():
                    self._region(n, step)
                case Recurrence():
                    self._recurrence(step)
                case Attention(equation):
                    self._attention(equation)
                case Call(instance):
                    self._call(instance)
        local = {name: self.local(name) for name in (*self.params, *(e.name for e in self.indices))}
        inner = [identifier(i.name) for i in self.unit.instances if i.unit in self.ending]
        functions, method = finish_method(self.prefix, self.unit, self.types, local, inner)
        return [*self.functions, *functions, *self._class(), *method]

    def _class(self) -> list[str]:
        unit = self.unit
        roles = ", ".join(f'"{name}": "{role}"' for name, role in self._roles().items())
        lines = [
            f"class {self.name}(torch.nn.Module):",
            f'    """`{unit.key}`, {unit.span.where}."""',
            "",
            *([f"    _roles = {{{roles}}}  # what parameters are, where their shape does not tell", ""] if roles else []),
            "    def __init__(self):",
            "        super().__init__()",
        ]
        for p in unit.params:
            value, where = initial(p.init, p.type), f"# {p.span.where}  {p.name} : {p.type}"
            made = f'self.register_buffer("{identifier(p.name)}", {value})' if p.fixed else f"self.{identifier(p.name)} = torch.nn.Parameter({value})"
            lines.append(f"        {made}  {where}")
        lines.append('        self.register_buffer("_like", torch.zeros(()), persistent=False)')
        for e in self.indices:
            n = e.attr("axis").size.integer
            lines.append(f'        self.register_buffer("{identifier(e.name)}", torch.arange({n}.0), persistent=False)')
        for i in unit.instances:
            assert i.unit is not None
            lines.append(f"        self.{identifier(i.name)} = {self.classes[i.unit]}()")
        lines += self._initial_state() + self._forward() + self._step()
        return lines

    def _roles(self) -> dict[str, str]:
        """What the author's types say about parameters; an instance whose output is the block's is an `output` too."""
        found = {p.name: "matrix" if p.type.kind == "map" else "vector" for p in self.unit.params
                 if p.type.axes and (p.type.kind == "map" or len(p.type.shape) < 2)}  # fmt: skip
        equations = {e.name: e for e in self.unit.equations}
        for e in self.unit.equations:
            match e:
                case Equation(op="conv", args=(_, Ref(filter))) if filter in self.params:
                    found[filter] = "convolution"
                case Equation(op="apply", args=(operator, Ref(x))) if self.types[x].kind == "int" and (name := self._operator(operator, equations)):
                    found[name] = "embedding"
        for _, atom in self.unit.outputs:
            for name in self._makes(atom, equations):
                found[name] = f"{found.get(name, '')} output".strip()
        return {identifier(name): role for name, role in found.items()}

    def _operator(self, atom: object, equations: dict[str, Equation]) -> str | None:
        """The param that an operator is, as it stands or transposed."""
        while isinstance(atom, Ref) and atom.name not in self.params:
            e = equations.get(atom.name)
            atom = e.args[0] if e is not None and e.op in ("transpose", "copy") else None
        return atom.name if isinstance(atom, Ref) else None

    def _makes(self, atom: object, equations: dict[str, Equation]) -> list[str]:
        """The param, or the instance, whose application is an output, but for scales and shifts."""
        while isinstance(atom, Ref):
            name = atom.name
            if name not in equations:
                return [i.name for i in self.unit.instances if name in (f"{i.name}.{o}" for o in i.outputs)]
            e = equations[name]
            if e.op == "apply":
                made = self._operator(e.args[0], equations)
                return [] if made is None else [made]
            streams = [a for a in e.args if isinstance(a, Ref) and a.name not in self.static]
            atom = streams[0] if e.op in SCALES and len(streams) == 1 else None
        return []

    def _initial_state(self) -> list[str]:
        lines = [
            "",
            "    def initial_state(self, batch: int) -> dict[str, Tensor]:",
            '        """The state before the first tick."""',
            "        z = self._like",
            "        state = {",
        ]
        if self.ticks:
            lines.append('            ":tick": torch.zeros((), dtype=torch.int64, device=z.device),')
        if any(s.flush == "apply" for s in self.unit.states):
            lines.append('            ":finished": torch.zeros((), dtype=torch.int64, device=z.device),')
        for s in (s for s in self.unit.states if s.name not in self.plan.same):
            lines.append(f'            "{s.name}": {self._first(s.name)},')
        for key, text in self.carried.items():
            lines.append(f'            "{key}": {text},')
        lines.append("        }")
        for i in self.unit.instances:
            lines.append(f'        state |= whole(self.{identifier(i.name)}.initial_state(batch), "{identifier(i.name)}.")')
        return [*lines, "        return state"]

    def _first(self, name: str) -> str:
        state = next(s for s in self.unit.states if s.name == name)
        shape = size(state.type)
        if state.learned is not None:
            # Of one layout, whatever the batch: rounding follows it.
            given = ".detach()" if state.detached else ""
            return f"self.{identifier(state.learned)}{given}.expand(batch{''.join(f', {n}' for n in shape)}).contiguous()"
        if is_zeros(state.init):
            return f"z.new_zeros(batch{''.join(f', {n}' for n in shape)})"
        # With all digits of whatever dtype the module has.
        return f"{initial(state.init, state.type, 'torch.float64')}.to(z).expand(batch{''.join(f', {n}' for n in shape)})"

    def _forward(self) -> list[str]:
        inputs = [self.names.of(i.name) for i in self.unit.inputs]
        out = ["", f"    def forward(self, {', '.join(inputs)}, state=None, return_state=False):",
               f'        """{self._signature()}"""']  # fmt: skip
        out += [*self._expected(""), f"        B, T = together({', '.join(inputs)})"]
        out += ["        state = self.initial_state(B) if state is None else fitting(state, self.initial_state(B))", "        new = dict(state)"]
        out += [f"        {line}" for line in self.forward]
        if self.ticks:
            out.append('        new[":tick"] = state[":tick"] + T')
        outs = [(name, self.stream(atom)) for name, atom in self.unit.outputs]
        result = outs[0][1] if len(outs) == 1 else "{" + ", ".join(f'"{n}": {v}' for n, v in outs) + "}"
        return [*out, f"        return ({result}, new) if return_state else {result}"]

    def _expected(self, lead: str) -> list[str]:
        """What refuses inputs of other shapes and dtypes; `lead`: the leading dimensions, where they are not batch and ticks."""
        return [f'        expect({self.names.of(i.name)}, "{i.name}", {size(i.type)}, "{i.type}", self._like{lead})' for i in self.unit.inputs]

    def _signature(self) -> str:
        ins = ", ".join(f"{i.name} [B, T{''.join(f', {n}' for n in size(i.type))}]" for i in self.unit.inputs)
        outs = ", ".join(f"{n}" for n, _ in self.unit.outputs)
        return f"{ins} -> {outs}, and the new state if asked for."

    def _step(self) -> list[str]:
        inputs = [self.names.of(i.name) for i in self.unit.inputs]
        single = len(self.unit.outputs) == 1
        result = "y.squeeze(1)" if single else "{k: v.squeeze(1) for k, v in y.items()}"
        return ["", f"    def step(self, {', '.join(inputs)}, state):", '        """One tick: inputs and outputs without the time axis, and the new state."""',
                *self._expected(', ("batch",)'), *([f"        together({', '.join(inputs)}, lead=1)"] if len(inputs) > 1 else []),
                f"        y, state = self.forward({', '.join(f'{i}.unsqueeze(1)' for i in inputs)}, state=state, return_state=True)",
                f"        return {result}, state"]  # fmt: skip
