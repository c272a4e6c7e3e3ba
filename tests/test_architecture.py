"""The house of the design: rooms stand on floors and import lower floors only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "exfilml"

FLOORS = {
    "columns": 0,
    "exceptions": 0,
    "_jit": 0,
    "declarations": 0,
    "domains": 0,
    "names": 0,
    "networks": 0,
    "services": 0,
    "export": 1,
    "schema": 1,
    "payload": 1,
    "places": 1,
    "tally": 1,
    "histograms": 1,
    "state": 1,
    # Above places: services of a policy are named and checked as those of flows.
    "policy": 2,
    "sources": 2,
    "baseline": 2,
    # Above export, for text that is shown as it stands.
    "drawing": 2,
    "chunks": 2,
    "spool": 3,
    # Above sources: its logs are packed and cut into lines as theirs.
    "hosts": 3,
    # Above sources: captures are told and unpacked as theirs.
    "carve": 3,
    "_compiled": 1,
    "forest": 2,
    "calibration": 2,
    "stability": 2,
    "inject": 2,
    "features": 3,
    "detector": 4,
    "precedents": 3,
    "ruling": 4,
    "ranking": 5,
    "feedback": 5,
    "history": 5,
    "persistence": 6,
    "evaluation": 6,
    "blindspots": 6,
    "drift": 6,
    "quarantine": 6,
    "triage": 6,
    "handover": 7,
    "containment": 7,
    "report": 7,
    "terminal": 7,
    "cli": 8,
    "__main__": 9,
}
TOP_LEVEL = {
    "pyproject.toml",
    "exfilml",
    "notebooks",
    "models",
    "tests",
    "datasets",
    "docs",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "constraints.txt",
}
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py"}
NEIGHBOURS_BY_REASON = {
    ("places", "schema"): "what the flows table is made of",
    ("histograms", "tally"): "how keys are grouped and united",
    ("state", "tally"): "how keys are combined and grouped",
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path):
    """Rooms that a module imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or ""]
            if node.module == "exfilml":
                names = [f"exfilml.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "exfilml" and len(parts) > 1 and parts[1] in FLOORS:
                yield parts[1]


def test_every_room_has_a_floor():
    rooms = {room(path) for path in modules()} - {"__init__"}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_lower_floors_only(path):
    here = room(path)
    if here == "__init__":
        return  # the front door maps names to rooms and imports them lazily
    for other in imported_rooms(path):
        if other == here or (here, other) in NEIGHBOURS_BY_REASON:
            continue
        assert FLOORS[other] < FLOORS[here], f"{here} imports {other}"


def test_only_the_packet_readers_import_nfstream():
    for path in modules():
        if "nfstream" in {
            name.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
            for name in node.names
        } | {
            (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
        }:
            assert room(path) == "sources", path


def test_long_files_say_why():
    """A file over 300 lines needs its reason in the module docstring."""
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 300:
            doc = ast.get_docstring(ast.parse(text)) or ""
            assert "one file because" in doc.replace("\n", " ").lower(), path


def test_no_rooms_without_a_purpose():
    assert not [p for p in modules() if p.name in FORBIDDEN_NAMES]


def test_top_level_is_as_designed():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in tracked}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_the_front_door_imports_nothing_heavy():
    """`import exfilml` loads no pandas, scikit-learn, numba or nfstream."""
    code = (
        "import sys, exfilml; dir(exfilml); "
        "print([m for m in ('pandas', 'numpy', 'sklearn', 'numba', 'nfstream', "
        "'pyarrow', 'scipy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_public_names_resolve_and_are_documented():
    import exfilml

    for name in exfilml.__all__:
        assert getattr(exfilml, name).__doc__
    assert sorted(exfilml.__all__) == exfilml.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = exfilml.nothing
