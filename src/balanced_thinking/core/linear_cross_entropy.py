"""Vocabulary projection and weighted cross-entropy in one function whose gradients are ready after the forward pass.

The weight of every token of the SCALe loss is known before the forward pass (segment lengths and the step fix it), so
the gradient of a row of logits can be formed as soon as the row exists. That spares what per-token losses otherwise
pay: rows of weight 0 are never projected, logits live for one chunk of rows only, and nothing is computed twice. For
Nv rows of non-zero weight, width d and vocabulary V the cost is three matrix products, 6 * Nv * d * V operations
(4 with a frozen head or frozen hidden states, 2 without gradients).

Source: the weighted sum of METHOD.md ("Seen as code"), SCALe, Perek et al. 2026, arXiv:2603.18656; forming the gradient
in the forward pass is the known trick of chunked linear cross-entropy (for example Liger's), here with row weights.

Left out: label smoothing, class weights, vocabulary-parallel heads, double backward, Triton kernels.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from balanced_thinking.errors import ConfigError, DataError

# Below these rows a chunk costs more for streaming the head than for multiplying with it.
_LEAST_ROWS = {"cpu": 256}
_LEAST_ROWS_ELSEWHERE = 1024
_TILE_BYTES = {"cpu": 64 << 20}
_TILE_BYTES_ELSEWHERE = 512 << 20
# What stays in a core's cache while several passes go over it; elsewhere launches cost more than cache misses.
_CACHE_BYTES = 2 << 20
_PART_ROWS = {"cpu": 4096}
_PART_ROWS_ELSEWHERE = 32768


def weighted_linear_cross_entropy(
    hidden: Float[Tensor, "rows dim"],
    head: Float[Tensor, "vocab dim"],
    labels: Int[Tensor, " rows"],
    token_weights: Float[Tensor, " rows"],
    *,
    bias: Float[Tensor, " vocab"] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_rows: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " rows"]]:
    """Weighted sum of the cross-entropies of rows, without the full logits.

    Equals, in value and in gradients::

        logits = (hidden @ head.T + bias) * scale
        logits = softcap * tanh(logits / softcap)                   # only with a softcap
        nll    = cross_entropy(logits, labels, reduction="none")
        loss   = (token_weights * nll).sum()

    Args:
        hidden: Last hidden states, one row per position, float32, bfloat16, float16 or float64.
        head: Weight of the output projection, maybe tied or a sharded ``DTensor`` (gathered once); type as ``hidden``,
            or any under autocast, which sets the type of the products, not of the gradients.
        labels: Target token ids, already shifted. In [0, vocab) where the weight is not 0, never read elsewhere.
        token_weights: Finite, non-negative, constant; see ``token_weights``. Rows of weight 0 cost nothing.
        bias: Bias of the output projection.
        softcap: Bound of the logits (Gemma 2's ``final_logit_softcapping``), above 0.
        scale: Factor on the logits (Cohere's ``logit_scale``), not 0.
        chunk_rows: Rows projected at once; by default 64 MiB of logits, at least 256 rows (GPU: 512 MiB, 1,024).

    Returns:
        Scalar ``loss``, differentiable, and detached ``nll`` per row (0 if its weight is), float32 (or 64), in nats.

    Raises:
        ConfigError: shapes or types disagree, an option is out of range, a weight negative, not finite or with grad.
        DataError: a label of non-zero weight lies outside the vocabulary. Both are ``ValueError``s.
        RuntimeError: a second backward (the first hands the gradients on), or ``create_graph=True``.

    Properties (each one a unit test):
        * ``chunk_rows`` changes rounding only: chunks add up in float32.
        * Nothing larger than chunk tile, hidden gradient or head gradient (in float32 if chunks add up) is allocated.
        * With nothing to train the loss is 0, and backward gives zero gradients, not None.

    Example:
        >>> labels, weights = torch.tensor([1, -100]), torch.tensor([0.5, 0.0])
        >>> loss, nll = weighted_linear_cross_entropy(torch.ones(2, 2), torch.zeros(4, 2), labels, weights)
        >>> [round(x, 4) for x in nll.tolist()]  # uniform logits: log(4)
        [1.3863, 0.0]

    Source: SCALe, Perek et al. 2026, arXiv:2603.18656; the kernel is ours.
    """
    head, bias = _gathered(head), _gathered(bias)
    _check_tensors(hidden, head, labels, token_weights, bias)
    _check_options(softcap, scale, chunk_rows)
    job = _plan(labels, token_weights, len(head), _product_dtype(hidden, head))
    job.softcap, job.scale = softcap, float(scale)
    job.chunk = chunk_rows or default_chunk_rows(len(job.rows), len(head), job.dtype, device_type=hidden.device.type)
    with torch.autocast(hidden.device.type, enabled=False):
        return _LinearCrossEntropy.apply(hidden, head, bias, job)


def default_chunk_rows(rows: int, vocab: int, dtype: torch.dtype, *, device_type: str) -> int:
    """Rows per chunk: what the byte budget of the tile allows, at least the floor, in chunks of equal size."""
    cpu = device_type == "cpu"
    width = dtype.itemsize + (0 if cpu or dtype.itemsize >= 4 else 4)
    budget = _TILE_BYTES.get(device_type, _TILE_BYTES_ELSEWHERE) // (vocab * width)
    most = max(budget, _LEAST_ROWS.get(device_type, _LEAST_ROWS_ELSEWHERE))
    return max(1, math.ceil(rows / max(1, math.ceil(rows / most))))


@dataclass(slots=True)
class _Job:
    """What to score: the rows of non-zero weight with their labels and weights, and how logits are formed."""

    rows: Tensor
    labels: Tensor
    weights: Tensor
    count: int
    dtype: torch.dtype
    tracking: bool
    chunk: int = 1
    softcap: float | None = None
    scale: float = 1.0

    @property
    def exact(self) -> torch.dtype:
        """The type of everything that is not a large matrix product."""
        return self.weights.dtype

    def unit(self) -> Tensor | None:
        """The largest weight, by which float16 gradients are multiplied only at the end, or they would underflow."""
        return self.weights.amax() if self.dtype == torch.float16 and self.rows.numel() else None


@dataclass(slots=True)
class _Buffers:
    """Gradients of hidden, head and bias; None where nobody wants one."""

    hidden: Tensor | None
    head: Tensor | None
    bias: Tensor | None


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are kept on the context, not as saved tensors: offloading hooks would move them, checkpoints rerun."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, bias: Tensor | None, job: _Job) -> tuple[Tensor, Tensor]:
        wanted = [job.tracking and needed for needed in ctx.needs_input_grad[:3]]
        nll, ctx.gradients = _sweep(hidden, head, bias, job, wanted)
        ctx.unit = job.unit()
        loss = (job.weights * nll[job.rows]).sum()
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # Autograd's own guard, once_differentiable, is silent when the upstream gradient is a constant.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "weighted_linear_cross_entropy is differentiable once: create_graph=True is not supported; "
                "use scale_loss or full logits for second derivatives"
            )
        if ctx.gradients is None:
            raise RuntimeError(
                "second backward through weighted_linear_cross_entropy, whose gradients the first one handed on; "
                "call the loss again, or add up what you want to differentiate and call backward once"
            )
        # The context lets go, so that autograd can take a buffer as .grad instead of copying it.
        gradients, ctx.gradients = ctx.gradients, None
        factor = grad_loss if ctx.unit is None else grad_loss * ctx.unit
        # Reading the factor is free on a CPU and spares a pass over the head gradient; elsewhere it would stall.
        if factor.device.type != "cpu" or factor.item() != 1.0:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(factor)
        return (*gradients, None)


def _sweep(
    hidden: Tensor, head: Tensor, bias: Tensor | None, job: _Job, wanted: list[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Go over the chunks once; return the nll of all rows and the gradients for an upstream gradient of 1."""
    weight = head.to(job.dtype)
    bias = None if bias is None else bias.to(job.exact)
    out = _allocate(hidden, head, job, wanted)
    factors = job.weights * job.scale if (unit := job.unit()) is None else job.weights * (job.scale / unit)
    nll = torch.zeros(job.count, dtype=job.exact, device=hidden.device)
    tile = torch.empty(min(job.chunk, job.rows.numel()), head.shape[0], dtype=job.dtype, device=hidden.device)
    product = torch.empty(len(tile) if wanted[0] else 0, hidden.shape[1], dtype=job.dtype, device=hidden.device)
    for start in range(0, job.rows.numel(), job.chunk):
        part = slice(start, start + job.chunk)
        rows, factor = job.rows[part], factors[part].unsqueeze(1)
        inputs = hidden.index_select(0, rows).to(job.dtype)
        logits = torch.mm(inputs, weight.t(), out=tile[: len(rows)])
        nll.index_copy_(0, rows, _score(logits, job.labels[part].unsqueeze(1), bias, job, factor=factor, out=out))
        if out.hidden is not None:
            rows_gradient = torch.mm(logits, weight, out=product[: len(rows)]) * factor
            out.hidden.index_copy_(0, rows, rows_gradient.to(hidden.dtype))
        if out.head is not None:
            _add_head_gradient(out.head, logits, (inputs * factor).to(job.dtype), first=start == 0)
    del tile, product
    return nll, [out.hidden, None if out.head is None else out.head.to(head.dtype), _like(out.bias, bias)]


def _allocate(hidden: Tensor, head: Tensor, job: _Job, wanted: list[bool]) -> _Buffers:
    """Gradient buffers; the one of the head is of the exact type where low-precision chunks add up in it."""
    single = job.rows.numel() <= job.chunk and head.dtype == job.dtype
    head_dtype = job.dtype if single else job.exact
    fresh = torch.empty if job.rows.numel() else torch.zeros
    return _Buffers(
        torch.zeros_like(hidden, memory_format=torch.contiguous_format) if wanted[0] else None,
        fresh(head.shape, dtype=head_dtype, device=head.device) if wanted[1] else None,
        torch.zeros(head.shape[0], dtype=job.exact, device=head.device) if wanted[2] else None,
    )


def _like(gradient: Tensor | None, source: Tensor | None) -> Tensor | None:
    return None if gradient is None or source is None else gradient.to(source.dtype)


def _score(logits: Tensor, labels: Tensor, bias: Tensor | None, job: _Job, *, factor: Tensor, out: _Buffers) -> Tensor:
    """Return the nll of each row and overwrite its products by d nll / d (scaled logits), block by block in cache."""
    size, vocab = logits.shape
    wants_gradient = any(gradient is not None for gradient in (out.hidden, out.head, out.bias))
    step = max(1, _CACHE_BYTES // (4 * vocab)) if logits.device.type == "cpu" else size
    in_place = logits.dtype == job.exact
    scratch = None if in_place else torch.empty(min(step, size), vocab, dtype=job.exact, device=logits.device)
    nll = torch.empty(size, dtype=job.exact, device=logits.device)
    for start in range(0, size, step):
        block = logits[start : start + step]
        work = block if scratch is None else scratch[: len(block)].copy_(block)
        slope = _shape_logits(work, bias, job)
        labels_here = labels[start : start + step]
        nll[start : start + step] = _softmax_minus_target(work, labels_here, wants_gradient)
        if not wants_gradient:
            continue
        if slope is not None:
            work.mul_(slope)
        if out.bias is not None:
            out.bias.addmv_(work.t(), factor[start : start + step, 0])
        if not in_place:
            block.copy_(work)
    return nll


def _shape_logits(work: Tensor, bias: Tensor | None, job: _Job) -> Tensor | None:
    """Add bias, scale and softcap in place; return the slope of the softcap."""
    if bias is not None:
        work.add_(bias)
    if job.scale != 1.0:
        work.mul_(job.scale)
    if job.softcap is None:
        return None
    work.div_(job.softcap).tanh_()
    slope = 1 - work.square()
    work.mul_(job.softcap)
    return slope


def _softmax_minus_target(work: Tensor, labels: Tensor, wants_gradient: bool) -> Tensor:
    """Turn logits into softmax minus one-hot in place; return the nll.

    The target is kept out of the sum: 1 - p of a token that is nearly certain then has all its digits.
    """
    work.sub_(work.amax(1, keepdim=True))
    target = work.gather(1, labels)
    others = work.exp_().scatter_(1, labels, 0.0).sum(1, keepdim=True)
    nll = torch.log1p(others + torch.expm1(target)) - target
    if wants_gradient:
        work.scatter_(1, labels, -others).mul_((others + target.exp()).reciprocal())
    return nll.squeeze(1)


def _add_head_gradient(total: Tensor, logits: Tensor, inputs: Tensor, *, first: bool) -> None:
    """total (+)= logits.T @ inputs; low-precision parts are added in ``total``'s type while they are in cache."""
    if total.dtype == logits.dtype:
        if first:
            torch.mm(logits.t(), inputs, out=total)
        else:
            torch.addmm(total, logits.t(), inputs, out=total)
        return
    step = min(_PART_ROWS.get(logits.device.type, _PART_ROWS_ELSEWHERE), len(total))
    part = torch.empty(step, total.shape[1], dtype=logits.dtype, device=logits.device)
    for start in range(0, len(total), step):
        target = total[start : start + step]
        product = torch.mm(logits[:, start : start + step].t(), inputs, out=part[: len(target)])
        if first:
            target.copy_(product)
        else:
            target.add_(product)


def _plan(labels: Tensor, token_weights: Tensor, vocab: int, dtype: torch.dtype) -> _Job:
    """Pick the rows of non-zero weight and check their weights and labels."""
    rows = token_weights.nonzero().squeeze(1)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    weights = token_weights.index_select(0, rows).to(exact)
    targets = labels.index_select(0, rows).long()
    faults = torch.stack([(~(weights > 0) | weights.isinf()).any(), ((targets < 0) | (targets >= vocab)).any()])
    bad_weight, bad_label = faults.tolist()
    if bad_weight:
        found = weights[~(weights > 0) | weights.isinf()][0].item()
        raise ConfigError(f"token_weights must be finite and not negative, got {found}")
    if bad_label:
        found = targets[(targets < 0) | (targets >= vocab)][0].item()
        raise DataError(
            f"label {found} of a row with non-zero weight lies outside the vocabulary [0, {vocab})",
            remedy="give such rows weight 0, or check that tokenizer and model belong together",
        )
    return _Job(rows, targets, weights, len(token_weights), dtype, tracking=torch.is_grad_enabled())


def _product_dtype(hidden: Tensor, head: Tensor) -> torch.dtype:
    """The type of the matrix products: autocast's where it is on (it leaves float64 alone), else that of the inputs."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and torch.float64 not in (hidden.dtype, head.dtype):
        return torch.get_autocast_dtype(kind)
    if hidden.dtype != head.dtype:
        raise ConfigError(
            f"hidden is {hidden.dtype} and head {head.dtype}: cast one of them, or call this under torch.autocast"
        )
    return hidden.dtype


def _gathered(tensor: Any) -> Any:
    """The whole of a sharded DTensor (known by its method, so that torch.distributed need not be there)."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def _check_tensors(hidden: Tensor, head: Tensor, labels: Tensor, token_weights: Tensor, bias: Tensor | None) -> None:
    rows, vocab = hidden.shape[:1], head.shape[:1]
    fits = hidden.ndim == head.ndim == 2 and hidden.shape[1] == head.shape[1]
    fits = fits and labels.shape == token_weights.shape == rows and (bias is None or bias.shape == vocab)
    if not fits:
        raise ConfigError(
            "expected hidden [rows, dim], head [vocab, dim], labels [rows], token_weights [rows], bias [vocab]; got "
            f"{list(hidden.shape)}, {list(head.shape)}, {list(labels.shape)}, {list(token_weights.shape)}, "
            f"{None if bias is None else list(bias.shape)}"
        )
    if token_weights.requires_grad:
        raise ConfigError("token_weights requires grad, but weights are constants of the step here; detach them")


def _check_options(softcap: float | None, scale: float, chunk_rows: int | None) -> None:
    if softcap is not None and not 0 < softcap < math.inf:
        raise ConfigError(f"softcap must be a finite number above 0 or None, got {softcap}")
    if scale == 0 or not math.isfinite(scale):
        raise ConfigError(f"scale must be finite and not 0, got {scale}")
    if chunk_rows is not None and chunk_rows < 1:
        raise ConfigError(f"chunk_rows must be at least 1 or None, got {chunk_rows}")
