"""Settings come from FINETUNE_* variables, and a wrong one is named."""

from __future__ import annotations

import pytest

from finetune_operator.settings import Settings, from_environment


def test_nothing_set_is_the_defaults() -> None:
    assert from_environment({}) == Settings()
    assert from_environment({"FINETUNE_UNKNOWN": "x", "HOME": "/", "FINETUNE_STAGE": "{}"}) == Settings()


def test_each_kind_of_setting_is_read() -> None:
    found = from_environment(
        {
            "FINETUNE_TRAINER_IMAGE": "registry.example/trainer:1",
            "FINETUNE_NAMESPACES": "a, b,,c ",
            "FINETUNE_PROGRESS_INTERVAL": "2.5",
            "FINETUNE_WORKERS": "3",
        }
    )
    assert (found.trainer_image, found.namespaces) == ("registry.example/trainer:1", ("a", "b", "c"))
    assert (found.progress_interval, found.workers) == (2.5, 3)


@pytest.mark.parametrize(("name", "value"), [("WORKERS", "many"), ("WORKERS", "2.5"), ("RETRY_BACKOFF", "")])
def test_what_is_no_number_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"FINETUNE_{name}={value!r}: not a number"):
        from_environment({f"FINETUNE_{name}": value})


def test_light_stages_have_the_trainers_image_unless_they_have_their_own() -> None:
    assert Settings(trainer_image="a").image_for_light_stages == "a"
    assert Settings(trainer_image="a", light_image="b").image_for_light_stages == "b"


def test_a_pull_policy_is_one_of_kubernetes() -> None:
    assert from_environment({"FINETUNE_IMAGE_PULL_POLICY": "IfNotPresent"}).image_pull_policy == "IfNotPresent"
    with pytest.raises(ValueError, match="FINETUNE_IMAGE_PULL_POLICY='Sometimes': no pull policy; write Always"):
        Settings(image_pull_policy="Sometimes")
