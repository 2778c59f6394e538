import hashlib
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejpeg

from configs.errors import UserError
from configs.schema import PrepConfig
from loaders.reference import reference_samples
from loaders.shards import ShardSet
from prep.build import build
from prep.manifest import read_manifest


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def config(downloads: tuple[Path, Path], tmp_path: Path) -> PrepConfig:
    isic2020, isic2019 = downloads
    return PrepConfig(
        isic2020=str(isic2020),
        isic2019=str(isic2019),
        out=str(tmp_path / "set"),
        size=64,
        folds=3,
        workers=1,
        samples_per_shard=20,
    )


def test_samples_parquet_says_what_is_in_the_tars(shard_folder: Path) -> None:
    rows = pd.read_parquet(shard_folder / "samples.parquet")
    assert len(rows) == 149
    for shard, part in rows.groupby("shard"):
        assert part.groupby(["split", "fold"]).ngroups == 1
        with tarfile.open(shard_folder / shard) as tar:
            names = [member.name for member in tar.getmembers()]
            assert {member.mtime for member in tar.getmembers()} == {0}
        wanted = [f"{key}.{ending}" for key in part["key"] for ending in ("jpg", "json", "npy", "cls")]
        assert names == wanted
        content = (shard_folder / shard).read_bytes()
        assert content[257:265] == b"ustar\x0000"
        for row in part.itertuples():
            pixels = simplejpeg.decode_jpeg(content[row.offset : row.offset + row.length])
            assert pixels.shape == (64, 64, 3)


def test_the_manifest_counts_and_hashes_the_shards(shard_folder: Path) -> None:
    manifest = read_manifest(shard_folder)
    assert (manifest.samples, manifest.left_out) == (149, 0)
    assert sum(entry.samples for entry in manifest.shards) == 149
    assert sum(count["samples"] for count in manifest.counts) == 149
    hashes = digest(shard_folder)
    assert {entry.file: entry.sha256 for entry in manifest.shards} == {
        name: value for name, value in hashes.items() if name.endswith(".tar")
    }
    assert manifest.samples_sha256 == hashes["samples.parquet"]


def test_plain_webdataset_reads_the_same_samples(shard_folder: Path) -> None:
    shards = ShardSet(shard_folder)
    tars = [shard_folder / entry.file for entry in shards.manifest.shards]
    for index, sample in enumerate(reference_samples(tars)):
        assert sample["key"] == shards.key[index].as_py()
        assert sample["target"] == shards.target[index]
        assert sample["facts"]["source"] == shards.source[index]
        np.testing.assert_array_equal(sample["meta"].numpy(), shards.meta[index])
        ours = simplejpeg.decode_jpeg(shards.jpeg(index))
        assert np.abs(sample["image"].numpy().astype(int) - ours).mean() < 1
    assert index == len(shards) - 1


def test_dali_reads_the_shards_by_their_index_files(shard_folder: Path) -> None:
    dali = pytest.importorskip("nvidia.dali")
    tar = shard_folder / read_manifest(shard_folder).shards[0].file
    pipeline = dali.Pipeline(batch_size=20, num_threads=1, device_id=None)
    with pipeline:
        pipeline.set_outputs(
            *dali.fn.readers.webdataset(
                paths=[str(tar)], index_paths=[str(tar.with_suffix(".idx"))], ext=["jpg", "cls"], random_shuffle=False
            )
        )
    pipeline.build()
    jpegs, labels = pipeline.run()
    shards = ShardSet(shard_folder)
    for index in range(20):
        assert jpegs.at(index).tobytes() == bytes(shards.jpeg(index))
        assert int(labels.at(index).tobytes()) == shards.target[index]


