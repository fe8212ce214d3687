"""Words over operators, choice and rounding: torch is the interpreter, in values and gradients, and both are the equation."""

import pytest
import torch
from torch_cases import EXACT, case, check, distance, outputs

import nldsl
from nldsl.diagnostics import NlError
from nldsl_interpreter.operations import MIXED
from nldsl_torch.matrices import eigenvectors, matmul, matrix_power, solve

HEAD = """block m(d) {
  in x : real[d]
  param W, V : d -> d
  param p : real[d]
  param wa : d -> 1
  a = sigmoid(wa(x))    k = unit(x)
  A = 2 * identity(W) + 0.2 * matmul(transpose(W), W)
  G = A + outer(k, k)
"""
OUTPUTS = {
    "where": "out y = where(x, p, W(x)) + where(a - 0.5, x, 2) + where(W(x), 1, 0)",
    "where_constant": "out y = where(1, 2, x) + where(0 - 1, x, p) + where(1, a, x) + where(3, x, 1)",
    "where_operators": "B = where(outer(x, p), W, 0) + where(a - 0.5, W, outer(x, x))  out y = B(p)",
    "matmul": "B = matmul(outer(x, p), matmul(W, V))  out y = B(x) + matmul(W, V)(p)",
    "identity": "B = a * identity(W) + identity(G)  out y = B(x)",
    "means": "R = row_mean(G)  C = column_mean(outer(x, p))  B = matmul(R, C)  out y = B(x) + R(C(p)) + sum(row_mean(V)) * x",
    "solve": "B = solve(G, outer(x, p)) + solve(A, W)  out y = B(x) + solve(G, p) + solve(A, x) + solve(A, p)",
    "matrix_power": "B = matrix_power(G, -0.5) + matrix_power(A, 1 + a) + matrix_power(G, a)  out y = B(x)",
    "eigenvectors": "E = eigenvectors(G)  B = matmul(p * E, transpose(E))  out y = B(x)",
    "each": "each h in 2 { param H : d -> d  B = matmul(H, outer(k, k)) + identity(H)  o = solve(A + 0.1 * B, (h + 1) * x)  "
    "r = matrix_power(matmul(B, transpose(B)) + identity(B), 0.5)  q = r(x) }  out y = flatten(o + q)",
    "loop": "memory S : d -> d = zeros { update 0.9 * last S + matmul(outer(k, p), W) - 0.1 * matmul(last S, last S) }  out y = S(x)",
    "whiten": "memory S : d -> d = eye { update 0.9 * last S + outer(k, k) }  P = matrix_power(S, -0.25)  out y = P(x) + solve(S, x)",
    "muon": "memory S : d -> d = zeros { minimize 0.1 * sqnorm(matmul(S, W) - outer(x, p)) + sum(where(S(k) - p, S(k), 0)) by decay(a), gd(0.1) }  out y = S(x)",
}  # fmt: skip


@pytest.mark.parametrize("word", OUTPUTS)
def test_torch_is_the_interpreter(word):
    check(case(f"{HEAD}  {OUTPUTS[word]}\n}}", "m", d=3), [1, 5], 2, 10 * EXACT)


ROUNDED = {
    "streams": "b = bfloat16(x)  z = 0.3 * b + a * b - where(b, b, 0.1)  out y = W(z) + z * p",
    "operators": "B = bfloat16(W)  M = a * matmul(B, transpose(B)) + 0.5 * B  N = matmul(M, V)  out y = M(x) + N(bfloat16(x)) + B(bfloat16(p))",
    "memory": "memory S : d -> d = zeros { update bfloat16(0.9 * last S + outer(k, x)) }  T = bfloat16(S)  B = 0.3 * T + a * matmul(T, T)  out y = B(x)",
    "chunks": "c = bfloat16(k)  memory S : d -> d = zeros { minimize 0.5 * sqnorm(S(c) - x) by decay(a), gd(0.5) }  out y = S(x)",
    "time": "b = bfloat16(x)  out y = 0.3 * delay(b, 2) + conv(b, 2) + rope(b)",
    "matrices": "B = bfloat16(G)  out y = solve(B, p) + solve(B, bfloat16(p)) + x * sum(row_mean(matrix_power(B, 0.5)))",
    "scan": "memory s : real[d] = zeros { update a * last s + bfloat16(x) }  out y = s * bfloat16(s)",
}


@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_is_that_of_the_interpreter(name):
    """Bit for bit but where two orders of summation round to different neighbours."""
    c = case(f"{HEAD}  {ROUNDED[name]}\n}}", "m", d=4)
    x = c.input(2, 4).requires_grad_()
    params = dict(c.module.named_parameters())
    y = outputs(c.module(x))["y"]
    wanted, state = c.interpreter.run(params, {"x": x})
    assert y.dtype == wanted["y"].dtype == torch.float64
    assert all(s.dtype in (torch.float64, torch.int64) for s in state.values())
    assert distance(y, wanted["y"]) < (1e-2 if name in ("matrices", "operators", "memory") else 1e-10)
    (ours,), (theirs,) = (torch.autograd.grad(o.sum(), x) for o in (y, wanted["y"]))
    assert distance(ours, theirs) < 2e-2


def test_what_is_computed_from_rounded_values_alone_is_rounded():
    body = "b = bfloat16(x)  r = 0.3 * b + sum(b) * b - count() * b + a * b  out u = r  out z = r + x"
    c = case(f"{HEAD}  {body}\n}}", "m", d=3)
    for run in (outputs(c.module(c.input(2, 3))), c.interpreter.run(dict(c.module.named_parameters()), {"x": c.input(2, 3)})[0]):
        assert torch.equal(run["u"], run["u"].bfloat16().double())
        assert not torch.equal(run["z"], run["z"].bfloat16().double())


