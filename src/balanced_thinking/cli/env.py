"""``balanced env``: versions and devices, for bug reports."""

import json
from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Print one JSON object."""
    from balanced_thinking.cli.parsing import OneLineParser
    from balanced_thinking.runinfo import run_info

    OneLineParser(prog="balanced env", description=__doc__).parse_all(argv)
    import torch

    from balanced_thinking.models.devices import bf16_pays, default_device

    device = default_device()
    info = run_info({}, device=str(device))
    for key in ("config", "seed", "command", "started"):
        info.pop(key)
    info |= {
        "torch_threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16_pays": bf16_pays(device),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
    print(json.dumps(info, indent=2))
    return 0
