"""Model files: read → audit → construct. No pickle is ever opened.

A model file is a zip of ``manifest.json`` and raw little-endian arrays. A pickled
scikit-learn tree runs code when it is loaded and crashes the process when one node
index is wrong; a model file crosses trust boundaries, so everything in it is plain
numbers, and every number is checked before it is used: packing and sizes before
anything is unpacked, the members against those of a model, checksums, dtypes and
shapes, index bounds and order, possible values, the features' definitions, and canary
rows that must score as they did when the model was stored. A forger who recomputes
all of these makes another model; only ``load_model(path, sha256=…)`` can tell.

One file because reading and writing one format belong side by side.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import io
import itertools
import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from exfilml import __version__
from exfilml.baseline import (
    HISTOGRAMS,
    MOST_BIN,
    SQUARED,
    SUMMED,
    TABLES,
    Baseline,
    windows_of,
)
from exfilml.calibration import BUDGETS, Calibrator
from exfilml.columns import LAST_YEAR
from exfilml.detector import Detector, Learned
from exfilml.exceptions import (
    ExfilmlError,
    ModelFileError,
    OptionError,
    StateError,
)
from exfilml.export import complete_file
from exfilml.features import Feature, FlowFeatures
from exfilml.forest import BaselineForest, Trees
from exfilml.histograms import BINS as HISTOGRAM_BINS
from exfilml.histograms import MAX_CELLS, Histograms
from exfilml.places import parse_networks
from exfilml.schema import CAPABILITIES
from exfilml.stability import BINS, DECILES, Bins
from exfilml.state import State
from exfilml.tally import DAYS_KEPT, MAX_KEYS, Tally, combine, hash_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT: Final = "exfilml-model"
PROTOCOL: Final = 2
OLDEST_PROTOCOL: Final = 2
MANIFEST: Final = "manifest.json"
CANARIES: Final = 64
CANARY_ERROR: Final = 1e-9

# A site of a million hosts stays far below; a zip bomb does not.
MOST_BYTES: Final = 2**31
MOST_MANIFEST_BYTES: Final = 2**22
# Hashes do not compress, so that models unpack to a few times their size. Up to the
# second number any ratio is harmless, and a baseline of equal flows can have it.
MOST_RATIO: Final = 100
HARMLESS_BYTES: Final = 2**28

# No sum of bytes comes near 2⁶³, and no flow has more than log2 of it.
MOST_COUNT: Final = 2.0**63
# log2(100) bits over the smallest step between two anomaly scores.
MOST_SCALE: Final = 1e18
MOST_BITS: Final = 64.0
LONGEST_VERSION: Final = 60
# Sums of bits: of how many observations each is, and the most of one.
_PER: Final = {
    "bits": ("n", MOST_BITS),
    "bits_squared": ("n", MOST_BITS**2),
    "ratio": ("n", MOST_BITS),
    "ratio_squared": ("n", MOST_BITS**2),
    "bare_bits": ("bare", MOST_BITS),
    "carried_bits": ("carriers", MOST_BITS),
    "carried_bits_squared": ("carriers", MOST_BITS**2),
    "first_day": ("last_day", 1.0),
} | {
    name + suffix: (SUMMED[what], most)
    for what in SUMMED
    for name in windows_of(what)
    for suffix, most in (("", MOST_BITS), (SQUARED, MOST_BITS**2))
}
_SIGNED: Final = frozenset({"ratio"})
_MOST: Final = {
    "peak_bits": MOST_BITS,
    "last_day": (LAST_YEAR - 1970 + 1) * 365.25,
    "days": 2.0**DAYS_KEPT - 1.0,
}
# Up to here whole numbers and their sums are exact.
MOST_ROWS: Final = 2.0**53

_TREE_TYPES: Final = {
    "start": "<i8",
    "column": "<i4",
    "threshold": "<f4",
    "left": "<i4",
    "right": "<i4",
    "missing_left": "|u1",
    "rows": "<i8",
    "value": "<f8",
}
_BASELINES: Final = ("baseline", "recent")
_HISTOGRAM_TYPES: Final = {"cells": "<u8", "counts": "<f8"}
_LEARNED_PARTS: Final = (
    *("edges", "flows", "cases", "canaries"),
    *("bin_edges", "bin_counts"),
)
_CAPABILITIES: Final = ("volume", "payload")
_LIBRARIES: Final = ("numpy", "pandas", "scikit-learn", "nfstream")
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
# Pickles, and what joblib compresses them with: zlib, gzip, bz2, xz, lzma, lz4.
_PICKLES: Final = (
    b"\x80",
    *(b"x\x01", b"x^", b"x\x9c", b"x\xda"),
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"]\x00\x00",
    b"\x04\x22\x4d\x18",
)


def save_model(detector: Detector, path: str | Path) -> None:
    """Store a fitted detector; the same detector gives the same bytes.

    The file appears under its name only when it is complete.

    Raises
    ------
    OutputError
        If the place cannot be written.
    OptionError
        If a parameter of the detector cannot be stored or has an impossible value.
    """
    check_is_fitted(detector, "learned_")
    arrays = _arrays(detector)
    manifest = _manifest(detector)
    manifest["members"] = {
        name: {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        }
        for name, array in arrays.items()
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False)
    with (
        complete_file(path) as part,
        zipfile.ZipFile(part, "x", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(_member(MANIFEST), text)
        for name, array in arrays.items():
            archive.writestr(_member(name), array.tobytes())


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def load_model(path: str | Path, *, sha256: str | None = None) -> Detector:
    """Load a detector that `save_model` stored, after auditing every part of it.

    Parameters
    ----------
    path
        Model file.
    sha256
        Expected checksum of the file, to pin it; `None` to accept any.

    Raises
    ------
    ModelFileError
        If the file is missing, no model file, damaged, tampered with, of a newer
        version, or trained with other features than this version computes.
    """
    data = _read(Path(path))
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != str(sha256).lower():
        raise ModelFileError(
            f"{path}: checksum is {digest}, expected {sha256}. It is not the file "
            "that was pinned."
        )
    try:
        manifest, arrays = _audit(data)
        return _construct(manifest, arrays)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except (
        ExfilmlError,
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        raise ModelFileError(
            f"{path}: the model file is damaged or was tampered with "
            f"({type(error).__name__}: {str(error)[:200]}). Train the model again."
        ) from error


def default_model() -> Path:
    """Return where the shipped model is."""
    package = Path(__file__).parent
    installed = package / "models" / "default.exfilml"
    return (
        installed
        if installed.exists()
        else (package.parent / "models" / "default.exfilml")
    )


def save_state(state: State, path: str | Path) -> None:
    """Store what a detector remembers between calls.

    The file appears under its name only when it is complete.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    with complete_file(path) as part:
        part.write_bytes(state.to_bytes())


