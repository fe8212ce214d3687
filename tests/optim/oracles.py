"""Rules in plain PyTorch, one loop each, straight from the papers: what the library is compared with.

Each takes a tensor, the gradients of the steps, and its numbers, and returns the tensor after the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.775, 2.0315)


def classical_momentum(w: Tensor, grads: Sequence[Tensor], lr: float, beta: float = 0.9) -> Tensor:
    m = torch.zeros_like(w)
    for g in grads:
        m = beta * m + g
        w = w - lr * m
    return w


def ema_momentum(w: Tensor, grads: Sequence[Tensor], lr: float, beta: float = 0.9) -> Tensor:
    m = torch.zeros_like(w)
    for g in grads:
        m = beta * m + (1 - beta) * g
        w = w - lr * m
    return w


def nesterov(w: Tensor, grads: Sequence[Tensor], lr: float, beta: float = 0.9) -> Tensor:
    m = torch.zeros_like(w)
    for g in grads:
        m = beta * m + g
        w = w - lr * (g + beta * m)
    return w


def adam_sums(w: Tensor, grads: Sequence[Tensor], lr: float, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8) -> Tensor:
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for g in grads:
        m = m + betas[0] * g
        v = v + betas[1] * g**2
        w = w - lr / math.sqrt(betas[1]) * m / (v.sqrt() + eps)
    return w


def signsgd(w: Tensor, grads: Sequence[Tensor], lr: float, weight_decay: float = 0.0) -> Tensor:
    for g in grads:
        w = w - lr * (torch.sign(g) + weight_decay * w)
    return w


def signum(w: Tensor, grads: Sequence[Tensor], lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> Tensor:
    m = torch.zeros_like(w)
    for g in grads:
        m = momentum * m + (1 - momentum) * g
        w = w - lr * (torch.sign(m) + weight_decay * w)
    return w


def lion(w: Tensor, grads: Sequence[Tensor], lr: float, betas: Sequence[float] = (0.9, 0.99), weight_decay: float = 0.0) -> Tensor:
    """Chen et al. 2023, Algorithm 2."""
    m = torch.zeros_like(w)
    for g in grads:
        c = betas[0] * m + (1 - betas[0]) * g
        w = w - lr * (torch.sign(c) + weight_decay * w)
        m = betas[1] * m + (1 - betas[1]) * g
    return w


def ademamix(
    w: Tensor, grads: Sequence[Tensor], lr: float, betas: Sequence[float] = (0.9, 0.999, 0.9999), alpha: float = 5.0,
    t_alpha_beta3: float = 0.0, eps: float = 1e-8, weight_decay: float = 0.0,
) -> Tensor:  # fmt: skip
    """Pagliardini et al. 2024, Algorithm 1 and its schedulers."""
    fast, slow, v = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w)
    b1, b2, b3 = betas
    for t, g in enumerate(grads, 1):
        a, b = alpha, b3
        if t_alpha_beta3:
            s = t / t_alpha_beta3
            a = min(s * alpha, alpha)
            b = min(math.exp(math.log(b1) * math.log(b3) / ((1 - s) * math.log(b3) + s * math.log(b1))), b3)
        fast = b1 * fast + (1 - b1) * g
        slow = b * slow + (1 - b) * g
        v = b2 * v + (1 - b2) * g**2
        w = w - lr * ((fast / (1 - b1**t) + a * slow) / ((v / (1 - b2**t)).sqrt() + eps) + weight_decay * w)
    return w


def power(a: Tensor, p: float) -> Tensor:
    values, vectors = torch.linalg.eigh(a)
    return (vectors * values.clamp(min=0) ** p) @ vectors.T


def shampoo(w: Tensor, grads: Sequence[Tensor], lr: float, eps: float = 1e-6, weight_decay: float = 0.0, frequency: int = 1) -> Tensor:
    """Gupta et al. 2018, Algorithm 1."""
    e, d = w.shape
    left, right = eps * torch.eye(e, dtype=w.dtype), eps * torch.eye(d, dtype=w.dtype)
    for t, g in enumerate(grads, 1):
        g = g + weight_decay * w
        left, right = left + g @ g.T, right + g.T @ g
        if (t - 1) % frequency == 0:
            left_root, right_root = power(left, -0.25), power(right, -0.25)
        w = w - lr * left_root @ g @ right_root
    return w


def soap(
    w: Tensor, grads: Sequence[Tensor], lr: float, betas: Sequence[float] = (0.95, 0.95), shampoo_beta: float = 0.95, eps: float = 1e-8,
    weight_decay: float = 0.01, frequency: int = 10,
) -> Tensor:  # fmt: skip
    """Vyas et al. 2024, Algorithm 3: the first moment is turned from each basis into the next."""
    e, d = w.shape
    left, right = torch.zeros(e, e, dtype=w.dtype), torch.zeros(d, d, dtype=w.dtype)
    u, r = torch.eye(e, dtype=w.dtype), torch.eye(d, dtype=w.dtype)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(grads, 1):
        left = shampoo_beta * left + (1 - shampoo_beta) * g @ g.T
        right = shampoo_beta * right + (1 - shampoo_beta) * g.T @ g
        if (t - 1) % frequency == 0:
            plain = u @ m @ r.T
            u, r = torch.linalg.eigh(left).eigenvectors, torch.linalg.eigh(right).eigenvectors
            m = u.T @ plain @ r
        turned = u.T @ g @ r
        m = betas[0] * m + (1 - betas[0]) * turned
        v = betas[1] * v + (1 - betas[1]) * turned**2
        step = m / (1 - betas[0] ** t) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
        w = w - lr * (u @ step @ r.T + weight_decay * w)
    return w


def newton_schulz(m: Tensor, steps: int, coefficients: Sequence[float] = QUINTIC, eps: float = 1e-7) -> Tensor:
    a, b, c = coefficients
    x = m / m.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def muon_exact(
    w: Tensor, grads: Sequence[Tensor], lr: float, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: int = 1,
    ns_steps: int = 5, match_rms_adamw: int = 0,
) -> Tensor:  # fmt: skip
    """Jordan's post, in the precision of w; the two scales of torch.optim.Muon."""
    e, d = w.shape
    scale = 0.2 * math.sqrt(max(e, d)) if match_rms_adamw else math.sqrt(max(1, e / d))
    m = torch.zeros_like(w)
    for g in grads:
        m = momentum * m + (1 - momentum) * g
        ahead = momentum * m + (1 - momentum) * g if nesterov else m
        w = w - lr * weight_decay * w - lr * scale * newton_schulz(ahead, ns_steps)
    return w


