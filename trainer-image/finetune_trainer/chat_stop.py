"""The tokens at which a chat model's answer ends, written where onnxruntime-genai looks for them."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoTokenizer

from finetune_trainer.tokenizer import load_tokenizer

_ANSWER = "An answer."


def add_stop_tokens(source: Path, folder: Path, *, remote_code: bool) -> list[int]:
    """Has genai_config.json in `folder` end answers wherever the model in `source` ends them; returns the ids.

    Those are the ids of its generation configuration, its EOS, and what its chat template puts after an answer.
    """
    path = folder / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    said = config["model"].get("eos_token_id", [])
    ids = {*(said if isinstance(said, list) else [said]), *load_tokenizer(source).end_ids}
    ids |= _after_an_answer(source, remote_code=remote_code)
    config["model"]["eos_token_id"] = sorted(ids)
    path.write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    return sorted(ids)


def _after_an_answer(source: Path, *, remote_code: bool) -> set[int]:
    """The special token right after an answer in the chat template; empty where there is no template or token."""
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=remote_code, local_files_only=True)
    if not tokenizer.chat_template:
        return set()
    chat = [{"role": "user", "content": "A question."}, {"role": "assistant", "content": _ANSWER}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    ids = tokenizer.encode(text.rpartition(_ANSWER)[2].lstrip(), add_special_tokens=False)
    return {ids[0]} if ids and ids[0] in tokenizer.all_special_ids else set()
