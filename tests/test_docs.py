"""README and the documentation tell the truth: code runs, and output is what comes out.

Blocks are run page by page, README first, in the order of the index: a page may use the
names and files of those before it.
"""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

import exfilml
from exfilml import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"


def pages() -> list[str]:
    """Return README and the pages in the order of the index."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    names = re.findall(r"^[a-z-]+$", index, flags=re.MULTILINE)
    files = [next(DOCS.glob(f"{name}.*")) for name in names]
    return [README, *(file.read_text(encoding="utf-8") for file in files)]


def blocks(language: str) -> list[str]:
    return [
        block
        for page in pages()
        for block in re.findall(
            rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL
        )
    ]


def modules_with_examples() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "exfilml").rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A folder with the sample and the policy under the paths that README uses."""
    (tmp_path / "datasets").mkdir()
    shutil.copytree(ROOT / "datasets" / "sample", tmp_path / "datasets" / "sample")
    (policy,) = blocks("toml")
    (tmp_path / "office.toml").write_text(policy, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_blocks_run_in_order(workdir):
    names: dict[str, object] = {}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
    assert len(names["cases"]) == 10
    (shown,) = blocks("text")
    columns = re.search(r"cases\[\s*\[(.*?)\]\s*\]", README, flags=re.DOTALL)
    expected = names["cases"][re.findall(r'"(\w+)"', columns[1])].to_string()
    assert squeezed(shown) == squeezed(expected)
    assert 0 < len(names["suspicious"]) < len(names["today"])
    assert (workdir / "office.exfilml").exists()


def test_console_blocks_print_what_they_show(workdir, capfd):
    shown = 0
    for block in blocks("console"):
        for command, expected in re.findall(
            r"^\$ (.*?)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE
        ):
            arguments = shlex.split(command)
            assert arguments[0] == "exfilml"
            assert cli.run(arguments[1:]) == 0
            out, err = capfd.readouterr()
            actual = (out + err).replace("\x1b[0m", "")
            if expected.strip():
                shown += 1
                assert squeezed(expected) == squeezed(actual), command
    assert shown >= 2


def squeezed(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m|\s+", " ", text).strip()


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.*"):
        if page.stem not in {"index", "conf"}:
            assert f"\n{page.stem}\n" in index, page


def test_every_command_is_described():
    whole = "\n".join(pages())
    for name in cli.app.commands:
        assert f"exfilml {name}" in README
        assert f"exfilml {name}" in whole.replace(README, "")


def test_every_public_name_is_in_the_reference():
    listed = (DOCS / "api.rst").read_text(encoding="utf-8").split()
    assert sorted(set(exfilml.__all__) - set(listed)) == []


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)]+)\)", text):
            target, _, _ = link.partition("#")
            if target and not target.startswith("http"):
                assert (page.parent / target).exists(), (page.name, link)


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_in_docstrings_hold(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0
