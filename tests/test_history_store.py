"""The history on disk: crashes, several processes at once, damage, full disks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import office

import exfilml
from exfilml.exceptions import HistoryError, OutputError
from exfilml.history._locks import reading, writing
from exfilml.history._manifest import NAME, VERSION, Manifest

# Forks once for each operation on files that an add makes, and kills it just there.
CRASHES = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[2])
import duckdb, pyarrow.parquet, sklearn.neighbors
import exfilml
from exfilml.history import _manifest, _writing
from sites import office

folder = sys.argv[1]
flows = office(200, days=1)
_writing.MOST_ALIKE = 2

def counting(kill_at):
    done = [0]
    def counted(function):
        def called(*args, **kwargs):
            done[0] += 1
            if done[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            value = function(*args, **kwargs)
            done[0] += 1
            if done[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return value
        return called
    os.fsync = counted(os.fsync)
    pathlib.Path.replace = counted(pathlib.Path.replace)
    pathlib.Path.unlink = counted(pathlib.Path.unlink)
    pyarrow.parquet.write_table = counted(pyarrow.parquet.write_table)
    return done

def child(work):
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(9)
        os._exit(0)
    return os.waitpid(process, 0)[1]

def check(least):
    def work():
        history = exfilml.History.open(folder)
        n = history.query(by="day")["flows"].sum()
        assert n in (least, least + 100), (n, least)
        with open(folder + ".count", "w") as file:
            file.write(str(n))
    assert child(work) == 0
    return int(open(folder + ".count").read())

assert child(lambda: exfilml.History.open(folder, create=True)) == 0
have = kills = 0
for piece in range(2):
    mine = [flows.iloc[piece * 100 + i : piece * 100 + i + 50] for i in (0, 50)]
    point = 0
    while True:
        point += 1
        def work():
            counting(point)
            exfilml.History.open(folder, wait_s=0).add(mine)
        status = child(work)
        now = check(have)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), status
        kills += 1
        # Later points of a commit that stands are not reached by adding it again.
        if now > have and point > 60:
            break
    assert now == have + 100
    have = now
print(kills, have)
"""

WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
import exfilml
from exfilml.history import _writing
from sites import office
_writing.MOST_ALIKE = 3
history = exfilml.History.open(sys.argv[1])
flows = office(600, days=2)
print("ready", flush=True)
for begin in range(0, 600, 50):
    history.add(flows.iloc[begin : begin + 50])
"""

FULL = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
import exfilml
from exfilml.exceptions import OutputError
from sites import office
history = exfilml.History.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    history.add(office(5_000, seed=3))
except OutputError as error:
    print(error)
# Small files can be written, the one that they are merged to cannot.
from exfilml.history import _writing
_writing.MOST_ALIKE = 2
try:
    pieces = office(1_500, seed=3, days=1)
    history.add([pieces.iloc[at : at + 100] for at in range(0, 1_500, 100)])
except OutputError as error:
    print(error)
"""


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


TESTS = __import__("pathlib").Path(__file__).parent


@pytest.fixture
def history(tmp_path):
    return exfilml.History.open(tmp_path / "history", create=True)


def files(history):
    return sorted(str(p.relative_to(history.folder)) for p in history.folder.rglob("*"))


@pytest.mark.slow
def test_killed_at_any_operation_it_loses_nothing_and_adds_nothing_twice(tmp_path):
    """After each kill the history is as before or as after, and adding again ends it."""
    done = python(CRASHES, tmp_path / "history", TESTS)
    out, err = done.communicate(timeout=900)
    assert done.returncode == 0, err
    kills, have = map(int, out.split())
    assert kills > 20
    assert have == 200
    store = exfilml.History.open(tmp_path / "history")
    assert store.add(office(200, days=1)).added == 0
    named = {part.path for part in Manifest.read(store.folder).parts}
    store.prune(100_000)
    assert {f for f in files(store) if f.endswith(".parquet")} == named


