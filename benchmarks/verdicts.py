"""Measures how far verdicts on citations can be trusted, by true, altered and wrongly cited claims.

It makes the claims from conversations that you get yourself (docs/retrieval.md), without a language model and with
fixed seeds (`benchmarks/claims_made.py`). `research/grounding/verification.py` gives a verdict on each with the real
model. The tables have the precision and the recall of the verdict `supported`, which the true claims should get. A run
takes about 4 minutes on two cores.
"""

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import machine
from benchmarks.claims_made import TRUE, Made, made
from benchmarks.conversations import Dialogue, Turn, locomo, realtalk
from benchmarks.figures import Table, ms, rendered
from memory_service.embedding.embedder import Vectors
from memory_service.embedding.minilm import MiniLM
from research.grounding import verification
from research.grounding.claims import read
from research.grounding.evidence import Evidence, TextFeatures
from research.grounding.verification import SUPPORTED_MIN, CitedClaim, Judgement, judge, verify
from vector_memory.research import Passage

PARTS = ("development", "held out")
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TIMED_ANSWERS, TIMED_SENTENCES = 100, 5
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim and the judgement on it."""

    claim: Made
    finding: Judgement


class Model:
    """The service's default embedder with a cache of all vectors."""

    def __init__(self) -> None:
        self._model = MiniLM.load()
        self._known: dict[str, Vectors] = {}

    def kept(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors (n, dim) of texts. Each distinct text is embedded once."""
        new = sorted({text for text in texts if text not in self._known}, key=len)
        for at in range(0, len(new), _BATCH):
            batch = new[at : at + _BATCH]
            self._known.update(zip(batch, self.fresh(batch), strict=True))
        return np.stack([self._known[text] for text in texts])

    def fresh(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors (n, dim) of texts, embedded now."""
        return self._model.embed([self._model.windows(text)[0] for text in texts])


def main() -> None:
    """Measure, then print the tables."""
    arguments = _arguments()
    dialogues = locomo(arguments.locomo) if arguments.locomo else []
    dialogues += realtalk(arguments.realtalk) if arguments.realtalk else []
    model = Model()
    judged = _judged(dialogues, made(dialogues, arguments.locomo, model.kept), model)
    tables = [table for part in PARTS for table in _tables(part, [one for one in judged if one.claim.part == part])]
    print("\n\n".join(rendered(table) for table in [*tables, _timed(dialogues, judged, model)]))
    print("\n" + ", ".join(machine.described().values()))
    if arguments.plot:
        _draw(arguments.plot, judged)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--locomo", type=Path, metavar="FILE")
    parser.add_argument("--realtalk", type=Path, metavar="FOLDER")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw precision and recall, if matplotlib is there")
    arguments = parser.parse_args()
    if not arguments.locomo and not arguments.realtalk:
        parser.error("name --locomo FILE or --realtalk FOLDER")
    return arguments


def passage(turn: Turn, n: int = 1) -> Passage:
    """Return a turn as a passage of a prompt, with its speaker in the metadata."""
    return Passage(
        n=n,
        key=turn.key,
        namespace="default",
        content=turn.text,
        metadata={"speaker": turn.speaker},
        score=0.5,
        date=turn.time,
        created_at=turn.time,
        truncated=False,
        speaker=turn.speaker,
    )


def _judged(dialogues: Sequence[Dialogue], claims: Sequence[Made], model: Model) -> list[Judged]:
    speakers: dict[int, frozenset[str]] = {}
    for one in dialogues:
        of_both = frozenset(stem for turn in one.turns for stem in TextFeatures(turn.speaker).telling_stems)
        speakers |= {id(turn): of_both for turn in one.turns}
    found = []
    for at in range(0, len(claims), verification.EMBEDDED_MAX):
        part = claims[at : at + verification.EMBEDDED_MAX]
        cited = [
            CitedClaim(one.text, Evidence(passage(one.turn)), speaker_stems=speakers[id(one.turn)]) for one in part
        ]
        found += judge(cited, model.kept)
    return [Judged(claim, finding) for claim, finding in zip(claims, found, strict=True)]


# -- tables ------------------------------------------------------------------------------------------------------------


def _tables(part: str, judged: Sequence[Judged]) -> list[Table]:
    if not judged:
        return []
    kinds = list(dict.fromkeys(one.claim.kind for one in judged))
    kinds.sort(key=lambda kind: kind not in TRUE)
    return [_kinds_table(part, judged, kinds), _curve_table(part, judged)]


def _kinds_table(part: str, judged: Sequence[Judged], kinds: Sequence[str]) -> Table:
    rows = []
    for kind in kinds:
        group = [one for one in judged if one.claim.kind == kind]
        counts = Counter(one.finding.verdict for one in group)
        right = counts["supported"] if kind in TRUE else len(group) - counts["supported"]
        shown = (str(counts[verdict]) for verdict in ("supported", "weak", "unsupported"))
        rows.append((kind, "true" if kind in TRUE else "false", str(len(group)), *shown, _percent(right, len(group))))
    return Table(
        f"Verdicts by kind of claim, {part}",
        ("kind", "is", "claims", "supported", "weak", "unsupported", "right, %"),
        tuple(rows),
        ("Right: true claims that are supported, false ones that are not.",),
    )


def _curve_table(part: str, judged: Sequence[Judged]) -> Table:
    every = (*THRESHOLDS, SUPPORTED_MIN)
    rows = []
    for name, group in (("all", judged), ("without exact sentences", _paraphrased(judged))):
        rows += [
            (name, f"{least:.2f}", *(f"{100 * value:.1f}" for value in _precision_recall(group, least)))
            for least in sorted(set(every))
        ]
    return Table(
        f"Supported from which probability on, {part}",
        ("claims", "from", "precision, %", "recall, %", "F1, %"),
        tuple(rows),
        (
            f"The service takes {SUPPORTED_MIN}.",
            "There are more false claims than true ones, which precision depends on.",
        ),
    )


def _paraphrased(judged: Sequence[Judged]) -> list[Judged]:
    return [one for one in judged if one.claim.kind != TRUE[0]]


def _precision_recall(judged: Sequence[Judged], least: float) -> tuple[float, float, float]:
    # Whether each claim that counts as supported is true. The sum is the number of true positives.
    taken = [one.claim.is_true for one in judged if one.finding.probability >= least]
    true = sum(one.claim.is_true for one in judged)
    precision, recall = sum(taken) / max(1, len(taken)), sum(taken) / max(1, true)
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}"


