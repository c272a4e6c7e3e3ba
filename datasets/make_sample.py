"""Make the sample captures: a week of an office, two days with planted transfers.

Root and Linux only, nothing else than Debian packages and Pillow; see README.md.

    sudo python3 datasets/make_sample.py --out datasets/sample --seed 6
    python3 datasets/make_sample.py --check datasets/sample     # needs nfstream
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from sample_lab import capture, network, planted, running, servers, world
from sample_lab.schedule import Schedule

if TYPE_CHECKING:
    from sample_lab.capture import Flow
    from sample_lab.content import Corpus
    from sample_lab.planted import Scenario
    from sample_lab.schedule import Session


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the sample here")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument(
        "--check", type=Path, metavar="DIR", help="check a sample with NFStream"
    )
    options = parser.parse_args()
    if options.check:
        from sample_lab import check

        return check.report(options.check)
    if not options.out:
        parser.error("give --out DIR to make the sample or --check DIR to check one")
    problem = running.missing(servers.missing_packages())
    if problem:
        print(f"make_sample: {problem}", file=sys.stderr)
        return 2
    return running.build(
        "make_sample", lambda work: make(work, options.seed), options.out
    )


def make(work: Path, seed: int) -> Path:
    """Build the lab, run both halves and return the sample's folder below `work`."""
    # Needs Pillow, whose absence deserves a better message than a traceback.
    from sample_lab import content

    say = running.Progress()
    say("writing files")
    # Separate generators: a change in one part leaves the others as they were.
    places = world.World(random.Random(f"{seed} world"))
    corpus = content.build(work / "corpus", random.Random(f"{seed} content"))
    outside = [ip for pair in places.names().values() for ip in pair if ip]
    outside += [*world.PUBLIC_RESOLVERS, *planted.NEW_NAMES.values()]
    outside += [sink.split("bind=")[1].split(",")[0] for sink in planted.SINKS]
    outside += [site.ip for site in places.all_web()]
    schedule = Schedule(random.Random(f"{seed} habits"), places, corpus)
    sample = work / "sample"
    sample.mkdir()
    with network.Network(work, places, outside) as net:
        lab = servers.Servers(
            net,
            places,
            extra=planted.NEW_NAMES,
            shells=planted.NEW_SHELLS,
            sinks=planted.SINKS,
        )
        say("writing configuration and keys")
        lab.prepare()
        net.open()
        say("starting servers")
        lab.start()
        plan = planted.scenarios(random.Random(f"{seed} planted"), lab)
        _sizes(plan, corpus)
        for half in ("baseline", "test"):
            sessions = schedule.half(half)
            if half == "test":
                sessions += [s for scenario in plan for s in scenario.sessions]
                sessions.sort(key=lambda s: s.when)
            raw = net.record(half)
            starts = running.run(net, sessions, lab.env(), say, half)
            net.stop_recording()
            flows = capture.rewrite(raw, sessions, starts, sample / f"{half}.pcap")
    write_tables(sample, plan, sessions, flows)
    say("done", end="\n")
    return sample


def _sizes(plan: list[Scenario], corpus: Corpus) -> None:
    """Fill in how much the hard negatives carry, from the files they name."""
    for scenario in plan:
        if scenario.label == planted.HARD:
            words = scenario.sessions[0].script.replace("@", " ").split()
            files = [w.removeprefix("$C/") for w in words if w.startswith("$C/")]
            files = [f.rstrip(";") for f in files]
            scenario.n_bytes = sum(
                path.stat().st_size
                for name in files
                for path in [corpus.root / name, *(corpus.root / name).glob("*")]
                if path.is_file()
            )


def write_tables(
    sample: Path, plan: list[Scenario], sessions: list[Session], flows: list[Flow]
) -> None:
    """Write labels, scenarios and checksums next to the captures."""
    resolver = ipaddress.ip_address(world.RESOLVER).packed
    labels = []
    seen: dict[str, list[Flow]] = {scenario.name: [] for scenario in plan}
    for flow in flows:
        session = sessions[flow.session]
        if session.scenario and resolver not in (flow.key[1], flow.key[3]):
            seen[session.scenario].append(flow)
            labels.append(running.label_row(flow, session.label, session.scenario))
    running.write_csv(sample / "labels.csv", running.LABEL_COLUMNS, labels)
    columns = "scenario label host src_ip to carrier cipher bytes connections start end"
    rows = [
        [
            s.name, s.label, s.host, world.HOST[s.host].ip, s.to, s.carrier, s.cipher,
            s.n_bytes, len(seen[s.name]),
            running.utc(math.floor(min(f.first for f in seen[s.name]))),
            running.utc(math.ceil(max(f.last for f in seen[s.name]))),
        ]
        for s in plan
    ]  # fmt: skip
    running.write_csv(sample / "scenarios.csv", columns.split(), rows)
    names = ("baseline.pcap", "test.pcap", "labels.csv", "scenarios.csv")
    running.write_sums(sample, names)


if __name__ == "__main__":
    sys.exit(main())