def load_state(path: str | Path) -> State:
    """Read what `save_state` stored.

    Raises
    ------
    StateError
        If the file cannot be read, or is no state.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StateError(f"{path}: the state cannot be read: {reason}.") from error
    try:
        return State.from_bytes(data)
    except StateError as error:
        raise StateError(
            f"{path}: not a state ({len(data):,} bytes): {error.__cause__}. Expected a "
            "file that save_state, or rank --state, wrote; give another name to begin "
            "anew."
        ) from error


def model_card(detector: Detector) -> dict[str, Any]:
    """Return what is known about a model, as plain JSON values."""
    card = _manifest(detector)
    for name, learned in detector.learned_.items():
        about = card["capabilities"][name]
        about["features"] = {f.name: f.definition for f in learned.features.features}
        about["trees"] = len(learned.forest.trees_.start) - 1
        about["calibration"] = {
            "days": round(learned.cases.days, 3),
            "flows": len(learned.flows.block),
            "cases": len(learned.cases.block),
            "cases_per_day": round(learned.cases.per_day, 1),
        }
    card["hosts"] = detector.known_.n_hosts
    return card


def _manifest(detector: Detector) -> dict[str, Any]:
    first, last = detector.window_
    parameters = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in detector.get_params(deep=False).items()
    }
    parameters["home"] = None if parameters["home"] is None else list(detector.home_)
    if isinstance(parameters["random_state"], np.random.RandomState):
        # A generator has moved on since; only a seed can be repeated.
        parameters["random_state"] = None
    _check_parameters(parameters)
    return {
        "format": FORMAT,
        "protocol": PROTOCOL,
        **_made_by(detector),
        "parameters": parameters,
        "home": list(detector.home_),
        "window": [first.isoformat(), last.isoformat()],
        "flows": detector.n_flows_,
        "shown": detector.shown_,
        "hash_check": _hash_check(),
        "forgotten": {
            f"{which}/{name}": {"keys": table.forgotten[0], "rows": table.forgotten[1]}
            for which in _BASELINES
            for known in [getattr(detector, f"{which}_")]
            for name, table in {**known.tables, **known.histograms}.items()
            if table.forgotten[0]
        },
        "capabilities": {
            name: {
                "features": [[f.name, _checksum(f)] for f in learned.features.features],
                "centre": learned.centre,
                "scale": learned.scale,
                "days": learned.flows.days,
                "max_samples": learned.forest.max_samples_,
                "offset": learned.forest.offset_,
            }
            for name, learned in sorted(detector.learned_.items())
        },
    }


def _made_by(detector: Detector) -> dict[str, Any]:
    """Return the versions that trained a detector: those of its file, else these."""
    ours = {
        "exfilml": __version__,
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    theirs: dict[str, Any] = getattr(detector, "made_by_", ours)
    return theirs


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that JSON cannot hold or that would fail later.

    Raises
    ------
    OptionError
        With the parameter and its value.
    """

    def whole(low: int, high: int) -> Any:
        return lambda v: type(v) is int and low <= v <= high

    def share(value: Any) -> bool:
        return type(value) is float and 0.0 < value <= 1.0

    def networks(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(v, str) for v in value)

    sane: dict[str, Any] = {
        "home": lambda v: v is None or networks(v),
        "alerts_per_day": lambda v: (
            type(v) in {int, float} and BUDGETS[0] <= v <= BUDGETS[1]
        ),
        "n_estimators": whole(1, 2**31),
        "max_samples": lambda v: v == "auto" or share(v) or whole(1, 2**53)(v),
        "n_jobs": lambda v: v is None or whole(-(2**31), 2**31)(v),
        "random_state": lambda v: v is None or whole(0, 2**32 - 1)(v),
    }
    if set(parameters) != set(sane):
        raise OptionError(f"parameters {_shown(sorted(parameters))}")
    for name, value in parameters.items():
        if not sane[name](value):
            raise OptionError(f"{name}: {_shown(value)} cannot be stored in a model.")


