import hashlib
import io
import json
import resource
import shutil
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
from configs.prep import PrepConfig
from loaders.shards import ShardSet
from prep.build import build
from prep.check import check_set
from prep.files import only_builder
from prep.manifest import read_manifest
from prep.pack import PackedShard, ShardTask


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def config_of(downloads: tuple[Path, Path], out: Path) -> PrepConfig:
    """What the set of all tests, the fixture `shard_folder`, was made with."""
    isic2020, isic2019 = map(str, downloads)
    shared = {"size": 64, "folds": 3, "workers": 1, "samples_per_shard": 20}
    return PrepConfig(isic2020=isic2020, isic2019=isic2019, out=str(out), **shared)  # type: ignore[arg-type]


@pytest.fixture
def config(downloads: tuple[Path, Path], tmp_path: Path) -> PrepConfig:
    return config_of(downloads, tmp_path / "set")


def set_of(shard_folder: Path, config: PrepConfig) -> Path:
    """The finished set of `config`, copied from the one that all tests share."""
    return shutil.copytree(shard_folder, Path(config.out))


def killed_before(step: str, config: PrepConfig) -> None:
    """A build that ends where `step` of prep.build would have begun."""
    import prep.build as building

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, step, lambda *_, **__: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            build(config)


@pytest.fixture(scope="session")
def killed_late(downloads: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build leaves that was killed when all shards were packed."""
    out = tmp_path_factory.mktemp("killed") / "set"
    killed_before("write_set", config_of(downloads, out))
    return out.with_name("set.partial")


@pytest.fixture
def partial(killed_late: Path, config: PrepConfig) -> Path:
    return shutil.copytree(killed_late, Path(config.out + ".partial"))


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
    others = {name for name in hashes if not name.endswith(".tar")} - {"manifest.json"}
    assert manifest.files == {name: hashes[name] for name in others}


def test_the_index_files_are_what_dalis_own_tool_writes(shard_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    tar = shard_folder / read_manifest(shard_folder).shards[0].file
    written = tmp_path / "own.idx"
    subprocess.run([sys.executable, "-m", "wds2idx", str(tar), str(written)], check=True, capture_output=True)
    assert tar.with_suffix(".idx").read_text().split() == written.read_text().split()


def test_the_same_bytes_on_any_number_of_workers(config: PrepConfig, shard_folder: Path) -> None:
    build(replace(config, workers=2))
    assert digest(Path(config.out)) == digest(shard_folder)


def test_a_second_run_changes_nothing(config: PrepConfig, shard_folder: Path) -> None:
    set_of(shard_folder, config)
    before = {path: path.stat().st_mtime_ns for path in Path(config.out).iterdir()}
    assert "nothing to do" in build(config)
    assert {path: path.stat().st_mtime_ns for path in Path(config.out).iterdir()} == before


def test_other_options_never_overwrite_a_finished_set(config: PrepConfig, shard_folder: Path) -> None:
    set_of(shard_folder, config)
    with pytest.raises(UserError, match="choose another --out"):
        build(replace(config, quality=80))
    assert digest(Path(config.out)) == digest(shard_folder)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    config: PrepConfig, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prep.build as building

    packed: list[str] = []
    pack = building.pack_shard

    def dies_at_the_fourth(task: ShardTask) -> PackedShard:
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

    set_of(shard_folder, config).rename(config.out + ".partial")
    monkeypatch.setattr(building, "make", lambda *_: pytest.fail("made again"))
    build(config)
    assert digest(Path(config.out)) == digest(shard_folder)


def test_a_torn_record_of_a_shard_only_costs_this_shard(config: PrepConfig, partial: Path, shard_folder: Path) -> None:
    records = sorted(partial.glob("*.done.json"))
    records[0].write_text("")
    records[1].write_text('{"name": "half')
    build(config)
    assert digest(Path(config.out)) == digest(shard_folder)


def test_a_torn_chunk_or_index_only_costs_itself(config: PrepConfig, partial: Path, shard_folder: Path) -> None:
    chunks, indexes = sorted((partial / "stage").glob("*.npz")), sorted(partial.glob("*.idx"))
    chunks[0].write_bytes(chunks[0].read_bytes()[:500])
    (partial / "stage" / "000001.jpgs").write_bytes(b"")
    indexes[0].write_bytes(b"")
    indexes[1].unlink()
    build(config)
    assert digest(Path(config.out)) == digest(shard_folder)


def test_a_manifest_that_another_run_left_vouches_for_nothing(config: PrepConfig, shard_folder: Path) -> None:
    set_of(shard_folder, config).rename(config.out + ".partial")
    killed_before("write_set", replace(config, quality=60))
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
    config: PrepConfig, downloads: tuple[Path, Path], tmp_path: Path, shard_folder: Path
) -> None:
    folder = without(downloads, tmp_path, {"ISIC_0000003": b"not a picture", "ISIC_0000050": b""})
    config = replace(config, isic2020=str(folder))
    with pytest.raises(UserError) as raised:
        build(config)
    assert "2 images cannot be used" in str(raised.value)
    assert "ISIC_0000003.jpg: not an image" in str(raised.value)
    assert "ISIC_0000050.jpg: the file is empty" in str(raised.value)
    assert not Path(config.out).exists()
    rejected = pd.read_csv(Path(config.out + ".partial") / "rejected.csv")
    assert rejected["image_name"].tolist() == ["ISIC_0000003", "ISIC_0000050"]
    for key in rejected["image_name"]:
        (folder / "jpeg" / "train" / f"{key}.jpg").write_bytes(
            (downloads[0] / "jpeg/train" / f"{key}.jpg").read_bytes()
        )
    build(config)
    assert digest(Path(config.out)) == digest(shard_folder)


def test_bad_images_may_be_skipped_and_stay_in_the_table_with_the_reason(
    config: PrepConfig, downloads: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = without(downloads, tmp_path, {"ISIC_0000003": b"not a picture", "ISIC_0000050": b""})
    said = build(replace(config, isic2020=str(folder), on_bad="skip"))
    assert "2 cannot be used" in said
    rows = pd.read_parquet(Path(config.out) / "samples.parquet").set_index("key")
    assert rows.loc["ISIC_0000050", "left_out"] == "cannot be used: the file is empty"
    assert rows["left_out"].notna().sum() == 2
    assert len(pd.read_csv(Path(config.out) / "rejected.csv")) == 2
    assert check_set(Path(config.out), quick=False, workers=1) == []


def test_a_file_without_read_rights_is_said_and_read_once_it_may_be(
    config: PrepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prep.stage as staging

    read_regular = staging.read_regular

    def locked(path: str, most: int) -> bytes:
        if path.endswith("ISIC_0000009.jpg"):
            raise PermissionError(13, "Permission denied", path)
        return read_regular(path, most)

    monkeypatch.setattr(staging, "read_regular", locked)
    with pytest.raises(UserError, match=r"ISIC_0000009\.jpg: cannot be read: Permission denied"):
        build(config)
    monkeypatch.undo()
    build(config)
    assert read_manifest(Path(config.out)).samples == 149


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


def test_what_is_not_ours_is_never_published(config: PrepConfig) -> None:
    partial = Path(config.out + ".partial")
    partial.mkdir()
    (partial / "notes.md").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.md, which is not part of a shard set"):
        build(config)
    assert [path.name for path in partial.iterdir()] == ["notes.md"]


def test_two_builders_of_one_set_do_not_meet(config: PrepConfig) -> None:
    with (
        only_builder(Path(config.out + ".partial"), ["*"]),
        pytest.raises(UserError, match="another process is building"),
    ):
        build(config)


def test_a_disk_without_room_is_said_before_any_work(config: PrepConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"about 0\.0 GB are needed, 0\.0 GB are free"):
        build(config)
    assert not list(Path(config.out + ".partial").iterdir())


def test_a_disk_that_fills_up_is_one_line_and_the_next_run_goes_on(
    downloads: tuple[Path, Path], tmp_path: Path, shard_folder: Path
) -> None:
    words = ["--isic2020", str(downloads[0]), "--isic2019", str(downloads[1]), "--out", str(tmp_path / "set")]
    words += ["--size", "64", "--folds", "3", "--samples-per-shard", "20", "--workers", "1"]
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000,) * 2); "
    limited += "sys.argv = ['prep/shard.py', *sys.argv[1:]]; runpy.run_path('prep/shard.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", limited, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert ".tmp" not in done.stderr, "the file's own name"
    assert "File too large: check free space and permissions" in done.stderr
    assert not (tmp_path / "set").exists()
    build(config_of(downloads, tmp_path / "set"))
    assert digest(tmp_path / "set") == digest(shard_folder)


@pytest.mark.parametrize(("most", "name"), [(2_000, "samples.parquet"), (60_000, "overview.png")])
def test_a_file_that_finds_no_room_is_named_and_leaves_nothing(
    config: PrepConfig, partial: Path, shard_folder: Path, most: int, name: str
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            build(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.filename == str(partial / name)
    assert not list(partial.rglob("*.tmp"))
    build(config)
    assert digest(Path(config.out)) == digest(shard_folder)


def test_a_manifest_that_cannot_be_used_does_not_stop_a_build(
    config: PrepConfig, partial: Path, shard_folder: Path
) -> None:
    (partial / "manifest.json").write_text('{"schema_version": 2}')
    build(config)
    assert digest(Path(config.out)) == digest(shard_folder)