def test_killed_at_some_time_it_is_as_before_or_after(history):
    """SIGKILL while a process adds piece after piece."""
    writer = python(WRITER, history.folder, TESTS)
    assert writer.stdout.readline() == "ready\n"
    time.sleep(0.3)
    writer.kill()
    writer.communicate()
    assert len(history) % 50 == 0
    assert history.query(by="day")["flows"].sum() == len(history)
    history.add(office(600, days=2))
    assert len(history) == history.query(by="day")["flows"].sum() == 600
    named = {part.path for part in Manifest.read(history.folder).parts}
    assert {f for f in files(history) if f.endswith(".parquet")} == named


def test_a_reader_sees_the_state_before_or_after_each_add(history):
    """Totals read while another process adds and merges are those of whole adds."""
    flows = office(600, days=2)
    sums = {0: 0}
    for end in range(50, 601, 50):
        sums[end] = int(flows["src_bytes"].iloc[:end].sum())
    writer = python(WRITER, history.folder, TESTS)
    assert writer.stdout.readline() == "ready\n"
    seen, at_once = [0], 0
    while writer.poll() is None:
        found = history.query(by="day")
        n = int(found["flows"].sum())
        assert int(found["up_bytes"].sum()) == sums[n]
        assert n >= seen[-1]
        at_once += n > seen[-1]
        seen.append(n)
    _, err = writer.communicate()
    assert writer.returncode == 0, err
    assert at_once >= 2, "the test read while it was written"
    assert history.query(by="day")["flows"].sum() == 600


def test_files_stay_while_they_are_read(history):
    history.add(office(100))
    before = set(history.folder.rglob("*.parquet"))
    with reading(history.folder):
        assert history.prune(1).flows == 100
        assert set(history.folder.rglob("*.parquet")) == before
    history.add(office(10, seed=4))
    assert not before & set(history.folder.rglob("*.parquet"))
    assert len(history) == 10


def test_the_second_writer_waits_or_is_refused(history):
    impatient = exfilml.History.open(history.folder, wait_s=0.1)
    with writing(history.folder, 0):
        with pytest.raises(HistoryError, match="another process is writing"):
            impatient.add(office(50))
        with pytest.raises(HistoryError, match="another process is writing"):
            impatient.prune(1)
        waiting = threading.Thread(target=history.add, args=(office(50),))
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
        assert len(history.query()) == 0
    waiting.join()
    assert len(history) == 50


def test_a_full_disk_leaves_what_was_there(history):
    history.add(office(100))
    before = files(history)
    out, err = python(FULL, history.folder, TESTS).communicate()
    said = re.findall("the history cannot be written: .*", out)
    assert len(said) == 2, err
    assert all("File too large" in line for line in said)
    assert files(history) == before
    assert len(history.query()) > 0


def test_folders_that_are_none_are_refused(tmp_path):
    with pytest.raises(HistoryError, match="does not exist, expected a history"):
        exfilml.History.open(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").touch()
    with pytest.raises(HistoryError, match="is no history store"):
        exfilml.History.open(tmp_path / "other")
    with pytest.raises(HistoryError, match=r"not empty \('thesis.doc' is in it\)"):
        exfilml.History.open(tmp_path / "other", create=True)
    (tmp_path / "file").touch()
    with pytest.raises(HistoryError, match="is no history store"):
        exfilml.History.open(tmp_path / "file")
    for folder in (tmp_path / "file", tmp_path / "file" / "history"):
        with pytest.raises(OutputError, match="cannot be written"):
            exfilml.History.open(folder, create=True)
    with pytest.raises(HistoryError, match="no folder can have this name"):
        exfilml.History.open("nul\0byte")


def test_what_an_unfinished_creation_left_is_no_obstacle(tmp_path):
    folder = tmp_path / "h"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / ".history-0123456789abcdef.part").touch()
    store = exfilml.History.open(folder, create=True)
    store.add(office(10))
    assert not list(folder.glob("*.part"))


