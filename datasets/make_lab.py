"""Make the lab's captures: two weeks of an office, three days with planted transfers.

Root and Linux only; see lab/README.md.

    sudo python3 datasets/make_lab.py --split develop --out datasets/lab/develop
    python3 datasets/make_lab.py --flows develop          # Parquet of committed captures
    python3 datasets/make_lab.py --check develop --against /tmp/rebuilt
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from lab import splits
from sample_lab import network, running

if TYPE_CHECKING:
    from lab.scenarios import Scenario
    from lab.splits import Split
    from lab.world import LabWorld
    from sample_lab.capture import Flow
    from sample_lab.schedule import Session

HERE = Path(__file__).resolve().parent
HALVES = ("baseline", "test")
FACTS = [
    "scenario",
    "label",
    "host",
    "src_ip",
    "to",
    "carrier",
    "via",
    "cipher",
    "encoding",
    "pacing",
    "bytes",
    "flows",
    "payload_visible",
    "start",
    "end",
]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--split", choices=splits.NAMES, help="make this split")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to")
    parser.add_argument(
        "--seed-from-commit", metavar="HASH", help="seed of the report split"
    )
    parser.add_argument(
        "--part", type=float, default=1.0, metavar="SHARE",
        help="run this share of the benign sessions, for trying things out",
    )  # fmt: skip
    parser.add_argument(
        "--flows", metavar="SPLIT", help="write Parquet flows beside the captures"
    )
    parser.add_argument("--check", metavar="SPLIT", help="check committed captures")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="rebuilt captures to compare"
    )
    parser.add_argument(
        "--attacks", metavar="SPLIT",
        help="lay real attacks ($EXFILML_REAL_DATA) over a split's test days",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.attacks:
        from lab import attacks

        return attacks.write(_folder(options.attacks), options.out)
    if options.flows or options.check:
        from lab import check, tables

        if options.flows:
            return tables.write(_folder(options.flows))
        return check.report(_folder(options.check), options.against)
    if not (options.split and options.out):
        parser.error("give --split NAME --out DIR, --flows SPLIT or --check SPLIT")
    try:
        split = splits.choose(options.split, options.seed_from_commit)
    except ValueError as error:
        print(f"make_lab: {error}", file=sys.stderr)
        return 2
    return build(split, options.out, options.part)


def _folder(text: str) -> Path:
    """Return the folder of a split that is named, or a folder itself."""
    return HERE / "lab" / text if text in splits.NAMES else Path(text)


def build(split: Split, out: Path, part: float) -> int:
    """Make a split below a scratch directory, then put it in its place."""
    from lab import servers

    problem = running.missing(servers.missing_packages())
    modules = servers.missing_modules()
    if modules and not problem.startswith("namespaces"):
        install = f"{sys.executable} -m pip install {' '.join(modules)}"
        problem = f"{problem or 'missing'}; run: {install}"
    if problem:
        print(f"make_lab: {problem}", file=sys.stderr)
        return 2
    return running.build("make_lab", lambda work: make(work, split, part), out)


def make(work: Path, split: Split, part: float) -> Path:
    """Build the lab, run both halves and return the split's folder below `work`."""
    # These need Pillow, whose absence deserves a better message than a traceback.
    from lab import clock, honest, servers
    from lab.habits import Habits
    from lab.scenarios import Planner
    from lab.world import LabWorld
    from sample_lab import content

    begin = time.monotonic()
    say = running.Progress()
    say("writing files")
    # Separate generators: a change in one part leaves the others as they were.
    places = LabWorld(split)
    planner = Planner(split, places)
    places.late_domains = planner.mail_domains
    places.mx_addresses += tuple(ip for _, ip in planner.mail_domains)
    rng = random.Random(f"{split.seed} content")
    corpus = content.build(work / "corpus", rng)
    large = servers.more_files(work / "corpus", planner, corpus, rng)
    habits = Habits(random.Random(f"{split.seed} habits"), places, corpus, large)
    folder = work / split.name
    folder.mkdir()
    outside = places.outside([*planner.addresses, *planner.names.values()])
    with network.Network(work, places, outside) as net:
        lab = servers.LabServers(net, places, planner)
        say("writing configuration and keys")
        lab.prepare()
        habits.client, new = lab.tunnel_clients()
        honest.finish(planner, new)
        net.open()
        if not net.impair():
            say("this kernel has no netem: no delay, no loss")
        say("starting servers")
        lab.start()
        for half in HALVES:
            sessions = habits.half(half)
            sessions = sessions[: round(len(sessions) * part)]
            if half == "test":
                sessions += [s for p in planner.scenarios for s in p.sessions]
                sessions.sort(key=lambda s: s.when)
            raw = net.record(half, clock.SNAP)
            starts = running.run(net, sessions, lab.env(), say, half)
            net.stop_recording()
            flows = clock.rewrite(raw, sessions, starts, folder / f"{half}.pcap.gz")
            for path in raw:
                path.unlink()
    write_tables(folder, planner.scenarios, sessions, flows, places)
    say(f"done after {time.monotonic() - begin:.0f} s", end="\n")
    return folder


def write_tables(
    folder: Path,
    plan: list[Scenario],
    sessions: list[Session],
    flows: list[Flow],
    places: LabWorld,
) -> None:
    """Write labels, scenarios and checksums next to the captures."""
    resolver = ipaddress.ip_address(places.resolver).packed
    seen: dict[str, list[Flow]] = {scenario.name: [] for scenario in plan}
    by_name = {scenario.name: scenario for scenario in plan}
    labels = []
    for flow in sorted(flows, key=lambda f: f.first):
        session = sessions[flow.session]
        if not session.scenario:
            continue
        own = by_name[session.scenario]
        # A lookup prepares a session, unless it is what carries the data.
        if resolver in (flow.key[1], flow.key[3]) and not own.is_dns:
            continue
        seen[session.scenario].append(flow)
        labels.append(running.label_row(flow, session.label, session.scenario))
    running.write_csv(folder / "labels.csv", running.LABEL_COLUMNS, labels)
    rows: list[list[object]] = [
        [
            s.name, s.label, s.host, places.host[s.host].ip, s.to, s.carrier, s.via,
            s.cipher, s.encoding, s.pacing, s.n_bytes or _sent(seen[s.name], places.host[s.host].ip),
            len(seen[s.name]), "yes" if s.visible else "no",
            running.utc(math.floor(min(f.first for f in seen[s.name]))),
            running.utc(math.ceil(max(f.last for f in seen[s.name]))),
        ]
        for s in plan
    ]  # fmt: skip
    running.write_csv(folder / "scenarios.csv", list(FACTS), rows)
    names = [*(f"{half}.pcap.gz" for half in HALVES), "labels.csv", "scenarios.csv"]
    running.write_sums(folder, names)


def _sent(flows: list[Flow], host: str) -> int:
    """Return the payload that a host sent, whoever opened the connection."""
    address = ipaddress.ip_address(host).packed
    return sum(
        flow.payload[way]
        for flow in flows
        for way, end in enumerate((flow.key[1], flow.key[3]))
        if end == address
    )


if __name__ == "__main__":
    sys.exit(main())