def preconditioned_momentum(
    w: Tensor, grads: Sequence[Tensor], lr: float, beta: float = 0.9, zeta: float = 0.1, eps: float = 1e-7
) -> Tensor:
    """NL (47), P by (41) on (43), whose gradient is taken by autograd, with the columns of P(u) as NL prints it."""
    e, d = w.shape
    p, m, eye = torch.eye(e, dtype=w.dtype), torch.zeros_like(w), torch.eye(d, dtype=w.dtype)
    for g in grads:
        u = g / g.norm().clamp(min=eps)
        p = p - zeta * torch.func.grad(lambda p, u=u: (((p @ u).T @ (p @ u) - eye) ** 2).sum())(p)
        m = beta * m + p @ g
        w = w - lr * m
    return w


def delta_momentum(w: Tensor, grads: Sequence[Tensor], lr: float, beta: float = 0.9, erase: float = 1.0) -> Tensor:
    """NL (49) with P = I and the norm of the key cut to 1."""
    m = torch.zeros_like(w)
    for g in grads:
        u = g / max(1.0, float(g.norm()))
        m = m @ (beta * torch.eye(w.shape[1], dtype=w.dtype) - erase * u.T @ u) + g
        w = w - lr * m
    return w


def diagonal_delta_momentum(w: Tensor, grads: Sequence[Tensor], lr: float, beta: float = 0.9, erase: float = 1.0) -> Tensor:
    m = torch.zeros_like(w)
    for g in grads:
        m = m * (beta - erase * g.clamp(-1, 1) ** 2) + g
        w = w - lr * m
    return w


def deep_momentum(
    w: Tensor, grads: Sequence[Tensor], lr: float, beta: float = 0.9, rates: Sequence[float] = (0.01, 1.0), curve: float = 1.0
) -> Tensor:
    """NL (50): the gradients of <m(g^T), I> with respect to both layers by autograd."""
    e, d = w.shape
    first, second = torch.zeros(d, d, dtype=w.dtype), torch.zeros(e, d, dtype=w.dtype)

    def read(layers: tuple[Tensor, Tensor], z: Tensor) -> Tensor:
        a = z + layers[0] @ z
        return layers[1] @ (a + curve * (torch.tanh(a) - a))

    for g in grads:
        to_first, to_second = torch.func.grad(lambda layers, g=g: -read(layers, g.T).trace())((first, second))
        first, second = beta * first - rates[0] * to_first, beta * second - rates[1] * to_second
        w = w - lr * read((first, second), torch.eye(d, dtype=w.dtype))
    return w


