"""Olive's configurations (0.5 to 0.13) → FinetuneJobs: `import_config`. Pure; nothing of Olive is needed."""

from finetune_api.olive.convert import Imported, NotOliveError, import_config
from finetune_api.olive.notes import Note, NoteKind
from finetune_api.olive.options import Options

__all__ = ["Imported", "NotOliveError", "Note", "NoteKind", "Options", "import_config"]
