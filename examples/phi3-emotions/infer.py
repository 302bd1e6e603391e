"""Names the tone of a phrase with the fine-tuned ONNX model, by onnxruntime-genai alone: no torch, no transformers.

    python infer.py finetune-output/phi3-emotions/onnx "My sister told me about the funeral on Monday."

The folder is the job's artifact `onnx`, as `finetune run` or any S3 client downloads it.
"""

import argparse
import json
from pathlib import Path

import onnxruntime_genai as og

# The text that the model was fine-tuned on, up to where its answer begins.
PROMPT = "### Text: {phrase}\n### The tone is:\n"


def answer(folder: Path, phrase: str, tokens: int = 8) -> str:
    """The model's greedy answer to `phrase`, at most `tokens` tokens."""
    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    tokenizer.update_options(add_special_tokens="false")
    ids = tokenizer.encode(PROMPT.format(phrase=phrase)).tolist()
    bos = begins_with(folder)
    ids = ids if bos is None else [bos, *ids]
    parameters = og.GeneratorParams(model)
    # A cache of layers that see a window of tokens is refused where it is made for fewer (Gemma 2).
    parameters.set_search_options(do_sample=False, max_length=max(len(ids) + tokens, window(folder)))
    generator = og.Generator(model, parameters)
    generator.append_tokens(ids)
    for _ in range(tokens):
        if not generator.is_done():
            generator.generate_next_token()
    return tokenizer.decode(generator.get_sequence(0)[len(ids) :]).strip()


def window(folder: Path) -> int:
    """How many tokens the model's layers see, where that is a window."""
    decoder = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    return int(decoder.get("sliding_window", {}).get("window_size", 0))


def begins_with(folder: Path) -> int | None:
    """The id that the model's texts begin with, where its tokenizer adds one."""
    if not json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("add_bos_token"):
        return None
    return json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["bos_token_id"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of the artifact `onnx`")
    parser.add_argument("phrase", help="what to name the tone of")
    arguments = parser.parse_args()
    print(answer(arguments.folder, arguments.phrase))
