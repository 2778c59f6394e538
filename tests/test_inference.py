"""Inference by its own command: images decoded once, members judged out of fold, one lesion, a folder, a bundle."""

import json
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import simplejpeg
import torch
from commands import must_torchrun, tiny
from PIL import Image
from sklearn.metrics import roc_auc_score

import infer
import train
from configs.errors import UserError
from engine.members import find_members, load_member, within_memory
from loaders.shards import ShardSet

BACKBONES = ("efficientnet_b1", "efficientnet_b3", "efficientnet_b4", "resnest50")


@pytest.fixture(scope="module")
def runs(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny on all three folds and once on all rows, another backbone on two folds with the other meta vector."""
    out = tmp_path_factory.mktemp("runs")
    train.main(tiny(shard_folder, out, "--fold", "0", "1", "2", "none", "--epochs", "2", "--patience", "0"))
    words = ["--backbone", "test_resnet.r160_in1k", "--weights", "none", "--model.meta", "reference", "--epochs", "1"]
    train.main([*words, "--shards", str(shard_folder), "--out", str(out), "--batch-size", "16", "--fold", "0", "1"])
    return out


@pytest.fixture(scope="module")
def outputs(runs: Path, shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("outputs")
    infer.main(places(runs, shard_folder, out, "--ensemble"))
    return out


def places(runs: Path, shards: Path, out: Path, *more: str) -> list[str]:
    return ["--runs", str(runs), "--shards", str(shards), "--out", str(out), *more]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every JPEG that is decoded."""
    seen: list[int] = []
    original = simplejpeg.decode_jpeg

    def counted(*words: object, **options: object) -> object:
        seen.append(1)
        return original(*words, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
    return seen


@pytest.mark.parametrize("more", [("--views", "1"), ("--views", "8"), ("--memory-gb", "0.000001")])
def test_each_image_is_decoded_once_whatever_the_members_and_views(
    more: tuple[str, ...], runs: Path, shard_folder: Path, tmp_path: Path, decoded: list[int]
) -> None:
    infer.main(places(runs, shard_folder, tmp_path, "--ensemble", *more))
    assert len(decoded) == 140 + 9


def test_members_that_do_not_fit_together_say_the_same(
    runs: Path, outputs: Path, shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [len(group) for group in within_memory(find_members(runs), 1)] == [1] * 6
    infer.main(places(runs, shard_folder, tmp_path, "--ensemble", "--memory-gb", "0.000001"))
    assert "6 groups, the images are kept in memory" in capsys.readouterr().out
    for name in ("predictions.parquet", "oof.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / name), pd.read_parquet(outputs / name))


@pytest.mark.parametrize("fails", [False, True])
def test_compiled_members_say_the_same_and_eager_ones_say_why(
    fails: bool,
    runs: Path,
    outputs: Path,
    shard_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shapes: list[torch.Size] = []
    todo: set[int] = set()

    def traced(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        shapes.append(next(one.shape for one in inputs if one.dtype == torch.uint8))
        if fails:
            raise RuntimeError("no compiler")
        return graph.forward

    def ruled(passes: int, *, on_gpu: bool) -> bool:
        assert not on_gpu
        todo.add(passes)
        return True

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=traced))
    monkeypatch.setattr("engine.inference.predicts_compiled", ruled)
    infer.main(places(runs, shard_folder, tmp_path, "--ensemble", "--batch-size", "16"))
    for name in ("predictions.parquet", "oof.parquet"):
        found, expected = (pd.read_parquet(folder / name) for folder in (tmp_path, outputs))
        pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-5)
    assert {shape[0] for shape in shapes} == {16}  # smaller batches go through as they are
    said = capsys.readouterr().out.count("predicting without compilation, because torch.compile failed: ")
    assert said == (5 if fails else 0)  # the one on all rows only had a small batch
    # One test batch for each member, and for each but that on all rows the batches of its fold; four views of each.
    folds = [-(-rows // 16) for rows in np.bincount(ShardSet(shard_folder).fold[ShardSet(shard_folder).fold >= 0])]
    assert todo == {4 * (4 + sum(folds)), 4 * (2 + sum(folds[:2]))}


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_predictions_do_not_depend_on_the_batch(
    batch: int, runs: Path, outputs: Path, shard_folder: Path, tmp_path: Path
) -> None:
    infer.main(places(runs, shard_folder, tmp_path, "--ensemble", "--batch-size", str(batch)))
    assert_same_predictions(outputs, tmp_path)


@pytest.mark.long
def test_two_ranks_predict_what_one_predicts(runs: Path, outputs: Path, shard_folder: Path, tmp_path: Path) -> None:
    must_torchrun(2, "infer.py", *places(runs, shard_folder, tmp_path, "--ensemble", "--batch-size", "8"))
    assert_same_predictions(outputs, tmp_path)


def assert_same_predictions(one: Path, two: Path) -> None:
    for name in ("predictions.parquet", "oof.parquet"):
        first, second = (pd.read_parquet(folder / name) for folder in (one, two))
        assert first["key"].tolist() == second["key"].tolist()
        numbers = first.select_dtypes("float").columns.drop("rank")
        np.testing.assert_allclose(first[numbers], second[numbers], atol=1e-5)


def test_the_out_of_fold_rows_are_those_of_training(runs: Path, shard_folder: Path, tmp_path: Path) -> None:
    """With one view, a member's out-of-fold score is pred_last, or pred_best with --checkpoint best."""
    for checkpoint in ("last", "best"):
        words = ["--ensemble", "--views", "1", "--checkpoint", checkpoint]
        infer.main(places(runs, shard_folder, tmp_path / checkpoint, *words))
        oof = pd.read_parquet(tmp_path / checkpoint / "oof.parquet").set_index("key")
        assert len(oof) == 140
        for fold in range(3):
            known = pd.read_parquet(runs / "tiny" / f"fold{fold}" / "oof.parquet").set_index("key")
            np.testing.assert_allclose(oof.loc[known.index, "tiny"], known[f"pred_{checkpoint}"], atol=1e-5)
        covered = oof["test_resnet.r160_in1k"].notna()
        assert set(oof.loc[covered, "fold"]) == {0, 1}


def test_the_judgement_counts_what_each_model_covers(
    runs: Path, shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infer.main(places(runs, shard_folder, tmp_path, "--ensemble"))
    assert "tiny_foldnone: trained on all rows, so that no out-of-fold row judges it" in capsys.readouterr().out
    record = json.loads((tmp_path / "ensemble.json").read_text())
    oof = pd.read_parquet(tmp_path / "oof.parquet")
    rows = {row["name"]: row for row in record["judgement"]["table"]}
    for name, column in (("tiny", "tiny"), ("test_resnet.r160_in1k", "test_resnet.r160_in1k"), ("ensemble", "raw")):
        known = oof[oof[column].notna()]
        assert rows[name]["rows"] == len(known)
        assert rows[name]["delong"]["merged"]["value"] == pytest.approx(roc_auc_score(known["target"], known[column]))
        year = known[known["source"] == 2019]
        assert rows[name]["delong"]["2019"]["value"] == pytest.approx(roc_auc_score(year["target"], year[column]))


def test_the_ensemble_is_the_mean_over_models_of_the_mean_over_members(outputs: Path) -> None:
    table = pd.read_parquet(outputs / "predictions.parquet")
    tiny_members = [f"tiny_fold{fold}" for fold in (0, 1, 2, "none")]
    others = [f"test_resnet.r160_in1k_fold{fold}" for fold in (0, 1)]
    models = [table[names].mean(axis=1) for names in (tiny_members, others)]
    np.testing.assert_allclose(table["raw"], (models[0] + models[1]) / 2, atol=1e-12)
    submission = pd.read_csv(outputs / "submission_ensemble.csv").set_index("image_name")
    np.testing.assert_allclose(submission.loc[table["key"], "target"], table["raw"], atol=1e-8)
    assert table["calibrated"].between(0, 1, inclusive="neither").all()


@pytest.mark.parametrize("combine", ["rank", "weighted"])
def test_the_other_ways_of_combining(combine: str, runs: Path, shard_folder: Path, tmp_path: Path) -> None:
    infer.main(places(runs, shard_folder, tmp_path, "--ensemble", "--combine", combine))
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert table["raw"].between(0, 1).all()
    if combine == "rank":
        np.testing.assert_allclose(table["raw"], table["rank"])


def test_a_prevalence_shifts_the_odds(runs: Path, outputs: Path, shard_folder: Path, tmp_path: Path) -> None:
    infer.main(places(runs, shard_folder, tmp_path, "--ensemble", "--prevalence", "0.01"))
    before, after = (pd.read_parquet(folder / "predictions.parquet")["calibrated"] for folder in (outputs, tmp_path))
    trained = pd.read_parquet(outputs / "oof.parquet")["target"].mean()
    factor = 0.01 / 0.99 / (trained / (1 - trained))
    np.testing.assert_allclose(after / (1 - after), factor * before / (1 - before), rtol=1e-6)


def test_no_network_is_needed_to_build_members(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for member in find_members(runs):
        assert load_member(member, "last", torch.device("cpu")).path.name == "last.pt"


# ---- one lesion ----


@pytest.fixture(scope="module")
def lesion(downloads: tuple[Path, Path], shard_folder: Path) -> tuple[Path, str]:
    """A training image of 2020 and its key."""
    rows = pd.read_parquet(shard_folder / "samples.parquet")
    row = rows[(rows["split"] == "test")].iloc[0]
    return downloads[0] / "jpeg" / "test" / f"{row['key']}.jpg", str(row["key"])


def test_one_lesion_gets_the_answer_of_the_shard_set(
    runs: Path, outputs: Path, shard_folder: Path, lesion: tuple[Path, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, key = lesion
    facts = pd.read_parquet(shard_folder / "samples.parquet").set_index("key").loc[key]
    words = ["--age", f"{facts['age']:g}", "--sex", facts["sex"], "--site", facts["site"]]
    infer.main([*places(runs, shard_folder, outputs), "--image", str(path), *words, "--csv", str(tmp_path / "a.csv")])
    printed = capsys.readouterr().out
    answer = pd.read_csv(tmp_path / "a.csv").iloc[0]
    row = pd.read_parquet(outputs / "predictions.parquet").set_index("key").loc[key]
    for name in ("raw", "calibrated", "spread_views", "tiny_fold0"):
        assert answer[name] == pytest.approx(row[name], abs=1e-5), name
    assert "not a medical device" in printed
    assert f"probability of melanoma {row['calibrated']:.3f}" in printed
    assert "of the out-of-fold melanomas" in printed
    assert "95% sensitivity" in printed


def test_a_png_without_metadata_and_several_files(
    runs: Path, outputs: Path, shard_folder: Path, lesion: tuple[Path, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    Image.open(lesion[0]).resize((123, 77)).save(tmp_path / "lesion.png")
    (tmp_path / "note.jpg").write_text("no image")
    files = [str(tmp_path / "lesion.png"), str(lesion[0]), str(tmp_path / "note.jpg")]
    infer.main([*places(runs, shard_folder, outputs), "--site", "anterior torso", "--image", *files])
    printed = capsys.readouterr().out
    assert printed.count("probability of melanoma") == 2
    assert "(torso)" in printed
    assert "note.jpg: cannot be used: not an image" in printed


def test_a_folder_of_images_has_a_row_for_each_and_the_bad_ones_reason(
    runs: Path, outputs: Path, shard_folder: Path, downloads: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(downloads[0] / "jpeg" / "test", tmp_path / "new")
    (tmp_path / "new" / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    for name in ("ensemble.json", "oof.parquet"):
        shutil.copy(outputs / name, tmp_path / name)
    meta = ["--meta", str(downloads[0] / "test.csv")]
    infer.main([*places(runs, shard_folder, tmp_path), "--images", str(tmp_path / "new"), *meta])
    table = pd.read_csv(tmp_path / "images.csv", keep_default_na=False)
    table["key"] = table["image"].map(lambda path: Path(path).stem)
    table = table.set_index("key")
    assert table.loc["bad", "reason"]
    assert table.loc["bad", "raw"] == ""
    known = pd.read_parquet(outputs / "predictions.parquet").set_index("key")
    got = table.drop(index="bad")["raw"].astype(float)
    tiny_only = [name for name in known if name.startswith("tiny")]
    assert (table.drop(index="bad")["reason"] == "").all()
    for name in tiny_only:  # the other model's meta vector counts a patient's images, which differ here
        np.testing.assert_allclose(table.loc[known.index, name].astype(float), known[name], atol=1e-5)
    assert len(got) == 9


@pytest.mark.long
def test_two_ranks_share_a_folder(
    runs: Path, outputs: Path, shard_folder: Path, downloads: tuple[Path, Path], tmp_path: Path
) -> None:
    for name in ("ensemble.json", "oof.parquet"):
        shutil.copy(outputs / name, tmp_path / name)
    shutil.copytree(downloads[0] / "jpeg" / "test", tmp_path / "new")
    (tmp_path / "new" / "zzz.jpg").write_bytes(b"")
    words = [*places(runs, shard_folder, tmp_path), "--images", str(tmp_path / "new")]
    infer.main(words)
    one = (tmp_path / "images.csv").rename(tmp_path / "one.csv")
    must_torchrun(2, "infer.py", *words)
    pd.testing.assert_frame_equal(pd.read_csv(one), pd.read_csv(tmp_path / "images.csv"), atol=1e-5, check_exact=False)


# ---- submissions ----


def test_missing_rows_are_counted_and_can_be_filled(
    runs: Path, shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.read_parquet(shard_folder / "samples.parquet")
    keys = rows.loc[rows["split"] == "test", "key"].tolist()
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("image_name,target\n" + "".join(f"{key},0\n" for key in [*keys[::-1], "ISIC_9999999"]))
    words = places(runs, shard_folder, tmp_path, "--sample-submission", str(sample))
    infer.main(words)
    assert "1 of 10 images have no prediction, first ISIC_9999999; Kaggle refuses" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "submission_tiny_fold0.csv")["image_name"].tolist() == keys[::-1]
    infer.main([*words, "--fill", "prior"])
    filled = pd.read_csv(tmp_path / "submission_tiny_fold0.csv")
    assert filled["image_name"].tolist() == [*keys[::-1], "ISIC_9999999"]
    assert filled["target"].iloc[-1] == pytest.approx(rows.loc[rows["split"] == "train", "target"].mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image,target\nISIC_5000000,0\n", "has the columns image, target: expected image_name, target"),
        ("image_name,target\nISIC_5000000,0\n", "does not name 8 of the 9 test images"),
        ("image_name,target\nISIC_1,0\nISIC_1,0\n", "names 1 images twice, first ISIC_1"),
    ],
)
def test_a_sample_submission_of_another_set_is_refused(
    content: str, said: str, runs: Path, shard_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "sample.csv").write_text(content)
    with pytest.raises(UserError, match=said):
        infer.main(places(runs, shard_folder, tmp_path, "--sample-submission", str(tmp_path / "sample.csv")))


# ---- a bundle ----


def test_a_bundle_predicts_without_the_run_folder(
    runs: Path, shard_folder: Path, lesion: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, outputs = tmp_path / "bundle", tmp_path / "outputs"
    for fold in range(2):
        shutil.copytree(runs / "tiny" / f"fold{fold}", tmp_path / "runs" / "tiny" / f"fold{fold}")
    runs = tmp_path / "runs"
    infer.main(places(runs, shard_folder, outputs, "--ensemble"))
    infer.main([*places(runs, shard_folder, outputs), "--export", str(bundle)])
    words = ["--image", str(lesion[0]), "--age", "50", "--sex", "female"]
    infer.main([*places(runs, shard_folder, outputs), *words, "--csv", str(tmp_path / "runs.csv")])
    capsys.readouterr()
    nowhere = places(tmp_path / "no runs", tmp_path / "no shards", tmp_path / "no outputs")
    infer.main([*nowhere, "--bundle", str(bundle), *words, "--csv", str(tmp_path / "bundle.csv")])
    first, second = (pd.read_csv(tmp_path / name) for name in ("runs.csv", "bundle.csv"))
    pd.testing.assert_frame_equal(first, second)
    card = (bundle / "model_card.md").read_text()
    assert "Out-of-fold AUC" in card
    assert "not a medical device" in card
    table = pd.read_parquet(bundle / "oof.parquet")
    assert not {"key", "group"} & set(table)
    with pytest.raises(UserError, match="is not empty"):
        infer.main([*places(runs, shard_folder, outputs), "--export", str(bundle)])
    content = bytearray((bundle / "tiny_fold0.safetensors").read_bytes())
    content[-1] ^= 1
    (bundle / "tiny_fold0.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"tiny_fold0\.safetensors is missing or damaged"):
        infer.main([*nowhere, "--bundle", str(bundle), *words])


@pytest.mark.parametrize("backbone", ["tiny", *(pytest.param(name, marks=pytest.mark.long) for name in BACKBONES)])
def test_onnxruntime_gives_the_probability_of_the_network(backbone: str, tmp_path: Path) -> None:
    import onnxruntime

    from configs.schema import ModelConfig, OptimConfig
    from engine.bundle import Served, export_onnx
    from engine.network import build_network

    torch.manual_seed(0)
    device = torch.device("cpu")
    network, objective = build_network(
        backbone, ModelConfig(), OptimConfig(), "melanoma", size=128, weights="none", device=device
    )
    network.eval()
    export_onnx(network, objective, size=128, meta="clinical", path=tmp_path / "member.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "member.onnx"))
    for batch in (1, 3):
        image = torch.randint(0, 256, (batch, 128, 128, 3), dtype=torch.uint8)
        meta = torch.rand(batch, 11)
        with torch.inference_mode():
            wanted = Served(network, objective)(image, meta).numpy()
        (found,) = session.run(["probability"], {"image": image.numpy(), "meta": meta.numpy()})
        np.testing.assert_allclose(found, wanted, atol=1e-4)


# ---- Grad-CAM ----


def test_grad_cam_draws_where_the_members_look(
    runs: Path, outputs: Path, shard_folder: Path, lesion: tuple[Path, str]
) -> None:
    infer.main([*places(runs, shard_folder, outputs), "--image", str(lesion[0]), "--explain"])
    overlay = np.asarray(Image.open(outputs / f"{lesion[0].stem}_gradcam.png"))
    assert overlay.shape == (64, 64, 3)
    with Image.open(lesion[0]) as image:
        plain = np.asarray(image.resize((64, 64)))
    assert np.abs(overlay.astype(float) - plain).mean() > 5


# ---- wrong inputs ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--age", "-5"], "--age -5"),
        (["--site", "elbow"], "--site elbow: wanted head/neck"),
        (["--sex", "m"], "--sex m: wanted female or male"),
        ([], "cannot be used: not an image"),
    ],
)
def test_wrong_facts_and_files_end_in_one_line(
    words: list[str], said: str, runs: Path, outputs: Path, shard_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("this is no image")
    with pytest.raises(UserError, match=said) as raised:
        infer.main([*places(runs, shard_folder, outputs), "--image", str(tmp_path / "text.jpg"), *words])
    assert "\n" not in str(raised.value)


def test_a_bomb_is_refused_before_it_is_decoded(runs: Path, outputs: Path, shard_folder: Path, tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="pixels: more than the 100,000,000 accepted"):
        infer.main([*places(runs, shard_folder, outputs), "--image", str(tmp_path / "bomb.png")])


def test_a_member_that_was_trained_again_is_refused(
    runs: Path, outputs: Path, shard_folder: Path, lesion: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    train.main(tiny(shard_folder, tmp_path / "runs", "--fold", "0", "--epochs", "1", "--resume", "never"))
    with pytest.raises(UserError, match=r"is not the file that .* judged"):
        infer.main([*places(tmp_path / "runs", shard_folder, outputs), "--image", str(lesion[0])])


def test_one_lesion_needs_a_judged_ensemble(
    runs: Path, shard_folder: Path, lesion: tuple[Path, str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"ensemble\.json does not exist: run python infer\.py --ensemble first"):
        infer.main([*places(runs, shard_folder, tmp_path), "--image", str(lesion[0])])
