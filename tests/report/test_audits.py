"""The audits on tables and leaks: what they say of sets in which the truth was planted."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import made_up
from PIL import Image

from configs.errors import UserError
from configs.prep import PrepConfig
from engine.members import find_members
from evaluation.neighbours import closest_across
from evaluation.shortcuts import SHORTCUTS
from prep.build import build
from report.case import Case
from report.embedding import drawn_rows, embedded
from report.page import Picture, Section, Table
from report.sections import flow, leaks, shortcuts, tripod
from report.style import png

ROOT = Path(__file__).resolve().parents[2]


def table(section: Section, name: str) -> list[dict[str, object]]:
    return next(
        [dict(row) for row in part.rows] for part in section.parts if isinstance(part, Table) and part.name == name
    )


def text(section: Section) -> str:
    return " ".join([section.lead, *(part for part in section.parts if isinstance(part, str))])


def must_be_shown(section: Section) -> None:
    """Every picture can be drawn and every table has one set of columns."""
    for part in section.parts:
        if isinstance(part, Picture):
            assert png(part.figure).startswith(b"\x89PNG")
        if isinstance(part, Table):
            assert part.rows
            assert all(list(row) == list(part.rows[0]) for row in part.rows)


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of the shortcuts, which take a third of the time."""
    kept = ("source", "file size", "age, sex, site")
    monkeypatch.setattr("evaluation.shortcuts.SHORTCUTS", {name: SHORTCUTS[name] for name in kept})


@pytest.fixture
def case(shard_folder: Path) -> Case:
    return made_up(shard_folder)


def test_the_flow_counts_every_row_once(case: Case) -> None:
    stages = flow.stages_of(case)
    rows, left_out = len(case.rows), sum(flow.reasons_of(case.rows).values())
    assert rows == 80 + 9 + 60
    assert len(stages["training"]) + len(stages["test"]) + len(stages["extra"]) + left_out == rows
    section = flow.section(case)
    must_be_shown(section)
    counted = [row for row in table(section, "participant_flow") if row["source"] == "all"]
    assert {row["stage"]: row["images"] for row in counted} == {
        **{stage: len(part) for stage, part in stages.items()},
        **{f"left out: {reason}": count for reason, count in flow.reasons_of(case.rows).items()},
    }


def test_the_reasons_do_not_name_single_images(case: Case) -> None:
    rows = case.rows.assign(left_out=None)
    rows.loc[0:3, "left_out"] = [
        "duplicate of ISIC_1",
        "duplicate of ISIC_2",
        "cannot be used: cut",
        "image file missing",
    ]
    assert flow.reasons_of(rows) == {
        "duplicate of a kept image": 2,
        "file cannot be used": 1,
        "image file missing": 1,
    }


def test_with_one_held_out_fold_that_fold_was_not_trained_on(trained: Path, synthetic_shards: Path) -> None:
    members = find_members(trained)
    real = replace(made_up(synthetic_shards), members=members[:1])
    stages = flow.stages_of(real)
    assert set(stages["trained on"]["fold"]) == {1, 2}
    assert len(flow.stages_of(replace(real, members=members))["trained on"]) == len(stages["training"])


def test_it_is_said_how_many_outcomes_have_no_diagnosis(case: Case) -> None:
    rows = case.rows[case.rows["split"] == "train"].copy()
    rows.loc[(rows["source"] == 2020) & (rows["target"] == 0), "diagnosis"] = "unknown"
    benign = ((rows["source"] == 2020) & (rows["target"] == 0)).sum()
    said = flow.verified(rows)
    assert f"2020 has {((rows['source'] == 2020) & (rows['target'] == 1)).sum()} melanomas" in said
    assert f"of which {benign} have no diagnosis but that they are benign, not necessarily by histopathology" in said
    assert "2019 has" in said


@pytest.mark.usefixtures("fewer")
def test_a_shortcut_section_says_what_the_source_carries(synthetic_shards: Path) -> None:
    section = shortcuts.section(made_up(synthetic_shards))
    must_be_shown(section)
    assert section.verdict.startswith("Source alone scores 0.")
    assert {row["scored by"] for row in table(section, "shortcuts")} == {"source", "age, sex, site", "file size"}
    assert [row["score"] for row in table(section, "source_share")] == ["ensemble", "model0", "model1"]
    assert "--folds-file" in str(table(section, "not_measured_source"))


@pytest.mark.usefixtures("fewer")
def test_too_few_melanomas_are_not_given_a_figure(case: Case) -> None:
    found = table(shortcuts.section(case), "shortcuts")
    assert {row["2020"] for row in found} == {"too few"}


@pytest.mark.usefixtures("fewer")
def test_one_source_one_fold_and_no_ages_are_no_obstacle(shard_folder: Path) -> None:
    whole = made_up(shard_folder)
    rows = whole.rows.assign(source=np.int16(2020), age=np.nan)
    section = shortcuts.section(made_up(shard_folder, rows=rows, models=1))
    must_be_shown(section)
    assert "of one source" in section.verdict
    section = shortcuts.section(made_up(shard_folder, rows=whole.rows.assign(fold=np.int8(0))))
    must_be_shown(section)
    assert "there is one fold only" in text(section)


def test_no_leak_is_found_in_a_sound_set_and_its_duplicates_are_accounted_for(case: Case) -> None:
    section = leaks.section(case)
    must_be_shown(section)
    assert section.verdict.startswith("No known patient, lesion or duplicate is in two folds")
    assert {row["in several folds"] for row in table(section, "leaks")} == {0}
    pairs = table(section, "duplicate_pairs")
    csv = pd.read_csv(case.shards.folder / "duplicates.csv")
    assert sum(int(str(row["pairs"])) for row in pairs) == len(csv)
    for row in pairs:
        assert row["pairs"] == sum(
            value for name, value in row.items() if name not in ("pairs are", "found by", "pairs")
        )