def _shown(value: object) -> str:
    """Write a value of unknown origin and length for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _checksum(feature: Feature) -> str:
    """Checksum of what a feature is: a model must not meet another of its name."""
    # Python 3.13 strips the indentation of docstrings, which `getdoc` does for all.
    definition = inspect.getdoc(feature.compute)
    if definition is None:
        raise OptionError(
            "Python's option -OO removes the definitions that models are checked "
            "against; run without it."
        )
    text = f"{feature.name}\t{feature.unit}\t{definition}"
    return hashlib.sha256(text.encode()).hexdigest()


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and [type(part) for part in value] == [str, str]


def _features(capability: str, theirs: object) -> FlowFeatures:
    """Return a model's features, if this version computes each as that one did.

    What later versions add to the list is nothing that an older model asks for.
    """
    if not (isinstance(theirs, list) and theirs and all(map(_is_pair, theirs))):
        raise ModelFileError(f"damaged manifest: features are {_shown(theirs)}.")
    payload = capability == "payload"
    ours = {f.name: _checksum(f) for f in FlowFeatures(payload=payload).features}
    names = [name for name, _ in theirs]
    gone = [n for n in names if n not in ours]
    other = [n for n, checksum in theirs if n in ours and checksum != ours[n]]
    if gone or other or len(set(names)) < len(names):
        raise ModelFileError(
            "trained with other features than this version computes (gone: "
            f"{', '.join(gone)[:200] or 'none'}; defined differently: "
            f"{', '.join(other)[:200] or 'none'}). Train the model again."
        )
    return FlowFeatures(payload=payload, names=names)


def _canary_rows(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows inside, at and beyond the edges, some with gaps; the same everywhere.

    Multiples of the golden ratio modulo 1 spread evenly; numpy's generators may give
    other numbers in other versions.
    """
    cell = np.arange(CANARIES * len(edges)).reshape(CANARIES, len(edges))
    spread = (cell * 0.6180339887498949) % 1.0
    return np.where(cell % 17 == 0, np.nan, 2.0 * spread * (edges + 1.0))


