"""Captures of real attacks, laid over the benign test days of a split.

The captures are not part of the project. They lie where ``EXFILML_REAL_DATA`` says:
``pcap/attack``, ``pcap/benign`` and ``labels.csv``, which names flows by capture and
5-tuple. `overlay` reads them, takes each labelled conversation whole, gives its ends
addresses of the lab, moves it into the test days and adds it to what the lab's office
does there. Nothing of it is written into the project.

A conversation is every flow between the two addresses that a label names. VPN,
messenger and call captures without labels come in as hard negatives, with each
conversation of the local host that uploads most. A remote end that answers DNS inside
its network becomes the site's resolver; every other remote end becomes an address that
no baseline knows.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import random
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lab import splits, tables
from lab.world import LabWorld

if TYPE_CHECKING:
    from lab.splits import Split

# Further captures of pcap/benign that sites of this kind would see: what they are.
NEGATIVES = {
    "VPN": "anyconnect-vpn openvpn-tlscrypt openvpn_nohmac_tcp protonvpn tailscale pptp",
    "messenger": "discord imo line threema viber whatsapp_login_chat",
    "call": "skype-conference-call snapchat_call stun_dtls_rtp stun_wa_call stun_zoom"
    " zoom2 teamspeak3 whatsapp_voice_and_message whatsapp_login_call google_meet",
    "remote help": "anydesk teamviewer",
    "file sharing": "bittorrent_utp",
}
# Conversations of an unlabelled capture that are taken, largest upload first.
MOST_CONVERSATIONS = 3
LEAST_UPLOAD = 200
# Labels of the real captures, the gravest first.
GRAVITY = ("exfil", "exfil-like", "c2", "hard-negative")


def overlay(
    folder: Path, real: Path, split: Split | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return benign test flows with real attacks among them, and their labels.

    Parameters
    ----------
    folder
        A split's folder with captures.
    real
        The folder that ``EXFILML_REAL_DATA`` names.
    split
        Whose world and days they are; by default that of the folder's name.

    Returns
    -------
    flows : pandas.DataFrame
        A flows table in order of start, with ``label`` and ``scenario``; ``sensor``
        names the capture.
    labels : pandas.DataFrame
        One row for each flow that is labelled, columns as in a labels file.

    Raises
    ------
    FileNotFoundError
        If there is no such data.
    """
    split = split or splits.committed(folder.name)
    if not (real / "labels.csv").exists():
        raise FileNotFoundError(f"{real}: no labels.csv; EXFILML_REAL_DATA names none")
    benign = tables.flows_of(folder, "test")
    benign = benign[benign["label"].isna()]
    places = LabWorld(split)
    mover = _Mover(places, random.Random(f"{split.seed} attacks"))
    cases = [
        mover.move(case, label, scenario)
        for case, label, scenario in _conversations(real)
    ]
    flows = pd.concat([benign, *cases], ignore_index=True)
    flows = flows.sort_values("start", kind="stable", ignore_index=True)
    import exfilml

    flows = exfilml.validate_flows(flows)
    return flows, _labels(flows[flows["label"].notna()])


