"""Templates, style and script of the page, and the policy that allows these alone."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from exfilml.report.page._wording import isolated


@functools.cache
def environment() -> Environment:
    """Return the templates, which escape whatever is put into them."""
    templates = Environment(
        loader=PackageLoader("exfilml.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["isolated"] = isolated
    return templates


@functools.cache
def asset(file: str) -> str:
    """Return style or script of the page."""
    return (files("exfilml.report.page") / "templates" / file).read_text(
        encoding="utf-8"
    )


def content_policy(style: str, script: str) -> str:
    """Allow the page's own style and script, and nothing else at all."""

    def hashed(text: str) -> str:
        digest = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; style-src {hashed(style)}; script-src {hashed(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
