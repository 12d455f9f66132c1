"""The trainer on a tiny real Qwen2.5-VL: equal to stock TRL where that is right, exact where it is not."""

import json
import re
from dataclasses import replace

import datasets
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer

from balanced_thinking.cli.main import main
from balanced_thinking.data.collate import ScaleCollator
from balanced_thinking.data.records import to_dataset, to_trl_row
from balanced_thinking.errors import ConfigError, DataError
from balanced_thinking.models.modeling import freeze_vision_tower
from balanced_thinking.training.grpo import StrictGRPOConfig
from balanced_thinking.training.sft import ScaleSFTTrainer
from balanced_thinking.training.sft_config import ScaleSFTConfig
from tiny import tiny_examples
from trainers import config, drift, flat, load, losses, train

STOCK = {"gradient_checkpointing": False, "use_cpu": True, "max_length": 1024}


def stock_train(folder, rows, output, *, newline_after_turn=True, **changes):
    from trainers import EXACT

    model, processor = load(folder, newline_after_turn=newline_after_turn)
    columns = rows.select_columns(["prompt", "completion", "images"])
    trainer = SFTTrainer(
        model,
        SFTConfig(str(output), **{**EXACT, **STOCK, **changes}),
        train_dataset=columns,
        processing_class=processor,
    )
    trainer.train()
    return trainer


def test_token_mean_equals_stock_trl_without_accumulation(tiny_folder, tiny_rows, tmp_path):
    batch = {"per_device_train_batch_size": 4, "max_steps": 20, "newline_after_turn": False}
    stock = stock_train(tiny_folder, tiny_rows, tmp_path / "stock", **batch)
    ours = train(tiny_folder, tiny_rows, tmp_path / "ours", loss="token_mean", **batch)
    assert len(losses(ours)) == 20
    assert losses(ours)[-1] < 0.97 * losses(ours)[0]
    torch.testing.assert_close(torch.tensor(losses(ours)), torch.tensor(losses(stock)), rtol=0, atol=1e-5)


def test_stock_trains_what_the_template_adds_after_the_turn_and_ours_does_not(tiny_folder, tiny_rows, tmp_path):
    batch = {"per_device_train_batch_size": 4, "max_steps": 1}
    stock = stock_train(tiny_folder, tiny_rows, tmp_path / "stock", **batch)
    ours = train(tiny_folder, tiny_rows, tmp_path / "ours", loss="token_mean", **batch)
    assert abs(losses(ours)[0] - losses(stock)[0]) > 1e-3


@pytest.mark.parametrize("loss", ["scale", "token_mean"])
@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (1, 8)])
def test_accumulation_is_exact(tiny_folder, tiny_rows, tmp_path, loss, batch, accumulation):
    start, _ = load(tiny_folder)
    whole = train(tiny_folder, tiny_rows, tmp_path / "a", loss=loss, per_device_train_batch_size=8, max_steps=3)
    split = train(
        tiny_folder,
        tiny_rows,
        tmp_path / "b",
        loss=loss,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=3,
    )
    assert drift(whole.model, split.model, start) < 1e-5


def test_stock_trl_is_not_exact_under_accumulation(tiny_folder, tiny_rows, tmp_path):
    """The upstream fault that docs/method.md tells of; when this fails, TRL has mended it and the docs must change."""
    start, _ = load(tiny_folder)
    whole = stock_train(tiny_folder, tiny_rows, tmp_path / "a", per_device_train_batch_size=8, max_steps=3)
    split = stock_train(
        tiny_folder,
        tiny_rows,
        tmp_path / "b",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_steps=3,
    )
    assert drift(whole.model, split.model, start) > 1e-3


