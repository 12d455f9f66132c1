"""What the head costs: our loss against the ways people compute it today, paired in one run (``balanced bench loss``).

Arms, each forward and backward from hidden states to the gradients of hidden states and head:

    ours     weighted_linear_cross_entropy
    naive    logits of every row, upcast to float32, cross-entropy (transformers' ForCausalLMLoss with row weights)
    gather   only the trained rows, otherwise as naive: three lines that any user could write, hence the honest bar
    trl      TRL's fused head with the outputs that SFTTrainer asks for (the installed version; n/a if it has none)

Times come from rounds in which every arm runs once in random order; what counts is the median over rounds of ours / arm
with its 20 % and 80 % quantiles, since the machine's load moves both. Memory is measured in a process of its own per
arm (VmHWM minus VmRSS, Linux; n/a elsewhere). Errors are norms relative to float64, gradients included.

Left out: GPUs (times would need synchronisation, memory another counter), whole training steps, compile.
"""

import ctypes
import io
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from balanced_thinking.compare import timing
from balanced_thinking.core.loss import weighted_linear_cross_entropy
from balanced_thinking.errors import ConfigError

# Largest acceptable median of ours / arm in wall seconds, for the default shape only.
GOALS: Mapping[str, float] = {"naive": 0.5, "gather": 1.1}
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PEAK_PROGRAM = "import sys; from balanced_thinking.compare.bench import print_peak; print_peak(sys.argv[1])"


@dataclass(frozen=True, kw_only=True)
class LossBenchOptions:
    """The shape and length of ``bench_loss``.

    Attributes:
        rows: Positions of the batch, trained or not.
        trained: Share of the rows with non-zero weight, in (0, 1].
        dim: Width of the hidden states.
        vocab: Size of the vocabulary.
        dtypes: Types of hidden states and head: ``float32``, ``bfloat16``, ``float16``.
        arms: What to compare: ``ours`` (always included), ``naive``, ``gather``, ``trl``.
        pairs: Timed rounds.
        warmup: Rounds before them that do not count.
        threads: Threads of torch; None leaves torch's own choice.
        memory: Whether to measure memory (a process per arm and type).
        seed: Seed of inputs and of the order of the arms.
    """

    rows: int = 1024
    trained: float = 0.2
    dim: int = 512
    vocab: int = 32768
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    arms: tuple[str, ...] = ("ours", "naive", "gather", "trl")
    pairs: int = 11
    warmup: int = 2
    threads: int | None = None
    memory: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "dim", "vocab", "pairs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.warmup < 0 or (self.threads is not None and self.threads < 1):
            raise ConfigError(f"warmup must be 0 or more and threads 1 or more, got {self.warmup} and {self.threads}")
        if not 0 < self.trained <= 1:
            raise ConfigError(f"trained must be a share in (0, 1], got {self.trained}")
        for chosen, known, what in ((self.dtypes, DTYPES, "dtypes"), (self.arms, _ARMS, "arms")):
            if unknown := [name for name in chosen if name not in known]:
                raise ConfigError(f"{what}: unknown {unknown[0]!r}, choose from {', '.join(known)}")


@dataclass(frozen=True)
class _Inputs:
    """One batch for the head; ``labels`` are -100 where the weight is 0."""

    hidden: Tensor
    head: Tensor
    labels: Tensor
    weights: Tensor

    def clear(self) -> None:
        self.hidden.grad = self.head.grad = None


def bench_loss(options: LossBenchOptions | None = None, *, progress: bool = True) -> dict[str, Any]:
    """Compare the arms and return what was measured, ready for JSON.

    Args:
        options: Shape and length; the defaults are those of the project's goals.
        progress: Whether to draw a bar on stderr.

    Returns:
        ``options``, ``machine``, ``unavailable`` (arm -> why), and per type in ``results``: ``arms`` (median
        ``wall_s`` and ``cpu_s``, ``peak_mb`` or None, ``errors`` of loss, hidden and head gradient) and ``ratios`` of
        ours to each arm (``wall`` and ``cpu``: median, p20, p80, wins; ``goal`` and ``met``, or None).

    Raises:
        ConfigError: an option is out of range (on building the options).
    """
    options = options or LossBenchOptions()
    arms = ["ours", *(name for name in options.arms if name != "ours")]
    unavailable = {name: reason for name in arms if (reason := _why_not(name)) is not None}
    arms = [name for name in arms if name not in unavailable]
    load_before = timing.load_average()
    with timing.threads(options.threads), timing.bar(progress) as bar:
        steps = (options.warmup + options.pairs + options.memory) * len(arms)
        task = bar.add_task("bench loss", total=steps * len(options.dtypes))
        results = {dtype: _bench_dtype(options, dtype, arms, lambda: bar.advance(task)) for dtype in options.dtypes}
        machine = timing.machine(load_before)
    return {"options": asdict(options), "machine": machine, "unavailable": unavailable, "results": results}