def test_memories_with_rounded_values_run_tick_by_tick():
    c = case(f"{HEAD}  {ROUNDED['chunks']}\n}}", "m", d=3)
    assert c.forms["S"].name == "loop" and "bfloat16" in c.forms["S"].why
    assert case(f"{HEAD}  {ROUNDED['scan']}\n}}", "m", d=3).forms["s"].name == "loop"


@pytest.mark.parametrize("word", ["matrix_power(S, 0.5)", "eigenvectors(S)"])
def test_what_has_no_derivative_is_refused(word):
    text = f"block m(d) {{ in x : real[d]  memory S : d -> d = eye {{ minimize sqnorm({word}) by gd(0.1) }}  out y = S(x) }}"
    with pytest.raises(NlError) as refused:
        nldsl.load(text).module("m", d=3)
    assert refused.value.diagnostics[0].code == "NL601"


def test_the_words_are_their_equations():
    torch.manual_seed(0)
    a = torch.randn(2, 4, 3, 3).double()
    positive = a @ a.mT + torch.eye(3)
    root = matrix_power(positive, -0.25)
    assert distance(root @ root @ root @ root @ positive, torch.eye(3).double().expand(2, 4, 3, 3)) < 1e-10
    assert distance(matrix_power(a, 1), matrix_power((a + a.mT) / 2, 1.0)) < 1e-10
    negative = torch.diag(torch.tensor([-1.0, 4.0]))
    assert distance(matrix_power(negative, 0.5), torch.diag(torch.tensor([0.0, 2.0]))) < 1e-6
    v = eigenvectors(positive)
    values = (v.mT @ positive @ v).diagonal(dim1=-2, dim2=-1)
    assert distance(v.mT @ v, torch.eye(3).double().expand(2, 4, 3, 3)) < 1e-10
    assert (values.diff(dim=-1) >= 0).all()


def with_eigenvalues(*values):
    turn = torch.linalg.qr(torch.randn(len(values), len(values)).double())[0]
    return turn @ torch.diag(torch.tensor(values).double()) @ turn.mT


@pytest.mark.parametrize("power", [-1.0, -0.25, 0.0, 0.5, 1.0, 2.0])
def test_a_power_has_its_derivative_where_eigenvalues_repeat(power):
    torch.manual_seed(0)
    p = torch.tensor([power], dtype=torch.float64, requires_grad=True)
    for a in (torch.eye(4).double(), with_eigenvalues(1, 1, 1, 3), with_eigenvalues(1e-6, 1e-6, 1e-6, 3), with_eigenvalues(0.5, 1, 1 + 1e-9, 2)):
        h = 1e-9 if a.det() < 1e-9 else 1e-6
        for operation in (matrix_power, MIXED["matrix_power"][1]):
            assert torch.autograd.gradcheck(operation, (a.requires_grad_(), p), eps=h, atol=1e-3 if h < 1e-6 else 1e-5, rtol=1e-3)
    counted = with_eigenvalues(-1, -1, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: matrix_power(a, power), counted, rtol=1e-4)
    assert torch.autograd.gradcheck(lambda a: MIXED["matrix_power"][1](a, p.detach()), counted, rtol=1e-4)


def test_powers_and_eigenvectors_have_second_derivatives_where_no_eigenvalue_repeats():
    torch.manual_seed(0)
    a = with_eigenvalues(0.5, 1, 2, 3).requires_grad_()
    for operation in (lambda a: matrix_power(a, -0.25), lambda a: (eigenvectors(a) ** 4).sum()):
        assert torch.autograd.gradgradcheck(operation, a)


def test_the_basis_of_a_repeated_eigenvalue_is_that_of_its_space():
    """Rounding does not turn it, and its derivative is that of a vector whose square has this space."""
    torch.manual_seed(0)
    v = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    noise = 1e-16 * torch.randn(5, 5).double()
    for operation in (eigenvectors, MIXED["eigenvectors"][1]):
        for a in (v @ v.mT, 2 * torch.eye(5).double() + 3 * v @ v.mT, torch.zeros(5, 5).double(), with_eigenvalues(1, 1, 2, 2, 2)):
            basis = operation(a)
            assert distance(basis.abs(), operation(a + noise * a.abs().max()).abs()) < 1e-13
            assert distance(basis.mT @ basis, torch.eye(5).double()) < 1e-13
            assert distance(basis.mT @ a @ basis, torch.diag(torch.linalg.eigvalsh(a))) < 1e-13
        assert torch.autograd.gradcheck(lambda v, f=operation: f(v @ v.mT) ** 2, v)
    assert distance(eigenvectors(v @ v.mT) ** 2, MIXED["eigenvectors"][1](v @ v.mT) ** 2) < 1e-13


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    torch.manual_seed(0)
    a = torch.randn(2, 4, 4)
    a = (a @ a.mT + torch.eye(4)).to(dtype)
    b = torch.randn(2, 4, 3).to(dtype)
    assert torch.equal(matrix_power(a, 0.5), matrix_power(a.float(), 0.5).to(dtype))
    assert torch.equal(eigenvectors(a), eigenvectors(a.float()).to(dtype))
    assert torch.equal(solve(a, b), solve(a.float(), b.float()).to(dtype))
    assert solve(a, b.double()).dtype == torch.float64 and matmul(a, b.float()).dtype == torch.float32


def test_a_right_side_is_never_taken_for_a_batch_of_vectors():
    a, b = torch.randn(3, 3, 3).double() + 4 * torch.eye(3), torch.randn(3, 3).double()
    assert distance(solve(a, b), torch.stack([torch.linalg.solve(m, b) for m in a])) < 1e-10