def write(folder: Path, out: Path | None) -> int:
    """Write `overlay` to ``flows.parquet`` and ``labels.csv``, outside the project."""
    real = os.environ.get("EXFILML_REAL_DATA")
    project = Path(__file__).resolve().parents[2]
    if out is None or real is None:
        print("make_lab: --attacks needs --out and EXFILML_REAL_DATA", file=sys.stderr)
        return 2
    if out.resolve().is_relative_to(project):
        print(
            f"make_lab: {out} lies in the project, where these data must not be",
            file=sys.stderr,
        )
        return 2
    import exfilml

    try:
        flows, labels = overlay(folder, Path(real))
    except FileNotFoundError as error:
        print(f"make_lab: {error}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    exfilml.write_flows(flows, out / "flows.parquet")
    labels.to_csv(out / "labels.csv", index=False, date_format="%Y-%m-%dT%H:%M:%SZ")
    counts = labels.drop_duplicates("scenario")["label"].value_counts().to_dict()
    print(f"{out}: {len(flows):,} flows, scenarios {counts}")
    return 0


def _labels(flows: pd.DataFrame) -> pd.DataFrame:
    second = np.timedelta64(1, "s")
    labels = flows[["src_ip", "src_port", "dst_ip", "dst_port", "protocol"]].copy()
    labels["start"] = flows["start"].dt.floor("s")
    labels["end"] = flows["start"].dt.ceil("s") + second
    labels[["label", "scenario"]] = flows[["label", "scenario"]]
    return labels.reset_index(drop=True)


def _conversations(real: Path) -> list[tuple[pd.DataFrame, str, str]]:
    """Return each conversation with its label and the name of its scenario."""
    out = []
    wanted = pd.read_csv(real / "labels.csv")
    unlabelled = {
        stem: what for what, stems in NEGATIVES.items() for stem in stems.split()
    }
    benign = [
        path
        for stem in unlabelled
        for path in sorted((real / "pcap" / "benign").glob(f"{stem}.pcap*"))[:1]
    ]
    read = _read([*(real / path for path in sorted(wanted["path"].unique())), *benign])
    for path, rows in wanted.groupby("path", sort=True):
        flows = read[Path(str(path)).name]
        named, asked = _pairs(flows), _pairs(rows)
        for number, pair in enumerate(asked.drop_duplicates()):
            own = flows[named == pair]
            if len(own):
                # Of several labels of one conversation the gravest stands.
                same = rows[asked == pair]
                label = min(same["label"], key=GRAVITY.index)
                what = str(same["technique"].iloc[0]).split(",")[0]
                out.append((own, label, _name(what, str(path), number)))
    for capture in benign:
        flows = read[capture.name]
        flows = flows[flows["src_ip"].map(_is_private)]
        total = flows.groupby(["src_ip", "dst_ip"])["src_payload_bytes"].sum()
        total = total[total >= LEAST_UPLOAD].nlargest(MOST_CONVERSATIONS)
        pairs = _pairs(flows)
        for number, ends in enumerate(total.index):
            own = flows[pairs == frozenset(ends)]
            what = unlabelled[capture.name.partition(".")[0]]
            out.append((own, "hard-negative", _name(what, str(capture), number)))
    return out


def _name(what: str, path: str, number: int) -> str:
    # Captures of malware are named by long hashes.
    stem = re.sub(r"-?[0-9a-f]{8}-[0-9a-f-]{20,}", "", Path(path).stem)
    if not stem:
        stem = Path(path).stem[:8]
    return f"{what} ({stem}{f' {number + 1}' if number else ''})"


def _pairs(table: pd.DataFrame) -> pd.Series:
    ends = zip(table["src_ip"], table["dst_ip"], strict=True)
    return pd.Series([frozenset(pair) for pair in ends], index=table.index)


def _read(paths: list[Path]) -> dict[str, pd.DataFrame]:
    """Return the flows of each capture by its file name."""
    import warnings

    import exfilml
    from exfilml.exceptions import SourceWarning

    with warnings.catch_warnings():
        # Some captures are damaged on purpose.
        warnings.simplefilter("ignore", SourceWarning)
        flows = exfilml.read_flows(paths, progress=False)
    return {str(name): own for name, own in flows.groupby("sensor")}


def _is_private(address: str) -> bool:
    return ipaddress.ip_address(address).is_private


class _Mover:
    """Gives a conversation addresses and hours of the lab."""

    def __init__(self, places: LabWorld, rng: random.Random) -> None:
        self.places = places
        self.rng = rng
        self.hosts = [h.ip for h in places.hosts if h.zone == "office"]
        # A few networks are shared by two conversations; no address is.
        self.free = itertools.product(range(20, 250), places.spare)

    def move(self, case: pd.DataFrame, label: str, scenario: str) -> pd.DataFrame:
        """Return the conversation as this site would have seen it."""
        first = case.iloc[0]
        ends = [first["src_ip"], first["dst_ip"]]
        # The victim opens the conversation, unless only the other end is private.
        if _is_private(ends[1]) and not _is_private(ends[0]):
            ends.reverse()
        asked = (case["dst_port"] == 53) & (case["protocol"] == 17)
        if asked.any() and _is_private(ends[1]):
            remote = self.places.resolver
        else:
            last, net = next(self.free)
            remote = f"{net}{last}"
        victim = self.rng.choice(self.hosts)
        day = self.rng.choice(list(self.places.split.days("test")))
        begin = self.places.split.when(day, self.rng.uniform(8, 18))
        length = (case["start"] - case["start"].min()).dt.total_seconds()
        # Some captures hold packets of several years; a case is one of some hours.
        seconds = begin + np.minimum(length, 6 * 3600.0)
        moved = case.copy()
        # Both ends of some captures are one machine's loopback address.
        back = (case["src_ip"] == ends[1]) & (ends[0] != ends[1])
        moved["src_ip"] = back.map({True: remote, False: victim}).astype("str")
        moved["dst_ip"] = back.map({True: victim, False: remote}).astype("str")
        moved["start"] = pd.to_datetime(seconds, unit="s", utc=True).astype(
            case["start"].dtype
        )
        moved["label"], moved["scenario"] = label, scenario
        return moved
