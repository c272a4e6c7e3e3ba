"""Model files: what is saved comes back the same, and nothing else comes in.

Longer than 300 lines because every way of spoiling a file is written out.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import io
import json
import os
import pickle
import random
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sites import office, theft
from sklearn.exceptions import NotFittedError

from exfilml import (
    Detector,
    features,
    load_model,
    persistence,
    rank_flows,
    read_flows,
    save_model,
    score_flows,
)
from exfilml.baseline import HISTOGRAMS, TABLES
from exfilml.exceptions import (
    CalibrationWarning,
    ExfilmlError,
    ModelFileError,
    OptionError,
    OutputError,
)
from exfilml.features import FEATURES
from exfilml.persistence import (
    CANARIES,
    MANIFEST,
    OLDEST_PROTOCOL,
    PROTOCOL,
    model_card,
)
from exfilml.terminal import card_text

# Made by each protocol's first version; see README.md there.
MODELS = Path(__file__).parent / "models"

# --- taking files apart and putting them together -----------------------------------


def unpack(data: bytes):
    """Return manifest and members."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(members.pop(MANIFEST)), members


def sign(manifest, members):
    """Make checksums and shapes agree with the members, as a forger would."""
    for name, content in members.items():
        about = manifest["members"].setdefault(name, {"dtype": "<f8"})
        about["sha256"] = hashlib.sha256(content).hexdigest()
        about["shape"] = [len(content) // np.dtype(about["dtype"]).itemsize]
    return manifest


def pack(manifest, members, method=zipfile.ZIP_DEFLATED) -> bytes:
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(MANIFEST, text)
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def forge(data: bytes, name: str, change) -> bytes:
    """Change one array, with its checksum and shape recomputed."""
    manifest, members = unpack(data)
    array = np.frombuffer(members[name], manifest["members"][name]["dtype"]).copy()
    changed = change(array)
    members[name] = (array if changed is None else np.asarray(changed)).tobytes()
    return pack(sign(manifest, members), members)


def put(at, value):
    """Return a change that sets one element."""

    def change(array):
        array[at] = value

    return change


def same_scores(one, other) -> bool:
    """Say whether two results of `Detector.score` hold the same doubles."""
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in (
            "raw",
            "suspicion",
            "p_value",
            "case",
            "case_suspicion",
            "case_p_value",
            "worst",
            "case_key",
        )
    )


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(random_state=0, n_estimators=20).fit(office(600))


@pytest.fixture(scope="module")
def flows():
    table = office(120, seed=5)
    return _with_theft(table)


def _with_theft(table):
    return pd.concat([table, theft(table)], ignore_index=True)


