"""What all tests share."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import exfilml

# A busy machine is slow, and that says nothing of a property.
settings.register_profile(
    "exfilml", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("exfilml")

SAMPLE = Path(__file__).parent.parent / "datasets" / "sample"
LONGEST = 60


@pytest.fixture(scope="session")
def sample_model(tmp_path_factory):
    """Return the path of a model of the sample's baseline, trained once for all tests.

    Processes that run tests side by side share the folder above their own; the first
    trains, the others wait.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / "sample.exfilml"
    with (folder / "sample.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            flows = exfilml.read_flows(SAMPLE / "baseline.pcap", progress=False)
            exfilml.save_model(exfilml.Detector(random_state=0).fit(flows), path)
    return path


def pytest_make_parametrize_id(val):
    """Name bytes and long texts by their length.

    Archives hold the time at which they were made, and processes that share the tests
    among them must give each the same name.
    """
    if isinstance(val, bytes) or (isinstance(val, str) and len(val) > LONGEST):
        return f"{len(val)}-{type(val).__name__}"
    return None
