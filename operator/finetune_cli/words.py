"""A status in words: pure text, shared by every way of showing it."""

from __future__ import annotations

from datetime import datetime

from finetune_api.status import StageProgress, StageState, StageStatus, Status

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: int) -> str:
    """Bytes for people, by thousands: `1.4 MB`."""
    amount = float(count)
    for unit in _UNITS[:-1]:
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} {_UNITS[-1]}"


def span(seconds: float) -> str:
    """A duration for people: `7 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def took(started: str | None, finished: str | None) -> str:
    """The time between two RFC 3339 times; empty where one is missing."""
    if not started or not finished:
        return ""
    return span((datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds())


def figures(progress: StageProgress) -> str:
    """How far a stage is: `120/250 (48 %)  loss 0.4121  4210 tokens/s  ETA 6 s`, as far as it says."""
    parts = [progress.activity] if progress.activity else []
    if progress.step is not None and progress.total:
        parts.append(f"{progress.step}/{progress.total} ({100 * progress.step // progress.total} %)")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4g}")
    if progress.eval_loss is not None:
        parts.append(f"eval loss {progress.eval_loss:.4g}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:.0f} tokens/s")
    if progress.eta_seconds is not None and progress.step != progress.total:
        parts.append(f"ETA {span(progress.eta_seconds)}")
    return "  ".join(parts)


def remark(stage: StageStatus) -> str:
    """What there is to say of a stage beside its state."""
    match stage.state:
        case StageState.RUNNING:
            return figures(stage.progress) if stage.progress else ""
        case StageState.SUCCEEDED:
            return took(stage.started_at, stage.finished_at)
        case StageState.FAILED:
            return f"{stage.reason}: {stage.message}"
    return stage.message or ""


def ended(status: Status) -> bool | None:
    """True where the run succeeded, False where it failed, None while it is under way."""
    verdict = next((item.status for item in status.conditions if item.type == "Succeeded"), "Unknown")
    return {"True": True, "False": False}.get(verdict)


def failure(status: Status) -> str:
    """The message of the condition that says why a run failed."""
    found = next((item for item in status.conditions if item.type == "Succeeded"), None)
    return f"{found.reason}: {found.message}" if found else (status.message or "it failed and does not say why")


def evidence(status: Status) -> list[str]:
    """Where failed stages have left what their pods said last: a line for each."""
    return [
        f"{stage.name}'s last log lines, traceback and document: {stage.evidence}"
        for stage in status.stages
        if stage.state == StageState.FAILED and stage.evidence
    ]
