"""weighted_linear_cross_entropy against formulas written out in numpy; its promises on cost, memory and autograd."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from balanced_thinking.core.linear_cross_entropy import default_chunk_rows
from balanced_thinking.core.loss import weighted_linear_cross_entropy
from balanced_thinking.errors import ConfigError, DataError


@dataclass
class Case:
    """Inputs of one call; hidden, head and bias require grad unless frozen."""

    hidden: torch.Tensor
    head: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor | None
    softcap: float | None
    scale: float

    def run(self, chunk_rows: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return weighted_linear_cross_entropy(
            self.hidden,
            self.head,
            self.labels,
            self.weights,
            bias=self.bias,
            softcap=self.softcap,
            scale=self.scale,
            chunk_rows=chunk_rows,
        )

    def gradients(self) -> list[torch.Tensor | None]:
        return [self.hidden.grad, self.head.grad, None if self.bias is None else self.bias.grad]


def make_case(
    seed: int = 0,
    *,
    rows: int = 23,
    dim: int = 16,
    vocab: int = 61,
    trained: float = 0.4,
    bias: bool = False,
    softcap: float | None = None,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Random inputs; the first row has weight 0, and labels of such rows are out of range."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    weights = torch.rand(rows, generator=generator) * (torch.rand(rows, generator=generator) < trained)
    weights[0] = 0.0
    labels = torch.randint(0, vocab, (rows,), generator=generator)
    labels[weights == 0] = torch.tensor([-100, vocab, 10**9]).repeat(rows)[: int((weights == 0).sum())]
    return Case(normal(rows, dim), normal(vocab, dim), labels, weights, normal(vocab) if bias else None, softcap, scale)


def reference(case: Case) -> tuple[float, np.ndarray, list[np.ndarray]]:
    """Loss, nll and the gradients of hidden, head and bias in float64, row by row, derived by hand."""
    hidden, head = (tensor.detach().double().numpy() for tensor in (case.hidden, case.head))
    bias = np.zeros(len(head)) if case.bias is None else case.bias.detach().double().numpy()
    nll = np.zeros(len(hidden))
    d_hidden, d_head, d_bias = np.zeros_like(hidden), np.zeros_like(head), np.zeros_like(bias)
    for row, weight in enumerate(case.weights.double().tolist()):
        if weight == 0:
            continue
        logits, slope = (head @ hidden[row] + bias) * case.scale, np.ones(len(head))
        if case.softcap is not None:
            bounded = np.tanh(logits / case.softcap)
            logits, slope = case.softcap * bounded, 1 - bounded**2
        odds = np.exp(logits - logits.max())
        label = int(case.labels[row])
        nll[row] = np.log(odds.sum()) + logits.max() - logits[label]
        gradient = odds / odds.sum()
        gradient[label] -= 1
        gradient *= weight * slope * case.scale
        d_hidden[row] = head.T @ gradient
        d_head += np.outer(gradient, hidden[row])
        d_bias += gradient
    return float(case.weights.double().numpy() @ nll), nll, [d_hidden, d_head, d_bias]


def error(got: Any, wanted: Any) -> float:
    """Norm of the difference over norm of what is wanted."""
    got, wanted = (np.asarray(x.detach().double() if torch.is_tensor(x) else x) for x in (got, wanted))
    return float(np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-30))


OPTIONS = [
    {},
    {"bias": True},
    {"softcap": 3.0},
    {"scale": 0.25},
    {"scale": -1.5, "bias": True},
    {"softcap": 5.0, "scale": 2.0, "bias": True},
]


# ---------------------------------------------------------------------------------------------- values and gradients
def test_hand_worked_numbers() -> None:
    """Two rows with logits (0, ln 3) and (ln 3, 0), label 0: p = 1/4 and 3/4, nll = ln 4 and ln 4/3.

    loss = 2 ln 4 + ln 4/3 = 3.0603; gradients of the logits are 2 * (-3/4, 3/4) and (-1/4, 1/4), and with
    hidden = unit vectors, head = [[0, ln 3], [ln 3, 0]] they give d hidden = d logits @ head.
    """
    log3 = math.log(3.0)
    hidden = torch.eye(2, requires_grad=True)
    head = torch.tensor([[0.0, log3], [log3, 0.0]], requires_grad=True)
    loss, nll = weighted_linear_cross_entropy(hidden, head, torch.tensor([0, 0]), torch.tensor([2.0, 1.0]))
    loss.backward()
    assert loss.item() == pytest.approx(3.0603, abs=1e-4)
    assert nll.tolist() == pytest.approx([math.log(4), math.log(4 / 3)], rel=1e-6)
    d_logits = torch.tensor([[-1.5, 1.5], [-0.25, 0.25]])
    torch.testing.assert_close(hidden.grad, d_logits @ head.detach())
    torch.testing.assert_close(head.grad, d_logits.t())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("chunk_rows", [None, 1, 3, 1000])
def test_equals_reference(options: dict, chunk_rows: int | None) -> None:
    case = make_case(len(str(options)), **options)
    loss, nll = case.run(chunk_rows)
    loss.backward()
    wanted_loss, wanted_nll, wanted = reference(case)
    assert loss.item() == pytest.approx(wanted_loss, rel=2e-5)
    assert nll.dtype == torch.float32
    assert error(nll, wanted_nll) < 2e-5
    for got, expected in zip(case.gradients(), wanted, strict=True):
        assert got is None or error(got, expected) < 2e-5


@pytest.mark.parametrize("seed", range(12))
def test_equals_reference_over_random_shapes(seed: int) -> None:
    draw = np.random.default_rng(seed)
    case = make_case(
        seed,
        rows=int(draw.integers(1, 80)),
        dim=int(draw.integers(1, 70)),
        vocab=int(draw.integers(2, 900)),
        trained=float(draw.choice([0.1, 0.5, 1.1])),
        **OPTIONS[seed % len(OPTIONS)],
    )
    loss, nll = case.run(int(draw.integers(1, 40)))
    loss.backward()
    wanted_loss, wanted_nll, wanted = reference(case)
    assert loss.item() == pytest.approx(wanted_loss, rel=2e-5, abs=1e-7)
    assert error(nll, wanted_nll) < 2e-5
    for got, expected in zip(case.gradients(), wanted, strict=True):
        assert got is None or error(got, expected) < 2e-5


def test_all_rows_trained_and_strided_inputs() -> None:
    case = make_case(3, rows=12, trained=1.1)
    case.hidden = torch.randn(24, 32)[::2, ::2].requires_grad_()
    case.head = torch.randn(16, 61).t().requires_grad_()
    loss, _ = case.run(5)
    loss.backward()
    _, _, wanted = reference(case)
    assert error(case.hidden.grad, wanted[0]) < 2e-5
    assert error(case.head.grad, wanted[1]) < 2e-5


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_float64_is_exact(options: dict) -> None:
    case = make_case(5, dtype=torch.float64, **options)
    loss, _ = case.run(4)
    loss.backward()
    wanted_loss, _, wanted = reference(case)
    assert loss.item() == pytest.approx(wanted_loss, rel=1e-12)
    for got, expected in zip(case.gradients(), wanted, strict=True):
        assert got is None or error(got, expected) < 1e-12


def test_nearly_certain_token_keeps_its_gradient() -> None:
    """Logits (20, 0): 1 - p = 2.06e-9, which float32 loses when it subtracts 1 from p."""
    hidden = torch.tensor([[20.0]], requires_grad=True)
    loss, nll = weighted_linear_cross_entropy(hidden, torch.tensor([[1.0], [0.0]]), torch.tensor([0]), torch.ones(1))
    loss.backward()
    assert nll.item() == pytest.approx(math.log1p(math.exp(-20)), rel=1e-5)
    assert hidden.grad.item() == pytest.approx(-math.exp(-20), rel=1e-5)


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss, nll = weighted_linear_cross_entropy(hidden, torch.tensor([[1.0], [0.0]]), torch.tensor([0, 0]), torch.ones(2))
    loss.backward()
    assert nll.tolist() == [0.0, 1e4]
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("labels", [torch.int32, torch.int16], ids=str)
def test_labels_of_any_integer_type(labels: torch.dtype) -> None:
    case = make_case(trained=1.1)
    wanted, _ = case.run()
    case.labels = case.labels.clamp(0, 60).to(labels)
    assert case.run()[0].item() == wanted.item()


# --------------------------------------------------------------------------------------------------- low precision
def naive_gradients(case: Case, dtype: torch.dtype) -> list[torch.Tensor]:
    """The usual way on full logits: products in ``dtype``, softmax in float32."""
    rows = case.weights.nonzero().squeeze(1)
    hidden, head = (tensor.detach().clone().requires_grad_() for tensor in (case.hidden, case.head))
    logits = F.linear(hidden[rows].to(dtype), head.to(dtype)).float()
    (F.cross_entropy(logits, case.labels[rows], reduction="none") * case.weights[rows]).sum().backward()
    return [hidden.grad, head.grad]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("chunk_rows", [None, 1, 7])
def test_low_precision_is_as_good_as_the_naive_way(dtype: torch.dtype, chunk_rows: int | None) -> None:
    case = make_case(1, rows=64, dim=32, vocab=300, dtype=dtype)
    loss, nll = case.run(chunk_rows)
    loss.backward()
    wanted_loss, _, wanted = reference(case)
    assert loss.dtype == nll.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted_loss, rel=1e-2)
    for got, naive, expected in zip(case.gradients(), naive_gradients(case, dtype), wanted, strict=False):
        assert got.dtype == dtype
        assert error(got, expected) < 1.5 * error(naive, expected)


def test_chunks_add_up_in_float32() -> None:
    """2,000 equal rows, a chunk each: adding in bfloat16 would stop growing after some 256."""
    hidden, labels = torch.ones(2000, 4, dtype=torch.bfloat16), torch.zeros(2000, dtype=torch.long)
    head = torch.zeros(8, 4, dtype=torch.bfloat16, requires_grad=True)
    loss, _ = weighted_linear_cross_entropy(hidden, head, labels, torch.ones(2000), chunk_rows=1)
    loss.backward()
    assert head.grad[0, 0].item() == pytest.approx(-2000 * 7 / 8, rel=2**-8)


def test_float16_gradients_of_tiny_weights_survive_a_loss_scale() -> None:
    case = make_case(2, rows=40, dim=8, vocab=500, dtype=torch.float16)
    case.weights *= 1e-6
    (case.run()[0] * 2.0**20).backward()
    _, _, wanted = reference(case)
    assert error(case.hidden.grad, wanted[0] * 2.0**20) < 5e-3
    assert error(case.head.grad, wanted[1] * 2.0**20) < 5e-3


@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chunk_rows", [None, 5])
def test_autocast_multiplies_in_its_type_and_returns_own_types(
    hidden_dtype: torch.dtype, chunk_rows: int | None
) -> None:
    case = make_case(4, rows=40, dim=32, vocab=200, bias=True)
    case.hidden = case.hidden.detach().to(hidden_dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), Products() as products:
        loss, _ = case.run(chunk_rows)
    loss.backward()
    _, _, wanted = reference(case)
    assert products.dtypes == {torch.bfloat16}
    assert [case.hidden.grad.dtype, case.head.grad.dtype, case.bias.grad.dtype] == [
        hidden_dtype,
        torch.float32,
        torch.float32,
    ]
    for got, expected in zip(case.gradients(), wanted, strict=True):
        assert error(got, expected) < 1e-2


def test_autocast_leaves_float64_alone() -> None:
    case = make_case(dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = case.run()
    assert loss.item() == pytest.approx(reference(case)[0], rel=1e-12)


# -------------------------------------------------------------------------------------------------------- autograd
@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3)), ids=str)
def test_any_part_may_be_frozen(needs: tuple[bool, bool, bool]) -> None:
    case = make_case(6, bias=True, softcap=4.0)
    for tensor, need in zip((case.hidden, case.head, case.bias), needs, strict=True):
        tensor.requires_grad_(need)
    loss, _ = case.run(4)
    wanted_loss, _, wanted = reference(case)
    assert loss.item() == pytest.approx(wanted_loss, rel=2e-5)
    assert loss.requires_grad == any(needs)
    if any(needs):
        loss.backward()
    for got, expected, need in zip(case.gradients(), wanted, needs, strict=True):
        assert (got is not None) == need
        assert got is None or error(got, expected) < 2e-5


@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_nothing_to_train_gives_zero_gradients(rows: int, dtype: torch.dtype) -> None:
    case = make_case(rows=5, bias=True, dtype=dtype)
    case.hidden = case.hidden.detach()[:rows].requires_grad_()
    case.labels, case.weights = torch.full((rows,), -100), torch.zeros(rows)
    loss, nll = case.run()
    assert loss.item() == 0
    assert nll.tolist() == [0.0] * rows
    loss.backward()
    for tensor, gradient in zip((case.hidden, case.head, case.bias), case.gradients(), strict=True):
        assert gradient.shape == tensor.shape
        assert gradient.dtype == dtype
        assert not gradient.any()


@pytest.mark.parametrize(
    ("reduce", "factor"),
    [
        (lambda loss: loss * -0.37, -0.37),
        (lambda loss: loss.expand(3).sum(), 3.0),
        (lambda loss: (loss.expand(4) * torch.tensor([1.0, 2.0, 0.0, 4.0])).mean(), 1.75),
        (lambda loss: loss / 1, 1.0),
        (lambda loss: loss * 0, 0.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_upstream_gradient_multiplies(reduce: Any, factor: float, dtype: torch.dtype) -> None:
    case = make_case(7, bias=True, dtype=dtype)
    reduce(case.run(6)[0]).backward()
    _, _, wanted = reference(case)
    for got, expected in zip(case.gradients(), wanted, strict=True):
        tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-5
        assert np.linalg.norm(got.double().numpy() - expected * factor) < tolerance * np.linalg.norm(expected)


def test_losses_of_micro_batches_add_up_in_grad() -> None:
    """The first backward hands its buffer to .grad; the second must add to it, not share it."""
    case, half = make_case(8, rows=30), 15
    wanted_loss, _, wanted = reference(case)
    total = 0.0
    for part in (slice(0, half), slice(half, None)):
        loss, _ = weighted_linear_cross_entropy(case.hidden[part], case.head, case.labels[part], case.weights[part])
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(wanted_loss, rel=2e-5)
    assert error(case.hidden.grad, wanted[0]) < 2e-5
    assert error(case.head.grad, wanted[1]) < 2e-5


def test_tied_embeddings_add_both_gradients() -> None:
    torch.manual_seed(0)
    table, ids = torch.randn(40, 8, requires_grad=True), torch.randint(0, 40, (12,))
    labels, weights = torch.randint(0, 40, (12,)), torch.rand(12)
    weighted_linear_cross_entropy(F.embedding(ids, table).tanh(), table, labels, weights)[0].backward()
    got, table.grad = table.grad, None
    nll = F.cross_entropy(F.linear(F.embedding(ids, table).tanh(), table), labels, reduction="none")
    (nll * weights).sum().backward()
    assert error(got, table.grad) < 1e-5


def test_second_backward_raises_and_changes_nothing() -> None:
    case = make_case(9)
    loss, _ = case.run()
    loss.backward(retain_graph=True)
    before = [case.hidden.grad.clone(), case.head.grad.clone()]
    with pytest.raises(RuntimeError, match="second backward through weighted_linear_cross_entropy"):
        loss.backward()
    assert torch.equal(case.hidden.grad, before[0])
    assert torch.equal(case.head.grad, before[1])


def test_double_backward_raises() -> None:
    case = make_case()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(case.run()[0], case.hidden, create_graph=True)


def test_nll_is_detached() -> None:
    loss, nll = make_case().run()
    assert loss.requires_grad
    assert not nll.requires_grad


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_around_it(reentrant: bool) -> None:
    """The projection runs with gradients once: 3 products (and one more without gradients if reentrant)."""
    case, layer = make_case(10, rows=16), torch.nn.Linear(16, 16)

    def loss(states: torch.Tensor) -> torch.Tensor:
        return weighted_linear_cross_entropy(layer(states).tanh(), case.head, case.labels, case.weights)[0]

    loss(case.hidden).backward()
    wanted = [gradient.clone() for gradient in (case.hidden.grad, case.head.grad, layer.weight.grad)]
    for tensor in (case.hidden, case.head, layer.weight):
        tensor.grad = None
    with Products(width=case.head.shape[0]) as products:
        checkpoint(loss, case.hidden, use_reentrant=reentrant).backward()
    assert products.count == 3 + reentrant
    for tensor, expected in zip((case.hidden, case.head, layer.weight), wanted, strict=True):
        torch.testing.assert_close(tensor.grad, expected)


def test_sharded_head_is_gathered(tmp_path: Path) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    case = make_case(11, bias=True)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        case.head = distribute_tensor(case.head.detach(), mesh, [Shard(0)]).requires_grad_()
        case.bias = distribute_tensor(case.bias.detach(), mesh, [Shard(0)]).requires_grad_()
        case.run(4)[0].backward()
        gradients = [case.hidden.grad, case.head.grad.full_tensor(), case.bias.grad.full_tensor()]
        case.head, case.bias = case.head.full_tensor(), case.bias.full_tensor()
        for got, expected in zip(gradients, reference(case)[2], strict=True):
            assert error(got, expected) < 2e-5
    finally:
        torch.distributed.destroy_process_group()


# --------------------------------------------------------------------------------------------------- cost and memory
class Products(TorchDispatchMode):
    """Counts matrix products (those with an axis of ``width``, if given) and their types."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__()
        self.width, self.count, self.dtypes = width, 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            axes = {size for x in (*args, out) if torch.is_tensor(x) for size in x.shape}
            self.count += self.width is None or self.width in axes
            self.dtypes.add(out.dtype)
        return out


