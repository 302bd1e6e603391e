"""One metric of one model, whatever its type."""

from __future__ import annotations

from pathlib import Path

from finetune_api.evaluators import Metric
from finetune_trainer.context import StageContext
from finetune_trainer.evaluation import answers, perplexity, size, speed
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.model import Subject
from finetune_trainer.evaluation.questions import RowReader


def measure(
    subject: Subject, metric: Metric, reader: RowReader, context: StageContext, *, output: Path | None
) -> Measured:
    """What the metric came to; its rows' answers or losses are written to `<metric>.jsonl` in `output`, if any."""
    if metric.type == "accuracy":
        rows = reader.questions(str(metric.data_config))
        given = answers.answer(subject, metric, rows, context.report)
        if output:
            answers.write_answers(output / f"{metric.name}.jsonl", rows, given)
        return answers.measure(given, [row.reference for row in rows])
    if metric.type == "perplexity":
        name = str(metric.data_config)
        process = reader.config(name).pre_process_data_config
        texts = perplexity.texts_of(reader.rows(name), process, metric, subject)
        scores = perplexity.score(subject, metric, texts, context.report)
        if output:
            perplexity.write_scores(output / f"{metric.name}.jsonl", scores)
        return perplexity.measure(scores)
    if metric.type == "size_on_disk":
        return size.measure(subject)
    prompts = [row.ids(subject.tokenizer) for row in reader.questions(metric.data_config)] if metric.data_config else []
    return speed.measure(metric, speed.time_requests(subject, metric, prompts, context.report))