def _canaries(
    features: FlowFeatures, forest: BaselineForest, edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Score the canary rows."""
    return forest.reference_scores(_canary_rows(edges[features.of_forest]))


def _types(capabilities: Iterable[str]) -> dict[str, str]:
    """Return the dtype of every array of a model, by member name."""
    types: dict[str, str] = {}
    for which, (name, spec) in itertools.product(_BASELINES, TABLES.items()):
        base = f"{which}/{name}"
        types |= {f"{base}/{part}": "<u8" for part in ("keys", "first", "second")}
        types |= {f"{base}/{value}": "<f8" for value in spec.values}
    for which, name in itertools.product(_BASELINES, HISTOGRAMS):
        types |= {f"{which}/{name}/{k}": dtype for k, dtype in _HISTOGRAM_TYPES.items()}
    for name in capabilities:
        types |= {f"{name}/trees/{k}": dtype for k, dtype in _TREE_TYPES.items()}
        types |= {f"{name}/{part}": "<f8" for part in _LEARNED_PARTS}
    return types


def _arrays(detector: Detector) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for which, name in itertools.product(_BASELINES, TABLES):
        tally: Tally = getattr(detector, f"{which}_").tables[name]
        base = f"{which}/{name}"
        for part in ("keys", "first", "second"):
            arrays[f"{base}/{part}"] = getattr(tally, part)
        for value in TABLES[name].values:
            arrays[f"{base}/{value}"] = tally.values[value]
    for which, name in itertools.product(_BASELINES, HISTOGRAMS):
        histograms = getattr(detector, f"{which}_").histograms[name]
        for part in _HISTOGRAM_TYPES:
            arrays[f"{which}/{name}/{part}"] = getattr(histograms, part)
    for name, learned in detector.learned_.items():
        for part in _TREE_TYPES:
            arrays[f"{name}/trees/{part}"] = getattr(learned.forest.trees_, part)
        arrays[f"{name}/edges"] = learned.edges
        arrays[f"{name}/flows"] = learned.flows.block
        arrays[f"{name}/cases"] = learned.cases.block
        canaries = _canaries(learned.features, learned.forest, learned.edges)
        arrays[f"{name}/canaries"] = canaries
        arrays[f"{name}/bin_edges"] = learned.bins.edges.ravel()
        arrays[f"{name}/bin_counts"] = learned.bins.counts.ravel()
    types = _types(sorted(detector.learned_))
    return {name: arrays[name].astype(dtype) for name, dtype in types.items()}


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        # A pipe or a device could feed bytes for ever.
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ModelFileError(f"{path}: is {what}; a model is one file.")
        if status.st_size > MOST_BYTES:
            raise ModelFileError(
                f"{path}: larger than any model ({MOST_BYTES:,} bytes)."
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL in it.
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(
            f"{path}: the model cannot be read: {reason}. "
            "`exfilml train SOURCE --model FILE` makes one."
        ) from error
    if data.startswith(_PICKLES):
        raise ModelFileError(
            f"{path}: looks like a pickle or joblib file. Loading one runs whatever "
            "code it carries, so exfilml does not. Store models with "
            "exfilml.save_model."
        )
    if data[:2] != b"PK":
        what = "the file is empty, " if not data else ""
        raise ModelFileError(
            f"{path}: {what}no exfilml model file. `exfilml train SOURCE --model FILE` "
            "makes one."
        )
    return data


def _audit(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Unpack only what a model has, after looking at what would be unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = _sizes(archive, len(data))
            manifest = _parse(_unpack(archive, MANIFEST, sizes.pop(MANIFEST)))
            types = _types(_object(manifest, "capabilities"))
            members = _object(manifest, "members")
            for found, where in ((sizes, "the archive"), (members, "the manifest")):
                odd = sorted(set(found) ^ set(types))
                if odd:
                    raise ModelFileError(
                        f"the arrays in {where} are not those of a model: "
                        f"{_shown(odd[0])} is "
                        + ("missing." if odd[0] in types else "unknown.")
                    )
            arrays = {
                name: _array(archive, name, sizes[name], dtype, _object(members, name))
                for name, dtype in types.items()
            }
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        OSError,
        UnicodeDecodeError,
    ) as error:
        raise ModelFileError(f"damaged: {error}. Get or train it again.") from error
    return manifest, arrays


def _sizes(archive: zipfile.ZipFile, packed: int) -> dict[str, int]:
    """Return unpacked sizes as announced, if they and the members are harmless."""
    members = archive.infolist()
    sizes = {member.filename: member.file_size for member in members}
    if len(sizes) != len(members):
        raise ModelFileError("a member appears twice.")
    if MANIFEST not in sizes:
        raise ModelFileError(
            "no exfilml model file: a zip without a manifest, such as a state. "
            "`exfilml train SOURCE --model FILE` makes one."
        )
    # zipfile unpacks bzip2 and lzma without a limit; and models are not encrypted.
    methods = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    if any(m.compress_type not in methods or m.flag_bits & 1 for m in members):
        raise ModelFileError("damaged: a member is packed as save_model packs none.")
    most = min(MOST_BYTES, max(HARMLESS_BYTES, MOST_RATIO * packed))
    if sum(sizes.values()) > most or sizes[MANIFEST] > MOST_MANIFEST_BYTES:
        raise ModelFileError("unpacks to more than any model of its size.")
    return sizes


def _unpack(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    with archive.open(name) as member:
        data = member.read(size + 1)
    if len(data) != size:
        raise ModelFileError(f"{name}: size differs from what the archive announces.")
    return data


def _parse(text: bytes) -> dict[str, Any]:
    """Read the manifest, and refuse foreign and newer ones."""

    def refuse(constant: str) -> NoReturn:
        raise ModelFileError(f"damaged manifest: {constant} is no number.")

    try:
        manifest = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"damaged manifest: {error}.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelFileError("no exfilml model file: a zip with another manifest.")
    protocol = manifest.get("protocol")
    if type(protocol) is not int or protocol < 1:
        raise ModelFileError(f"protocol {_shown(protocol)} does not exist.")
    if protocol > PROTOCOL:
        raise ModelFileError(
            f"made by a newer version (protocol {_shown(protocol)}, exfilml "
            f"{_shown(manifest.get('exfilml'))}); this one reads up to {PROTOCOL}. "
            "Upgrade exfilml."
        )
    if protocol < OLDEST_PROTOCOL:
        raise ModelFileError(
            f"made by an older version (protocol {protocol}), which counted other "
            f"things; this one reads from {OLDEST_PROTOCOL} on. Train the model again."
        )
    capabilities = _object(manifest, "capabilities")
    if not {"volume"} <= set(capabilities) <= set(_CAPABILITIES):
        raise ModelFileError(f"damaged manifest: capabilities {_shown(capabilities)}.")
    return manifest


def _object(of: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = of.get(name)
    if not isinstance(value, dict):
        raise ModelFileError(f"damaged manifest: {name} is {_shown(value)}.")
    return value


def _array(
    archive: zipfile.ZipFile,
    name: str,
    size: int,
    dtype: str,
    about: Mapping[str, Any],
) -> NDArray[Any]:
    shape = about.get("shape")
    if about.get("dtype") != dtype:
        raise ModelFileError(
            f"{name}: dtype {_shown(about.get('dtype'))}, expected {dtype}."
        )
    if not isinstance(shape, list) or [type(n) for n in shape] != [int]:
        raise ModelFileError(f"{name}: shape {_shown(shape)}, expected one number.")
    if size != shape[0] * np.dtype(dtype).itemsize:
        raise ModelFileError(f"{name}: {size} bytes for {_shown(shape[0])} × {dtype}.")
    data = _unpack(archive, name, size)
    if hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise ModelFileError(f"{name}: checksum differs; the file was changed.")
    return np.frombuffer(data, dtype=dtype).astype(np.dtype(dtype).newbyteorder("="))


def _construct(
    manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Detector:
    if manifest.get("hash_check") != _hash_check():
        pandas = _object(manifest, "libraries").get("pandas")
        raise ModelFileError(
            "the installed pandas hashes names differently from the one that made "
            f"the model ({_shown(pandas)}); every host would look new. Train the model "
            "again."
        )
    parameters = _object(manifest, "parameters")
    _check_parameters(parameters)
    home = manifest.get("home")
    if not isinstance(home, list) or not all(isinstance(n, str) for n in home):
        raise ModelFileError(f"damaged manifest: home is {_shown(home)}.")
    detector = Detector(**parameters)
    detector.made_by_ = _versions(manifest)
    detector.home_ = parse_networks(home)
    detector.window_ = _window(manifest.get("window"))
    detector.n_flows_ = int(_number(manifest, "flows", 0, MOST_COUNT, whole=True))
    # Models that were written before it was counted know nothing of it.
    shown = _object(manifest, "shown") if "shown" in manifest else {}
    detector.shown_ = {
        name: int(_number(shown, name, 0, MOST_COUNT, whole=True))
        for name in CAPABILITIES
        if name in shown
    }
    forgotten = _forgotten(manifest)
    detector.baseline_, detector.recent_ = (
        Baseline(
            {name: _tally(arrays, f"{which}/{name}", forgotten) for name in TABLES},
            {
                name: _histograms(arrays, f"{which}/{name}", forgotten)
                for name in HISTOGRAMS
            },
        )
        for which in _BASELINES
    )
    detector.known_ = detector.baseline_.merge(detector.recent_)
    detector.learned_ = {
        name: _learned(name, _object(manifest["capabilities"], name), arrays)
        for name in _CAPABILITIES
        if name in manifest["capabilities"]
    }
    return detector


def _versions(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return by which versions a model says it was made."""
    made = {"exfilml": manifest.get("exfilml"), **_object(manifest, "libraries")}
    for name, version in made.items():
        if type(version) is not str or len(version) > LONGEST_VERSION:
            raise ModelFileError(f"damaged manifest: {_shown(name)} {_shown(version)}.")
    return {"exfilml": made.pop("exfilml"), "libraries": made}


def _hash_check() -> int:
    return int(hash_names(pd.Series([FORMAT], dtype="str"))[0])


def _window(texts: Any) -> tuple[pd.Timestamp, pd.Timestamp]:
    if not isinstance(texts, list) or [type(t) for t in texts] != [str, str]:
        raise ModelFileError(f"damaged manifest: window {_shown(texts)}.")
    first, last = (pd.Timestamp(datetime.fromisoformat(t)) for t in texts)
    if first.tz is None or last.tz is None or first > last:
        raise ModelFileError(f"damaged manifest: window {_shown(texts)}.")
    return first.tz_convert("UTC"), last.tz_convert("UTC")


def _forgotten(
    manifest: Mapping[str, Any],
) -> dict[str, tuple[float, float]]:
    """Return how many keys a table forgot, with how many rows, by its name."""
    forgotten = _object(manifest, "forgotten")
    names = itertools.product(_BASELINES, (*TABLES, *HISTOGRAMS))
    odd = sorted(set(forgotten) - {f"{which}/{name}" for which, name in names})
    if odd:
        raise ModelFileError(f"damaged manifest: forgotten {_shown(odd[0])}.")
    numbers = {}
    for name in forgotten:
        lost = _object(forgotten, name)
        keys, rows = (_number(lost, of, 0.0, MOST_COUNT) for of in ("keys", "rows"))
        numbers[name] = (keys, rows)
    return numbers


def _histograms(
    arrays: Mapping[str, NDArray[Any]],
    base: str,
    forgotten: Mapping[str, tuple[float, float]],
) -> Histograms:
    spec = HISTOGRAMS[base.split("/")[1]]
    cells, counts = (arrays[f"{base}/{part}"] for part in _HISTOGRAM_TYPES)
    if len(cells) > MAX_CELLS or len(cells) != len(counts):
        raise ModelFileError(f"{base}: columns differ in length, or are too long.")
    if (cells[1:] <= cells[:-1]).any():
        raise ModelFileError(f"{base}: cells are not in order.")
    keys, bins = np.divmod(cells, np.uint64(HISTOGRAM_BINS))
    if (bins > MOST_BIN[spec.values[0]]).any() or (keys.any() and not spec.keys):
        raise ModelFileError(f"{base}: not all are possible cells.")
    # The comparison is false for what is not a number.
    whole = (counts >= 1) & (counts == np.floor(counts))
    if not (whole.all() and counts.sum() <= MOST_ROWS):
        raise ModelFileError(f"{base}/counts: not all are possible counts.")
    return Histograms(cells, counts, forgotten.get(base, (0.0, 0.0)))


def _tally(
    arrays: Mapping[str, NDArray[Any]],
    base: str,
    forgotten: Mapping[str, tuple[float, float]],
) -> Tally:
    spec = TABLES[base.split("/")[1]]
    keys, first, second = (
        arrays[f"{base}/{part}"] for part in ("keys", "first", "second")
    )
    values = {v: arrays[f"{base}/{v}"] for v in spec.values}
    columns = [first, second, *values.values()]
    if len(keys) > MAX_KEYS or any(len(column) != len(keys) for column in columns):
        raise ModelFileError(f"{base}: columns differ in length, or are too long.")
    if (keys[1:] <= keys[:-1]).any():
        raise ModelFileError(f"{base}: keys are not in order.")
    parts = (first, second)[: len(spec.keys)]
    if not np.array_equal(keys, combine(*parts) if parts else np.zeros_like(keys)):
        raise ModelFileError(f"{base}: keys differ from their parts.")
    for value, column in values.items():
        most = np.full(len(keys), _MOST.get(value, MOST_COUNT))
        if value in _PER:
            of, each = _PER[value]
            most = np.minimum(most, each * values[of])
        # The comparison is false for what is not a number.
        low = -most if value in _SIGNED else 0.0
        if not ((column >= low) & (column <= most)).all():
            raise ModelFileError(f"{base}/{value}: not all are possible counts.")
    if "days" in values and (values["days"] % 1 != 0).any():
        raise ModelFileError(f"{base}/days: not all are whole numbers.")
    return Tally(keys, first, second, values, forgotten.get(base, (0.0, 0.0)))


def _number(
    about: Mapping[str, Any], name: str, low: float, high: float, *, whole: bool = False
) -> float:
    value = about.get(name)
    if type(value) is not int and (whole or type(value) is not float):
        raise ModelFileError(f"damaged manifest: {name} is {_shown(value)}.")
    if not low <= value <= high:
        raise ModelFileError(
            f"damaged manifest: {name} is {_shown(value)}, expected {low:g} … {high:g}."
        )
    return float(value)


def _learned(
    capability: str, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Learned:
    features = _features(capability, about.get("features"))
    trees = Trees(
        **{part: arrays[f"{capability}/trees/{part}"] for part in _TREE_TYPES}
    )
    trees.check(len(features.of_forest))
    edges = arrays[f"{capability}/edges"]
    if len(edges) != len(features.names) or not (np.abs(edges) <= MOST_COUNT).all():
        raise ModelFileError(f"{capability}: edges do not fit the features")
    most = int(_number(about, "max_samples", 1, 2**53, whole=True))
    forest = BaselineForest(n_estimators=len(trees.start) - 1, max_samples=most)
    forest.trees_ = trees
    forest.max_samples_ = most
    forest.offset_ = _number(about, "offset", -1.0, 0.0)
    forest.n_features_in_ = len(features.of_forest)
    days = _number(about, "days", 1e-6, 1e6)
    flows, cases = (
        Calibrator(arrays[f"{capability}/{of}"], days) for of in ("flows", "cases")
    )
    for calibrator in (flows, cases):
        calibrator.check()
    expected = arrays[f"{capability}/canaries"]
    canaries = _canaries(features, forest, edges)
    # Paths are the same everywhere; the power of two above them differs in the last
    # bit between processors, and a row that takes another path by 10⁻⁶ or more.
    close = len(expected) == CANARIES and np.abs(canaries - expected) <= CANARY_ERROR
    if not np.all(close):
        raise ModelFileError(
            f"{capability}: canary rows score differently than when it was stored"
        )
    return Learned(
        features=features,
        forest=forest,
        centre=_number(about, "centre", 0.0, 1.0),
        scale=_number(about, "scale", 0.0, MOST_SCALE),
        edges=edges,
        flows=flows,
        cases=cases,
        bins=_bins(capability, len(features.names), arrays),
    )


def _bins(capability: str, n_columns: int, arrays: Mapping[str, NDArray[Any]]) -> Bins:
    edges, counts = (
        arrays[f"{capability}/{part}"] for part in ("bin_edges", "bin_counts")
    )
    if len(edges) != n_columns * DECILES:
        raise ModelFileError(f"{capability}: bins do not fit the features")
    _check_counts(f"{capability}/bin_counts", counts, n_columns * BINS)
    edges = edges.reshape(n_columns, DECILES)
    ordered = (np.abs(edges) <= MOST_COUNT).all() and (np.diff(edges) >= 0).all()
    if not ordered:
        raise ModelFileError(f"{capability}: edges of bins are not in order")
    return Bins(edges, counts.reshape(n_columns, BINS))


def _check_counts(name: str, counts: NDArray[Any], length: int) -> None:
    # The comparison is false for what is not a number.
    if len(counts) != length or not ((counts >= 0) & (counts <= MOST_COUNT)).all():
        raise ModelFileError(f"{name}: expected {length} possible counts")
