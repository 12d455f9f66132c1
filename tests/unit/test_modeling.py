"""``models.modeling``: names that are plainly no model."""

import pytest

from balanced_thinking.errors import CheckpointError
from balanced_thinking.models.modeling import check_name


def test_a_folder_with_checkpoints_alone_names_the_newest(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="give a folder that training wrote"):
        check_name(tmp_path)
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(CheckpointError, match=f"give its newest checkpoint, {tmp_path / 'checkpoint-10'}$"):
        check_name(tmp_path)


def test_a_bare_name_is_asked_for_once(tmp_path, monkeypatch):
    """transformers tried the name of a preset for a minute and ended in a chained traceback."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    asked, faults = [], [ConnectionError("no network")]

    def ask(url):
        asked.append(url)
        raise faults[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)
    with pytest.raises(CheckpointError, match="folder that `balanced presets path tiny-gemma3` prints") as caught:
        check_name("tiny-gemma3")
    assert caught.value.__suppress_context__
    assert len(asked) == 1
    check_name("owner/name")
    (tmp_path / "models--gpt2").mkdir()
    check_name("gpt2")
    assert len(asked) == 1
    faults.append(EntryNotFoundError.__new__(EntryNotFoundError))
    check_name("there-without-that-file")
