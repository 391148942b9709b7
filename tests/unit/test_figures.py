"""Figures on their way into files."""

import json
import math

from benchmarks import figures
from benchmarks.judging import DEPTH, Judged, any_by_k


def written(tmp_path, results):
    path = tmp_path / "made" / "figures.json"
    figures.write_json(path, results)
    return json.loads(path.read_text(encoding="utf-8"))


def test_what_is_written_is_read_back_and_its_folder_is_made(tmp_path):
    results = {"run": {"date": "2026-11-21"}, "rows": [{"name": "über", "count": 3, "is_met": True, "aim": None}]}
    assert written(tmp_path, results) == results


def test_figures_are_cut_to_the_digits_that_mean_something(tmp_path):
    assert written(tmp_path, {"p50_ms": (1.23456, 12345.6, 0.000123456)}) == {"p50_ms": [1.235, 12350.0, 0.0001235]}


def test_counts_are_kept_whole(tmp_path):
    assert written(tmp_path, {"memories": 123_456_789}) == {"memories": 123_456_789}


def question(*ranks):
    return Judged("data", "one", "held out", "kind", ranks, evidence=2, tokens=0)


def test_any_by_k_counts_a_question_from_the_rank_of_its_first_evidence_on():
    curve = any_by_k([question(1, 7), question(3), question()])
    assert len(curve) == DEPTH
    assert all(math.isclose(one, 100 / 3) for one in curve[:2])
    assert all(math.isclose(one, 200 / 3) for one in curve[2:])
