"""Evaluate: a model's greedy answers to the rows of a data config, compared with what the rows say."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from finetune_api.data import DataConfig
from finetune_api.evaluators import Evaluator, Metric
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.context import PassOutput, StageContext
from finetune_trainer.data import prompt_of, render
from finetune_trainer.errors import bad_input
from finetune_trainer.generation import Generator, Limits, answer_text, stop_check
from finetune_trainer.metrics import Accuracy, accuracy, normalised
from finetune_trainer.tokenizer import TextTokenizer, load_tokenizer

_MOST_FIGURES = 24  # of a stage result
_PROGRESS_LINES = 10


def run(context: StageContext) -> PassOutput:
    """Measures the evaluator's metrics; answers go to `<metric>.jsonl`, all figures to `summary.json`."""
    evaluator = Evaluator.model_validate(context.document.config)
    role = next((role for role in ("onnx", "model", "adapter") if role in context.inputs), "base")
    context.report.progress(activity="loading model")
    folder = context.inputs[role] if role in ("onnx", "model") else context.input_model()[0]
    tokenizer = load_tokenizer(folder)
    generator = load_generator(context, role, folder)
    configs = {item.name: item for item in context.document.data}
    found: dict[str, Accuracy] = {}
    for metric in evaluator.metrics:
        rows = read_questions(context, configs[metric.data_config], tokenizer)
        answers = answer(context, generator, tokenizer, metric, rows)
        found[metric.name] = accuracy(answers, [row.reference for row in rows])
        _write_answers(context, metric, rows, answers)
        context.report.log(_sentence(metric.name, found[metric.name]))
    summary = {"evaluator": evaluator.name, "model": role, "metrics": {k: asdict(v) for k, v in found.items()}}
    (context.output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return PassOutput(figures(found))


def load_generator(context: StageContext, role: str, folder: Path) -> Generator:
    """What runs the model in `folder`: onnxruntime-genai in role onnx, transformers for model, adapter and base."""
    if role == "onnx":
        from finetune_trainer.genai import GenaiModel, runnable  # noqa: PLC0415  (this way needs no torch, the other no onnx)

        return GenaiModel(runnable(folder))
    from finetune_trainer.generation_hf import load_hf_generator  # noqa: PLC0415

    return load_hf_generator(folder, context.load_kwargs, context.inputs.get("adapter"))


@dataclass(frozen=True)
class Question:
    """A row as the model is asked it."""

    prompt: str
    reference: str
    special_tokens: bool

    def ids(self, tokenizer: TextTokenizer) -> list[int]:
        """The prompt's tokens, after BOS where the model's texts begin with it."""
        ids = tokenizer.encode(self.prompt).ids
        bos = tokenizer.bos_id if self.special_tokens else None
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def read_questions(context: StageContext, source: DataConfig, tokenizer: TextTokenizer) -> list[Question]:
    """The rows of a data config. Raises StageFailure where there are none, or where one lacks a column."""
    process = source.pre_process_data_config
    rows = list(islice(context.rows(source.name), process.max_samples))
    if not rows:
        path = f"spec.dataConfigs[name={source.name}].loadDatasetConfig.dataFiles"
        files = source.load_dataset_config.shown()
        remedy = "Name a file with rows, or leave the metric out."
        raise bad_input(Reason.NO_SAMPLES, problem(path, files, "no rows to measure on", remedy))
    deque(render(rows, process, name=source.name, tokenizer=tokenizer), maxlen=0)  # its failures name the row
    return [
        Question(
            *prompt_of(row, process, name=source.name, number=number, tokenizer=tokenizer),
            special_tokens=process.add_special_tokens,
        )
        for number, row in enumerate(rows, 1)
    ]


def answer(
    context: StageContext, generator: Generator, tokenizer: TextTokenizer, metric: Metric, rows: list[Question]
) -> list[str]:
    """The model's answers, in the order of `rows`, stripped and in Unicode's NFC."""
    prompts = [row.ids(tokenizer) for row in rows]
    limits = Limits(metric.max_new_tokens, tokenizer.end_ids, stop_check(tokenizer, metric.stop))
    answers = [""] * len(rows)
    every = max(1, len(rows) // _PROGRESS_LINES)
    for done, (index, ids) in enumerate(generator.generate(prompts, limits), start=1):
        answers[index] = normalised(answer_text(tokenizer, ids, metric.stop))
        if done % every == 0 or done == len(rows):
            context.report.progress(activity=f"evaluating {metric.name}", step=done, total=len(rows))
    return answers


def figures(found: dict[str, Accuracy]) -> dict[str, float]:
    """What the result says of each metric: as many figures, the most telling first, as a result has room for."""
    room = _MOST_FIGURES // len(found)
    result: dict[str, float] = {}
    for name, value in found.items():
        ordered = {
            name: value.value,
            f"{name}/n": float(value.n),
            f"{name}/low": value.low,
            f"{name}/high": value.high,
            f"{name}/majority": value.majority,
        }
        result.update(list(ordered.items())[:room])
    return result


def _write_answers(context: StageContext, metric: Metric, rows: list[Question], answers: list[str]) -> None:
    with (context.output / f"{metric.name}.jsonl").open("w", encoding="utf-8") as file:
        for row, text in zip(rows, answers, strict=True):
            correct = text == normalised(row.reference)
            line = {"prompt": row.prompt, "reference": row.reference, "answer": text, "correct": correct}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _sentence(name: str, found: Accuracy) -> str:
    return (
        f"{name}: {found.value:.1%} of {found.n} (95 % interval {found.low:.1%} to {found.high:.1%}); "
        f"always the commonest answer: {found.majority:.1%}"
    )