def test_the_schedule_moves_from_think_to_answer(tiny_folder, tiny_rows, tmp_path):
    trainer = train(tiny_folder, tiny_rows, tmp_path, per_device_train_batch_size=4, max_steps=4)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [round(entry["scale/weight_answer"], 6) for entry in logged] == [0.1, 0.217157, 0.5, 0.782843]
    for entry in logged:
        assert entry["scale/weight_think"] + entry["scale/weight_answer"] == pytest.approx(1.0)
        assert entry["scale/answer_share"] == pytest.approx(entry["scale/weight_answer"], rel=1e-5)
        assert entry["loss"] == pytest.approx(
            entry["scale/weight_think"] * entry["scale/nll_think"]
            + entry["scale/weight_answer"] * entry["scale/nll_answer"],
            rel=1e-4,
        )
        assert entry["scale/missing_answer"] == 0


def test_a_segment_of_weight_zero_is_logged_as_absent(tiny_folder, tiny_rows, tmp_path):
    trainer = train(tiny_folder, tiny_rows, tmp_path, per_device_train_batch_size=4, max_steps=1, scale_preset="full")
    logged = trainer.state.log_history[0]
    assert "scale/nll_answer" not in logged
    assert logged["scale/weight_answer"] == 0.0
    assert logged["scale/answer_share"] == 0.0


def test_evaluation_loss_is_the_same_for_both_losses(tiny_folder, tiny_rows, tmp_path):
    results = []
    for loss in ("scale", "token_mean"):
        model, processor = load(tiny_folder)
        trainer = ScaleSFTTrainer(
            model,
            config(tmp_path / loss, loss=loss, per_device_eval_batch_size=3),
            train_dataset=tiny_rows,
            eval_dataset=tiny_rows,
            processing_class=processor,
        )
        results.append(trainer.evaluate())
    first, second = results
    assert first["eval_loss"] == second["eval_loss"]
    equal = (first["eval_scale/nll_think"] + first["eval_scale/nll_answer"]) / 2
    assert first["eval_loss"] == pytest.approx(equal, rel=1e-5)
    assert first["eval_scale/nll_token"] == pytest.approx(second["eval_scale/nll_token"], rel=1e-6)


def test_an_evaluation_set_may_be_called_train(tiny_folder, tiny_rows, tmp_path):
    """A key of the user's must not stand in for the training set, nor its lengths for those of the rows."""
    model, processor = load(tiny_folder)
    parts = {"train": tiny_rows.select(range(3)), "other": tiny_rows.select(range(3, 5))}
    settings = config(tmp_path, train_sampling_strategy="group_by_length")
    trainer = ScaleSFTTrainer(model, settings, train_dataset=tiny_rows, eval_dataset=parts, processing_class=processor)
    assert len(trainer.train_dataset) == len(trainer.row_lengths) == len(tiny_rows)
    assert {name: len(part) for name, part in trainer.eval_dataset.items()} == {"train": 3, "other": 2}


def test_all_row_forms_give_the_same_loss(tiny_folder, tmp_path):
    """messages, prompt + completion, image, images, string contents: one meaning, one loss."""
    rows = [to_trl_row(example) for example in tiny_examples(4)]
    forms = {
        "prompt_completion": [{k: row[k] for k in ("prompt", "completion", "images")} for row in rows],
        "messages": [{"messages": row["prompt"] + row["completion"], "images": row["images"]} for row in rows],
        "image": [{"messages": row["prompt"] + row["completion"], "image": row["images"][0]} for row in rows],
        "strings": [
            {
                "messages": [
                    {"role": "user", "content": row["prompt"][0]["content"][-1]["text"]},
                    {"role": "assistant", "content": row["completion"][0]["content"][0]["text"]},
                ],
                "images": row["images"],
            }
            for row in rows
        ],
    }
    found = {}
    for name, form in forms.items():
        trainer = train(
            tiny_folder,
            datasets.Dataset.from_list(form),
            tmp_path / name,
            per_device_train_batch_size=4,
            max_steps=1,
        )
        found[name] = losses(trainer)[0]
    assert len(set(found.values())) == 1, found


