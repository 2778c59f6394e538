"""With and without smaller images: the same members, in as many calls as it takes, timed and judged."""

from pathlib import Path

import pandas as pd
import pytest
from commands import epoch_lines
from sklearn.metrics import roc_auc_score

from benchmarks.progressive import WAYS, main
from benchmarks.record import read


@pytest.mark.long
def test_members_are_trained_in_pieces_timed_and_judged(
    shard_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, runs = tmp_path / "progressive.json", tmp_path / "runs"
    words = ["--shards", str(shard_folder), "--backbone", "tiny", "--weights", "none", "--runs", str(runs)]
    words += ["--folds", "2", "--epochs", "3", "--smaller", "2", "--size", "32", "--batch-size", "16"]
    words += ["--out", str(out)]
    main([*words, "--minutes", "0.001"])
    assert "0 of 4 members are finished" in capfd.readouterr().out
    assert not out.exists()
    main(words)
    record = read(out)
    assert (record["size"], record["smaller_size"], record["folds"], record["seeds"]) == (64, 32, 2, 1)
    found = {}
    for way, sizes in (("full", [64, 64, 64]), ("progressive", [32, 32, 64])):
        folders = [runs / way / "seed0" / "tiny" / f"fold{fold}" for fold in range(2)]
        assert [[line["image_size"] for line in epoch_lines(folder)] for folder in folders] == [sizes, sizes]
        oof = pd.concat([pd.read_parquet(folder / "oof.parquet") for folder in folders])
        found[way] = roc_auc_score(oof["target"], oof["pred_last"])
        assert record["auc"]["merged"][way]["value"] == pytest.approx(found[way], abs=1e-4)
    difference = record["auc"]["merged"]["progressive_minus_full"]
    assert difference["value"] == pytest.approx(found["progressive"] - found["full"], abs=2e-4)
    assert difference["low"] <= difference["value"] <= difference["high"]
    full, less = (record["seconds"][way] for way in WAYS)
    assert record["saved"]["value"] == pytest.approx(1 - less / full, abs=2e-3)
    assert record["saved"]["least"] <= record["saved"]["value"] <= record["saved"]["most"]
    main(words)
    assert read(out)["seconds"] == record["seconds"], "nothing is trained or timed again"
