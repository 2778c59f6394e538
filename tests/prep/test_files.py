import errno
from pathlib import Path

import pytest

from configs.files import written_whole


@pytest.mark.parametrize("fsync", [False, True])
def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path, fsync: bool) -> None:
    path = tmp_path / "file"
    with written_whole(path, fsync=fsync) as out:
        out.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with written_whole(path) as out:
            out.write(b"half")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_name_never_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with written_whole(path) as first, written_whole(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first", "whoever ends last"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_disk_names_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError, match="No space left") as raised, written_whole(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as raised, written_whole(tmp_path / "none" / "file"):
        pass
    assert raised.value.filename == str(tmp_path / "none" / "file")
    with pytest.raises(FileNotFoundError) as raised, written_whole(path):
        Path("/of another file").read_bytes()
    assert raised.value.filename == "/of another file"