def format_table(result: Mapping[str, Any]) -> str:
    """The result of ``bench_loss`` as text: what was run, then a table per type."""
    options, machine = result["options"], result["machine"]
    out = Console(file=io.StringIO(), width=132, color_system=None)
    out.print(
        f"head forward + backward: vocab {options['vocab']:,}, dim {options['dim']:,}, rows {options['rows']:,}, "
        f"{options['trained']:.0%} trained; {options['pairs']} rounds in random order after {options['warmup']}"
    )
    out.print(timing.machine_line(machine))
    for arm, reason in result["unavailable"].items():
        out.print(f"{arm}: n/a ({reason})")
    for dtype, measured in result["results"].items():
        out.print(_table(dtype, measured))
    out.print("ours / arm: median [20 %, 80 % quantile] of paired rounds. Errors: relative to float64.")
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines())  # type: ignore[attr-defined]


def _table(dtype: str, measured: Mapping[str, Any]) -> Table:
    table = Table(title=dtype, title_justify="left")
    for column in ("arm", "wall s", "CPU s", "ours / arm, wall", "wins", "ours / arm, CPU", "goal", "peak MB"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    table.add_column("error: loss, d hidden, d head", justify="right", no_wrap=True)
    for arm, values in measured["arms"].items():
        ratio = measured["ratios"].get(arm)
        peak = "n/a" if values["peak_mb"] is None else f"{values['peak_mb']:.0f}"
        errors = "  ".join(f"{values['errors'][part]:.0e}" for part in ("loss", "hidden", "head"))
        table.add_row(
            arm, f"{values['wall_s']:.3f}", f"{values['cpu_s']:.3f}", *timing.ratio_cells(ratio), peak, errors
        )
    return table


def _ours(inputs: _Inputs) -> Tensor:
    return weighted_linear_cross_entropy(inputs.hidden, inputs.head, inputs.labels, inputs.weights)[0]


def _naive(inputs: _Inputs) -> Tensor:
    logits = F.linear(inputs.hidden, inputs.head).float()
    nll = F.cross_entropy(logits, inputs.labels, ignore_index=-100, reduction="none")
    return (nll * inputs.weights).sum()


def _gather(inputs: _Inputs) -> Tensor:
    rows = inputs.weights.nonzero().squeeze(1)
    logits = F.linear(inputs.hidden[rows], inputs.head).float()
    nll = F.cross_entropy(logits, inputs.labels[rows], reduction="none")
    return (nll * inputs.weights[rows]).sum()


def _trl(inputs: _Inputs) -> Tensor:
    from trl.trainer import add_fused_lm_head

    model: Any = _HeadOnly(inputs)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    scored: Any = model.forward(shift_labels=inputs.labels.unsqueeze(0), fused_lm_head=True)
    return -(scored.log_probs.squeeze(0) * inputs.weights).sum()


class _HeadOnly:
    """As much of a model as TRL's fused head asks for: a backbone that returns the hidden states, and a head."""

    def __init__(self, inputs: _Inputs) -> None:
        self.inputs, self.config = inputs, SimpleNamespace(model_type="head-only")
        self.config.get_text_config = lambda: self.config

    def forward(self, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.inputs.hidden.unsqueeze(0))

    base_model = forward

    def get_output_embeddings(self) -> SimpleNamespace:
        return SimpleNamespace(weight=self.inputs.head, bias=None)


_ARMS: Mapping[str, Callable[[_Inputs], Tensor]] = {"ours": _ours, "naive": _naive, "gather": _gather, "trl": _trl}


def _why_not(arm: str) -> str | None:
    """Why an arm cannot run here, tried on a tiny batch; only TRL's, which is not ours to keep, may fail."""
    if arm != "trl":
        return None
    try:
        _run(arm, _make_inputs(_tiny(LossBenchOptions()), "float32"))
    except (ImportError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _make_inputs(options: LossBenchOptions, dtype: str) -> _Inputs:
    generator = torch.Generator().manual_seed(options.seed)
    hidden = torch.randn(options.rows, options.dim, generator=generator)
    head = torch.randn(options.vocab, options.dim, generator=generator) * options.dim**-0.5
    trained = torch.randperm(options.rows, generator=generator)[: max(1, round(options.rows * options.trained))]
    weights = torch.zeros(options.rows)
    weights[trained] = torch.rand(len(trained), generator=generator) / len(trained)
    labels = torch.randint(0, options.vocab, (options.rows,), generator=generator).masked_fill(weights == 0, -100)
    hidden, head = (tensor.to(DTYPES[dtype]).requires_grad_() for tensor in (hidden, head))
    return _Inputs(hidden, head, labels, weights)


def _tiny(options: LossBenchOptions) -> LossBenchOptions:
    return replace(options, rows=8, dim=8, vocab=16, trained=0.5)


def _run(arm: str, inputs: _Inputs) -> Tensor:
    inputs.clear()
    loss = _ARMS[arm](inputs)
    loss.backward()
    return loss.detach()


def _bench_dtype(
    options: LossBenchOptions, dtype: str, arms: list[str], advance: Callable[[], None]
) -> dict[str, dict[str, Any]]:
    inputs = _make_inputs(options, dtype)
    wanted = _reference(inputs)
    errors = {arm: _errors(_run(arm, inputs), inputs, wanted) for arm in arms}
    del wanted
    steps = {arm: partial(_run, arm, inputs) for arm in arms}
    seconds = timing.rounds(steps, pairs=options.pairs, warmup=options.warmup, seed=options.seed, advance=advance)
    measured: dict[str, dict[str, Any]] = {"arms": {}, "ratios": {}}
    for arm in arms:
        wall, cpu = (statistics.median(part) for part in zip(*seconds[arm], strict=True))
        peak = _peak_mb(options, dtype, arm) if options.memory else None
        measured["arms"][arm] = {"wall_s": wall, "cpu_s": cpu, "peak_mb": peak, "errors": errors[arm]}
        if arm != "ours":
            measured["ratios"][arm] = timing.ratios(seconds["ours"], seconds[arm], goal=_goals(options).get(arm))
        if options.memory:
            advance()
    return measured


def _goals(options: LossBenchOptions) -> Mapping[str, float]:
    shapes = [(o.rows, o.trained, o.dim, o.vocab) for o in (options, LossBenchOptions())]
    return GOALS if shapes[0] == shapes[1] else {}


def _reference(inputs: _Inputs) -> tuple[Tensor, ...]:
    """Loss and gradients in float64, from the trained rows on full logits."""
    exact = _Inputs(
        inputs.hidden.detach().double().requires_grad_(),
        inputs.head.detach().double().requires_grad_(),
        inputs.labels,
        inputs.weights.double(),
    )
    rows = exact.weights.nonzero().squeeze(1)
    log_p = F.linear(exact.hidden[rows], exact.head).log_softmax(-1)
    loss = -(log_p.gather(1, exact.labels[rows].unsqueeze(1)).squeeze(1) * exact.weights[rows]).sum()
    return loss.detach(), *torch.autograd.grad(loss, [exact.hidden, exact.head])


def _errors(loss: Tensor, inputs: _Inputs, wanted: tuple[Tensor, ...]) -> dict[str, float]:
    found = (loss, inputs.hidden.grad, inputs.head.grad)
    pairs = zip(("loss", "hidden", "head"), found, wanted, strict=True)
    return {name: ((got.double() - want).norm() / want.norm()).item() for name, got, want in pairs}  # type: ignore[union-attr]


def _peak_mb(options: LossBenchOptions, dtype: str, arm: str) -> float | None:
    """MB (1e6 bytes) that one forward and backward takes beyond inputs, gradients included; None off Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    request = json.dumps({"options": asdict(options), "dtype": dtype, "arm": arm, "threads": torch.get_num_threads()})
    # Freed memory goes back at once, so that what the set-up took cannot hide what the arm takes.
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", _PEAK_PROGRAM, request]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"measuring the memory of {arm} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def print_peak(request: str) -> None:
    """What the process of ``_peak_mb`` does; prints the MB, or null where the kernel cannot reset the peak."""
    asked = json.loads(request)
    options, arm = LossBenchOptions(**asked["options"]), asked["arm"]
    torch.set_num_threads(asked["threads"])
    _run(arm, _make_inputs(_tiny(options), asked["dtype"]))
    inputs = _make_inputs(options, asked["dtype"])
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("null")
        return
    before = _status_kb("VmRSS")
    _run(arm, inputs)
    print(json.dumps((_status_kb("VmHWM") - before) * 1024 / 1e6))


def _status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
