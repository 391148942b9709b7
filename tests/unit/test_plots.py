"""Plots of tiny files. matplotlib is an extra of the benchmarks: where it is missing, nothing here runs."""

import pytest

from benchmarks import plots
from benchmarks.figures import write_json

pytest.importorskip("matplotlib")

RUN = {"date": "2026-11-21", "machine": "2 cores"}
TOOK = {"p50_ms": 1.0, "p99_ms": 2.0, "count": 3}
START = {"retrieved_s": 0.7}
HELD = {"memories": 1_000, "from_snapshot": [START], "from_journals": [START, START], "bare_s": [0.2]}
ASKED = {"source": "LoCoMo", "any_by_k": [40.0, 60.0], "figures": {"any@10": 60.0}}

TINY = {
    "quality": {
        "asked": [
            {**ASKED, "variant": plots.DEFAULT, "mode": "hybrid", "part": part}
            for part in ("all", "development", "held out")
        ]
    },
    "index_tier": {
        "tiers": [{"rows": 10, "lanes": [{"name": "all", "took": TOOK, "recall": 1.0}], "brute_force": TOOK}]
    },
    "main_job": {
        "served": [{"retrieves": {"memories": 1_000, "lanes": [{"searched": "all", "ratio": 2.0}]}}],
        "cold_starts": [HELD],
    },
    "volume": {"starts": [{"memories": 1_000, "starts": [START], "bare_s": [0.2]}]},
    "peers": {
        "quality": [{**ASKED, "contender": "ours", "stored as": "text", "part": part} for part in ("all", "held out")],
        "work": {"ours": {"retrieve": TOOK, "single": TOOK, "bare_p50_ms": 2.0}},
    },
}


@pytest.mark.parametrize("name", plots.PLOTS)
def test_every_known_file_becomes_a_picture_beside_it(tmp_path, name):
    write_json(tmp_path / f"{name}.json", {"run": RUN, **TINY[name]})
    assert plots.draw(tmp_path) == [tmp_path / f"{name}.png"]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_figures_give_the_same_file(tmp_path):
    write_json(tmp_path / "quality.json", {"run": RUN, **TINY["quality"]})
    first = plots.draw(tmp_path)[0].read_bytes()
    assert plots.draw(tmp_path)[0].read_bytes() == first


def test_where_nothing_was_measured_nothing_is_drawn(tmp_path):
    assert plots.draw(tmp_path) == []
