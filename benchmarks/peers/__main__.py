"""Measures the service and its peers in one run. `python -m benchmarks.peers --locomo FILE --realtalk FOLDER`.

The first run installs the peers into `--cache` (some minutes, 3 GB). Progress goes to stderr, tables to stdout.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks import conversations, machine, texts
from benchmarks.bare_model import BareModel
from benchmarks.conversations import Dialogue
from benchmarks.figures import rendered, write_json
from benchmarks.judging import any_by_k, mean
from benchmarks.peers import environments, evidence, report, shared, work
from benchmarks.peers.contender import Contender, PeerProcess
from benchmarks.peers.environments import PEERS, Peer
from benchmarks.peers.ours import Ours
from benchmarks.peers.report import OURS, QUALITY, Answers
from benchmarks.peers.work import FULL, QUICK, Done

Opened = Callable[[Path], Contender]


def main() -> None:
    """Install the peers, measure, and print the tables."""
    arguments = _arguments()
    began = time.monotonic()
    plan = QUICK if arguments.quick else FULL
    chosen = texts.from_file(arguments.texts, plan.texts) if arguments.texts else texts.synthetic(plan.texts)
    contenders: dict[str, Opened] = {OURS: Ours}
    contenders |= {peer.name: _opener(peer, arguments.cache.resolve()) for peer in PEERS if peer.name in arguments.only}
    about = {
        **machine.described(),
        **{peer.name: f"{environments.version(peer)}: {peer.interface}" for peer in PEERS if peer.name in contenders},
        "texts": chosen.source,
        "load at the start": machine.load(),
    }
    dialogues = _dialogues(arguments)
    with tempfile.TemporaryDirectory(prefix="vector-memory-peers-") as name:
        folder = Path(name)
        answers = _answers(contenders, dialogues, folder) if dialogues else []
        done = _done(contenders, work.split(chosen.lines, plan), folder)
    about |= {"load at the end": machine.load(), "took": f"{time.monotonic() - began:.0f} s"}
    head = "\n".join(f"{name}: {value}" for name, value in about.items())
    print("\n\n".join([head, *(rendered(table) for table in report.tables(answers, done))]))
    if arguments.json:
        results = {name: asdict(one) for name, one in done.items()}
        write_json(arguments.json, {"run": about, "quality": _quality(answers), "work": results})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--locomo", type=Path, metavar="FILE", help="LoCoMo's JSON, such as locomo10.json")
    parser.add_argument("--realtalk", type=Path, metavar="FOLDER", help="REALTALK's JSON files")
    parser.add_argument("--texts", type=Path, metavar="FILE[.gz]", help="texts to store, one a line")
    parser.add_argument("--cache", type=Path, default=Path(".cache/peers"), help="where the peers are installed")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these peers alone")
    parser.add_argument("--quick", action="store_true", help="1,000 memories and one conversation, in two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    return parser.parse_args()


def _opener(peer: Peer, cache: Path) -> Opened:
    interpreter = environments.python(peer, cache)
    return lambda folder: PeerProcess(interpreter, peer.name, folder)


def _dialogues(arguments: argparse.Namespace) -> list[Dialogue]:
    dialogues = conversations.locomo(arguments.locomo) if arguments.locomo else []
    dialogues += conversations.realtalk(arguments.realtalk) if arguments.realtalk else []
    return dialogues[:1] if arguments.quick else dialogues


def _answers(contenders: dict[str, Opened], dialogues: Sequence[Dialogue], folder: Path) -> list[Answers]:
    vectors = shared.write(folder / "turns", evidence.texts(dialogues), "embedding turns for the peers")
    answers = []
    for name, opened in contenders.items():
        with opened(folder / f"{name}-turns") as contender:
            for content in (evidence.WITH_METADATA, evidence.DATED) if name == OURS else (evidence.DATED,):
                print(f"{name}: conversations as {content.name}", file=sys.stderr)
                judged = evidence.measure(contender, dialogues, content, vectors)
                answers.append(Answers(name, content.name, tuple(judged)))
    return answers


def _done(contenders: dict[str, Opened], shares: work.Work, folder: Path) -> dict[str, Done]:
    vectors = shared.write(folder / "texts", [one["text"] for one in shares.filled], "embedding texts for the peers")
    model = BareModel()
    done = {}
    for name, opened in contenders.items():
        print(f"{name}: work", file=sys.stderr)
        done[name] = work.measure(partial(opened, folder / name), shares, vectors, model)
    return done


def _quality(answers: Sequence[Answers]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for group in answers:
        for source in dict.fromkeys(one.source for one in group.judged):
            of_source = [one for one in group.judged if one.source == source]
            for part in ("all", *dict.fromkeys(one.part for one in of_source)):
                judged = [one for one in of_source if part in ("all", one.part)]
                about = {"contender": group.contender, "stored as": group.content, "source": source, "part": part}
                figures = {name: mean(judged, name) for name in QUALITY}
                curve = {"questions": len(judged), "figures": figures, "any_by_k": any_by_k(judged)}
                found.append({**about, **curve})
    return found


if __name__ == "__main__":
    main()