def test_text_only_and_mixed_rows_train(tiny_folder, tmp_path):
    rows = [to_trl_row(example) for example in tiny_examples(4)]
    for row in rows[:2]:
        row["prompt"][0]["content"] = [part for part in row["prompt"][0]["content"] if part["type"] == "text"]
        row["images"] = []
    for name, part in (("text", rows[:2]), ("mixed", rows)):
        trainer = train(
            tiny_folder,
            datasets.Dataset.from_list(part),
            tmp_path / name,
            per_device_train_batch_size=len(part),
            max_steps=2,
        )
        assert losses(trainer)[1] < losses(trainer)[0]


def test_pictures_matter(tiny_folder, tmp_path):
    examples = tiny_examples(8)
    rows = [to_trl_row(example) for example in examples]
    swapped = [{**row, "images": rows[(i + 1) % 8]["images"]} for i, row in enumerate(rows)]
    found = [
        losses(
            train(
                tiny_folder,
                datasets.Dataset.from_list(part),
                tmp_path / str(i),
                per_device_train_batch_size=8,
                max_steps=1,
            )
        )[0]
        for i, part in enumerate((rows, swapped))
    ]
    assert abs(found[0] - found[1]) > 1e-4


def test_lora_trains_only_the_adapter_and_is_exact(tiny_folder, tiny_rows, tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    found = []
    for name, (batch, accumulation) in {"whole": (8, 1), "split": (2, 4)}.items():
        model, processor = load(tiny_folder)
        before = flat(model)
        trainer = ScaleSFTTrainer(
            model,
            config(
                tmp_path / name,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                max_steps=2,
                learning_rate=1.0,
            ),
            train_dataset=tiny_rows,
            processing_class=processor,
            peft_config=lora,
        )
        trainer.train()
        base = trainer.model.get_base_model()
        kept = torch.cat([p.detach().double().flatten() for n, p in base.named_parameters() if "lora_" not in n])
        assert torch.equal(kept, before)
        found.append(torch.cat([p.detach().flatten() for n, p in base.named_parameters() if "lora_" in n]))
    assert losses(trainer)[1] != losses(trainer)[0]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


def test_a_frozen_tower_stays_as_it_is_and_the_text_model_learns(tiny_folder, tiny_rows, tmp_path):
    before = load(tiny_folder)[0].state_dict()
    trained = train(tiny_folder, tiny_rows, tmp_path, freeze_vision_tower=True, max_steps=2).model.state_dict()
    changed = {name for name, value in trained.items() if not torch.equal(value, before[name])}
    assert any("language_model" in name for name in changed)
    assert not any("visual" in name for name in changed)
    assert any("visual" in name for name in trained)


def test_a_model_without_tower_has_none_to_freeze():
    text_only = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(ConfigError, match="has no vision tower to freeze"):
        freeze_vision_tower(text_only)


def test_gradient_checkpointing_gives_the_same_step(tiny_folder, tiny_rows, tmp_path):
    start, _ = load(tiny_folder)
    plain = train(tiny_folder, tiny_rows, tmp_path / "a", per_device_train_batch_size=4, max_steps=2)
    saving = train(
        tiny_folder,
        tiny_rows,
        tmp_path / "b",
        per_device_train_batch_size=4,
        max_steps=2,
        activation_checkpointing=True,
    )
    assert drift(plain.model, saving.model, start) < 1e-6


@pytest.mark.parametrize("reduction", ["sample", "pooled"])
def test_reductions_differ_and_are_exact(tiny_folder, tiny_rows, tmp_path, reduction):
    start, _ = load(tiny_folder)
    common = {"scale_reduction": reduction, "max_steps": 2}
    whole = train(tiny_folder, tiny_rows, tmp_path / "a", per_device_train_batch_size=8, **common)
    split = train(
        tiny_folder, tiny_rows, tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=4, **common
    )
    other = train(
        tiny_folder,
        tiny_rows,
        tmp_path / "c",
        per_device_train_batch_size=8,
        max_steps=2,
        scale_reduction="pooled" if reduction == "sample" else "sample",
    )
    assert drift(whole.model, split.model, start) < 1e-5
    assert drift(whole.model, other.model, start) > 1e-3


def test_malformed_rows_error_skip_keep(tiny_folder, tmp_path, capfd):
    rows = [to_trl_row(example) for example in tiny_examples(6)]
    rows[2]["completion"][0]["content"][0]["text"] = "<think>no answer here</think>"
    dataset = datasets.Dataset.from_list(rows)
    with pytest.raises(DataError, match=r"tiny-0002.*<answer>") as error:
        train(tiny_folder, dataset, tmp_path / "error", max_steps=1)
    assert "\n" not in str(error.value)
    trainer = train(
        tiny_folder, dataset, tmp_path / "skip", max_steps=1, per_device_train_batch_size=8, scale_on_malformed="skip"
    )
    assert len(trainer.train_dataset) == 5
    trainer = train(
        tiny_folder, dataset, tmp_path / "keep", max_steps=1, per_device_train_batch_size=8, scale_on_malformed="keep"
    )
    assert trainer.state.log_history[0]["scale/missing_answer"] == 1
    # token_mean never requires segments: the row is trained, and logged as lacking one.
    trainer = train(
        tiny_folder, dataset, tmp_path / "plain", max_steps=1, per_device_train_batch_size=8, loss="token_mean"
    )
    assert trainer.state.log_history[0]["scale/missing_answer"] == 1


def test_a_long_row_is_refused_and_never_cut(tiny_folder, tmp_path):
    dataset = to_dataset(tiny_examples(4, think_words=60))
    with pytest.raises(DataError, match="max_length"):
        train(tiny_folder, dataset, tmp_path / "a", max_steps=1, max_length=64)
    with pytest.raises(
        DataError, match='set scale_on_overflow to skip with scale_check="all", which looks at all rows'
    ):
        train(tiny_folder, dataset, tmp_path / "b", max_steps=1, max_length=64, scale_check="lazy")


@pytest.mark.parametrize("why", ["scale_on_overflow", "scale_on_malformed"])
def test_rows_that_are_to_be_left_out_are_looked_for_in_all(tiny_folder, tmp_path, capsys, why):
    """Beyond scale_check_limit nobody looked: the first such row ended the run, hours in."""
    good, odd = tiny_examples(6), replace(tiny_examples(1, think_words=200)[0], id="odd")
    if why == "scale_on_malformed":
        odd = replace(good[0], id="odd", think=None)
    model, processor = load(tiny_folder)
    longest = int(ScaleCollator(processor)(list(map(to_trl_row, good)))["attention_mask"].sum(dim=1).max())
    settings = config(tmp_path, max_length=longest + 9, scale_check_limit=2, disable_tqdm=False, **{why: "skip"})
    rows = to_dataset([*good, odd])
    trainer = ScaleSFTTrainer(model, settings, train_dataset=rows, processing_class=processor)
    assert len(trainer.train_dataset) == 6
    told = capsys.readouterr().err
    assert f"{why}: skip: checking all 7 rows, whatever scale_check_limit says" in told
    assert "checked 7 of 7 rows, 6 kept" in told


@pytest.mark.parametrize("kind", [ScaleSFTConfig, StrictGRPOConfig])
def test_a_warm_up_that_does_nothing_is_said_once(kind, tmp_path, capsys):
    for _ in range(2):
        kind(str(tmp_path), lr_scheduler_type="constant", warmup_steps=len(kind.__name__), use_cpu=True)
    told = capsys.readouterr().err
    assert told.count(f"warning: warmup_steps={len(kind.__name__)} has no effect with lr_scheduler_type=constant") == 1
    kind(str(tmp_path), lr_scheduler_type="constant_with_warmup", warmup_steps=5)
    kind(str(tmp_path), lr_scheduler_type="constant")
    assert capsys.readouterr().err == ""


def test_rows_of_like_length_share_a_batch(tiny_folder, tmp_path):
    rows = to_dataset(tiny_examples(120))
    model, processor = load(tiny_folder)
    grouped = {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 4}

    def make(**changes):
        return ScaleSFTTrainer(
            model, config(tmp_path, **grouped, **changes), train_dataset=rows, processing_class=processor
        )

    def padding(trainer):
        masks = [batch["attention_mask"] for batch in trainer.get_train_dataloader()]
        return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    trainer = make()
    grouped_share = padding(trainer)
    trainer.args.train_sampling_strategy = "random"
    assert grouped_share < 0.5 * padding(trainer)
    for changes in ({"scale_check": "lazy"}, {"scale_check_limit": 119}):
        with pytest.raises(ConfigError, match="group_by_length needs the length of every row; keep scale_check"):
            make(**changes)


def test_what_cannot_be_right_is_refused(tiny_folder, tiny_rows, tmp_path):
    for changes, word in [
        ({"label_smoothing_factor": 0.1}, "label_smoothing"),
        ({"loss_type": "dft"}, "dft"),
        ({"completion_only_loss": False}, "completion_only_loss"),
        ({"assistant_only_loss": True}, "assistant_only_loss"),
        ({"packing": True}, "packing"),
        ({"scale_segments": "llava_cot"}, "choose think-answer, llava-cot, or give a JSON list"),
        ({"scale_segments": [["token", "<a>", "</a>"], ["b", "<b>", None]]}, 'cannot be called "token"'),
        (
            {"loss": "token_mean", "scale_start": {"think": -5, "answer": 1}, "scale_end": {"think": 1, "answer": 1}},
            "-5",
        ),
    ]:
        with pytest.raises(ConfigError, match=word):
            config(tmp_path, **changes)
    model, processor = load(tiny_folder)
    with pytest.raises(ConfigError, match="compute_loss_func"):
        ScaleSFTTrainer(
            model,
            config(tmp_path),
            train_dataset=tiny_rows,
            processing_class=processor,
            compute_loss_func=lambda *a, **k: 0.0,
        )
    trainer = ScaleSFTTrainer(
        model,
        config(tmp_path, max_steps=1),
        data_collator=lambda rows: {"input_ids": torch.zeros(1, 2, dtype=torch.long)},
        train_dataset=tiny_rows,
        processing_class=processor,
    )
    with pytest.raises(ConfigError, match="shift_labels"):
        trainer.train()


def test_dft_runs_through_trl(tiny_folder, tiny_rows, tmp_path):
    trainer = train(
        tiny_folder,
        tiny_rows,
        tmp_path / "ours",
        loss="token_mean",
        loss_type="dft",
        per_device_train_batch_size=4,
        max_steps=3,
        newline_after_turn=False,
    )
    stock = stock_train(
        tiny_folder,
        tiny_rows,
        tmp_path / "stock",
        loss_type="dft",
        per_device_train_batch_size=4,
        max_steps=3,
        newline_after_turn=False,
    )
    torch.testing.assert_close(torch.tensor(losses(trainer)), torch.tensor(losses(stock)), rtol=0, atol=1e-5)


def test_an_error_in_a_worker_is_still_one_line(tiny_folder, tmp_path):
    rows = [to_trl_row(example) for example in tiny_examples(4)]
    rows[2]["completion"][0]["content"][0]["text"] = "<think>no answer here</think>"
    with pytest.raises(DataError) as error:
        train(
            tiny_folder,
            datasets.Dataset.from_list(rows),
            tmp_path,
            max_steps=1,
            per_device_train_batch_size=4,
            scale_check="lazy",
            dataloader_num_workers=1,
        )
    assert str(error.value) == "record tiny-0002: the response has no <answer>; add the segment, or leave the row out"


def test_the_stages_of_llava_cot_are_segments_from_file_to_weights(tiny_folder, tmp_path, capsys):
    """With a turn before the question, from the command; the preset's trace weight is shared by the first three."""
    lines = []
    for number, example in enumerate(tiny_examples(8)):
        example.images[0].save(tmp_path / f"{number}.png")
        stages = f"<SUMMARY>I look.</SUMMARY><CAPTION>{example.think}</CAPTION><REASONING>So.</REASONING>"
        said = ["<image>Hello?", "Hi.", example.question, f"{stages}<CONCLUSION>{example.answer}</CONCLUSION>"]
        turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(said)]
        lines.append(json.dumps({"id": str(number), "image": f"{number}.png", "conversations": turns}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    command = f"sft --model_name_or_path {tiny_folder} --dataset {tmp_path / 'train.jsonl'} --scale_segments llava-cot"
    command += f" --output_dir {tmp_path / 'run'} --max_steps 2 --per_device_train_batch_size 4 --logging_steps 1"
    assert main(command.split()) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = next(row for row in rows if "loss" in row)
    for name in ("summary", "caption", "reasoning"):
        assert first[f"scale/weight_{name}"] == pytest.approx(0.3)
        assert first[f"scale/missing_{name}"] == 0
    assert first["scale/weight_conclusion"] == pytest.approx(0.1)
    nll = sum(
        first[f"scale/weight_{name}"] * first[f"scale/nll_{name}"] for name in ("summary", "caption", "reasoning")
    )
    assert first["loss"] == pytest.approx(nll + 0.1 * first["scale/nll_conclusion"], rel=1e-5)
    assert not [path for path in (tmp_path / "run").iterdir() if "balanced-rows" in path.name]
    files = {"run.json", "model.safetensors", "metrics.jsonl"}
    assert files <= {path.name for path in (tmp_path / "run").iterdir()}
    told = json.loads((tmp_path / "run" / "run.json").read_text())["config"]["scale_segments"]
    assert [name for name, *_ in told] == ["summary", "caption", "reasoning", "conclusion"]
    # The same segments in another spelling are the same run.
    written = json.dumps(told)
    assert main([*command.split()[:5], "--scale_segments", written, *command.split()[7:]]) == 0
    assert "finished; nothing to do" in capsys.readouterr().out

    # GRPO and evaluation of what came out read those segments without being told.
    prompts = {"--model_name_or_path": tmp_path / "run", "--dataset": tmp_path / "train.jsonl"}
    options = {**prompts, "--output_dir": tmp_path / "grpo", "--max_steps": 1, "--max_completion_length": 4}
    options |= {"--per_device_train_batch_size": 4, "--num_generations": 2, "--report_to": "none"}
    assert main(["grpo", *(str(part) for pair in options.items() for part in pair)]) == 0
    told = json.loads((tmp_path / "grpo" / "run.json").read_text())["config"]["scale_segments"]
    assert json.dumps(told) == written
    question = ["--benchmark", str(tmp_path / "train.jsonl"), "--limit", "1", "--max_new_tokens", "4"]
    assert main(["evaluate", "--model", str(tmp_path / "grpo"), *question]) == 0
    meta = json.loads((tmp_path / "grpo" / "predictions" / "train.meta.json").read_text())
    assert json.dumps(meta["config"]["segments"]) == written


def test_no_rows_are_left_of_a_run_that_failed(tiny_folder, tmp_path, capsys):
    example = next(iter(tiny_examples(1)))
    example.images[0].save(tmp_path / "0.png")
    (tmp_path / "train.jsonl").write_text(json.dumps({**to_trl_row(example), "images": ["0.png"]}))
    command = f"sft --model_name_or_path {tiny_folder} --dataset {tmp_path / 'train.jsonl'} --max_length 5"
    assert main([*command.split(), "--output_dir", str(tmp_path)]) == 2
    assert "the end of the response would be cut off" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "train.jsonl"]


def test_lines_without_a_terminal_show_the_loss_of_their_own_step(tiny_folder, tmp_path, capfd):
    """Before, each showed the loss of the log before, and the first none at all."""
    row = {"prompt": "Q?", "completion": "<think>so</think><answer>1</answer>"}
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row | {"id": str(n)}) + "\n" for n in range(4)))
    command = f"sft --model_name_or_path {tiny_folder} --dataset {tmp_path / 'train.jsonl'} --bf16 false --max_steps"
    for steps, every in ((3, 1), (10, 4)):
        run = tmp_path / f"run-{steps}"
        assert main([*command.split(), str(steps), "--output_dir", str(run), "--logging_steps", str(every)]) == 0
        said = re.findall(rf"step (\d+)/{steps}(.*)", capfd.readouterr().err)
        assert [int(step) for step, _ in said] == list(range(1, steps + 1))
        logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = {entry["step"]: f"{entry['loss']:.3f}" for entry in logged if "loss" in entry}
        for step, figures in said:
            last = max((at for at in losses if at <= int(step)), default=None)
            assert (f"loss {losses[last]} " in figures + " ") if last else not figures.strip()
            assert ("(of step " in figures) == (last not in (None, int(step)))


