"""Whatever is sent as a spec, `rules.check` answers; and nothing unknown is ever accepted."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api import keys, reserved, rules
from finetune_api.base import Model
from finetune_api.job import JobSpec

from .specs import BUILDER, QLORA, Spec, job_spec, passes_only, pins

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["LoRA", "train", "s3://a", "{x", "{}", "{a!r}", "{a:{b}}", "\ud800", "", "$(HOME)"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
BOUNDED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def full_spec() -> Spec:
    """A spec with every kind of object in it."""
    spec = job_spec(systems=[{"name": "gpu", "resources": {"limits": {"cpu": 2}}, "tolerations": [{"key": "a"}]}])
    spec["passes"][0]["config"]["trainingArgs"] = {"seed": 1}
    spec["passes"][2]["config"] |= {"search": {"topK": 1}, "int4NodesToExclude": ["/lm_head/MatMul"]}
    load = {"torchDtype": "float32", "maxMemory": {"gpu": "20Gi", "cpu": 1 << 30}, "quantization": "none"}
    spec["inputModel"] |= {"loadKwargs": load, "tokenSecretRef": {"name": "hub", "key": "token"}}
    spec["inputModel"] |= {"adapterPath": "team/adapter", "adapterRevision": "main"}
    spec["engine"] |= {"logSeverityLevel": 2, "searchStrategy": False, "executionProviders": ["cpu"]}
    spec["engine"] |= {"cacheDir": "stages", "outputDir": "models"}
    return spec


SPECS = (full_spec, lambda: passes_only(QLORA), lambda: passes_only(BUILDER))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in `value`."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(steps):
        yield value, key
        yield from places(inner)


def objects(value: Any) -> list[dict[str, Any]]:
    return [value, *(here[key] for here, key in places(value) if isinstance(here[key], dict))]


@given(st.sampled_from(SPECS), st.data())
@BOUNDED
def test_a_mutated_spec_is_answered_and_what_passes_can_be_run(make: Any, data: st.DataObject) -> None:
    spec = make()
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(places(spec))))
        if data.draw(st.booleans()):
            container[key] = data.draw(JSON)
        else:
            del container[key]
        if not list(places(spec)):
            break
    require_an_answer(spec)


def require_an_answer(spec: Any) -> bool:
    """Whether `spec` is right; and it is wholly understood, or what is wrong is said."""
    parsed, found = rules.check(spec)
    assert parsed is not None or found
    for item in found:
        assert item.path.startswith("spec")
        assert item.message
    if parsed is None or found:
        return False
    keys.stage_keys("team", parsed, pins(*(config.name for config in parsed.data_configs)))
    assert JobSpec.model_validate(parsed.wire()) == parsed
    assert set(leaves(spec)) <= set(leaves(parsed.wire())), "nothing that was sent is passed over"
    return True


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all members and items of `value`; null says the same as nothing."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if inner is not None:
            yield f"{path}.{key}"
            yield from leaves(inner, f"{path}.{key}")


MUTATIONS_OF_AN_EXAMPLE = 100
MUTATIONS = 10_000
# One value or more of each kind that fits some field, and many that fit none.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 8, 2**31, 2**70, 0.5, 1.5, -0.1, float("nan"), float("inf"), "", "a", "x" * 10_000,
    "LoRA", "QLoRA", "MergeAdapterWeights", "ModelBuilder", "train", "lora", "no", "steps", "fp16", "cuda", "2Gi",
    "s3://a", "s3://bucket/key", "pvc://../..", "{x", "{}", "{a!r}", "{phrase}", "\ud800", "\0", "$(HOME)", "é",
    [], {}, [[]], [{}], ["text"], {"": 1}, {"name": "lora"}, [{"name": "a"}, {"name": "a"}], {"cpu": "1"},
)  # fmt: skip


@cache
def texts() -> tuple[str, ...]:
    """Right specs as JSON, of which a fresh copy is cheap."""
    return tuple(json.dumps(make()) for make in SPECS)


def mutated(draw: random.Random) -> Any:
    """A right spec with one to three things changed, taken away, doubled, moved or renamed."""
    spec = json.loads(draw.choice(texts()))
    for _ in range(draw.randint(1, 3)):
        found = list(places(spec))
        if not found:
            break
        container, key = draw.choice(found)
        other, its_key = draw.choice(found)
        elsewhere = copy.deepcopy(other[its_key])
        kind = draw.randrange(6)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, list):
            container.append(container[key])
        elif kind == 2 and isinstance(container, dict):
            container[draw.choice([key.upper(), key + "s", f" {key}", "type", "name"])] = container.pop(key)
        elif kind == 3:
            container[key] = elsewhere
        else:
            container[key] = copy.deepcopy(draw.choice(VALUES))
    return spec


@settings(max_examples=MUTATIONS // MUTATIONS_OF_AN_EXAMPLE, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_ten_thousand_mutations_are_answered(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(MUTATIONS_OF_AN_EXAMPLE):
        require_an_answer(mutated(draw))


def test_some_mutations_are_right_and_most_are_wrong() -> None:
    """Else the test above would not see what it is for."""
    draw = random.Random(1)
    right = sum(require_an_answer(mutated(draw)) for _ in range(1000))
    assert 50 < right < 500


def subclasses(model: type[Model]) -> Iterator[type[Model]]:
    for inner in model.__subclasses__():
        yield inner
        yield from subclasses(inner)


# What some object of the API knows, whichever.
KNOWN = {info.alias for model in subclasses(Model) for info in model.model_fields.values()}

# Where any key is right: a map, not an object.
MAPS = ("limits", "requests", "nodeSelector")


@given(st.sampled_from(SPECS), st.text(min_size=1, max_size=12), JSON, st.data())
@BOUNDED
def test_an_unknown_key_is_never_accepted(make: Any, name: str, value: Any, data: st.DataObject) -> None:
    spec = make()
    maps = [here[key] for here, key in places(spec) if key in MAPS]
    candidates = [item for item in objects(spec) if not any(item is each for each in maps)]
    here = data.draw(st.sampled_from(candidates))
    if name in KNOWN:
        return
    here[name] = value
    parsed, found = rules.check(spec)
    assert parsed is None
    assert any(
        item.message in ("unknown field", reserved.MESSAGE) and item.path.endswith(f".{name}"[-200:]) for item in found
    )


def test_a_name_in_python_spelling_is_no_name_on_the_wire() -> None:
    spec = job_spec()
    spec["input_model"] = spec.pop("inputModel")
    parsed, found = rules.check(spec)
    assert parsed is None
    assert [(item.path, item.message, item.remedy) for item in found] == [
        ("spec.inputModel", "required, but not there", "Give it a value."),
        ("spec.input_model", "unknown field", "Write inputModel."),
    ]