def test_the_index_files_are_what_dalis_own_tool_writes(shard_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    tar = shard_folder / read_manifest(shard_folder).shards[0].file
    written = tmp_path / "own.idx"
    subprocess.run([sys.executable, "-m", "wds2idx", str(tar), str(written)], check=True, capture_output=True)
    assert tar.with_suffix(".idx").read_text().split() == written.read_text().split()


def test_the_same_bytes_on_any_number_of_workers(config: PrepConfig, shard_folder: Path) -> None:
    build(replace(config, workers=2))
    assert digest(Path(config.out)) == digest(shard_folder)


def test_a_second_run_changes_nothing(config: PrepConfig) -> None:
    build(config)
    before = {path: path.stat().st_mtime_ns for path in Path(config.out).iterdir()}
    assert "nothing to do" in build(config)
    assert {path: path.stat().st_mtime_ns for path in Path(config.out).iterdir()} == before


def test_other_options_never_overwrite_a_finished_set(config: PrepConfig) -> None:
    build(config)
    before = digest(Path(config.out))
    with pytest.raises(UserError, match="choose another --out"):
        build(replace(config, quality=80))
    assert digest(Path(config.out)) == before


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    config: PrepConfig, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prep.build as building

    packed: list[str] = []
    pack = building.pack_shard

    def dies_at_the_fourth(task: building.ShardTask) -> building.PackedShard:
        if len(packed) == 3:
            raise KeyboardInterrupt
        packed.append(task.name)
        return pack(task)

    monkeypatch.setattr(building, "pack_shard", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        build(config)
    assert not Path(config.out).exists()
    partial = Path(config.out + ".partial")
    kept = {name: (partial / f"{name}.tar").stat().st_mtime_ns for name in packed}
    monkeypatch.setattr(building, "pack_shard", pack)
    build(config)
    assert digest(Path(config.out)) == digest(shard_folder)
    assert {name: (Path(config.out) / f"{name}.tar").stat().st_mtime_ns for name in packed} == kept
    assert not partial.exists()


def test_a_set_that_only_lacked_its_name_gets_it(
    config: PrepConfig, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prep.build as building

    monkeypatch.setattr(building, "publish", lambda *_: None)
    build(config)
    monkeypatch.undo()
    monkeypatch.setattr(building, "pack_all", lambda *_: pytest.fail("packed again"))
    build(config)
    assert digest(Path(config.out)) == digest(shard_folder)


def test_a_torn_record_of_a_shard_only_costs_this_shard(
    config: PrepConfig, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prep.build as building

    monkeypatch.setattr(building, "finish", lambda *_: pytest.fail("killed here"))
    with pytest.raises(pytest.fail.Exception):
        build(config)
    monkeypatch.undo()
    records = sorted(Path(config.out + ".partial").glob("*.done.json"))
    records[0].write_text("")
    records[1].write_text('{"name": "half')
    build(config)
    assert digest(Path(config.out)) == digest(shard_folder)


def without(downloads: tuple[Path, Path], tmp_path: Path, damage: dict[str, bytes | None]) -> Path:
    """A copy of the 2020 download in which images are replaced (bytes) or removed (None)."""
    folder = tmp_path / "2020"
    for path in downloads[0].rglob("*.*"):
        target = folder / path.relative_to(downloads[0])
        target.parent.mkdir(parents=True, exist_ok=True)
        content = damage.get(path.stem, path.read_bytes())
        if content is not None:
            target.write_bytes(content)
    return folder


def test_missing_images_fail_by_default_and_name_ten(
    config: PrepConfig, downloads: tuple[Path, Path], tmp_path: Path
) -> None:
    gone = {f"ISIC_{number:07d}": None for number in range(12)}
    folder = without(downloads, tmp_path, gone)
    with pytest.raises(UserError) as raised:
        build(replace(config, isic2020=str(folder), isic2019=None))
    message = str(raised.value)
    assert message.startswith("12 of 89 images")
    assert [name for name in gone if name in message] == list(gone)[:10]
    assert not list(tmp_path.glob("set*"))


def test_skipped_images_stay_in_the_table_with_the_reason(
    config: PrepConfig, downloads: tuple[Path, Path], tmp_path: Path, shard_folder: Path
) -> None:
    folder = without(downloads, tmp_path, {"ISIC_0000007": None})
    build(replace(config, isic2020=str(folder), missing="skip"))
    rows = pd.read_parquet(Path(config.out) / "samples.parquet").set_index("key")
    assert rows.loc["ISIC_0000007", "left_out"] == "image file missing"
    assert rows["left_out"].notna().sum() == 1
    complete = pd.read_parquet(shard_folder / "samples.parquet").set_index("key")
    assert (rows["fold"] == complete.loc[rows.index, "fold"]).all(), "folds depend on the tables alone"
    assert len(ShardSet(Path(config.out))) == 148


def test_bad_images_are_listed_together_and_no_set_is_made(
    config: PrepConfig, downloads: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = without(downloads, tmp_path, {"ISIC_0000003": b"not a picture", "ISIC_0000050": b""})
    with pytest.raises(UserError) as raised:
        build(replace(config, isic2020=str(folder)))
    assert "2 images cannot be used" in str(raised.value)
    assert "ISIC_0000003.jpg: not an image" in str(raised.value)
    assert "ISIC_0000050.jpg: the file is empty" in str(raised.value)
    assert not Path(config.out).exists()


def test_the_labels_hash_knows_folds_and_targets_but_not_the_image_size(config: PrepConfig, shard_folder: Path) -> None:
    build(replace(config, size=32))
    assert read_manifest(Path(config.out)).labels_sha256 == read_manifest(shard_folder).labels_sha256
    build(replace(config, seed=1, out=config.out + "-other"))
    assert read_manifest(Path(config.out + "-other")).labels_sha256 != read_manifest(shard_folder).labels_sha256


def test_a_clinical_vector_in_the_tar_equals_the_table(shard_folder: Path) -> None:
    rows = pd.read_parquet(shard_folder / "samples.parquet")
    with tarfile.open(shard_folder / rows["shard"][0]) as tar:
        member = tar.extractfile(f"{rows['key'][0]}.npy")
        facts = tar.extractfile(f"{rows['key'][0]}.json")
        assert member is not None
        assert facts is not None
        np.testing.assert_array_equal(np.load(io.BytesIO(member.read())), rows["meta_clinical"][0])
        assert json.loads(facts.read())["group"] == rows["group"][0]


def test_a_folder_that_is_not_ours_is_left_alone(config: PrepConfig) -> None:
    out = Path(config.out)
    out.mkdir()
    (out / "thesis.txt").write_text("dear reader")
    with pytest.raises(UserError, match="not empty and holds no shard set"):
        build(config)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    build(config)
    assert read_manifest(out).samples == 149