def test_a_training_without_a_folder_or_rows_to_evaluate_is_one_line(tiny_folder, tmp_path, capsys):
    command = f"sft --model_name_or_path {tiny_folder} --dataset nothing.jsonl"
    assert main(command.split()) == 2
    assert "no run folder given; name one with --output_dir" in capsys.readouterr().err
    assert main([*command.split(), "--output_dir", str(tmp_path / "run"), "--eval_strategy", "epoch"]) == 2
    assert "eval_strategy 'epoch' needs rows to evaluate; set eval_fraction or eval_dataset" in capsys.readouterr().err
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "Q?", "completion": "x", "images": ["no.png"]}))
    assert main([*command.split()[:-1], str(tmp_path / "train.jsonl"), "--output_dir", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists(), "a run that failed before its first step leaves an empty folder"
    (tmp_path / "mine").mkdir()
    told = [*command.split()[:-1], str(tmp_path / "train.jsonl"), "--output_dir"]
    assert main([*told, str(tmp_path / "mine")]) == main([*told, str(tmp_path / "deep" / "run")]) == 2
    assert (tmp_path / "mine").is_dir(), "a folder of the user's own is gone"
    assert not (tmp_path / "deep").exists()


def test_a_run_says_what_it_trains_on_and_evaluates_what_it_holds_out(tiny_folder, tmp_path, capfd):
    """What was held out was never evaluated; a row of more than TRL's 1,024 tokens was refused; no loss was shown."""
    path = tmp_path / "train.jsonl"
    lines = []
    for number, example in enumerate(tiny_examples(12, think_words=20)):
        words = 900 if number == 0 else 1
        row = {"prompt": f"{number}: {example.question}", "completion": f"<think>{'hence ' * words}</think>"}
        lines.append(json.dumps({**row, "completion": row["completion"] + f"<answer>{number}</answer>"}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {"model_name_or_path": tiny_folder, "dataset": path, "max_steps": 2, "eval_fraction": 0.3}
    settings |= {"per_device_train_batch_size": 1, "bf16": "false", "save_strategy": "no"}
    arguments = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    assert main(["sft", *arguments, "--output_dir", str(tmp_path / "run")]) == 0
    told = capfd.readouterr().err
    opening = re.search(r"run: (\d+) rows, 0 with pictures, the longest (\d+) tokens; (\d+) held out, (.*)", told)
    assert opening is not None, told
    assert int(opening[1]) + int(opening[3]) == 12
    assert opening[4] == "evaluated once an epoch (eval_strategy: epoch); 2 steps on cpu, weights in float32"
    assert re.search(r"run: step 2/2  loss \d.*eval_loss \d", told)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged if "loss" in row] == [2]
    assert [row["step"] for row in logged if "eval_loss" in row] == [2]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("eval_strategy: no\n")  # which YAML reads as false
    assert main(["sft", "--config", str(recipe), *arguments, "--output_dir", str(tmp_path / "without")]) == 0
    assert "held out, evaluated never (eval_strategy: no)" in capfd.readouterr().err
    assert "eval_" not in (tmp_path / "without" / "metrics.jsonl").read_text()
