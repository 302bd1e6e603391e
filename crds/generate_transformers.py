"""Write the names of transformers' TrainingArguments into finetune_api, which must not import transformers itself."""

from dataclasses import fields
from pathlib import Path

from transformers import TrainingArguments

TARGET = Path(__file__).parent / "finetune_api" / "transformers_arguments.txt"


def render() -> str:
    """The names, one a line, in order."""
    return "".join(f"{name}\n" for name in sorted(field.name for field in fields(TrainingArguments)))


if __name__ == "__main__":
    TARGET.write_text(render())
