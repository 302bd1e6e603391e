"""What merging and building need by the size of the model: stated in their requests where the job's system is silent.

A pod that says nothing is put on a node that may have too little, and is killed or evicted in its last minutes.
"""

from __future__ import annotations

from finetune_api.builder import ModelBuilderConfig
from finetune_api.outline import StageOutline
from finetune_api.passes import MergeConfig
from finetune_api.quantity import amount
from finetune_api.system import Resources

MEMORY, DISK = "memory", "ephemeral-storage"
_GIB = 1 << 30
# Memory by bytes of the model's files, measured at the int4 build of Phi-3-mini's shape, 7.1 GiB in bfloat16: 26 GiB
# for a CPU, which computes in float32, and 19 GiB for CUDA. Files in float32 need half as much.
# Small models of other shapes (Qwen 2's, 230 MiB in bfloat16, for a CPU), beside the 465 MiB of the libraries: 40
# narrow layers 3.6 times the files; 83 % embedding and output layer 4.9, and 6.6 where these are tied, so that files
# hold them once. A model that is mostly vocabulary needs a request of its own: a pin does not say what it is made of.
_BUILD_MEMORY, _BUILD_MEMORY_ON_CUDA = 3.7, 2.7
# The built model by bytes of files of 16 bits: int4 was 0.38 of them in Phi-3-mini's shape, and 1.07 where 83 % are
# an embedding and an untied output layer. int8 is reckoned from that: its weights take twice int4's.
_BUILT = {"int4": 1.1, "int8": 1.3, "fp16": 1.1, "bf16": 1.1, "fp32": 2.1}
# The model that is read, and what lies beside it meanwhile.
_READ, _BESIDE = 1.0, 0.5


def needs(stage: StageOutline, model_size: int, *, least: str, queued: bool) -> dict[str, str]:
    """Requests by what `stage` needs of a model of `model_size` bytes; what is below `least`, a quantity, is left out.

    Under a queue (`queued`) no disk is asked for: Kueue admits nothing that asks for a resource its queue lacks.
    """
    wanted = {MEMORY: _memory(stage, model_size), DISK: 0 if queued else _disk(stage, model_size)}
    return {name: f"{-(-size // _GIB)}Gi" for name, size in wanted.items() if size > amount(least)}


def scratch_limit(resources: Resources, default: str) -> str:
    """The size of a stage's scratch space: what is asked for where that is more than `default`."""
    asked = resources.requests.get(DISK, 0)
    return str(asked) if amount(asked) > amount(default) else default


def _memory(stage: StageOutline, size: int) -> int:
    """Bytes of memory; 0 for stages whose need does not grow with the model, or is the GPU's."""
    if not isinstance(stage.config, ModelBuilderConfig):
        return 0
    on_cuda = stage.config.execution_provider == "cuda"
    return int(size * (_BUILD_MEMORY_ON_CUDA if on_cuda else _BUILD_MEMORY))


def _disk(stage: StageOutline, size: int) -> int:
    """Bytes of scratch space: what is read, what is written, and room beside them."""
    if isinstance(stage.config, MergeConfig):
        return int(size * (2 * _READ + _BESIDE))
    if isinstance(stage.config, ModelBuilderConfig):
        return int(size * (_READ + _BUILT[stage.config.precision] + _BESIDE))
    return 0
