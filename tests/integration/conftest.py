"""One tiny model and one small data set for all integration tests."""

from pathlib import Path

import pytest
import torch

from balanced_thinking.data.records import to_dataset
from tiny import tiny_examples, tiny_qwen2_5_vl


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_rows():
    """24 rows whose responses differ in length by a factor of two."""
    return to_dataset(tiny_examples(24))


@pytest.fixture(autouse=True)
def _one_thread():
    """Bit-exact comparisons need one fixed thread count, and the machine may be shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