@pytest.fixture(scope="module")
def model(detector, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "office.exfilml"
    save_model(detector, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "small.exfilml"
    save_model(Detector(random_state=0, n_estimators=2).fit(office(80)), path)
    return path.read_bytes()


@pytest.fixture
def refused(tmp_path):
    """Return a function that loads bytes and returns the error they end in."""

    def load(data: bytes, message: str) -> str:
        path = tmp_path / "spoilt.exfilml"
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=message) as caught:
            load_model(path)
        assert type(caught.value) is ModelFileError
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert len(text) < 800 + len(str(path))
        assert "\n" not in text
        return text

    return load


# --- what is saved comes back ---------------------------------------------------------


@pytest.mark.parametrize("payload", [True, False])
def test_a_loaded_model_scores_the_same_doubles(payload, tmp_path):
    fitted = Detector(random_state=0, n_estimators=20).fit(office(400, payload=payload))
    save_model(fitted, tmp_path / "m")
    today = _with_theft(office(200, seed=1, payload=payload))
    loaded = load_model(tmp_path / "m")
    assert same_scores(loaded.score(today), fitted.score(today))
    one, other = (score_flows(d, today, alerts_per_day=50) for d in (loaded, fitted))
    assert one.equals(other)


def test_a_model_of_fewer_features_scores_as_it_did(monkeypatch, flows, tmp_path):
    """What later versions add is nothing that an older model asks for."""
    flows = flows.assign(start=flows["start"] + pd.Timedelta(days=7))
    with monkeypatch.context() as earlier:
        earlier.setattr(features, "FEATURES", features.FEATURES[:-3])
        fitted = Detector(random_state=0, n_estimators=20).fit(office(400))
        expected = fitted.score(flows)
        reasons = rank_flows(fitted, flows)["reasons"]
        save_model(fitted, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert same_scores(loaded.score(flows), expected)
    assert rank_flows(loaded, flows)["reasons"].equals(reasons)
    assert loaded.explain(flows).shape == (len(flows), len(features.FEATURES) - 3)


def test_models_of_every_protocol_load_for_ever():
    """Each scores the flows beside it as it did in the version that made it."""
    kept = sorted(MODELS.glob("*.exfilml"))
    assert len(kept) == PROTOCOL - OLDEST_PROTOCOL + 1
    flows = read_flows(MODELS / "flows.parquet")
    for path in kept:
        expected = pd.read_csv(path.with_suffix(".csv"))
        scores = score_flows(load_model(path), flows)
        for column in ("suspicion", "p_value"):
            assert np.allclose(scores[column], expected[column], rtol=0, atol=1e-9)


def test_without_docstrings_models_are_refused_with_the_reason(model, tmp_path):
    (tmp_path / "m").write_bytes(model)
    code = f"import exfilml; exfilml.load_model({str(tmp_path / 'm')!r})"
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False
    )
    assert "ModelFileError" in done.stderr
    assert "-OO removes the definitions" in done.stderr


def test_a_model_keeps_saying_what_made_it(model, tmp_path):
    manifest, members = unpack(model)
    manifest["exfilml"] = "0.0.1"
    manifest["libraries"]["numpy"] = "1.0"
    (tmp_path / "m").write_bytes(pack(manifest, members))
    save_model(load_model(tmp_path / "m"), tmp_path / "again")
    card = model_card(load_model(tmp_path / "again"))
    assert (card["exfilml"], card["libraries"]["numpy"]) == ("0.0.1", "1.0")


def test_everything_known_about_a_model_comes_back(detector, model, tmp_path):
    (tmp_path / "m").write_bytes(model)
    loaded = load_model(str(tmp_path / "m"))
    assert model_card(loaded) == model_card(detector)
    assert json.loads(json.dumps(model_card(loaded))) == model_card(loaded)
    assert loaded.window_ == detector.window_
    assert loaded.home_ == detector.home_
    assert loaded.get_params() == detector.get_params()


def test_explanations_come_back(detector, model, flows, tmp_path):
    (tmp_path / "m").write_bytes(model)
    loaded = load_model(tmp_path / "m")
    asked = detector.score(flows).asked
    again = loaded.score(flows).asked
    for payload in (True, False):
        assert np.array_equal(
            detector.contributions(asked, payload=payload, exact=True),
            loaded.contributions(again, payload=payload, exact=True),
        )


def test_the_same_detector_gives_the_same_bytes(detector, model, tmp_path):
    save_model(detector, tmp_path / "again")
    save_model(load_model(tmp_path / "again"), tmp_path / "loaded")
    refitted = Detector(random_state=0, n_estimators=20).fit(office(600))
    save_model(refitted, tmp_path / "refitted")
    for name in ("again", "loaded", "refitted"):
        assert (tmp_path / name).read_bytes() == model


@pytest.mark.parametrize(
    "options",
    [
        {"home": ["10.0.0.0/8", "2001:db8::/32"]},
        {"home": "10.0.0.0/8"},
        {"home": iter(["10.20.0.0/16"])},
        {"n_estimators": np.int64(5), "alerts_per_day": np.float32(3)},
        {"random_state": np.random.RandomState(0)},
        {"max_samples": 0.5, "n_jobs": -1, "random_state": None},
    ],
    ids=" ".join,
)
def test_every_parameter_that_can_be_fitted_can_be_stored(options, tmp_path, flows):
    fitted = Detector(**({"n_estimators": 5} | options)).fit(office(100))
    save_model(fitted, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert same_scores(loaded.score(flows), fitted.score(flows))


@pytest.mark.parametrize("alerts_per_day", [-1.0, float("nan"), "many", 5e9])
def test_a_parameter_that_fails_later_is_not_stored(detector, alerts_per_day, tmp_path):
    odd = copy.copy(detector).set_params(alerts_per_day=alerts_per_day)
    with pytest.raises(OptionError, match="alerts_per_day"):
        save_model(odd, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_detector_without_a_baseline_is_not_stored(tmp_path):
    with pytest.raises(NotFittedError):
        save_model(Detector(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_pinned_checksum_is_checked(model, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(model)
    digest = hashlib.sha256(model).hexdigest()
    load_model(path, sha256=digest)
    load_model(path, sha256=digest.upper())
    for wrong in ("0" * 64, "", digest[:-1]):
        with pytest.raises(ModelFileError, match="not the file that was pinned"):
            load_model(path, sha256=wrong)


def test_other_docstring_indentation_is_the_same_feature(model, tmp_path, monkeypatch):
    """Python 3.13 strips it when it compiles; a model must load there as well."""
    (tmp_path / "m").write_bytes(model)
    for feature in FEATURES:
        doc = inspect.cleandoc(feature.compute.__doc__)
        monkeypatch.setattr(feature.compute, "__doc__", doc)
    load_model(tmp_path / "m")


def test_canaries_allow_for_the_last_bit_of_other_processors(model, tmp_path, refused):
    def off(by):
        return forge(model, "payload/canaries", lambda a: a + by)

    (tmp_path / "m").write_bytes(off(1e-15))
    load_model(tmp_path / "m")
    refused(off(1e-6), "canary rows score differently")


# --- files that are no models -----------------------------------------------------


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ModelFileError, match=r"cannot be read.*exfilml train"):
        load_model(tmp_path / "none.exfilml")


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelFileError, match="is a folder"):
        load_model(tmp_path)


def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ModelFileError, match="no regular file"):
            load_model(path)


def test_a_file_that_may_not_be_read_is_a_model_file_error(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(b"PK")

    def deny(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", deny)
    with pytest.raises(ModelFileError, match="Permission denied"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("name", ["a\0b", "n" * 300])
def test_a_name_no_system_takes_is_a_model_file_error(name, tmp_path):
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_model(tmp_path / name)


class Trap:
    """Leaves a mark when it is unpickled."""

    mark = "unpickled"

    def __reduce__(self):
        return os.mkdir, (Trap.mark,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_never_opened(protocol, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = "pickle or joblib" if protocol >= 2 else "no exfilml model file"
    refused(pickle.dumps(Trap(), protocol), said)
    assert not Path(Trap.mark).exists()


@pytest.mark.parametrize(
    "compress",
    [0, 1, 3, 6, 9, ("zlib", 9), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)],
)
def test_a_joblib_dump_is_never_opened(compress, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    joblib.dump(Trap(), "dump", compress=compress)
    refused(Path("dump").read_bytes(), "pickle or joblib")
    assert not Path(Trap.mark).exists()


def zipped(**members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty.*no exfilml model file"),
        (b"src_ip,dst_ip\n", "no exfilml model file"),
        (b"\x7fELF", "no exfilml model file"),
        (b"P", "no exfilml model file"),
        (b"PK", "damaged"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
        (zipped(), "zip without a manifest"),
        (zipped(a="b"), "zip without a manifest"),
        (zipped(**{MANIFEST: ""}), "damaged manifest"),
        (zipped(**{MANIFEST: "{"}), "damaged manifest"),
        (zipped(**{MANIFEST: b"\xff\xfe"}), "damaged manifest"),
        (zipped(**{MANIFEST: "[" * 100_000}), "damaged manifest"),
        (zipped(**{MANIFEST: '{"a":' * 100_000}), "damaged manifest"),
        (zipped(**{MANIFEST: '{"protocol": ' + "9" * 9999 + "}"}), "damaged manifest"),
        (zipped(**{MANIFEST: '{"protocol": NaN}'}), "NaN is no number"),
        (zipped(**{MANIFEST: '{"a": [-Infinity]}'}), "-Infinity is no number"),
        (zipped(**{MANIFEST: "[]"}), "another manifest"),
        (zipped(**{MANIFEST: "null"}), "another manifest"),
        (zipped(**{MANIFEST: '{"format": "skops"}'}), "another manifest"),
    ],
)
def test_a_foreign_file_is_named_as_such(data, message, refused):
    refused(data, message)


# --- the manifest -----------------------------------------------------------------

P = ("capabilities", "payload")


def change_manifest(data: bytes, path, value) -> bytes:
    manifest, members = unpack(data)
    part = manifest
    for key in path[:-1]:
        part = part[key]
    if value is KeyError:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return pack(manifest, members)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["protocol"], 3, "newer version.*Upgrade exfilml"),
        (["protocol"], 1, "older version.*Train the model again"),
        (["protocol"], 10**300, "newer version.*Upgrade exfilml"),
        (["protocol"], 0, "protocol 0 does not exist"),
        (["protocol"], True, "protocol True does not exist"),
        (["protocol"], "1", "protocol '1' does not exist"),
        (["protocol"], KeyError, "protocol None does not exist"),
        (["format"], "exfilml", "no exfilml model file"),
        (["members"], [], "members is"),
        (["members"], KeyError, "members is None"),
        (["members", "payload/edges"], KeyError, "'payload/edges' is missing"),
        (["members", "payload/edges"], [], "payload/edges is"),
        (["members", "../x"], {}, "'../x' is unknown"),
        (["members", "payload/edges", "dtype"], "<f4", "dtype '<f4', expected <f8"),
        (["members", "payload/edges", "dtype"], "|O", "dtype"),
        (["members", "payload/edges", "dtype"], ["<f8"], "dtype"),
        (["members", "payload/edges", "dtype"], KeyError, "dtype None"),
        (["members", "payload/edges", "shape"], [5], "bytes for 5"),
        (["members", "payload/edges", "shape"], [-1], "bytes for -1"),
        (["members", "payload/edges", "shape"], [7, 2], "shape"),
        (["members", "payload/edges", "shape"], [True], "shape"),
        (["members", "payload/edges", "shape"], 14, "shape"),
        (["members", "payload/edges", "sha256"], "", "checksum differs"),
        (["members", "payload/edges", "sha256"], KeyError, "checksum differs"),
        (["hash_check"], 5, "pandas hashes names differently"),
        (["hash_check"], KeyError, "pandas hashes names differently"),
        (["parameters", "verbose"], 1, "parameters"),
        (["parameters", "n_jobs"], KeyError, "parameters"),
        (["parameters"], [], "parameters is"),
        (["parameters", "alerts_per_day"], -1, "alerts_per_day"),
        (["parameters", "alerts_per_day"], "5", "alerts_per_day"),
        (["parameters", "alerts_per_day"], 5_000_000_000, "alerts_per_day"),
        (["parameters", "n_estimators"], 0, "n_estimators"),
        (["parameters", "home"], "10.0.0.0/8", "home"),
        (["parameters", "random_state"], 1.5, "random_state"),
        (["home"], ["everywhere"], "everywhere"),
        (["home"], [1], "home is"),
        (["home"], [], "empty"),
        (["home"], None, "home is"),
        (["window"], ["yesterday", "today"], "yesterday"),
        (["window"], ["2026-03-02", "2026-03-03"], "window"),
        (["window"], ["2026-03-02T00:00:00Z"], "window"),
        (["window"], ["2026-03-03T00:00:00Z", "2026-03-02T00:00:00Z"], "window"),
        (["window"], ["NaT", "NaT"], "damaged"),
        (["window"], 5, "window"),
        (["flows"], "600", "flows"),
        (["flows"], -1, "flows"),
        (["flows"], 1.5, "flows"),
        (["capabilities"], ["payload", "volume"], "capabilities is"),
        (["capabilities", "sound"], {}, "capabilities"),
        (["capabilities", "volume"], KeyError, "capabilities"),
        (["capabilities", "payload"], [], "payload is"),
        ([*P, "features"], [["made_up", ""]], "gone: made_up; .*Train"),
        ([*P, "features"], [["ratio", "0" * 64]], "differently: ratio"),
        ([*P, "features"], [], "features are"),
        ([*P, "features"], ["ratio"], "features are"),
        ([*P, "features"], "above_host", "features are"),
        ([*P, "features"], [[]], "features are"),
        ([*P, "scale"], -1.0, "scale"),
        ([*P, "scale"], "1", "scale"),
        ([*P, "scale"], True, "scale"),
        ([*P, "scale"], 10**400, "scale"),
        ([*P, "centre"], 7, "centre"),
        ([*P, "days"], 0, "days"),
        ([*P, "days"], KeyError, "days"),
        ([*P, "max_samples"], 0, "max_samples"),
        ([*P, "max_samples"], 2.0, "max_samples"),
        ([*P, "offset"], 3, "offset"),
    ],
    ids=str,
)
def test_a_tampered_manifest_is_refused(path, value, message, model, refused):
    refused(change_manifest(model, path, value), message)


def test_a_long_value_makes_no_long_message(model, refused):
    for path in (["protocol"], ["home"], [*P, "features"], ["parameters", "n_jobs"]):
        refused(change_manifest(model, path, ["x" * 100_000]), "…|x{100}")


def test_a_model_without_payload_part_still_loads(model, tmp_path, flows):
    """Taking a capability away whole is a smaller model, not a broken one."""
    manifest, members = unpack(model)
    del manifest["capabilities"]["payload"]
    for name in [n for n in members if n.startswith("payload/")]:
        del members[name], manifest["members"][name]
    (tmp_path / "m").write_bytes(pack(manifest, members))
    assert list(load_model(tmp_path / "m").learned_) == ["volume"]


# --- arrays, with checksums a forger would recompute --------------------------------


def grow(array):
    return np.append(array, array[-1:])


def a_cycle(array):
    array[np.flatnonzero(array > 0)[3]] = 1


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("payload/trees/left", put(0, 10**9), "child node outside its tree"),
        ("payload/trees/right", put(0, 10**9), "child node outside its tree"),
        ("payload/trees/right", put(0, -1), "child node outside its tree"),
        ("payload/trees/left", a_cycle, "child node outside its tree"),
        ("volume/trees/column", put(0, 99), "column outside"),
        ("volume/trees/column", put(0, -7), "column outside"),
        ("payload/trees/threshold", put(0, np.nan), "not a number"),
        ("payload/trees/threshold", lambda a: -a, "canary rows"),
        ("payload/trees/missing_left", lambda a: 1 - a, "canary rows"),
        ("payload/trees/value", put(0, np.inf), "path length"),
        ("payload/trees/value", lambda a: a * 1.001, "rows do not explain"),
        ("payload/trees/rows", lambda a: 2 * a, "rows do not explain"),
        ("payload/trees/rows", put(0, -1), "rows outside"),
        ("payload/trees/value", lambda a: a[:-1], "length"),
        ("payload/trees/start", put(-1, 10**9), "offsets"),
        ("payload/trees/start", put(1, -(2**63)), "offsets"),
        ("payload/trees/start", lambda a: a[:0], "offsets"),
        ("payload/trees/start", lambda a: a[::-1], "offsets"),
        ("payload/edges", grow, "edges do not fit"),
        ("payload/edges", lambda a: a[:-1], "edges do not fit"),
        ("payload/edges", put(0, np.nan), "edges do not fit"),
        ("payload/edges", put(0, np.inf), "edges do not fit"),
        ("payload/bin_edges", put(3, 1e300), "edges of bins are not in order"),
        ("payload/bin_edges", put(3, np.nan), "edges of bins are not in order"),
        ("payload/bin_edges", lambda a: a[::-1], "edges of bins are not in order"),
        ("payload/bin_edges", lambda a: a[:-1], "bins do not fit"),
        ("payload/bin_counts", put(0, -1.0), "possible counts"),
        ("payload/bin_counts", put(0, np.nan), "possible counts"),
        ("payload/bin_counts", grow, "possible counts"),
        ("payload/flows", lambda a: a[::-1], "not in order"),
        ("payload/flows", lambda a: a[:0], "not in order"),
        ("payload/cases", put(-1, np.inf), "not in order, or not finite"),
        ("payload/cases", put(-1, np.nan), "not in order"),
        ("payload/cases", put(-1, 1e300), "not finite"),
        ("payload/canaries", put(3, -0.25), "canary rows"),
        ("payload/canaries", put(3, np.nan), "canary rows"),
        ("payload/canaries", lambda a: a[:1], "canary rows"),
        ("payload/canaries", lambda a: a[:0], "canary rows"),
        ("payload/canaries", lambda a: np.tile(a, 2), "canary rows"),
        ("baseline/host/keys", lambda a: a[::-1], "keys are not in order"),
        ("baseline/host/keys", lambda a: np.full_like(a, a[0]), "not in order"),
        ("baseline/host/keys", put(0, 1), "keys differ from their parts"),
        ("baseline/host_place/second", put(0, 1), "keys differ from their parts"),
        ("baseline/site/keys", put(0, 1), "keys differ from their parts"),
        ("baseline/host/n", put(0, -1.0), "possible counts"),
        ("baseline/host/n", put(0, np.nan), "possible counts"),
        ("baseline/host/n", put(0, np.inf), "possible counts"),
        ("baseline/host/n", lambda a: a[:-1], "columns differ in length"),
        ("baseline/host/n", grow, "columns differ in length"),
        ("baseline/host/up", put(0, 1e300), "possible counts"),
        ("baseline/host/bits", put(0, 1e12), "possible counts"),
        ("baseline/host/peak_bits", put(0, 5000.0), "possible counts"),
        ("baseline/host/first_day", put(0, 1e5), "possible counts"),
        ("baseline/host/last_day", put(0, 1e5), "possible counts"),
        ("baseline/host_place/last_day", put(0, 0.0), "possible counts"),
        ("baseline/service/days", put(0, 2.0**49), "possible counts"),
        ("baseline/service/days", put(0, 1.5), "whole"),
        ("baseline/service_upload/cells", lambda a: a[::-1], "cells are not in order"),
        ("baseline/service_upload/cells", lambda a: a[:-1], "differ in length"),
        ("baseline/service_upload/cells", lambda a: a | 255, "cells are not in order"),
        ("baseline/service_upload/cells", put(-1, 2**64 - 1), "possible cells"),
        ("baseline/site_hour/cells", put(-1, 168), "possible cells"),
        ("baseline/site_hour/cells", put(-1, 256), "possible cells"),
        ("baseline/host_hour/cells", put(-1, 2**64 - 232), "possible cells"),
        ("baseline/host_upload/counts", grow, "differ in length"),
        ("baseline/host_upload/counts", put(0, 0.0), "possible counts"),
        ("baseline/host_upload/counts", put(0, 1.5), "possible counts"),
        ("baseline/host_upload/counts", put(0, np.nan), "possible counts"),
        ("baseline/host_upload/counts", put(0, np.inf), "possible counts"),
        ("baseline/host_upload/counts", lambda a: a + 2.0**52, "possible counts"),
    ],
)
def test_a_tampered_array_is_refused_by_what_it_means(
    name, change, message, model, refused
):
    refused(forge(model, name, change), message)


def test_canaries_are_as_many_as_announced(model):
    manifest, _ = unpack(model)
    assert manifest["members"]["payload/canaries"]["shape"] == [CANARIES]


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "|u1", "|O", "<U2", "junk"])
def test_another_dtype_is_refused(dtype, model, refused):
    manifest, members = unpack(model)
    about = manifest["members"]["payload/flows"]
    about["dtype"] = dtype
    refused(pack(manifest, members), "dtype .*, expected <f8")


@pytest.mark.parametrize("name", ["payload/edges", "baseline/site/n"])
def test_a_missing_member_is_refused(name, model, refused):
    manifest, members = unpack(model)
    del members[name]
    refused(pack(manifest, members), "archive are not those.*is missing")
    del manifest["members"][name]
    refused(pack(manifest, members), "is missing")


@pytest.mark.parametrize("name", ["extra", "../../etc/cron.d/x", "/etc/x", "sound/n"])
def test_an_extra_member_is_refused(name, model, refused):
    manifest, members = unpack(model)
    members[name] = bytes(8)
    refused(pack(manifest, members), "is unknown")
    refused(pack(sign(manifest, members), members), "is unknown")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [MANIFEST, "payload/edges"])