def test_groups_that_span_folds_are_counted(case: Case) -> None:
    rows = case.rows.copy()
    training = rows["fold"] >= 0
    rows.loc[training, "fold"] = np.arange(training.sum(), dtype=np.int8) % 3
    training_rows = rows[training]
    spread = training_rows.groupby("group")["fold"].nunique()
    section = leaks.section(replace(case, rows=rows))
    assert f"{(spread > 1).sum()} groups of patients, lesions or duplicates span several folds" in section.verdict
    assert table(section, "leaks")[0]["in several folds"] == (spread > 1).sum()


def test_a_set_without_its_list_of_duplicates_is_refused(case: Case, tmp_path: Path) -> None:
    case.shards.folder = tmp_path
    with pytest.raises(UserError, match=r"duplicates\.csv cannot be read"):
        leaks.section(case)


@pytest.fixture(scope="module")
def pretrained() -> Path:
    path = Path(os.environ.get("PRETRAINED", ROOT / ".." / "shared" / "models" / "tf_efficientnet_lite0.safetensors"))
    if not path.is_file():
        pytest.skip(f"no pretrained weights at {path}: set PRETRAINED to a file of tf_efficientnet_lite0")
    return path


def plant(picture: Path, copy: Path) -> None:
    """Overwrite `copy` with the picture, brightened, and shifted by a twentieth of its width and height."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.float64)
    height, width = pixels.shape[:2]
    moved = Image.fromarray((pixels[height // 20 :, width // 20 :] * 1.1).clip(0, 255).astype(np.uint8))
    moved.resize((width, height)).save(copy, quality=90)


def some_of_2019(sample: Path, out: Path, count: int) -> Path:
    """A download of 2019 with `count` of the real pictures, spread over those that are there."""
    names = sorted(path.stem for path in (sample / "2019" / "ISIC_2019_Training_Input").glob("*.jpg"))
    names = names[:: len(names) // count][:count]
    (out / "ISIC_2019_Training_Input").mkdir(parents=True)
    for name in names:
        shutil.copyfile(*(folder / "ISIC_2019_Training_Input" / f"{name}.jpg" for folder in (sample / "2019", out)))
    for csv in ("ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"):
        table = pd.read_csv(sample / "2019" / csv, dtype="str")
        table[table["image"].isin(names)].to_csv(out / csv, index=False)
    return out


def test_planted_near_duplicates_come_first(pretrained: Path, isic_sample: Path, tmp_path: Path) -> None:
    """Two lesions each have the picture of another one, brightened and shifted: no table and no hash tells."""
    folder = some_of_2019(isic_sample, tmp_path / "2019", 120)
    prep = PrepConfig(isic2019=str(folder), out=str(tmp_path / "before"), size=128, folds=3, workers=1)
    build(prep)
    rows = made_up(tmp_path / "before").judged
    rows = rows[rows["subsource"] == "HAM"].groupby("fold").head(2)
    planted = [tuple(rows["key"][rows["fold"] == fold].iloc[place] for fold in (0, 1)) for place in (0, 1)]
    for one, other in planted:
        plant(*(folder / "ISIC_2019_Training_Input" / f"{name}.jpg" for name in (one, other)))
    build(replace(prep, out=str(tmp_path / "after")))
    known = pd.read_csv(tmp_path / "after" / "duplicates.csv")
    assert not known[["image_name_1", "image_name_2"]].isin(np.concatenate(planted)).to_numpy().any()
    case = made_up(tmp_path / "after", weights=str(pretrained), pictures=1000)
    section = leaks.section(case)
    must_be_shown(section)
    assert "compared with all those of other folds: 100.0% of all pairs." in text(section)
    listed = table(section, "near_duplicates")
    assert {frozenset((row["image 1"], row["image 2"])) for row in listed[:2]} == {frozenset(pair) for pair in planted}
    assert all(row["fold 1"] != row["fold 2"] for row in listed)


def test_pictures_are_drawn_by_the_seed_and_no_more_than_asked_for(shard_folder: Path) -> None:
    drawn = [drawn_rows(made_up(shard_folder, pictures=30, seed=seed)) for seed in (0, 0, 1)]
    assert [len(set(rows)) for rows in drawn] == [30, 30, 30]
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()


def test_a_member_embeds_where_no_weights_are_given(trained: Path, synthetic_shards: Path) -> None:
    case = replace(made_up(synthetic_shards, pictures=40), members=find_members(trained))
    found = embedded(case)
    assert found is not None
    assert found.vectors.shape[0] == 40
    assert found.backbone == "the member tiny_fold0"
    assert np.isfinite(closest_across(found.vectors, case.shards.fold[found.rows], 5).distance).all()
    must_be_shown(leaks.section(case))


def test_without_pictures_or_a_network_near_duplicates_are_not_measured(case: Case) -> None:
    assert embedded(case) is None
    assert "not measured (--pictures is 0, or no member sees images)" in text(leaks.section(case))


def test_the_checklist_has_all_27_items(case: Case, trained: Path) -> None:
    rows = table(tripod.section(replace(case, members=find_members(trained))), "tripod_ai")
    assert [row["item"] for row in rows] == list(range(1, 28))
    answered = [str(row["answer"]) for row in rows if str(row["answer"]).startswith("answered by this run: ")]
    assert all(str(row["answer"]).startswith(("answered by this run: ", "not answered: ")) for row in rows)
    assert any(f"{len(case.judged):,} images judged" in answer for answer in answered)