class Allocations(TorchDispatchMode):
    """Size in bytes of the largest storage that any operation makes; views and in-place results make none."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_flatten((args, kwargs))[0] if torch.is_tensor(x)}
        for tensor in tree_flatten(out)[0]:
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("chunk_rows", [None, 1, 7])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_costs_exactly_three_products(chunk_rows: int | None, options: dict, dtype: torch.dtype) -> None:
    case = make_case(rows=50, dim=24, vocab=100, dtype=dtype, **options)
    product = 2 * int(case.weights.count_nonzero()) * 24 * 100

    def flops() -> int:
        with FlopCounterMode(display=False) as counter:
            loss, _ = case.run(chunk_rows)
            if loss.requires_grad:
                loss.backward()
        return counter.get_total_flops()

    assert flops() == 3 * product
    case.head.requires_grad_(False)
    assert flops() == 2 * product
    with torch.no_grad():
        assert flops() == product
    case.head.requires_grad_(True)
    case.hidden.requires_grad_(False)
    assert flops() == 2 * product
    with torch.inference_mode():
        assert flops() == product


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("train_head", [True, False])
@pytest.mark.parametrize(("rows", "chunk_rows"), [(600, 16), (600, 600), (40, 8), (64, 1)])
def test_allocates_nothing_larger_than_it_must(
    dtype: torch.dtype, train_head: bool, rows: int, chunk_rows: int
) -> None:
    dim, vocab = 32, 2000
    case = make_case(rows=rows, dim=dim, vocab=vocab, trained=1.1, dtype=dtype)
    case.head.requires_grad_(train_head)
    chunks_add_up = chunk_rows < rows
    head_bytes = vocab * dim * (4 if chunks_add_up else dtype.itemsize) if train_head else 0
    with Allocations() as allocations:
        case.run(chunk_rows)[0].backward()
    assert allocations.largest <= max(chunk_rows * vocab * 4, rows * dim * dtype.itemsize, head_bytes)


def test_backward_of_one_copies_no_gradient() -> None:
    case = make_case(rows=10, dim=32, vocab=500)
    loss, _ = case.run()
    with Allocations() as allocations:
        loss.backward()
    assert allocations.largest <= 10 * 4  # autograd makes zeros as the upstream gradient of nll
    assert case.head.grad is not None


def test_default_chunks() -> None:
    assert default_chunk_rows(205, 32768, torch.bfloat16, device_type="cpu") == 205
    assert default_chunk_rows(2048, 32768, torch.bfloat16, device_type="cpu") == 1024
    assert default_chunk_rows(1030, 151936, torch.float32, device_type="cpu") == 206  # five equal ones of at most 256
    assert default_chunk_rows(5000, 151936, torch.bfloat16, device_type="cuda") == 1000
    assert default_chunk_rows(0, 10, torch.float32, device_type="cpu") == 1


# ------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, -math.inf])
def test_bad_weights_are_refused(bad: float) -> None:
    case = make_case()
    case.weights[2] = bad
    with pytest.raises(ConfigError, match=f"finite and not negative, got {bad}"):
        case.run()


@pytest.mark.parametrize("bad", [-100, 61])
def test_bad_labels_are_refused(bad: int) -> None:
    case = make_case()
    case.labels[case.weights.nonzero()[0]] = bad
    with pytest.raises(DataError, match=rf"label {bad} of a row with non-zero weight .* \[0, 61\)"):
        case.run()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"softcap": 0.0}, "softcap .* got 0.0"),
        ({"softcap": math.inf}, "softcap .* got inf"),
        ({"scale": 0.0}, "scale .* got 0.0"),
        ({"scale": math.nan}, "scale .* got nan"),
        ({"chunk_rows": 0}, "chunk_rows .* got 0"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    case = make_case()
    with pytest.raises(ConfigError, match=words):
        weighted_linear_cross_entropy(case.hidden, case.head, case.labels, case.weights, **options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "change",
    [
        {"hidden": torch.ones(23, 15)},
        {"hidden": torch.ones(1, 23, 16)},
        {"labels": torch.ones(22, dtype=torch.long)},
        {"token_weights": torch.ones(23, 1)},
        {"bias": torch.ones(60)},
    ],
    ids=lambda change: "-".join(change),
)
def test_shapes_that_disagree_are_refused(change: dict) -> None:
    case = make_case()
    arguments = {"hidden": case.hidden, "head": case.head, "labels": case.labels, "token_weights": case.weights}
    (tensor,) = change.values()
    with pytest.raises(ConfigError, match="got .*" + str(list(tensor.shape)).replace("[", r"\[")):
        weighted_linear_cross_entropy(**{**arguments, **change})


def test_types_that_disagree_are_refused() -> None:
    case = make_case()
    with pytest.raises(ConfigError, match=r"hidden is torch.bfloat16 and head torch.float32"):
        weighted_linear_cross_entropy(case.hidden.bfloat16(), case.head, case.labels, case.weights)


def test_weights_with_gradient_are_refused() -> None:
    case = make_case()
    with pytest.raises(ConfigError, match="token_weights requires grad"):
        weighted_linear_cross_entropy(case.hidden, case.head, case.labels, case.weights.requires_grad_())


def test_annotations_are_checked_in_tests() -> None:
    case = make_case()
    with pytest.raises(jaxtyping.TypeCheckError):
        weighted_linear_cross_entropy(case.hidden, case.head, case.labels[1:], case.weights)