def test_a_member_given_twice_is_refused(name, model, refused):
    file = io.BytesIO(model)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, archive.read(name))
    refused(file.getvalue(), "appears twice")


def test_changed_content_under_the_old_checksum_is_refused(model, refused):
    manifest, members = unpack(model)
    content = bytearray(members["payload/flows"])
    content[0] ^= 1
    members["payload/flows"] = bytes(content)
    refused(pack(manifest, members), "checksum differs")


# --- archives that would harm by being unpacked ---------------------------------------


def announced(data: bytes, name: str, size: int) -> bytes:
    """Announce another unpacked size for a member, in the central directory."""
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        archive.getinfo(name).file_size = size
        archive.comment = b"rewritten"
    return file.getvalue()


def bomb(data: bytes, name: str, gigabytes: int, says: int | None = None) -> bytes:
    """Replace a member by zeros that unpack to gigabytes, and sign it."""
    manifest, members = unpack(data)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # Blocks after a full flush can be repeated.
    block = packer.compress(bytes(2**26)) + packer.flush(zlib.Z_FULL_FLUSH)
    stream = block * (16 * gigabytes) + b"\x03\x00"
    size = gigabytes * 2**30
    if name in members:
        manifest["members"][name]["shape"] = [size // 8]
    members[name] = stream
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for member, content in ({MANIFEST: json.dumps(manifest)} | members).items():
            archive.writestr(member, content)
        info = archive.getinfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.file_size = size if says is None else says
    return file.getvalue()


@pytest.mark.parametrize("name", ["payload/flows", "baseline/host/keys", MANIFEST])
@pytest.mark.parametrize("says", [None, 1000])
def test_a_zip_bomb_is_refused_quickly_and_in_little_memory(
    name, says, small, tmp_path
):
    path = tmp_path / "bomb"
    path.write_bytes(bomb(small, name, 3, says))
    began = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            load_model(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 5
    # The file itself, read whole, and what a model of this size needs.
    assert peak < 4 * path.stat().st_size + 2**25


def test_what_unpacks_far_beyond_its_size_is_refused_by_its_announcement(
    small, refused
):
    for size in (2**29, 2**31, 2**40):
        data = announced(small, "payload/flows", size)
        refused(data, "unpacks to more than any model")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_limit_are_refused(method, small, refused):
    refused(pack(*unpack(small), method), "packed as save_model packs none")


def test_an_encrypted_member_is_refused(small, refused):
    file = io.BytesIO(small)
    with zipfile.ZipFile(file, "a") as archive:
        archive.getinfo("payload/flows").flag_bits |= 1
        archive.comment = b"rewritten"
    refused(file.getvalue(), "packed as save_model packs none")


def test_a_stored_archive_is_the_same_model(small, tmp_path, flows):
    (tmp_path / "m").write_bytes(small)
    (tmp_path / "s").write_bytes(pack(*unpack(small), zipfile.ZIP_STORED))
    one, other = load_model(tmp_path / "m"), load_model(tmp_path / "s")
    assert same_scores(one.score(flows), other.score(flows))


def test_a_file_cut_off_anywhere_is_refused(small, tmp_path):
    path = tmp_path / "cut"
    for length in range(0, len(small), 7):
        path.write_bytes(small[:length])
        with pytest.raises(ModelFileError):
            load_model(path)


# --- fuzz -------------------------------------------------------------------------


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, set, insert, delete, move or repeat some bytes."""
    new = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        # Half of them in the directory at the end, where the structure is.
        low = 0 if rng.random() < 0.5 else max(len(new) - 8000, 0)
        at = rng.randrange(low, len(new))
        length = rng.choice([1, 2, 4, 16, 300])
        kind = rng.randrange(7)
        if kind == 0:
            new[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            new[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif kind == 2:
            new[at:at] = rng.randbytes(length)
        elif kind == 3:
            del new[at : at + length]
        elif kind == 4:
            source = rng.randrange(len(new))
            new[at : at + length] = new[source : source + length]
        elif kind == 5:
            new[at:at] = new[at : at + length]
        else:
            new[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"PK\x01\x02"])
    return bytes(new)


JUNK = (
    *(None, True, False, -1, 0, 1, 2, 1.5, -0.0, 1e-300, 1e300, 2**31, 2**63, 2**64),
    *("", "x", "1", "10.0.0.0/8", "\ud800", [], {}, [[]], [None], ["x"], [1, 2]),
    *({"x": 1}, [[[[[[]]]]]], "x" * 5000, 10**400, float("nan"), float("inf")),
)


def paths(value, at=()):
    """Every place in a manifest."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, part in value.items():
            yield from paths(part, (*at, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from paths(part, (*at, index))


def mutated_manifest(data: bytes, rng: random.Random):
    """Change one place of the manifest; return the file and the place."""
    manifest, members = unpack(data)
    places = [p for p in paths(manifest) if p[0] != "members" or rng.random() < 0.02]
    at = rng.choice(places)
    part = manifest
    for key in at[:-1]:
        part = part[key]
    old = part[at[-1]]
    kind = rng.randrange(5)
    if kind == 0 and isinstance(part, dict):
        del part[at[-1]]
    elif kind == 1 and isinstance(part, dict):
        part[rng.choice(["x", "", "n_jobs", "payload", "home"])] = rng.choice(JUNK)
    elif kind == 2 and type(old) in {int, float}:
        part[at[-1]] = old * rng.choice([-1, 0.5, 1.0001, 2, 1e9])
    else:
        part[at[-1]] = rng.choice(JUNK)
    return pack(manifest, members), at


def mutated_array(data: bytes, rng: random.Random):
    """Change one array and recompute its checksum; return the file and the name."""
    manifest, members = unpack(data)
    name = rng.choice(list(members))
    array = np.frombuffer(members[name], manifest["members"][name]["dtype"]).copy()
    kind = rng.randrange(6)
    if kind == 0:
        array = array[: rng.randrange(len(array) + 1)]
    elif kind == 1:
        array = np.append(array, array[:3])
    elif kind == 2:
        array = array[::-1]
    elif kind == 3:
        array = np.zeros_like(array)
    elif len(array):
        content = bytearray(array.tobytes())
        start = rng.randrange(len(array)) * array.itemsize
        width = array.itemsize if rng.random() < 0.7 else 1
        wild = rng.choice([rng.randbytes(width), b"\xff" * width, b"\x7f" * width])
        content[start : start + width] = wild
        array = np.frombuffer(bytes(content), array.dtype)
    members[name] = array.tobytes()
    return pack(sign(manifest, members), members), (name,)


# What a manifest says about a model and its training, without a part in any score.
NO_PART_IN_SCORES = {"exfilml", "libraries", "window", "flows", "parameters"}


def state(detector: Detector):
    """Everything a detector learned, in a form that can be compared."""
    arrays = persistence._arrays(detector)
    numbers = {name: array.tobytes() for name, array in arrays.items()}
    return numbers, persistence._manifest(detector), detector.get_params()


class Fuzz:
    """Loads spoilt files; anything but `ModelFileError` or sane scores fails."""

    def __init__(self, folder: Path, data: bytes, flows) -> None:
        self.path, self.flows = folder / "fuzz", flows
        self.path.write_bytes(data)
        original = load_model(self.path)
        self.expected, self.state = original.score(flows), state(original)
        self.loaded = 0

    def load(self, data: bytes) -> Detector | None:
        """Load, or return None if refused."""
        self.path.write_bytes(data)
        try:
            detector = load_model(self.path)
        except ModelFileError:
            return None
        self.loaded += 1
        return detector

    def byte(self, data: bytes) -> None:
        """Random bytes cannot keep a checksum: it loads only as the same model."""
        detector = self.load(data)
        if detector is None:
            return
        assert state(detector) == self.state
        # The same numbers score the same; scoring all of them would take minutes.
        if self.loaded % 8 == 0:
            assert same_scores(detector.score(self.flows), self.expected)

    def forged(self, data: bytes, at: tuple) -> None:
        """A forger who recomputes checksums makes another model, but no trap.

        Where the forged place has a part in scores, scores may differ (only
        `sha256=` can tell); they are sane numbers all the same, and every other
        function works.
        """
        detector = self.load(data)
        if detector is None:
            return
        scored = detector.score(self.flows)
        for values in (scored.suspicion, scored.case_suspicion, scored.raw):
            assert np.isfinite(values).all(), at
        assert ((scored.p_value > 0) & (scored.p_value <= 1)).all(), at
        if at[0] in NO_PART_IN_SCORES:
            assert same_scores(scored, self.expected), at
        if self.loaded % 4 == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CalibrationWarning)
                score_flows(detector, self.flows)
        json.dumps(model_card(detector))


@pytest.fixture
def fuzz(small, flows, tmp_path) -> Fuzz:
    return Fuzz(tmp_path, small, flows)


def fuzz_all(fuzz: Fuzz, data: bytes, seed: int, n_bytes: int, n_forged: int) -> None:
    rng = random.Random(seed)
    for _ in range(n_bytes):
        fuzz.byte(mutated_bytes(data, rng))
    for _ in range(n_forged):
        fuzz.forged(*mutated_manifest(data, rng))
        fuzz.forged(*mutated_array(data, rng))


def test_spoilt_files_end_in_an_error_or_the_same_scores(fuzz, small):
    fuzz_all(fuzz, small, seed=0, n_bytes=1900, n_forged=60)
    # Comments, time stamps and unread header fields: some must still load.
    assert fuzz.loaded > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_spoilt_files_end_in_an_error_or_the_same_scores(fuzz, small, seed):
    fuzz_all(fuzz, small, seed, n_bytes=4500, n_forged=500)


# --- saving that fails ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["no/m", "file/m", "folder", "a\0b", "n" * 300, "."])
def test_a_place_that_cannot_be_written_is_an_output_error(detector, name, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError) as caught:
        save_model(detector, tmp_path / name)
    assert isinstance(caught.value, ExfilmlError)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_pipe_or_a_device_is_not_replaced(detector, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="no regular file"):
        save_model(detector, tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["zipfile.ZipFile.writestr", "pathlib.Path.replace"])
def test_a_failed_save_leaves_the_old_model_and_no_part(
    detector, model, where, error, tmp_path, monkeypatch
):
    path = tmp_path / "m"
    path.write_bytes(model)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(where, fail)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        save_model(detector, path)
    monkeypatch.undo()
    assert path.read_bytes() == model
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_over_an_old_model_replaces_it(detector, model, small, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(small)
    (tmp_path / "m.part").write_text("mine")
    save_model(detector, path)
    assert path.read_bytes() == model
    assert (tmp_path / "m.part").read_text() == "mine"


def test_a_model_holds_every_table(model):
    _, members = unpack(model)
    tables = {name.split("/")[1] for name in members if name.startswith("baseline/")}
    assert tables == {*TABLES, *HISTOGRAMS}


def test_what_was_forgotten_comes_back_and_is_told(small, tmp_path, refused):
    """A model of a site that outgrew its tables says so."""
    (tmp_path / "m").write_bytes(small)
    detector = load_model(tmp_path / "m")
    tables = dict(detector.baseline_.tables)
    tables["host_place"] = replace(tables["host_place"], forgotten=(5.0, 7.0))
    detector.baseline_ = replace(detector.baseline_, tables=tables)
    save_model(detector, tmp_path / "lost")
    loaded = load_model(tmp_path / "lost")
    assert loaded.known_.tables["host_place"].forgotten == (5.0, 7.0)
    lost = {"baseline/host_place": {"keys": 5.0, "rows": 7.0}}
    card = model_card(loaded)
    assert card["forgotten"] == lost
    line = "forgotten      5 of the rarest keys of baseline/host_place, 7 flows"
    assert line in card_text(card)
    data = (tmp_path / "lost").read_bytes()
    odd = {"baseline/hosts": {"keys": 1, "rows": 1}}
    refused(change_manifest(data, ["forgotten"], odd), "forgotten 'baseline/hosts'")
    for wrong in (-1.0, "many", None):
        path = ["forgotten", "baseline/host_place", "keys"]
        refused(change_manifest(data, path, wrong), "damaged manifest")
