"""The training loop: forward, backward, step; measured and reported on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from finetune_api.stage import ExitCode, Reason
from finetune_api.training import TrainingArgs
from finetune_trainer.data import Tokens
from finetune_trainer.errors import StageFailure
from finetune_trainer.report import Reporter
from finetune_trainer.training.batches import Batch, Collator
from finetune_trainer.training.meter import Meter
from finetune_trainer.training.plan import Plan, Step, learning_rate
from finetune_trainer.training.sharing import Filled
from finetune_trainer.training.world import Alone, World


@dataclass(frozen=True)
class Setup:
    """What a loop computes with: the model on its device, and how numbers are held.

    `autocast` is the type that products are computed in where weights are below float32; the trained parameters
    are float32 always. None computes in the weights' own type. Under several ranks the model's gradients are those
    of all ranks, summed.
    """

    model: torch.nn.Module
    device: torch.device
    autocast: torch.dtype | None
    collate: Collator
    world: World = field(default_factory=Alone)

    def loss(self, batch: Batch, divisor: int) -> torch.Tensor:
        """The summed cross entropy over the learned tokens of `batch`, over `divisor`; a scalar on the device."""
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            return self.model(**batch.inputs(self.device), num_items_in_batch=divisor, use_cache=False).loss

    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that learn."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


@dataclass(frozen=True)
class Outcome:
    """What a training came to. Losses are in nats per learned token; tokens count no padding."""

    train_loss: float
    eval_loss: float | None
    steps: int
    tokens: int
    tokens_per_second: float


def train(
    setup: Setup,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Tokens],
    held_out: Sequence[Tokens],
    args: TrainingArgs,
    report: Reporter,
) -> Outcome:
    """Trains `setup.model` on `samples`, and measures it on `held_out` as `args.eval_strategy` says and at the end.

    Raises StageFailure (LossNotFinite) where the loss is NaN or infinite.
    """
    world = setup.world
    plan = Plan([len(sample.ids) for sample in samples], args, world.rank, world.size)
    samples = Filled(samples)
    meter = Meter(plan.total)
    eval_loss = None
    scaler = torch.amp.GradScaler(setup.device.type, enabled=setup.autocast is torch.float16)
    setup.model.train()
    for step in plan.steps():
        rate = learning_rate(args, step.number, plan.total)
        batches = [setup.collate([samples[index] for index in part]) for part in step.micro_batches]
        loss, norm = _learn(setup, optimizer, scaler, batches, rate, args.max_grad_norm)
        meter.add(loss, _over_ranks(world, sum(batch.tokens for batch in batches)))
        last = step.number == plan.total
        if last or step.number % args.logging_steps == 0:
            meter.report(step, norm, rate, report)
            _require_finite(meter.loss, step.number, args)
        if held_out and (last or _evaluates(args, step)):
            with meter.paused():
                eval_loss = evaluate(setup, held_out, args.per_device_eval_batch_size)
            report.progress(step=step.number, total=plan.total, epoch=step.epoch, eval_loss=eval_loss)
    return Outcome(meter.loss, eval_loss, plan.total, meter.tokens, meter.tokens_per_second())


def _learn(
    setup: Setup,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batches: Sequence[Batch],
    rate: float,
    max_norm: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimizer step over `batches`: its loss and the gradients' norm before clipping, both on the device.

    Every learned token of the step weighs the same, in whichever of the batches it is.
    """
    learned = max(1, _over_ranks(setup.world, sum(batch.learned for batch in batches)))
    total = torch.zeros((), device=setup.device)
    for batch in batches:
        loss = setup.loss(batch, learned)
        scaler.scale(loss).backward()
        total += loss.detach()
    setup.world.sum_gradients(setup.trained())
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(setup.trained(), max_norm if max_norm > 0 else math.inf)
    for group in optimizer.param_groups:
        group["lr"] = rate
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return setup.world.sum(total), norm


def _over_ranks(world: World, count: int) -> int:
    return int(world.sum(torch.tensor(count)))


def _evaluates(args: TrainingArgs, step: Step) -> bool:
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


@torch.no_grad()
def evaluate(setup: Setup, samples: Sequence[Tokens], batch_size: int) -> float:
    """Mean loss over the learned tokens of `samples`, in nats; dropout is off meanwhile."""
    world = setup.world
    filled = Filled(samples)
    places = range(world.rank, math.ceil(len(samples) / world.size) * world.size, world.size)
    own = [filled[min(place, len(samples))] for place in places]
    setup.model.eval()
    total = torch.zeros((), device=setup.device, dtype=torch.float64)
    learned = 0
    for start in range(0, len(own), batch_size):
        batch = setup.collate(own[start : start + batch_size])
        total += setup.loss(batch, 1)
        learned += batch.learned
    setup.model.train()
    return world.sum(total).item() / max(1, _over_ranks(world, learned))