def _timed(dialogues: Sequence[Dialogue], judged: Sequence[Judged], model: Model) -> Table:
    """Return a table of the time to verify an answer of five paraphrases, each with its turn among eight passages."""
    open_ones = [one.claim for one in judged if one.claim.kind in TRUE[1:] and one.finding.signals is not None]
    durations = []
    for at in range(0, min(len(open_ones), TIMED_ANSWERS * TIMED_SENTENCES) - TIMED_SENTENCES + 1, TIMED_SENTENCES):
        group = open_ones[at : at + TIMED_SENTENCES]
        answer = " ".join(f"{one.text.rstrip('.')} [{n}]." for n, one in enumerate(group, 1))
        given = [passage(turn, n) for n, turn in enumerate([*(one.turn for one in group), *dialogues[0].turns[:3]], 1)]
        began = time.perf_counter()
        verify(read(answer), given, model.fresh)
        durations.append(time.perf_counter() - began)
    return Table(
        "Verifying an answer of five sentences, none of them verbatim",
        ("answers", "p50 ms", "most ms"),
        ((str(len(durations)), ms(1000 * median(durations)), ms(1000 * max(durations))),),
    )


def _draw(path: Path, judged: Sequence[Judged]) -> None:
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        print(f"{path} was not drawn: matplotlib is not installed.", file=sys.stderr)
        return
    figure, panels = pyplot.subplots(1, len(PARTS), figsize=(12, 4), sharey=True)
    steps = np.linspace(0.02, 0.98, 97)
    for panel, part in zip(panels, PARTS, strict=True):
        group = _paraphrased([one for one in judged if one.claim.part == part])
        # (steps, 3) precision, recall and F1 at each least probability.
        curves = np.array([_precision_recall(group, float(least)) for least in steps])
        for name, curve in zip(("precision", "recall", "F1"), curves.T, strict=True):
            panel.plot(steps, 100 * curve, label=name)
        panel.axvline(SUPPORTED_MIN, color="grey", linestyle=":")
        panel.set(title=f"{part}, without exact sentences", xlabel="least probability", ylabel="%", ylim=(0, 100))
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
