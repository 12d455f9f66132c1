"""Imports go one way, and what must be quick or light loads no torch."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import balanced_thinking

PACKAGE = Path(balanced_thinking.__file__).parent
ROOMS = ("core", "data", "models", "evaluation", "training", "demo", "compare", "app", "cli")
EVERYWHERE = ("errors", "runinfo", "__init__")
MAY_IMPORT_TORCH = (
    "core/loss", "core/linear_cross_entropy", "data/batch", "data/collate", "models/", "evaluation/generation",
    "evaluation/decoding", "evaluation/evaluate", "training/", "demo/", "compare/bench", "compare/timing", "cli/env",
)  # fmt: skip
HEAVY = ("torch", "transformers", "trl", "datasets", "peft", "accelerate")


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def module_id(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports(path: Path, *, top_level_only: bool):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from package import module` needs the module; `from package import name` the package.
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in found if is_module(name)}
            yield from submodules
            if submodules != found:
                yield node.module


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def room_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "balanced_thinking" and len(parts) > 1 and parts[1] in ROOMS else None


@pytest.mark.parametrize("path", modules(), ids=module_id)
def test_a_room_imports_only_rooms_above_it(path):
    own = module_id(path).split("/")[0]
    found = [room_of(name) for name in imports(path, top_level_only=False)]
    if own in EVERYWHERE:
        if own != "__init__":
            assert not [room for room in found if room], f"{own} may import no room"
        return
    below = [room for room in found if room and ROOMS.index(room) > ROOMS.index(own)]
    assert not below, f"{module_id(path)} imports {below}, which lie below {own}"


def test_no_cycles_inside_a_room():
    graph = {}
    for path in modules():
        name = "balanced_thinking." + module_id(path).replace("/", ".").removesuffix(".__init__")
        graph[name] = set(imports(path, top_level_only=True))
    graph = {name: {target for target in targets if target in graph} - {name} for name, targets in graph.items()}
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in finished:
            for target in graph[name]:
                visit(target, (*trail, name))
            finished.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", modules(), ids=module_id)
def test_torch_stays_where_it_belongs(path):
    if module_id(path).startswith(MAY_IMPORT_TORCH):
        return
    assert "torch" not in {name.split(".")[0] for name in imports(path, top_level_only=False)}


@pytest.mark.parametrize(
    "statement",
    [
        "import balanced_thinking",
        "import balanced_thinking as bt; bt.SegmentSchedule().weights(0.5)",
        "import balanced_thinking as bt; bt.find_segments('<think>a</think><answer>b</answer>')",
        "import balanced_thinking as bt; bt.parse_response('x'); bt.answers_match('1', '1', kind='number')",
        "from balanced_thinking.cli.main import main; main(['--help'])",
        "import balanced_thinking.data.rowcheck, balanced_thinking.data.datacheck, balanced_thinking.data.records",
        "import balanced_thinking.data.audit, balanced_thinking.cli.check_data, balanced_thinking.demo.presets",
        "import balanced_thinking.compare.plan, balanced_thinking.compare.statistics, balanced_thinking.compare.report",
        "import balanced_thinking.evaluation.benchmarks, balanced_thinking.evaluation.metrics",
    ],
)
def test_light_imports_stay_light(statement):
    check = f"import sys; {statement}; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("[]"), result.stdout


def test_help_is_quick():
    """The issue asks for half a second; the test allows four times that, since a test machine may be busy."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "balanced_thinking.cli.main", "--help"], capture_output=True, check=True)
    assert time.perf_counter() - start < 2.0


def test_modules_keep_their_size_and_open_with_a_docstring():
    for path in modules():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, f"{module_id(path)} has {text.count(chr(10))} lines"
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{module_id(path)} has no docstring"


def test_functions_keep_their_size():
    long = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    long.append(f"{module_id(path)}:{node.name} has {length} lines")
    # The docstring of a public function may be longer than its code.
    allowed = {
        "core/loss:scale_loss",
        "core/loss:token_weights",
        "core/linear_cross_entropy:weighted_linear_cross_entropy",
        "evaluation/evaluate:evaluate",
    }
    assert not [entry for entry in long if entry.split(" ")[0] not in allowed], long
