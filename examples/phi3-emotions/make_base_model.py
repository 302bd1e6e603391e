"""Makes the example's base model: Phi-3's architecture with half a million parameters, pre-trained on the spot.

    python make_base_model.py --out DIR [--seed N] [--steps N]

writes to DIR what a model's folder on the Hugging Face hub holds. The model reads unlabelled texts (grammar.py); that
is how it comes to know which words belong together, and not what a feeling is called.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import grammar
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM

CONTEXT = 512
LEARNING_RATE = 4e-3
WARM_UP_STEPS = 20
STEPS = 220
SHORT_TEXTS_SHARE = 3 / 7
SHORT_TEXTS_PER_STEP = 48
LONG_TEXTS_PER_STEP = 16
FORMS_SHARE = 0.15

END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|end|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|assistant|>", "<|system|>", END_OF_TURN, "<|user|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the tiny base model of the phi3-emotions example.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps (default: {STEPS})")
    arguments = parser.parse_args()

    # A second thread would save a quarter of the time; with one, the model does not depend on how many cores there are.
    torch.set_num_threads(1)
    make_base_model(arguments.out, arguments.seed, arguments.steps)


def make_base_model(folder: Path, seed: int, steps: int) -> None:
    """Writes a tokenizer and a model, trained for `steps` on the texts of `seed`, to `folder`."""
    batches = list(text_batches(Random(seed), steps))
    tokenizer = train_tokenizer([text for batch in batches for text in batch])
    torch.manual_seed(seed)
    model = new_model(tokenizer)
    pretrain(model, tokenizer, batches)
    save(model, tokenizer, folder)


def text_batches(rng: Random, steps: int) -> Iterator[list[str]]:
    """The texts of each step: short ones first, in which a cue's neighbours are easy to learn, then long ones."""
    short_steps = round(steps * SHORT_TEXTS_SHARE)
    for _ in range(short_steps):
        yield [grammar.short_text(rng) for _ in range(SHORT_TEXTS_PER_STEP)]
    for _ in range(steps - short_steps):
        yield [
            grammar.form_text(rng) if rng.random() < FORMS_SHARE else grammar.long_text(rng)
            for _ in range(LONG_TEXTS_PER_STEP)
        ]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-pair tokenizer of Llama's kind, as Phi-3's is, trained on `texts`.

    While it is trained, a run of letters and a run of other characters never merge; so the merges keep that border by
    themselves, and every runtime that applies them gives the same ids. The trained tokenizer itself does not split.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[A-Za-z]+|▁?[^A-Za-z▁\n]+|[▁\n]"), behavior="isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_as_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<unk>", "<s>", "</s>", *bytes_as_tokens],
        initial_alphabet=[chr(code) for code in range(ord("!"), ord("~") + 1)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)

    # The trainer can reserve the bytes' ids only as special tokens; left so, decoding would drop them.
    state = json.loads(tokenizer.to_str())
    state["pre_tokenizer"] = None
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in bytes_as_tokens]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def new_model(tokenizer: Tokenizer) -> Phi3ForCausalLM:
    """The model before training, about half a million parameters in float32."""
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    config = Phi3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        original_max_position_embeddings=CONTEXT,
        initializer_range=0.08,
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        tie_word_embeddings=False,
        dtype="float32",
    )
    return Phi3ForCausalLM(config)


def pretrain(model: Phi3ForCausalLM, tokenizer: Tokenizer, batches: list[list[str]]) -> None:
    """Trains on every token of every text, one optimizer step a batch; the rate warms up, then falls linearly."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.1, fused=True)

    def share_of_rate(step: int) -> float:
        return min(1, (step + 1) / WARM_UP_STEPS) * (1 - step / len(batches))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_rate)
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    ignored = -100
    model.train()
    for texts in batches:
        rows = [torch.tensor([*encoding.ids, end_of_text]) for encoding in tokenizer.encode_batch(texts)]
        # The padding is on the right, where no token of the text can see it: no attention mask is needed.
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=end_of_text)
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=ignored)
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def save(model: Phi3ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights, configurations, tokenizer and chat template in the hub's layout."""
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=[tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(END_OF_TURN)],
        pad_token_id=model.config.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "LlamaTokenizer",
        "model_max_length": CONTEXT,
        "bos_token": "<s>",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": "<unk>",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


if __name__ == "__main__":
    main()