def feature_momentum(w: Tensor, grads: Sequence[Tensor], lr: float, beta: float = 0.9, bound: float = 1.0) -> Tensor:
    m = torch.zeros_like(w)
    for g in grads:
        m = beta * m + bound * torch.tanh(g / bound)
        w = w - lr * m
    return w


def delta_gradient_descent(w: Tensor, layers: Sequence[tuple[Tensor, Tensor]], lr: float) -> Tensor:
    """NL (56) as the normal equations of its argmin: W' (X X^T + I / lr) = U X^T + W / lr with U = -Delta."""
    for x, delta in layers:
        left = x @ x.T + torch.eye(w.shape[1], dtype=w.dtype) / lr
        w = torch.linalg.solve(left, (w / lr - delta @ x.T).T).T
    return w


def m3(
    w: Tensor, grads: Sequence[Tensor], lr: float, betas: Sequence[float] = (0.9, 0.999, 0.9), alpha: float = 1.0, eps: float = 1e-8,
    frequency: int = 100, ns_steps: int = 5,
) -> Tensor:  # fmt: skip
    """NL Algorithm 1 with its two loops and a buffer of the gradients of a period."""
    m1, m2, v = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w)
    for k in range(math.ceil(len(grads) / frequency)):
        if k > 0:
            m2 = m2 + betas[2] * torch.stack(list(grads[(k - 1) * frequency : k * frequency])).sum(0)
        o2 = newton_schulz(m2, ns_steps)
        for g in grads[k * frequency : (k + 1) * frequency]:
            m1 = m1 + betas[0] * g
            v = v + betas[1] * g**2
            w = w - lr * (newton_schulz(m1, ns_steps) + alpha * o2) / (v.sqrt() + eps)
    return w


def m3_ema(
    w: Tensor, grads: Sequence[Tensor], lr: float, betas: Sequence[float] = (0.9, 0.999, 0.9), alpha: float = 1.0, eps: float = 1e-8,
    weight_decay: float = 0.0, floor: float = 0.01, frequency: int = 100, ns_steps: int = 5,
) -> Tensor:  # fmt: skip
    m1, m2, v = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(grads, 1):
        k, at_start = divmod(t - 1, frequency)
        if k > 0 and at_start == 0:
            m2 = betas[2] * m2 + (1 - betas[2]) * torch.stack(list(grads[(k - 1) * frequency : k * frequency])).mean(0)
        m1 = betas[0] * m1 + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        root = (v / (1 - betas[1] ** t)).sqrt()
        size = torch.maximum(root, floor * (root**2).mean().sqrt()) + eps
        w = w - lr * weight_decay * w - lr * (newton_schulz(m1, ns_steps) + alpha * newton_schulz(m2, ns_steps)) / size
    return w


def sgd_clip_value(w: Tensor, grads: Sequence[Tensor], lr: float, clip: float = 1.0) -> Tensor:
    for g in grads:
        w = w - lr * g.clamp(-clip, clip)
    return w


def clipped(g: Tensor, max_norm: float) -> Tensor:
    p = torch.zeros_like(g).requires_grad_()
    p.grad = g.clone()
    torch.nn.utils.clip_grad_norm_([p], max_norm)
    return p.grad


def sgd_clip_norm(w: Tensor, grads: Sequence[Tensor], lr: float, max_norm: float = 1.0) -> Tensor:
    for g in grads:
        w = w - lr * clipped(g, max_norm)
    return w


def adamw_clip_norm(w: Tensor, grads: Sequence[Tensor], lr: float, max_norm: float = 1.0) -> Tensor:
    return _adamw(w, [clipped(g, max_norm) for g in grads], lambda t: lr)


def adamw_warmup(
    w: Tensor, grads: Sequence[Tensor], lr: float, warmup: float = 100, cooldown: float = 100, steps: float = 0
) -> Tensor:
    def rate(t: int) -> float:
        end = min(1.0, max(0.0, (steps - t) / cooldown)) if steps else 1.0
        return lr * min(1.0, t / warmup) * end

    return _adamw(w, grads, rate)


def _adamw(w: Tensor, grads: Sequence[Tensor], rate: Callable[[int], float]) -> Tensor:
    p = torch.nn.Parameter(w.clone())
    optimizer = torch.optim.AdamW([p], foreach=False)
    for t, g in enumerate(grads, 1):
        optimizer.param_groups[0]["lr"] = rate(t)
        p.grad = g.clone()
        optimizer.step()
    return p.detach()
