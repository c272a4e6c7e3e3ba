"""README tells the truth: its code runs, and its output is what comes out."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from exfilml import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL
    )


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


def test_every_command_is_described():
    for name in cli.app.commands:
        assert f"exfilml {name}" in README
