"""Rules on the command line: explained as memories, drawn, printed by stages, written as optimizers that run alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nldsl.cli.new import RULE
from nldsl.explain_rule import explain_rule
from nldsl.format import format_text
from nldsl.lower.association import associations
from nldsl.optimizers import library_program
from nldsl.program import load
from nldsl.rules import rules_of
from nldsl.source import Source

LIBRARY = library_program()
OWN = """\
# Signs of a mean.
rule steady(lr = 0.01, beta = 0.9) {
  memory m : like(w) = zeros { minimize 0.5 * sqnorm(m - g) by gd(1 - beta) }
  update last w - lr * sign(m)
}
"""
TWO = OWN + OWN.replace("steady", "other")
BOTH = OWN + "block b(d) { in x : real[d]  memory S : d -> d { minimize -dot(S(unit(x)), x) by steady() }  out y = S(x) }\n"
TYPED = "rule typed(lr = 0.1) on matrices, heads d -> e else tables { update last w - lr * g }\n" \
        "rule tables(lr = 0.1) on embeddings { update last w - lr * sign(g) }\n"
FILES = {"own.nl": OWN, "two.nl": TWO, "both.nl": BOTH, "typed.nl": TYPED}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["check", "own.nl"], 0, "no mistakes found"),
        (["explain", "own.nl"], 0, "m' = beta * m + (1 - beta) * g"),
        (["explain", "two.nl"], 0, "rule other"),
        (["explain", "both.nl"], 0, "rule steady"),
        (["explain", "own.nl", "--rule", "adamw"], 0, "only with amsgrad"),
        (["explain", "--rule", "muon", "-D", "ns_steps=2"], 0, "matmul (6 times)"),
        (["explain", "--rule", "muon", "-D", "ns=2"], 2, "NL805"),
        (["explain", "--rule", "muon", "-D", "ns_steps=2.5"], 2, "NL813"),
        (["explain", "--rule", "adamm"], 2, "did you mean `adam`?"),
        (["explain", "--rule", "decay"], 1, "NL432"),
        (["explain", "typed.nl"], 0, "matrices and heads of a model, d -> e; `tables` takes the others"),
        (["explain", "typed.nl"], 0, "embeddings of a model, entry by entry; others are refused"),
        (["build", "typed.nl", "--rule", "typed"], 0, "`tables` learns on embeddings"),
        (["explain"], 2, "--rule NAME"),
        (["explain", "both.nl", "--rule", "adam", "--block", "b"], 2, "one of them"),
        (["explain", "NL815"], 0, "which rule?"),
        (["graph", "own.nl"], 0, "each step, depth 1"),
        (["graph", "--rule", "m3"], 0, "every frequency steps"),
        (["graph", "--rule", "adamw", "--full"], 0, "weight_decay"),
        (["graph", "both.nl"], 0, "each tick"),
        (["graph", "two.nl"], 2, "NL815"),
        (["show", "--stage", "tree", "--rule", "adamw"], 0, "Rule name='adamw'"),
        (["show", "--stage", "core", "own.nl"], 0, "state w.m : real[n] = zeros"),
        (["show", "--stage", "types", "own.nl"], 0, "w.m"),
        (["show", "--stage", "graph", "own.nl"], 0, "flowchart"),
        (["show", "--stage", "plan", "--rule", "adamw"], 0, "variant amsgrad"),
        (["show", "--stage", "plan", "--rule", "m3"], 0, "tick of frequency"),
        (["show", "--stage", "source", "own.nl"], 0, "class Steady(RuleOptimizer)"),
        (["show", "--stage", "fx", "own.nl"], 2, "a rule has no stage `fx`"),
        (["build", "two.nl"], 2, "NL815"),
        (["build", "both.nl"], 1, "NL804"),
        (["build", "--rule", "decay"], 1, "NL432"),
        (["build"], 2, "Missing argument"),
        (["new", "first", "--rule"], 0, "nldsl explain first.nl"),
        (["new", "lr", "--rule"], 0, "wrote lr.nl"),
        (["new", "memory", "--rule"], 2, "name of a rule"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_commands(cli, arguments, code, says):
    found, out, err = cli(*arguments)
    assert found == code, out + err
    assert says in out + err


@pytest.mark.parametrize("arguments", [["own.nl"], ["--rule", "adamw"], ["--rule", "m3"]], ids=" ".join)
def test_a_built_rule_runs_alone(cli, tmp_path, arguments):
    """In a fresh interpreter that cannot find nldsl."""
    assert cli("build", *arguments, "-o", "made.py")[0] == 0
    test = (
        "import sys, torch, made\n"
        "kind = [c for c in vars(made).values() if isinstance(c, type) and issubclass(c, made.RuleOptimizer) and c is not made.RuleOptimizer][0]\n"
        "p = torch.nn.Parameter(torch.ones(3, 2))\n"
        "o = kind([p], lr=0.125)\n"
        "for _ in range(3): p.grad = torch.ones_like(p) + p.detach(); o.step()\n"
        "assert (p < 1).all() and torch.isfinite(p).all() and 'nldsl' not in sys.modules\n"
        "o.load_state_dict(o.state_dict()); o.step(); print('fine')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", test], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr


def test_the_starter_rule_is_right_and_in_the_standard_form():
    text = RULE.replace("NAME", "first")
    assert format_text(Source("first.nl", text)) == text
    assert load(text).rule("first").name == "first"


# --- what is read off the equations ------------------------------------------------------------------------------


def memory(rule, name, program=LIBRARY):
    found = {a.name: a for a in associations(program.rule(rule))[0]}[name]
    return found.key, found.value, found.retention


@pytest.mark.parametrize(
    ("rule", "name", "expected"),
    [
        ("classical_momentum", "momentum_buffer", (None, "g", "beta")),
        ("adamw", "exp_avg", (None, "g", "betas[0]")),
        ("adamw", "exp_avg_sq", (None, "g * g", "betas[1]")),
        ("adamw", "max_exp_avg_sq", (None, None, None)),
        ("adamw", "w", (None, "-g", "1 - lr * weight_decay")),
        ("sgd", "momentum_buffer", (None, "where(count() - 1, 1 - dampening, 1) * d", "momentum")),
        ("adagrad", "sum", (None, "d * d", "1")),
        ("adadelta", "acc_delta", (None, "change * change", "rho")),
        ("shampoo", "left", ("c", "c", "1")),
        ("shampoo", "right", ("c^T", "c^T", "1")),
        ("delta_momentum", "momentum_buffer", ("u^T", "g", "beta * I - erase * u^T u, from the right")),
        ("diagonal_delta_momentum", "momentum_buffer", ("u, entry by entry", "g", "beta - erase * u * u")),
        ("preconditioned_momentum", "preconditioner", ("u", "I", "1")),
        ("preconditioned_momentum", "momentum_buffer", ("g^T", "preconditioner'", "beta")),
        ("m3", "slow", (None, "g", "1")),
    ],
)
def test_key_value_retention(rule, name, expected):
    assert memory(rule, name) == expected


def test_they_are_read_off_the_equations_not_off_names():
    """The same memory written as an update, and with a step in two parts, has the same parts."""
    text = "rule r(a, b, lr = 1) {{ memory m : like(w) = zeros {{ {0} }} update last w - lr * m }}"
    bodies = ["update a * last m + b * g", "minimize -dot(m, g) by gd(b, keep = a)", "minimize -dot(m, g) by decay(a), gd(b)",
              "minimize -dot(g, m) by decay(a), gd(b)"]  # fmt: skip
    found = {next(x for x in associations(load(text.format(body)).rule("r"))[0] if x.name == "m").update for body in bodies}
    assert found == {"a * m + b * g"}
    assert memory("r", "m", load(text.format(bodies[1])))[2] == "a"


def test_weight_decay_in_the_gradient_is_a_part_of_the_objective():
    assert "weight_decay / 2 * |w|^2: together their gradient is d" in explain_rule(LIBRARY, "amsgrad")


def test_equal_memories_are_told():
    text = "rule r(lr = 1) { memory a : like(w) { update 0.5 * last a + g }  memory b : like(w) { update g + 0.5 * last b }  update last w - lr * (a + b) }"
    assert "b is always equal to a: one buffer" in explain_rule(load(text), "r")


@pytest.mark.parametrize(("rule", "bytes"), [("signsgd", "12"), ("sgd", "20"), ("adamw", "28"), ("lion", "20"), ("ademamix", "36")])
def test_bytes_of_a_step_are_those_of_its_arrays(rule, bytes):
    """w and g are read, w is written, each memory is read and written: 4 bytes each."""
    assert f"{bytes} bytes a parameter" in explain_rule(LIBRARY, rule)


@pytest.mark.parametrize("rule", rules_of(LIBRARY.top))
def test_every_rule_of_the_library_is_explained(cli, rule):
    code, out, err = cli("explain", "--rule", rule)
    if rule in ("decay", "decay_values", "implicit", "lq_normalise", "dgd", "dgd_implicit"):
        assert code == 1
        return
    assert code == 0, err
    assert "  step" in out and "    update" in out
    assert max(map(len, out.splitlines())) <= 130
    code, out, _ = cli("graph", "--rule", rule, "--format", "svg")
    assert code == 0 and ">w<" in out


def test_a_rule_for_memories_only_says_why(cli):
    Path("look.nl").write_text("rule ahead(rate) { update last w - rate * grad(at = w) }\n")
    code, out, _ = cli("explain", "look.nl")
    assert code == 0 and "a learner inside of memories only" in out
