"""Chats → texts and the characters in them that the assistant says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.data import PreProcessDataConfig
from finetune_api.stage import Reason
from finetune_trainer.data import arrange, prompt_of, tokenize
from finetune_trainer.data import render as rendered
from finetune_trainer.errors import StageFailure
from finetune_trainer.template import Sample
from finetune_trainer.tokenizer import load_tokenizer

from .letters import Letters

CHATML = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# As Phi-3's: the end token of the text stands after the last message only.
PHI = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% else %}{{ eos_token }}{% endif %}"
)
# As Llama 2's: several turns, roles that must alternate, and turns marked for transformers.
LLAMA = (
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message.role == 'user' %}{{ bos_token }}[INST] {{ message.content }} [/INST]"
    "{% else %}{% generation %} {{ message.content }} {{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
WORDS = st.text(st.characters(min_codepoint=97, max_codepoint=122), max_size=6)
CHAT = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho"},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "no"},
]


def config(**fields: Any) -> PreProcessDataConfig:
    fields = {"chat_template": CHATML, "completion_only_loss": True, "strategy": "line-by-line", **fields}
    return PreProcessDataConfig(**fields)


def render(messages: Any, process: PreProcessDataConfig, tokenizer: Any = None) -> Sample:
    [sample] = rendered([{process.message_col: messages}], process, name="d", tokenizer=tokenizer or Letters())
    return sample


def said(sample: Sample) -> list[str]:
    return [sample.text[start:stop] for start, stop in sample.turns or ()]


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        (CHATML, ["ho</>\n", "no</>\n"]),
        (PHI, ["ho<end>", "no<end>\x02"]),
        (LLAMA, [" ho \x02", " no \x02"]),
    ],
)
def test_all_turns_of_the_assistant_are_found(template: str, turns: list[str]) -> None:
    assert said(render(CHAT, config(chat_template=template))) == turns


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), st.sampled_from([CHATML, PHI, LLAMA]))
def test_what_is_learned_is_what_the_assistant_says(turns: list[tuple[str, str]], template: str) -> None:
    messages = [
        {"role": role, "content": content}
        for pair in turns
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    process = config(chat_template=template)
    sample = render(messages, process)
    row = tokenize([sample], Letters(), process).row(0)
    learned = "".join(chr(id) for id, learn in zip(row.ids, row.learn, strict=True) if learn)
    expected = "".join(said(sample))
    assert learned in (expected, expected + "\x02"), "the end token is added where the template gave none"
    assert [answer in part for (_, answer), part in zip(turns, said(sample), strict=True)] == [True] * len(turns)
    text = "".join(map(chr, row.ids))
    assert text.count("\x01") == (len(turns) if template is LLAMA else 1), "BOS is never doubled"
    assert text.endswith("\x02")
    assert not text.endswith("\x02\x02")


def test_the_end_that_a_template_writes_is_not_written_again() -> None:
    text = CHATML.replace("</>", "{{ eos_token }}")
    row = tokenize([render(CHAT, config(chat_template=text))], Letters(), config()).row(0)
    assert "".join(map(chr, row.ids)).endswith("no\x02\n")


def test_share_gpt_is_read_as_the_same_chat() -> None:
    names = {"user": "human", "assistant": "gpt"}
    shared = [{"from": names[item["role"]], "value": item["content"]} for item in CHAT]
    process = config(message_col="conversations")
    assert render(shared, process) == render(CHAT, process)


def test_a_chat_is_asked_up_to_its_last_answer() -> None:
    prompt, answer = prompt_of({"messages": CHAT}, config(), tokenizer=Letters())
    assert prompt == "<user>hi</>\n<assistant>ho</>\n<user>and?</>\n<assistant>"
    assert answer == "no"
    with pytest.raises(StageFailure, match="does not end with an answer"):
        prompt_of({"messages": CHAT[:3]}, config(), tokenizer=Letters())


def test_all_is_learned_where_no_completion_is_asked_for() -> None:
    process = config(completion_only_loss=False)
    assert all(tokenize([render(CHAT, process)], Letters(), process).row(0).learn)


def test_a_chat_without_answers_teaches_nothing() -> None:
    process = config(add_special_tokens=False)
    rows = tokenize([render(CHAT[:1], process)], Letters(), process)
    assert len(arrange(rows, process, Letters())) == 0


@pytest.mark.parametrize(
    ("messages", "template", "says"),
    [
        (None, CHATML, "null or missing"),
        ("hi", CHATML, "a str"),
        (["hi"], CHATML, "message 1 is a str"),
        ([{"role": "user"}], CHATML, "message 1 has no text"),
        ([{"from": "robot", "value": "x"}], CHATML, "from 'robot'"),
        (CHAT[1:], LLAMA, "roles must alternate"),
        (CHAT, "{% for message in messages %}", "template"),
        (CHAT, "{{ messages.__class__ }}{{ messages[9].content.x }}", "row 1"),
        (CHAT, "{{ messages | length }}{{ messages[-1].content }}", "up to message 2"),
        ([{"role": "user", "content": "\ud800"}], CHATML, "surrogate"),
    ],
)
def test_what_is_no_chat_is_refused_with_its_row(messages: Any, template: str, says: str) -> None:
    with pytest.raises(StageFailure, match=says) as caught:
        render(messages, config(chat_template=template))
    assert caught.value.reason in (Reason.DATA_INVALID, Reason.COLUMN_NOT_FOUND)
    assert caught.value.problems[0].path.startswith("spec.dataConfigs[name=d].preProcessDataConfig.")


def test_templates_are_sandboxed() -> None:
    for attack in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        with pytest.raises(StageFailure, match="row 1"):
            render(CHAT, config(chat_template=attack))


def test_the_tokenizers_own_template(tiny_model, tmp_path) -> None:
    for name in ("tokenizer.json", "config.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    process = config(chat_template="tokenizer")
    with pytest.raises(StageFailure, match="has no chat template") as caught:
        render(CHAT, process, load_tokenizer(tmp_path))
    assert caught.value.reason is Reason.UNSUPPORTED
    path = tmp_path / "tokenizer_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"chat_template": [{"name": "default", "template": PHI}]}))
    assert said(render(CHAT, process, load_tokenizer(tmp_path))) == ["ho<end>", "no<end><|endoftext|>"]
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert said(render(CHAT, process, load_tokenizer(tmp_path))) == ["ho</>\n", "no</>\n"]


def test_it_renders_as_transformers_does(tiny_model) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(tiny_model), load_tokenizer(tiny_model)
    for template in (CHATML, PHI, LLAMA, "{% for m in messages %}\n  {{ m | tojson }}\n  {% break %}\n{% endfor %}"):
        text = theirs.apply_chat_template(CHAT, chat_template=template, tokenize=False)
        assert render(CHAT, config(chat_template=template, completion_only_loss=False), ours).text == text


def test_chats_are_prepared(world) -> None:
    world.s3.put(f"{world.prefix}/train.jsonl", "\n".join(json.dumps({"chat": CHAT}) for _ in range(3)).encode())
    process = world.spec["dataConfigs"][0]["preProcessDataConfig"]
    process.clear()
    process |= {"chatTemplate": CHATML, "messageCol": "chat", "completionOnlyLoss": True}
    assert world.prepare().ok
    assert "⟦no</>" in world.log
    process["messageCol"] = "chats"
    with pytest.raises(StageFailure, match="no row has this column"):
        world.prepare()
