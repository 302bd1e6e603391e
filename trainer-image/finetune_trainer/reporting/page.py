"""The report's page: one file without scripts that asks nobody for anything."""

from __future__ import annotations

import base64
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from finetune_trainer.reporting.evidence import Evidence
from finetune_trainer.reporting.view import view


def page(evidence: Evidence) -> str:
    """The page as HTML. All that comes from the run is escaped; its policy allows the one style sheet and no more."""
    here = files("finetune_trainer.reporting")
    style = (here / "report.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string((here / "report.html.j2").read_text(encoding="utf-8"))
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
    return template.render(view(evidence), style=Markup(style), style_hash=f"sha256-{digest}")  # noqa: S704  (our file)
