"""Chats → texts, by the template of the data config or of the model's tokenizer.

Templates are rendered as transformers renders them (`apply_chat_template`), in jinja2's sandbox. There is no
`strftime_now`: with a clock in it the same rows would make other texts tomorrow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_api.data import TOKENIZERS_OWN, PreProcessDataConfig
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.sample import Sample
from finetune_trainer.tokenizer import MODEL_PATH, TextTokenizer

Message = dict[str, str]
# What ShareGPT and its kin call those who speak.
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


class NoChatError(Exception):
    """A value is no chat; the message says what is wrong with it."""


def turns_of(value: object) -> list[Message]:
    """A chat as a list of {role, content}, in that form or in ShareGPT's {from, value}.

    Raises NoChatError saying which message is none.
    """
    if not isinstance(value, list):
        raise NoChatError(f"this column is {'null or missing' if value is None else f'a {type(value).__name__}'}")
    return [_turn(item, number) for number, item in enumerate(value, 1)]


def _turn(item: object, number: int) -> Message:
    if not isinstance(item, dict):
        raise NoChatError(f"message {number} is a {type(item).__name__}, not an object")
    if "role" in item or "content" in item:
        role, content = item.get("role"), item.get("content")
    else:
        role, content = item.get("from"), item.get("value")
        if role is not None and role not in _ROLES:
            raise NoChatError(f"message {number} is from {role!r}; known are {', '.join(_ROLES)}")
        role = _ROLES.get(str(role))
    if not isinstance(role, str) or not isinstance(content, str):
        raise NoChatError(f"message {number} has no text as content, or nobody who says it")
    return {"role": role, "content": content}


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: what it holds, as it is; turns are found by comparing texts."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 wants it so)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Chats:
    """Renders chats of one data config, which is called `name` in messages.

    Raises StageFailure: Unsupported where the tokenizer has no template, DataInvalid where the template cannot be
    read.
    """

    def __init__(self, config: PreProcessDataConfig, tokenizer: TextTokenizer, name: str) -> None:
        self._path = f"spec.dataConfigs[name={name}].preProcessDataConfig"
        self._eos = tokenizer.special_tokens.get("eos_token", "")
        template = _template_text(config, tokenizer, self._path)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
        environment.globals["raise_exception"] = _raise_exception
        try:
            self._template = environment.from_string(template)
        except TemplateError as error:
            raise self._invalid("the template", error) from error
        self._special_tokens = dict(tokenizer.special_tokens)

    def sample(self, messages: Sequence[Message], number: int, *, spans: bool) -> Sample:
        """The text of row `number`; with `spans`, where in it the assistant's turns are.

        Raises StageFailure (DataInvalid) where the template refuses the chat, or where the text up to a turn is not
        how the whole begins, so that nobody knows which of its characters are the turn's.
        """
        whole = self._render(messages, number, prompt=False)
        if not spans:
            return Sample(whole, 0, ends_itself=True)
        turns = tuple(
            self._span(whole, messages, index, number)
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        )
        return Sample(whole, turns[-1][0] if turns else 0, turns, ends_itself=True)

    def _span(self, whole: str, messages: Sequence[Message], index: int, number: int) -> tuple[int, int]:
        """The characters of `whole` that message `index` is: what follows the prompt for it, its end token included."""
        before = self._render(messages[:index], number, prompt=True)
        after = whole if index + 1 == len(messages) else self._render(messages[: index + 1], number, prompt=False)
        if not whole.startswith(after):
            after = after.removesuffix(self._eos)  # templates such as Phi-3's put it after the last message only
        if not (after.startswith(before) and whole.startswith(after)):
            message = f"in row {number} the text up to message {index + 1} is not how the whole chat's text begins"
            remedy = "Use a chatTemplate that writes each message the same whatever follows it."
            found = problem(f"{self._path}.chatTemplate", None, message, remedy)
            raise bad_input(Reason.DATA_INVALID, found)
        return len(before), len(after)

    def _render(self, messages: Sequence[Message], number: int, *, prompt: bool) -> str:
        try:
            return self._template.render(
                messages=list(messages),
                tools=None,
                documents=None,
                add_generation_prompt=prompt,
                **self._special_tokens,
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise self._invalid(f"row {number}", error) from error

    def _invalid(self, what: str, error: Exception) -> StageFailure:
        message = f"{what} cannot be rendered: {' '.join(str(error).split())[:200]}"
        remedy = "Correct the template, or the order of roles that it wants."
        return bad_input(Reason.DATA_INVALID, problem(f"{self._path}.chatTemplate", None, message, remedy))


def _template_text(config: PreProcessDataConfig, tokenizer: TextTokenizer, path: str) -> str:
    if config.chat_template != TOKENIZERS_OWN:
        return config.chat_template or ""
    if tokenizer.chat_template is None:
        message = f"the tokenizer of {MODEL_PATH} has no chat template"
        found = problem(f"{path}.chatTemplate", TOKENIZERS_OWN, message, "Write the template here.")
        raise bad_input(Reason.UNSUPPORTED, found)
    return tokenizer.chat_template


def _raise_exception(message: str) -> Any:
    raise TemplateError(message)
