"""Text → token ids, the same for every stage, without importing transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import tokenizers
from tokenizers import Tokenizer

from finetune_api.keys import digest
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import bad_input

MODEL_PATH = "spec.inputModel.modelPath"
_TEMPLATE_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Encoding:
    """A text's tokens. `offsets[i]` is the half-open range of characters that token `ids[i]` stands for.

    Offsets are None where nobody asked for them: making them takes longer than all else.
    """

    ids: list[int]
    offsets: Sequence[tuple[int, int]] | None


class _Offsets(Sequence[tuple[int, int]]):
    """The offsets of a backend's encoding, each made when it is read: few of them are."""

    def __init__(self, encoded: tokenizers.Encoding) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(index, slice):
            return self._encoded.offsets[index]
        found = self._encoded.token_to_chars(range(len(self))[index])
        if found is None:
            raise ValueError(f"the tokenizer does not say what its token {index} stands for")
        return found


class TextTokenizer:
    """A model's tokenizer.

    `bos_id` is None unless the model's own tokenizer begins a text with BOS; `eos_id` is the token that ends a
    text; `end_ids` holds it and every other id at which the model's generation configuration ends an answer;
    `pad_id` falls back to `eos_id`. `chat_template` is the model's own, in Jinja, where it has one; `special_tokens`
    are the texts that templates know as `bos_token`, `eos_token` and so on.
    """

    def __init__(
        self,
        backend: Tokenizer,
        *,
        bos_id: int | None,
        eos_id: int | None,
        pad_id: int | None,
        end_ids: Iterable[int] = (),
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self._backend = backend
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.pad_id = eos_id if pad_id is None else pad_id
        self.end_ids = frozenset(end_ids) | (frozenset() if eos_id is None else {eos_id})
        self.chat_template = chat_template
        self.special_tokens = dict(special_tokens or {})

    @property
    def vocab_size(self) -> int:
        """Number of tokens, those added to the vocabulary included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def digest(self) -> str:
        """sha256 (hex) over all that texts are rendered and encoded by."""
        rest = [self.bos_id, self.eos_id, sorted(self.end_ids), self.chat_template, self.special_tokens]
        return digest([self._backend.to_str(), rest])

    def encode(self, text: str) -> Encoding:
        """`text` as tokens; no special token is added, those spelled out in `text` become themselves."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str], *, offsets: bool = True) -> list[Encoding]:
        """`encode` for each of `texts`, on as many threads as RAYON_NUM_THREADS says."""
        if not offsets:
            return [
                Encoding(item.ids, None)
                for item in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
            ]
        encoded = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [Encoding(item.ids, _Offsets(item)) for item in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return self._backend.decode(list(ids), skip_special_tokens=True)


def load_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer of the model in `folder`.

    Read from tokenizer.json; where there is none, transformers is imported to convert what there is. Raises
    StageFailure (ModelInvalid) where neither can be read.
    """
    backend = _backend(folder)
    backend.no_truncation()
    backend.no_padding()
    config = read_json(folder / "tokenizer_config.json")
    model, generation = read_json(folder / "config.json"), read_json(folder / "generation_config.json")
    end_ids = _ids(generation.get("eos_token_id")) or _ids(model.get("eos_token_id"))
    eos = _token_id(backend, config.get("eos_token"))
    return TextTokenizer(
        backend,
        bos_id=_bos_id(backend, config),
        eos_id=next(iter(end_ids), None) if eos is None else eos,
        pad_id=_token_id(backend, config.get("pad_token")),
        end_ids=end_ids,
        chat_template=_chat_template(folder, config.get("chat_template")),
        special_tokens={name: text for name in _TEMPLATE_TOKENS if (text := _token_text(config.get(name))) is not None},
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is no such file. Raises StageFailure (ModelInvalid)."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _invalid(path.name, f"no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise _invalid(path.name, "not a JSON object")
    return content


def _backend(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return _converted(folder)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise _invalid(path.name, f"cannot be read as a tokenizer: {error}") from error


def _converted(folder: Path) -> Tokenizer:
    """The tokenizer of a folder without tokenizer.json, as transformers converts it."""
    from transformers import AutoTokenizer  # noqa: PLC0415  (takes seconds, and most models do not need it)

    try:
        slow = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # whatever transformers cannot read, the remedy is the same
        raise _invalid("tokenizer.json", f"missing, and nothing else could be converted: {error}") from error
    backend: Tokenizer | None = getattr(slow, "backend_tokenizer", None)
    if backend is None:
        raise _invalid("tokenizer.json", f"missing, and {type(slow).__name__} cannot be converted")
    return backend


def _invalid(name: str, message: str) -> Exception:
    remedy = "Save the tokenizer again with transformers' save_pretrained, which writes tokenizer.json."
    return bad_input(Reason.MODEL_INVALID, problem(MODEL_PATH, name, message, remedy))


def _bos_id(backend: Tokenizer, config: dict[str, Any]) -> int | None:
    """BOS, if the model's tokenizer puts it before a text: as its configuration says, else its post-processor."""
    bos = _token_id(backend, config.get("bos_token"))
    adds = config.get("add_bos_token")
    if isinstance(adds, bool):
        return bos if adds else None
    first = backend.encode("a", add_special_tokens=True)
    if first.special_tokens_mask and first.special_tokens_mask[0] and first.ids[0] == bos:
        return bos
    return None


def _token_id(backend: Tokenizer, token: Any) -> int | None:
    text = _token_text(token)
    return None if text is None else backend.token_to_id(text)


def _token_text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _chat_template(folder: Path, configured: Any) -> str | None:
    """The template of chat_template.jinja, else of the configuration, where it may be one of several with names."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if isinstance(configured, list):
        named = {item.get("name"): item.get("template") for item in configured if isinstance(item, dict)}
        configured = named.get("default")
    return configured if isinstance(configured, str) else None


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]