def test_folders_of_any_name_are_read(tmp_path):
    """DuckDB takes some characters for patterns, and day=… for a column."""
    store = exfilml.History.open(tmp_path / "a*b[c]?'d/day=x", create=True)
    (tmp_path / "axbc!'d").mkdir()
    store.add(office(100))
    assert store.query(by="direction")["flows"].tolist() == [100]


def test_a_newer_version_is_refused(history):
    told = json.loads((history.folder / NAME).read_text())
    told |= {"version": VERSION + 1, "made_by": "9.9", "parts": "elsewhere"}
    (history.folder / NAME).write_text(json.dumps(told))
    for ask in (
        lambda: exfilml.History.open(history.folder),
        lambda: history.add(office(10)),
        history.query,
    ):
        with pytest.raises(HistoryError, match=r"of version 2, made by exfilml 9\.9"):
            ask()


def test_missing_and_damaged_files_are_named_and_can_be_given_up(history):
    history.add(office(500))
    parts = Manifest.read(history.folder).of("flows")
    gone, cut, bad = (history.folder / part.path for part in parts[:3])
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-10])
    with pytest.raises(HistoryError, match="2 files of the history are missing"):
        history.query()
    data = bytearray(bad.read_bytes())
    data[len(data) // 3 : len(data) // 2] = b"\xff" * (len(data) // 2 - len(data) // 3)
    bad.write_bytes(data)
    # Days that are whole can still be asked.
    whole = f"{parts[3].path[10:20]}"
    assert history.query(since=whole, by="day")["flows"].sum() == sum(
        part.rows for part in parts[3:]
    )
    pruned = history.prune(damaged=True)
    assert pruned.flows == sum(part.rows for part in parts[:3])
    assert history.query(by="day")["flows"].sum() == len(history)
    assert history.add(office(500)).added == pruned.flows


def test_a_damaged_file_is_named_also_where_its_size_is_right(history):
    history.add(office(500, days=1))
    (part,) = Manifest.read(history.folder).of("flows")
    path = history.folder / part.path
    path.write_bytes(b"\0" * part.size)
    with pytest.raises(HistoryError, match=part.file):
        history.query()
    with pytest.raises(HistoryError, match=part.file):
        history.add(office(500, days=1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_manifest_says_what_it_may_or_is_refused(tmp_path_factory, data):
    """Whatever the manifest holds: a clear error, or a store inside its folder."""
    folder = tmp_path_factory.mktemp("h")
    store = exfilml.History.open(folder, create=True)
    part = {"kind": "flows", "day": 20_000, "file": "0123456789abcdef.parquet"}
    part |= {"rows": 1, "size": 1, "first": 0, "last": 0}
    told = json.loads((folder / NAME).read_text()) | {"parts": [part]}
    where = data.draw(st.sampled_from([*told, *part]))
    value = data.draw(JSON | st.sampled_from(["../../etc/passwd", -1, 10**30, "flows"]))
    if where in told:
        told[where] = value
    else:
        part[where] = value
    text = json.dumps(told)
    if data.draw(st.integers(0, 4)) == 0:
        text = text[: data.draw(st.integers(0, len(text)))]
    (folder / NAME).write_text(text)
    try:
        manifest = Manifest.read(folder)
    except HistoryError as error:
        said = str(error)
    else:
        said = ""
    assert len(said) < 500
    if said:
        assert str(folder) in said
        return
    for one in manifest.parts:
        assert (folder / one.path).resolve().is_relative_to(folder.resolve())
    if manifest.parts:
        with pytest.raises(HistoryError, match="missing or damaged"):
            store.query()


def test_bytes_that_are_no_manifest_are_refused(history):
    for data in (b"", b"\xff\xfe", b"[]", b"{" * 100_000, b"null", b'{"format": 1}'):
        (history.folder / NAME).write_bytes(data)
        with pytest.raises(HistoryError, match="damaged"):
            exfilml.History.open(history.folder)
