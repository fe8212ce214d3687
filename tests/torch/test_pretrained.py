"""First values from a file: a continuum memory that starts from a pre-trained MLP (Nested Learning, 7.3)."""

import copy

import pytest
import torch
from safetensors.torch import save_file

import nldsl
from nldsl_torch import build_source

NET = """block mlp(d, hidden = 4 * d) {
  in x : real[d]
  param up : d -> hidden
  param shift : real[hidden]
  param down : hidden -> d
  param bias : real[d]
  out y = down(gelu(up(x) + shift)) + bias
}
"""
NAMES = 'up = "0.weight", shift = "0.bias", down = "2.weight", bias = "2.bias"'


def cms(first, rate):
    return NET + f"""block cms(d) {{
      in x : real[d]
      memory F : mlp(d, 4 * d) = {first} every 4 {{ minimize 0.5 * sqnorm(F(x) - x) by gd({rate}) }}
      out y = F(x)
    }}"""


@pytest.fixture
def mlp(tmp_path):
    """An MLP, and the folder of its file `mlp.safetensors`, where it is the first layer."""
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(6, 24), torch.nn.GELU(), torch.nn.Linear(24, 6)).double()
    save_file({f"layers.0.mlp.{k}": v for k, v in made.state_dict().items()}, tmp_path / "mlp.safetensors")
    return made, tmp_path


def load(folder, text):
    (folder / "model.nl").write_text(text)
    return nldsl.load(folder / "model.nl")


@pytest.mark.parametrize("first", ["pretrained({})", "learned(pretrained({}))"])
def test_the_memory_is_the_mlp_and_then_moves(mlp, first):
    """Rate 0 keeps the pre-trained model; another rate is the loop written with autograd."""
    model, folder = mlp
    first = first.format(f'"mlp.safetensors", "layers.0.mlp", {NAMES}')
    x = torch.randn(1, 9, 6, dtype=torch.float64)
    still = load(folder, cms(first, 0)).module("cms", d=6, dtype=torch.float64)
    assert torch.allclose(still(x), model(x), rtol=0, atol=1e-14)
    program = load(folder, cms(first, 0.1))
    moving = program.module("cms", d=6, dtype=torch.float64)
    assert all(torch.equal(moving.state_dict()[f"F_{n}_init"], v) for n, v in zip(("up", "shift", "down", "bias"), model.state_dict().values(), strict=True))
    assert len(list(moving.parameters())) == (4 if "learned" in first else 0)
    machine = program.interpreter("cms", d=6)
    params = machine.parameters()
    assert params.keys() == moving.state_dict().keys() and all(torch.equal(v, moving.state_dict()[k]) for k, v in params.items())
    ys, fast = [], copy.deepcopy(model)
    for t in range(9):
        if t and t % 4 == 0:
            loss = 0.5 * (fast(x[0, t - 4 : t]) - x[0, t - 4 : t]).square().sum()
            with torch.no_grad():
                for p, g in zip(fast.parameters(), torch.autograd.grad(loss, list(fast.parameters())), strict=True):
                    p -= 0.1 * g
            ys[-1] = fast(x[0, t - 1])  # read after the step of this tick
        ys.append(fast(x[0, t]))
    assert torch.allclose(moving(x)[0], torch.stack(ys), rtol=0, atol=1e-12)
    assert torch.allclose(machine.run(params, {"x": x})[0]["y"], moving(x), rtol=0, atol=1e-12)
    copied = copy.deepcopy(moving)
    assert torch.equal(copied(x), moving(x))


def test_names_by_default_and_of_single_tensors(tmp_path):
    """A network finds PREFIX.PARAM, with `.weight` or without; a param or an operator names its tensor; half precision is read."""
    up, down = torch.randn(4, 3).bfloat16(), torch.randn(3, 4).half()
    save_file({"up.weight": up, "down": down, "a.b.weight": torch.ones(3, 3), "c": torch.arange(6.0).view(2, 3)}, tmp_path / "w.safetensors")
    program = load(tmp_path, """block net(d) { in x : real[d]  param up : d -> 4  param down : 4 -> d  out y = down(up(x)) }
      block m(d, file = "w.safetensors") {
        in x : real[d]
        param A : d -> d = 2 * pretrained(file, "a.b")
        each h in 2 { param c : real[d] = pretrained(file, "c") }
        memory F : net(d) = pretrained(file) { minimize 0.5 * sqnorm(F(x) - x) by gd(0) }
        out y = F(A(x)) + sum(flatten(c))
      }""")
    module = program.module("m", d=3)
    x = torch.randn(1, 2, 3)
    assert torch.allclose(module(x), 2 * x.sum(-1, keepdim=True) @ (down.float() @ up.float()).sum(1)[None] + 15, atol=1e-5)
    assert {n for n, _ in module.named_parameters()} == {"A", "c"}


