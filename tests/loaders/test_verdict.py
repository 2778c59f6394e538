import re
from dataclasses import replace
from typing import Any

import pytest

from loaders.verdict import Feed, verdict

FEED = Feed(
    kept=0.7, interval=(0.6, 0.8), loader_alone=0.9, placement="host", cache="none", on_gpu=False,
    stage_us={"read": 1.0, "decode": 200.0, "augment": 20.0, "copy": 1.0},
)  # fmt: skip
FAST: dict[str, Any] = {"loader_alone": 5.0}
GPU: dict[str, Any] = {"placement": "dali-gpu", "on_gpu": True}


@pytest.mark.parametrize(
    ("changes", "bound", "said"),
    [
        ({}, "loader", "data bounds this run: FIGURES; .* decode takes most .200.: decode once with .*cache ram"),
        (FAST, "sharing", "share this machine: FIGURES; .*decode once with --loader.cache ram"),
        ({**GPU, **FAST}, "sharing", "share the GPU: FIGURES; .*--loader.decode cpu, or .* --loader.placement host"),
        ({**GPU, **FAST, "cache": "gpu"}, "sharing", r"\(200\): leave the GPU to the step"),
        (GPU, "loader", "decode once with --loader.cache gpu"),
        ({"kept": 0.97, "interval": (0.96, 0.98)}, "step", "data kept up: FIGURES; the training step bounds this run"),
        ({"kept": 1.02, "interval": (1.01, 1.03)}, "step", "data kept up"),
        ({"interval": None, "loader_alone": None}, "loader", "data bounds this run"),
        ({"interval": None, "stage_us": dict.fromkeys(FEED.stage_us, 0.0)}, "step", "data kept up"),
    ],
)
def test_the_verdict_follows_from_the_rates(changes: dict[str, Any], bound: str, said: str) -> None:
    feed = replace(FEED, **changes)
    assert feed.bound == bound
    assert re.search(said, verdict(feed, "FIGURES"))


@pytest.mark.parametrize("kept", [0.7, 0.925, 1.1])
@pytest.mark.parametrize("loader_alone", [0.5, 37.0])
def test_where_the_interval_holds_one_it_is_a_tie_and_nothing_of_the_data_is_to_be_changed(
    kept: float, loader_alone: float
) -> None:
    feed = replace(FEED, kept=kept, interval=(0.65, 1.2), loader_alone=loader_alone)
    assert feed.bound == "tie"
    words = verdict(feed, "FIGURES")
    assert "FIGURES" in words
    assert "more --rounds and --seconds" in words
    assert "--loader" not in words
