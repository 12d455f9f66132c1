"""The command ``balanced``: one small module a verb, imported only when its verb is called.

Exit codes: 0 done, 1 the work failed, 2 wrong usage or bad input (one line on stderr). What it leaves out: everything
that a verb does; ``balanced --help`` imports neither torch nor transformers.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from balanced_thinking.errors import BalancedThinkingError, ConfigError

VERBS = {
    "demo": "SFT and SCALe-SFT on the embedded model and benchmark: training, evaluation, table, report",
    "sft": "train by a recipe: --config recipe.yaml, any field overridable as --field value",
    "grpo": "GRPO from any SFT folder, with rewards on the answer and its form: --config recipe.yaml",
    "compare": "arms x seeds x models x benchmarks from one YAML: statistics and report, resumable",
    "evaluate": "score a model on benchmarks or any readable data file",
    "export": "benchmarks as tasks of lmms-eval, asked and scored as here",
    "check-data": "what is in a data set, what is wrong with it, and a clean copy",
    "report": "make the report of a comparison again from its folder",
    "presets": "list, build and locate the embedded models",
    "bench": "ratios against naive code and TRL, measured in one run",
    "env": "versions and devices, for bug reports",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Two processes with spinning OpenMP threads slow each other several times; must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if os.environ.get("BALANCED_THINKING_DIE_WITH_PARENT"):
        from balanced_thinking.compare.run import die_with_parent

        die_with_parent()
    try:
        return _run(arguments)
    except BalancedThinkingError as error:
        print(f"balanced: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("balanced: interrupted; start the same command again to go on", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        from balanced_thinking import __version__

        print(f"balanced-thinking {__version__}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(VERBS)}"
        raise ConfigError(f"unknown verb {verb!r}; {hint}")
    return importlib.import_module(f"balanced_thinking.cli.{verb.replace('-', '_')}").run(arguments[1:])


def usage() -> str:
    """The help text of the command."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {what}" for name, what in VERBS.items())
    return (
        "usage: balanced VERB [options]\n\n"
        "SCALe training of vision-language models that reason.\n\n"
        f"{verbs}\n\n"
        "balanced VERB --help tells the options of a verb; balanced --version the version."
    )


if __name__ == "__main__":
    sys.exit(main())
