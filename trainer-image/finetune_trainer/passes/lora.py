"""LoRA, QLoRA and DoRA: a low-rank adapter, trained beside a frozen base model.

LoRA: Hu et al. 2021, arXiv:2106.09685. QLoRA: Dettmers et al. 2023, arXiv:2305.14314. DoRA: Liu et al. 2024,
arXiv:2402.09353.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import peft
import torch
from transformers import PreTrainedModel

from finetune_api.data import PreProcessDataConfig
from finetune_api.extra_args import ExtraArgs
from finetune_api.lora import DoraConfig, LoraConfig, QLoraConfig
from finetune_api.model import LoadKwargs
from finetune_api.stage import StageDocument
from finetune_api.training import TrainingArgs
from finetune_trainer import adapters, quantization, sharded_model
from finetune_trainer.adapter_check import continued
from finetune_trainer.context import PassOutput, StageContext
from finetune_trainer.data import lengths_of
from finetune_trainer.models import best_device, dtype_named, load_model
from finetune_trainer.report import Reporter
from finetune_trainer.reporting.card import NAME as CARD
from finetune_trainer.reporting.card import stage_card
from finetune_trainer.tokenizer import TextTokenizer, load_tokenizer
from finetune_trainer.training import kernels, loop, micro_batches
from finetune_trainer.training.batches import Collator
from finetune_trainer.training.neftune import add_noise
from finetune_trainer.training.optimizers import make_optimizer, require_optimizer
from finetune_trainer.training.plan import Plan
from finetune_trainer.training.samples import Samples, read_samples
from finetune_trainer.training.saving import Saver
from finetune_trainer.training.setup import Setup
from finetune_trainer.training.trackers import open_trackers, require_trackers
from finetune_trainer.training.world import World

TRAINING_LOG = "training_log.jsonl"


def run(context: StageContext) -> PassOutput:
    """Trains the adapter that the document's config describes, and writes it to `context.output`."""
    config = _config(context)
    path = f"spec.passes[name={context.document.stage}].config"
    args, report, device = config.training_args, context.report, best_device()
    set_arithmetic(args.extra())
    require_optimizer(args, device, f"{path}.trainingArgs")
    require_trackers(args, f"{path}.trainingArgs")
    base, source = context.input_model()
    precision = Precision.of(config, source.load_kwargs, device)

    report.progress(activity="reading data")
    tokenizer = load_tokenizer(base)
    samples = context.world.first_on_node(lambda: read_samples(context, config, tokenizer))
    report.log(f"{len(samples.train)} samples to learn from, {len(samples.held_out)} to evaluate on")

    report.progress(activity="loading model")
    sharded = config.sharding == "fsdp" and context.world.size > 1
    if sharded:
        model = load_sharded_base(base, source.load_kwargs, config, precision, device, context.world)
    else:
        model = load_base(base, source.load_kwargs, config, precision, device)
    if isinstance(config, QLoraConfig):
        quantization.described(model, config, precision.weights).write(context.output)
    parts = adapters.trained_parts(model, config, path)
    torch.manual_seed(args.seed)
    adapted = adapters.attach(model, config, parts)
    if "adapter" in context.inputs:
        adapters.go_on_from(adapted, context.inputs["adapter"], str(source.adapter_path))
    if sharded:
        sharded_model.shard_rest(adapted, device, context.world)
        report.log(f"the base model is shared out among {context.world.size} processes")
    report.log(f"training {adapted.get_nb_trainable_parameters()[0]:,} parameters on {device}, in {parts}")

    report.progress(activity="training")
    report.keep(context.output / TRAINING_LOG)
    if args.neftune_noise_alpha:
        add_noise(adapted.get_input_embeddings(), args.neftune_noise_alpha)
    collate = collator(samples.process, tokenizer, device, pin_memory=args.extra().dataloader_pin_memory)
    setup = Setup(adapted, device, precision.autocast, collate, context.world)
    setup, passes = accelerate(setup, samples, args, report, sharded=sharded)
    optimizer = make_optimizer(args, adapted)
    # One rank reports for all.
    wanted = args if context.world.is_main else args.model_copy(update={"report_to": None})
    trackers = open_trackers(wanted, context.document, context.output, context.scratch, report)
    around = loop.Surroundings(report, trackers, saver(context, args), context.termination)
    outcome = loop.Training(setup, optimizer, samples.train, samples.held_out, args, around, passes).run()

    report.progress(activity="saving adapter")
    pins = context.document.pins
    adapters.save(adapted, context.output, base=source.model_path, revision=pins.model.revision if pins else None)
    figures = _metrics(outcome, samples)
    card = stage_card(context, f"{context.document.type} adapter", figures)
    (context.output / CARD).write_text(card, encoding="utf-8")
    return PassOutput(figures)


def saver(context: StageContext, args: TrainingArgs) -> Saver | None:
    """What saves and finds checkpoints; None where the stage has no store."""
    if context.checkpoints is None:
        return None
    return Saver(context.checkpoints, args, context.scratch, context.report, sends=context.world.is_main)


