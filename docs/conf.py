"""The documentation: Sphinx, pages in MyST, the reference from docstrings."""

from __future__ import annotations

from exfilml import __version__

project = "exfilml"
author = "The exfilml developers"
copyright = "The exfilml developers, Apache-2.0"  # noqa: A001 - Sphinx's name for it
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Nothing is fetched: the build needs no network, and so do its pages.
html_theme = "furo"
html_title = f"exfilml {version}"
html_show_sourcelink = False
default_role = "code"
autodoc_typehints = "none"
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
