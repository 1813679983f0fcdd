"""Random programs of real operations over shared tensors: values and gradients, kept ones too, as in PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import ops
from nanograd.tensor import Tensor

torch = pytest.importorskip("torch", reason="the yardstick for whole programs")
F = torch.nn.functional

IDS = [2, 0, 0]
ONES, ZEROS = np.ones(4), np.zeros(4)
CHESS = np.indices((3, 4)).sum(axis=0) % 2 == 0
# (3, 4) → (3, 4), from one tensor or two: in nanograd, and in PyTorch. Many are views, some are x itself. All are
# smooth and none grows fast, or rounding would decide which side of a kink a program is on.
STEPS = {
    "identity": (lambda x: ops.dropout(x, p=0.0, key=None), lambda x: x.clone()),
    "no bounds": (lambda x: ops.clip(x), lambda x: x.clone()),
    "reshape": (lambda x: x.T.reshape(2, 6).reshape(3, 4), lambda x: x.T.reshape(2, 6).reshape(3, 4)),
    "unsqueeze": (lambda x: x.unsqueeze(0).squeeze(0), lambda x: x[None][0]),
    "flip": (lambda x: x.flip(1), lambda x: x.flip(1)),
    "rows": (lambda x: x[np.array(IDS)], lambda x: x[IDS]),
    "roll": (lambda x: ops.concatenate(x[1:], x[:1]), lambda x: torch.cat([x[1:], x[:1]])),
    "halves": (
        lambda x: ops.concatenate(*x.split(2, axis=1)[::-1], axis=1),
        lambda x: torch.cat(x.split(2, 1)[::-1], 1),
    ),
    "one column": (lambda x: ops.stack(x, x, axis=1)[:, 1], lambda x: torch.stack([x, x], 1)[:, 1]),
    "frame": (lambda x: ops.pad(x, widths=((1, 0), (0, 1)))[:3, 1:], lambda x: F.pad(x, (0, 1, 1, 0))[:3, 1:]),
    "sum": (lambda x: x.sum(0).expand(3, 4), lambda x: x.sum(0).expand(3, 4)),
    "mean": (lambda x: x.mean(1, keepdims=True).expand(3, 4), lambda x: x.mean(1, keepdim=True).expand(3, 4)),
    "tanh": (ops.tanh, torch.tanh),
    "gelu": (ops.gelu, F.gelu),
    "softmax": (lambda x: x.softmax(1), lambda x: x.softmax(1)),
    "norm": (lambda x: ops.layer_norm(x, ONES, ZEROS, eps=0.1), lambda x: F.layer_norm(x, (4,), eps=0.1)),
    "product": (lambda x: ops.tanh(x @ x.T @ x), lambda x: torch.tanh(x @ x.T @ x)),
    "attention": (
        lambda x: ops.attention(x, x, x, None, causal=True),
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True)[0],
    ),
    "add": (ops.add, torch.add),
    "sub": (ops.sub, torch.sub),
    "mul": (lambda a, b: ops.tanh(a * b), lambda a, b: torch.tanh(a * b)),
    "where": (lambda a, b: ops.where(CHESS, a, b), lambda a, b: torch.where(torch.tensor(CHESS), a, b)),
    "mixed rows": (lambda a, b: ops.concatenate(a[:1], b[1:]), lambda a, b: torch.cat([a[:1], b[1:]])),
}
BINARY = list(STEPS)[list(STEPS).index("add") :]
place = st.integers(0, 2**16)  # modulo how many values there are by then
programs = st.lists(st.tuples(st.sampled_from(list(STEPS)), place, place, st.booleans()), min_size=1, max_size=10)


def run(program, leaves, which):
    """The sum of the last value and of an earlier one, and all tensors whose gradient is asked for."""
    values, kept = list(leaves), list(leaves)
    for name, i, j, keep in program:
        operands = [values[place % len(values)] for place in ((i, j) if name in BINARY else (i,))]
        values.append(STEPS[name][which](*operands))
        if keep:
            values[-1].retain_grad()
            kept.append(values[-1])
    return values[-1] + values[program[0][1] % len(values)], kept


@given(programs, st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_random_programs_agree_with_pytorch(program, seed):
    a, b, dy = np.random.default_rng(seed).standard_normal((3, 3, 4))
    y, kept = run(program, [Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)], 0)
    reference, theirs = run(program, [torch.tensor(x, requires_grad=True) for x in (a, b)], 1)
    scale = 1 + reference.detach().abs().max().item()
    np.testing.assert_allclose(y.data, reference.detach().numpy(), rtol=1e-9, atol=1e-9 * scale)
    y.backward(dy)
    reference.backward(torch.tensor(dy))
    for mine, other in zip(kept, theirs, strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            scale = 1 + other.grad.abs().max().item()
            np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-7, atol=1e-8 * scale)