def accelerate(
    setup: Setup, samples: Samples, args: TrainingArgs, report: Reporter, *, sharded: bool = False
) -> tuple[Setup, micro_batches.Passes]:
    """`setup` as it computes fastest on its device, each choice logged, and how much a forward pass takes.

    `sharded` says that the ranks compute a pass together.
    """
    lengths = lengths_of(samples.train)
    padded = array("q", (max(setup.collate.length or 0, length) for length in lengths))
    shape = kernels.Samples(padded, parts=samples.process.strategy == "pack")
    steps = Plan(shape.lengths, args, setup.world.rank, setup.world.size).total
    mean = sum(shape.lengths) // len(shape.lengths)
    tokens = steps * args.gradient_accumulation_steps * args.per_device_train_batch_size * mean
    work = kernels.Work.of(setup.model, setup.device, shape, tokens, setup.autocast)
    if args.neftune_noise_alpha:
        work = replace(work, varlen=False)  # the noise of a sample depends on the width of its row
    chosen = kernels.choose(work, compiling=args.extra().torch_compile)
    for reason in chosen.reasons:
        report.log(reason)
    if setup.device.type == "cuda" and setup.autocast is not None:
        kernels.keep_input_type(setup.model)
    if chosen.varlen:
        longest = max(chain(lengths, lengths_of(samples.held_out)))
        setup = replace(setup, collate=replace(setup.collate, side_by_side=longest))
    retreat = None
    if sharded:
        from finetune_trainer.training.retreat import Retreat  # noqa: PLC0415  (of several ranks alone)

        retreat = Retreat(os.environ)
    # The pass that measures memory runs before anything is compiled: no other batch is as small as its.
    kernels.apply(setup.model, replace(chosen, compiled=False))
    passes = micro_batches.fitted(setup, samples.train, args, lambda: recompute(setup.model), report, retreat)
    kernels.apply(setup.model, replace(chosen, fused_loss=False, fused_layers=False))
    return setup, passes.on_all(setup.world)


def set_arithmetic(extra: ExtraArgs) -> None:
    """How torch computes in this process: with TF32 or not, and in a fixed order or in whichever is fastest.

    Must come before anything is computed on a GPU: cuBLAS reads its variable once.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = extra.tf32
    if extra.full_determinism:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(extra.full_determinism)


def recompute(model: torch.nn.Module) -> None:
    """Has `model`, with or without adapters, compute activations again in the backward pass."""
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def _config(context: StageContext) -> LoraConfig:
    """The pass's config, with the modules of the input model's adapter where there is one to go on from."""
    config = parse_config(context.document)
    return continued(config, context.inputs["adapter"]) if "adapter" in context.inputs else config


def parse_config(document: StageDocument) -> LoraConfig:
    """The pass's config, of the type that the document's says."""
    kinds: dict[str, type[LoraConfig]] = {"LoRA": LoraConfig, "QLoRA": QLoraConfig, "DoRA": DoraConfig}
    return kinds[document.type].model_validate(document.config)


@dataclass(frozen=True)
class Precision:
    """How numbers are held: the frozen weights' type, what 4-bit weights are computed in, and autocast's type."""

    weights: torch.dtype
    compute: torch.dtype
    autocast: torch.dtype | None

    @classmethod
    def of(cls, config: LoraConfig, load: LoadKwargs, device: torch.device) -> Precision:
        """As the pass says, else as inputModel.loadKwargs says, else bfloat16 on a GPU and float32 on a CPU."""
        default = "bfloat16" if device.type == "cuda" else "float32"
        weights = config.torch_dtype or load.torch_dtype or default
        compute = (config.compute_dtype if isinstance(config, QLoraConfig) else None) or weights
        autocast = None if compute == "float32" else dtype_named(compute)
        return cls(dtype_named(weights), dtype_named(compute), autocast)


def load_base(
    folder: Path, load: LoadKwargs, config: LoraConfig, precision: Precision, device: torch.device
) -> PreTrainedModel:
    """The frozen base model on `device`; under QLoRA quantized to 4 bits."""
    four_bit = quantization.four_bit(config, precision.compute) if isinstance(config, QLoraConfig) else None
    model = load_model(folder, load, device=device, dtype=precision.weights, quantization=four_bit)
    if four_bit:
        quantization.keep_trainable_on_cpu(model)
    if config.training_args.gradient_checkpointing:
        recompute(model)
    return model


def load_sharded_base(
    folder: Path, load: LoadKwargs, config: LoraConfig, precision: Precision, device: torch.device, world: World
) -> PreTrainedModel:
    """The frozen base model, each rank of `world` with a part of every layer; under QLoRA quantized to 4 bits."""
    model = sharded_model.load_sharded(
        folder,
        load,
        device=device,
        dtype=precision.weights,
        world=world,
        four_bit=config if isinstance(config, QLoraConfig) else None,
        compute=precision.compute,
    )
    if config.training_args.gradient_checkpointing:
        recompute(model)
    return model


def collator(
    process: PreProcessDataConfig, tokenizer: TextTokenizer, device: torch.device, *, pin_memory: bool = True
) -> Collator:
    """How samples become batches. Padding is told by position, so any id does where the tokenizer has none.

    Packed samples are full but for a few tokens; on a GPU, padded to one length, they can be compiled and joined.
    """
    packed = process.strategy == "pack"
    return Collator(
        pad_id=tokenizer.pad_id or 0,
        length=process.max_seq_len if process.pad_to_max_len or (packed and device.type == "cuda") else None,
        side=process.padding_side,
        attention_mask=process.use_attention_mask,
        packed=packed,
        pin_memory=pin_memory and device.type == "cuda",
    )


def _metrics(outcome: loop.Outcome, samples: Samples) -> dict[str, float]:
    metrics = {
        "train_loss": outcome.train_loss,
        "steps": float(outcome.steps),
        "tokens": float(outcome.tokens),
        "tokens_per_second": outcome.tokens_per_second,
        "samples": float(len(samples.train)),
    }
    if outcome.eval_loss is not None:
        metrics["eval_loss"] = outcome.eval_loss
    return metrics