WRONG = [
    ('"none.safetensors", "up"', "NL821", "No such file"),
    ('"model.nl", "up"', "NL821", "not a safetensors file"),
    ('"w.safetensors", "upp"', "NL822", "did you mean `up`"),
    ('"w.safetensors", "down"', "NL823", "[4, 3] of F32"),
    ('"w.safetensors", "count"', "NL823", "[3, 3] of I64"),
]


@pytest.mark.parametrize("named, code, says", WRONG)
def test_what_does_not_fit_is_said_when_the_module_is_built(tmp_path, named, code, says):
    tensors = {"up": torch.zeros(3, 3), "down": torch.zeros(4, 3), "count": torch.zeros(3, 3, dtype=torch.int64)}
    save_file(tensors, tmp_path / "w.safetensors")
    program = load(tmp_path, f"block m(d) {{ in x : real[d]  param W : d -> d = pretrained({named})  out y = W(x) }}")
    for build in (lambda: program.module("m", d=3), lambda: program.interpreter("m", d=3).parameters()):
        with pytest.raises(nldsl.NlError, match=code) as wrong:
            build()
        assert says in str(wrong.value)


@pytest.mark.parametrize("first", ['pretrained("f")', "pretrained(x)", 'pretrained("f", "t", "u")', 'pretrained("f", up = "t")', "pretrained(1, 2)"])
def test_a_pretrained_value_is_named_by_texts(first):
    with pytest.raises(nldsl.NlError, match="NL303"):
        nldsl.load(f"block m(d) {{ in x : real[d]  param W : d -> d = {first}  out y = W(x) }}")
    network = first.replace("up", "upp").replace('("f")', '("f", 1)')
    with pytest.raises(nldsl.NlError, match="NL303"):
        nldsl.load(cms(network, 0))


def test_a_standalone_file_looks_beside_itself(mlp, tmp_path):
    model, folder = mlp
    elaborated = load(folder, cms(f'pretrained("mlp.safetensors", "layers.0.mlp", {NAMES})', 0)).elaborate("cms", d=6)
    source = build_source(*elaborated.parts)
    assert repr(str(folder)) not in source and "import safetensors" not in source
    space = {"__name__": "standalone", "__file__": str(folder / "out.py")}
    exec(compile(source, "out.py", "exec"), space)
    made = space["Cms"]()
    x = torch.randn(1, 3, 6)
    assert torch.allclose(made(x), model.float()(x), atol=1e-6)
    space["FILES"] = str(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"starts from `layers\.0\.mlp\.0\.weight` of 'mlp\.safetensors'"):
        space["Cms"]()


def test_a_memory_that_is_added_to_a_param_starts_there():
    """What NL303 says to write in place of a first value that is a param; without a retention it is that value."""
    text = (
        "block b(d) { in x : real[d]  param W : d -> d  k = unit(x)\n"
        "memory S : d -> d = zeros { minimize 0.5 * sqnorm(S(k) + 0.5 * W(k) - x) by gd(0.5) }  out y = S(x) + 0.5 * W(x) }"
    )
    torch.manual_seed(0)
    made = nldsl.load(text).module("b", d=3, dtype=torch.float64)
    x = torch.randn(7, 3, dtype=torch.float64)
    S, wanted = 0.5 * made.W, []
    for u in x:
        k = u / (u.square().sum() + 1e-6).sqrt()
        S = S - 0.5 * torch.outer(S @ k - u, k)
        wanted.append(S @ u)
    found, wanted = made(x[None])[0], torch.stack(wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), made.W)[0] for y in (found, wanted)), rtol=1e-10, atol=1e-12)
