"""Learning rates: transformers' schedules of the same names, each a function of the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable

from finetune_api.training import LrSchedulerKwargs, Schedule, TrainingArgs

_DEFAULT_TIMESCALE = 10_000
_POLYNOMIAL_END = 1e-7


def learning_rate(args: TrainingArgs, step: int, total: int) -> float:
    """The learning rate of step number `step` (from 1) of `total`."""
    kwargs = args.lr_scheduler_kwargs or LrSchedulerKwargs()
    done, warmup = step - 1, warmup_steps(args, total)
    if args.lr_scheduler_type == "constant":
        return args.learning_rate
    if args.lr_scheduler_type == "warmup_stable_decay":
        return args.learning_rate * _warmup_stable_decay(kwargs, done, warmup, total)
    if done < warmup:
        return args.learning_rate * done / warmup
    return args.learning_rate * _COURSES[args.lr_scheduler_type](args, kwargs, done - warmup, total - warmup, warmup)


def warmup_steps(args: TrainingArgs, total: int) -> int:
    """Steps in which the learning rate rises."""
    return math.ceil(total * args.warmup_ratio) if args.warmup_steps is None else args.warmup_steps


# From here on `done` steps of `left` are done after `warmup`; factors of the peak learning rate are returned.
def _constant(args: TrainingArgs, kwargs: LrSchedulerKwargs, done: int, left: int, warmup: int) -> float:
    return 1.0


def _linear(args: TrainingArgs, kwargs: LrSchedulerKwargs, done: int, left: int, warmup: int) -> float:
    return max(0.0, 1 - done / max(1, left))


def _cosine(args: TrainingArgs, kwargs: LrSchedulerKwargs, done: int, left: int, warmup: int) -> float:
    return max(0.0, _wave(done / max(1, left), kwargs))


def _restarts(args: TrainingArgs, kwargs: LrSchedulerKwargs, done: int, left: int, warmup: int) -> float:
    progress = done / max(1, left)
    cycles = kwargs.num_cycles or 1.0
    return 0.0 if progress >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * ((cycles * progress) % 1.0))))


def _cosine_to_least(args: TrainingArgs, kwargs: LrSchedulerKwargs, done: int, left: int, warmup: int) -> float:
    least = (kwargs.min_lr or 0.0) / args.learning_rate if kwargs.min_lr_rate is None else kwargs.min_lr_rate
    return max(0.0, _wave(done / max(1, left), kwargs) * (1 - least) + least)


def _polynomial(args: TrainingArgs, kwargs: LrSchedulerKwargs, done: int, left: int, warmup: int) -> float:
    end = (_POLYNOMIAL_END if kwargs.lr_end is None else kwargs.lr_end) / args.learning_rate
    remaining = max(0.0, 1 - done / max(1, left))
    return (1 - end) * remaining ** (kwargs.power or 1.0) + end


def _inverse_sqrt(args: TrainingArgs, kwargs: LrSchedulerKwargs, done: int, left: int, warmup: int) -> float:
    timescale = kwargs.timescale or warmup or _DEFAULT_TIMESCALE
    return 1 / math.sqrt((done + timescale) / timescale)


_COURSES: dict[Schedule, Callable[[TrainingArgs, LrSchedulerKwargs, int, int, int], float]] = {
    "constant_with_warmup": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _restarts,
    "cosine_with_min_lr": _cosine_to_least,
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
}


def _warmup_stable_decay(kwargs: LrSchedulerKwargs, done: int, warmup: int, total: int) -> float:
    """Hu et al. 2024, arXiv:2404.06395: a rise, a plateau, and a fall at the end."""
    least = kwargs.min_lr_ratio or 0.0
    decay = kwargs.num_decay_steps or 0
    stable = total - warmup - decay if kwargs.num_stable_steps is None else kwargs.num_stable_steps
    if done < warmup:
        progress = done / warmup
        rise = {"linear": progress, "cosine": 0.5 * (1 - math.cos(math.pi * progress))}
        return _above(least, rise.get(kwargs.warmup_type or "linear", 1 - math.sqrt(1 - progress)))
    if done < warmup + stable:
        return 1.0
    if done < warmup + stable + decay:
        progress = (done - warmup - stable) / max(1, decay)
        fall = {"linear": 1 - progress, "cosine": _wave(progress, kwargs)}
        return _above(least, fall.get(kwargs.decay_type or "cosine", 1 - math.sqrt(progress)))
    return least


def _above(least: float, factor: float) -> float:
    return max(0.0, factor * (1 - least) + least)


def _wave(progress: float, kwargs: LrSchedulerKwargs) -> float:
    return 0.5 * (1 + math.cos(math.pi * (kwargs.num_cycles or 0.5) * 2 * progress))
