"""The training loop: forward, backward, step; measured, reported and saved on the way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from finetune_api.extra_args import ExtraArgs
from finetune_api.stage import ExitCode, Reason
from finetune_api.training import TrainingArgs
from finetune_trainer.data import Tokens, lengths_of
from finetune_trainer.errors import StageFailure
from finetune_trainer.failures import TerminatedError
from finetune_trainer.report import Reporter
from finetune_trainer.termination import Termination
from finetune_trainer.training import exactness
from finetune_trainer.training.batches import Batch
from finetune_trainer.training.best import Best, learned, put_back
from finetune_trainer.training.evaluation import evaluate
from finetune_trainer.training.meter import Meter
from finetune_trainer.training.micro_batches import Passes
from finetune_trainer.training.plan import Plan, Step
from finetune_trainer.training.saving import Saver, copied
from finetune_trainer.training.schedules import learning_rate
from finetune_trainer.training.setup import Setup
from finetune_trainer.training.sharing import Filled
from finetune_trainer.training.stalling import StallWatch
from finetune_trainer.training.trackers import Trackers


@dataclass(frozen=True)
class Outcome:
    """What a training came to. Losses are in nats per learned token; tokens count no padding.

    `steps` are those that were done, fewer than planned after an early stop. `eval_loss` is that of the parameters
    that were kept.
    """

    train_loss: float
    eval_loss: float | None
    steps: int
    tokens: int
    tokens_per_second: float


@dataclass(frozen=True)
class Surroundings:
    """What a training reports to, is saved by, and is stopped by."""

    report: Reporter
    trackers: Trackers
    saver: Saver | None = None
    termination: Termination = field(default_factory=Termination)


class Training:
    """One training, from where its checkpoint left it, if there is one, to its end.

    `passes` is how much a forward pass takes; the step's samples are those of `args` whatever it is.
    """

    def __init__(
        self,
        setup: Setup,
        optimizer: torch.optim.Optimizer,
        samples: Sequence[Tokens],
        held_out: Sequence[Tokens],
        args: TrainingArgs,
        around: Surroundings,
        passes: Passes | None = None,
    ) -> None:
        self._setup = setup
        self._optimizer = optimizer
        self._samples = Filled(samples)
        self._held_out = held_out
        self._args = args
        self._around = around
        self._passes = passes or Passes(args.per_device_train_batch_size)
        self._plan = Plan(lengths_of(samples), args, setup.world.rank, setup.world.size)
        self._meter = Meter(self._plan.total, setup.device, around.report, around.trackers)
        self._best = Best(args)
        self._scaler = torch.amp.GradScaler(setup.device.type, enabled=setup.autocast is torch.float16)
        self._extra = args.extra()
        self._watch = StallWatch(args.stall_seconds)
        self._step = 0
        self._evaluated = 0
        self._eval_loss: float | None = None

    def run(self) -> Outcome:
        """Trains to the end. Raises StageFailure (LossNotFinite), and TerminatedError once what was learned is saved.

        Each step's random numbers follow from the seed, its number and the rank alone: dropout is the same in
        whichever attempt the step is done.
        """
        with self._around.termination.held(), self._watch.watching():
            self._setup.model.train()
            self._resume()
            for step in self._plan.steps(self._step):
                if self._best.exhausted:
                    break
                self._learn(step)
                self._end_step(step)
            return self._outcome()

    def _resume(self) -> None:
        """Goes on from the newest checkpoint, and makes up for the evaluation that it was interrupted before."""
        saver, world = self._around.saver, self._setup.world
        state = world.from_main(lambda: saver.load(self._restore)) if saver else None
        if state is not None:
            if not world.is_main:
                self._restore(state)
            self._meter.start(self._step)
        if self._step:
            self._evaluate_if_due(next(self._plan.steps(self._step - 1)))
        elif self._held_out and self._extra.eval_on_start:
            self._evaluate(Step(number=0, epoch=0.0, ends_epoch=False, micro_batches=()))

    def _learn(self, step: Step) -> None:
        """One optimizer step, reported where it is time to."""
        rate = learning_rate(self._args, step.number, self._plan.total)
        loss = self._gradients(step)
        norm = self._update(rate)
        self._step = step.number
        self._meter.add(loss, self._setup.over_ranks(self._plan.tokens(step)))
        self._watch.beat()
        every = self._extra.torch_empty_cache_steps
        if every and not step.number % every:
            torch.cuda.empty_cache()
        if self._logs(step):
            self._meter.report(step, norm, rate)
            _require_finite(self._meter.loss, step.number, self._args)

    def _end_step(self, step: Step) -> None:
        """Saves and evaluates what is due after `step`."""
        self._stop_if_asked()
        self._evaluate_if_due(step)
        saver = self._around.saver
        if saver and self._setup.world.any(saver.due(step)):
            saver.save(step.number, self._state())

    def _stop_if_asked(self) -> None:
        """Raises TerminatedError where some rank was asked to end, after all have saved the same step."""
        if not self._setup.world.any(self._around.termination.requested):
            return
        if self._around.saver:
            self._around.report.log(f"asked to end: saving step {self._step}")
            self._around.saver.save(self._step, self._state(), wait=True)
        self._setup.world.barrier()  # a rank that ends takes the others with it
        raise TerminatedError

    def _gradients(self, step: Step) -> torch.Tensor:
        """Forward and backward over the step's samples, on all ranks; its loss.

        Every learned token of the step weighs the same, in whichever of the batches it is.
        """
        while True:
            planned = self._args.per_device_train_batch_size
            parts = self._passes.cut(step.micro_batches, planned, self._plan.lengths, self._setup.world)
            batches = [self._setup.collate([self._samples[index] for index in part]) for part in parts]
            try:
                return self._backward(batches, step.number)
            except torch.OutOfMemoryError:
                if not self._may_halve():
                    raise
            self._halve()

    def _backward(self, batches: Sequence[Batch], number: int) -> torch.Tensor:
        torch.manual_seed(step_seed(self._args.seed, number, self._setup.world.rank))
        learned_tokens = self._setup.over_ranks(sum(batch.learned for batch in batches))
        total = torch.zeros((), device=self._setup.device)
        for batch in batches:
            loss = self._setup.loss(batch, max(1, learned_tokens), smoothing=self._args.label_smoothing_factor or 0.0)
            self._scaler.scale(loss).backward()
            total += loss.detach()
        self._setup.world.sum_gradients(self._setup.trained())
        return self._setup.world.sum(total)

    def _may_halve(self) -> bool:
        return self._args.auto_batch_size and self._passes.may_halve and self._setup.world.size == 1

    def _halve(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        self._passes = self._passes.halved()
        self._around.report.log(f"out of memory: {self._passes} per forward pass from here on")

    def _update(self, rate: float) -> torch.Tensor:
        """The optimizer's part of a step; returns the gradients' norm before clipping, on the device."""
        self._scaler.unscale_(self._optimizer)
        limit = self._args.max_grad_norm if self._args.max_grad_norm > 0 else math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._setup.trained(), limit)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _logs(self, step: Step) -> bool:
        first = self._args.logging_first_step and step.number == 1
        match self._extra.logging_strategy:
            case "steps":
                due = not step.number % self._args.logging_steps
            case "epoch":
                due = step.ends_epoch
            case _:
                due = False
        return first or due or step.number == self._plan.total

    def _evaluate_if_due(self, step: Step) -> None:
        """Measures the held-out samples, unless that was done; asked to end meanwhile, it leaves that to the next."""
        last = step.number == self._plan.total
        due = last or _evaluates(self._args, self._extra, step)
        if self._held_out and due and self._evaluated != step.number:
            self._evaluate(step)

    def _evaluate(self, step: Step) -> None:
        with self._meter.paused():
            loss = evaluate(self._setup, self._held_out, self._args.per_device_eval_batch_size, self._still_wanted)
        if loss is None:
            self._stop_if_asked()
            return
        self._eval_loss, self._evaluated = loss, step.number
        self._best.judge(loss, step.number, self._setup.model)
        self._meter.report_evaluation(step, loss)
        if self._best.exhausted and step.number < self._plan.total:
            self._around.report.log(f"stopping early: the best evaluation was after step {self._best.step}")

    def _still_wanted(self) -> bool:
        self._watch.beat()
        return not self._setup.world.any(self._around.termination.requested)

    def _outcome(self) -> Outcome:
        self._meter.close()
        if self._args.keeps_best and self._best.restore(self._setup.model):
            self._eval_loss = self._best.loss
            self._around.report.log(f"the adapter of step {self._best.step} is kept: evaluation loss {self._eval_loss}")
        self._around.trackers.close()
        if self._around.saver:
            self._around.saver.finish()
        meter = self._meter
        return Outcome(meter.loss, self._eval_loss, self._step, meter.tokens, meter.tokens_per_second())

    def _environment(self) -> dict[str, str]:
        return exactness.environment(self._setup, self._passes)

    def _state(self) -> dict[str, Any]:
        """All that the rest of the training follows from, copied to the CPU."""
        return {
            "environment": self._environment(),
            "parameters": learned(self._setup.model),
            "optimizer": copied(self._optimizer.state_dict()),
            "scaler": self._scaler.state_dict(),
            "meter": self._meter.state(),
            "best": self._best.state(),
            "step": self._step,
            "total": self._plan.total,
            "evaluated": self._evaluated,
            "eval_loss": self._eval_loss,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Takes up what `_state` gave. Raises KeyError or ValueError where it belongs to another training."""
        if state["total"] != self._plan.total:
            raise ValueError(f"it is of a training of {state['total']} steps, not {self._plan.total}")
        self._optimizer.load_state_dict(state["optimizer"])
        put_back(self._setup.model, state["parameters"])
        self._scaler.load_state_dict(state["scaler"])
        self._meter.load(state["meter"])
        self._best.load(state["best"])
        self._step, self._evaluated, self._eval_loss = state["step"], state["evaluated"], state["eval_loss"]
        for difference in exactness.differences(state["environment"], self._environment()):
            self._around.report.log(f"the result will not be equal bit for bit to an uninterrupted run's: {difference}")


def step_seed(seed: int, step: int, rank: int) -> int:
    """What torch's generators start from in a step: other numbers for every seed, step and rank; 63 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:8]) >> 1


def _evaluates(args: TrainingArgs, extra: ExtraArgs, step: Step) -> bool:
    """As in transformers, the delay is in steps under steps, and in epochs under epoch."""
    if (step.epoch if args.eval_strategy == "epoch" else step.number) < extra.eval_delay:
        return False
    if args.eval_strategy == "steps":
        return step.number % (args.eval_steps or args.logging_steps) == 0
    return args.eval_strategy == "epoch" and step.ends_epoch


def _require_finite(loss: float, step: int, args: TrainingArgs) -> None:
    if math.isfinite(loss):
        return
    raise StageFailure(
        Reason.LOSS_NOT_FINITE,
        f"the loss is {loss} at step {step}: training diverged. Lower trainingArgs.learningRate (now "
        f"{args.learning_rate:g}), add warmupSteps, set maxGradNorm (now {args.max_grad_norm:g}), or use torchDtype "
        "bfloat16 or float32 instead of float16.",
        exit_code=ExitCode.RESULT_REFUSED,
    )
