"""What is drawn on changes scores as a member by itself says; a planted ruler is called out, and only where planted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import tiny

import infer
import train
from configs.prep import PrepConfig, SyntheticConfig
from configs.report import ReportConfig
from engine.members import load_member
from loaders.shards import ShardSet
from prep.build import build
from prep.synth.folder import make
from report.artefacts.drawing import DRAWINGS
from report.artefacts.scoring import pictures, ranks_of, scores_of, unchanged
from report.artefacts.stress import drawn_by_class, stress_test
from report.case import Case, open_case
from report.page import Picture, Table
from report.sections import explanations
from report.sections import pictures as artefacts
from report.style import png


@pytest.fixture(scope="module")
def runs(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny on all three folds; another backbone on fold 0 alone, with the other meta vector."""
    out = tmp_path_factory.mktemp("runs")
    train.main(tiny(shard_folder, out, "--fold", "0", "1", "2", "--epochs", "1"))
    words = ["--backbone", "test_resnet.r160_in1k", "--weights", "none", "--model.meta", "reference", "--epochs", "1"]
    train.main([*words, "--shards", str(shard_folder), "--out", str(out), "--batch-size", "16", "--fold", "0"])
    infer.main(["--runs", str(out), "--shards", str(shard_folder), "--out", str(out / "outputs"), "--ensemble"])
    return out


def opened(runs: Path, shards: Path, **settings: object) -> Case:
    config = ReportConfig(runs=str(runs), shards=str(shards), draws=100, device="cpu", **settings)
    return open_case(config, ShardSet(shards))


@pytest.fixture(scope="module")
def case(runs: Path, shard_folder: Path) -> Case:
    return opened(runs, shard_folder, stressed=20, pictures=50)


def test_scores_are_those_of_the_members_that_did_not_see_the_picture(case: Case) -> None:
    """Member by member, picture by picture, for the picture as it is and with ink on it."""
    chosen, ink = np.array([0, 3, 60, 139]), DRAWINGS[2]
    with ranks_of(case) as ranks:
        found = scores_of(case, chosen, [unchanged, ink], ranks)
    oof, cpu = case.judgement.oof, torch.device("cpu")
    for place, number in enumerate(chosen.tolist()):
        (pixels,) = pictures(case.shards, case.index[[number]])
        for line, image in enumerate((pixels, ink(pixels, number))):
            single = []
            for member in case.members:
                if member.fold == oof.fold[number]:
                    loaded = load_member(member, "last", cpu)
                    meta = torch.from_numpy(case.shards.meta(member.meta)[case.index[[number]]])
                    with torch.inference_mode():
                        logits = loaded.network(torch.from_numpy(image)[None], meta)
                    single.append(loaded.objective.probabilities(logits)[0, 0].item())
            assert found[line, place] == pytest.approx(np.mean(single), abs=1e-5)


def test_pictures_are_drawn_from_both_classes_alike_as_far_as_there_are() -> None:
    target = np.arange(100) < 10
    for count, wanted in ((12, (6, 6)), (40, (10, 30)), (500, (10, 90))):
        chosen = drawn_by_class(target, count, seed=0)
        assert (int(target[chosen].sum()), int((~target[chosen]).sum())) == wanted
        assert len(set(chosen)) == len(chosen)
    assert len(drawn_by_class(~target, 500, seed=0)) == 100
    assert len(drawn_by_class(np.zeros(30, dtype=bool), 10, seed=0)) == 10


def test_few_pictures_are_not_judged(case: Case) -> None:
    stress = stress_test(case)
    assert {stress.finding(effect) for effect in stress.effects} == {"too few"}
    assert len(stress.effects) == len(DRAWINGS) * 3


@pytest.mark.parametrize("settings", [{}, {"stressed": 0}, {"pictures": 0}, {"stressed": 0, "pictures": 0}])
def test_what_is_left_out_is_said(settings: dict[str, int], runs: Path, shard_folder: Path) -> None:
    section = artefacts.section(opened(runs, shard_folder, **{"stressed": 8, "pictures": 12, **settings}))
    names = {part.name for part in section.parts if not isinstance(part, str)}
    said = " ".join(part for part in section.parts if isinstance(part, str))
    for setting, part in (("stressed", "stress_test"), ("pictures", "artefacts")):
        assert (part in names) == (settings.get(setting) != 0)
        assert (f"give --{setting} a number above 0" in said) == (settings.get(setting) == 0)
    assert bool(section.verdict) == ("stressed" not in settings)
    for part in section.parts:
        if isinstance(part, Picture):
            assert png(part.figure).startswith(b"\x89PNG")
        elif isinstance(part, Table):
            assert len({tuple(row) for row in part.rows}) == 1


# ---- explanations ----


def test_the_most_confident_of_each_kind_are_shown() -> None:
    target = np.array([1, 1, 1, 0, 0, 0], dtype=bool)
    score = np.array([0.9, 0.8, 0.1, 0.2, 0.05, 0.7])
    kinds = explanations.most_confident(target, score, score >= 0.5, 1)
    assert [found.tolist() for found in kinds.values()] == [[0], [2], [4], [5]]
    everything = explanations.most_confident(target, score, score >= 0.0, 4)
    assert [len(found) for found in everything.values()] == [3, 0, 0, 3]


def test_flips_are_shown_beside_the_published_ones(case: Case) -> None:
    section = explanations.section(case)
    (table,) = (part for part in section.parts if isinstance(part, Table))
    assert case.record is not None
    measured = case.record["judgement"]["stability"]["views"]["flips"]["value"]
    assert table.rows[0]["share of pictures whose decision flips"].value == measured
    assert "6.5 to 22 %" in section.lead
    assert [part.name for part in section.parts if isinstance(part, Picture)] == ["gradcam"]


def test_members_without_pictures_or_record_are_said(shard_folder: Path, tmp_path: Path) -> None:
    words = ["--fold", "0", "1", "2", "--epochs", "1", "--model.inputs", "meta"]
    train.main(tiny(shard_folder, tmp_path, *words))
    alone = opened(tmp_path, shard_folder, stressed=8)
    section = explanations.section(alone)
    assert any("No member has a convolutional backbone" in part for part in section.parts if isinstance(part, str))
    assert "was not measured" in section.lead
    assert not np.nanmax([abs(effect.beyond.value) for effect in stress_test(alone).effects])


# ---- a planted shortcut ----


@pytest.mark.long
@pytest.mark.parametrize(("plant", "called"), [("rulers", ["ruler marks"]), ("none", [])])
def test_a_planted_ruler_is_called_out_and_only_where_it_is_planted(
    plant: str, called: list[str], tmp_path: Path
) -> None:
    data, shards, runs = tmp_path / "data", tmp_path / "shards", tmp_path / "runs"
    make(SyntheticConfig(out=str(data), train=800, test=10, size=64, seed=1, workers=1, plant=plant))
    places = {"isic2020": str(data / "2020"), "isic2019": str(data / "2019"), "out": str(shards)}
    build(PrepConfig(**places, size=64, folds=2, workers=1))
    words = ["--backbone", "tiny", "--batch-size", "64", "--fold", "0", "1", "--epochs", "6", "--optim.lr", "3e-3"]
    train.main([*words, "--patience", "0", "--shards", str(shards), "--out", str(runs)])
    section = artefacts.section(opened(runs, shards, stressed=160, pictures=800))
    assert [part.split(":")[0] for part in section.verdict.split("SHORTCUT, ")[1:]] == called
