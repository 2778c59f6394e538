import errno
import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sets import within

from configs.files import _this_host, clear_folder, written_whole
from prep.files import file_sha256

ROOT = Path(__file__).resolve().parents[2]


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


def aged(path: Path, seconds: float) -> Path:
    """An existing file that nobody has written to for some time."""
    when = path.stat().st_mtime - seconds
    os.utime(path, (when, when))
    return path


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    script = (
        "import pathlib, sys, time\nfrom configs.files import written_whole\n"
        "with written_whole(pathlib.Path(sys.argv[1])) as out:\n"
        "    out.write(b'half'); out.flush(); print(flush=True); time.sleep(600)\n"
    )
    words = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        (temporary,) = tmp_path.iterdir()
        aged(temporary, 60)
        with written_whole(path) as out:
            out.write(b"other")
        assert temporary.exists(), "its writer is alive"
        writer.send_signal(signal.SIGKILL)
    with written_whole(path) as out:
        out.write(b"whole")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"whole"


def test_only_leftovers_of_the_same_name_are_removed(tmp_path: Path) -> None:
    gone = [tmp_path / "file.1.0123abcd.tmp", tmp_path / "file.4194999.89abcdef.tmp"]
    kept = [tmp_path / name for name in ("file.tmp", "file.old.tmp", "other.1.0123abcd.tmp", "file.1.0123abcd.tmp2")]
    for path in (*gone, *kept):
        path.write_bytes(b"mine")
        aged(path, 60)
    with written_whole(tmp_path / "file"):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "file", *kept])


def test_another_hosts_leftovers_are_removed_after_a_day(tmp_path: Path) -> None:
    own, live, old = (tmp_path / f"file.{host}-1.0123abcd.tmp" for host in (_this_host(), "node-7", "node-8"))
    for path, age in ((own, 60), (live, 23 * 3600), (old, 25 * 3600)):
        path.write_bytes(b"mine")
        aged(path, age)
    with written_whole(tmp_path / "file"):
        (mine,) = set(tmp_path.glob("*.tmp")) - {live}
        assert re.fullmatch(rf"file\.{_this_host()}-{os.getpid()}\.[0-9a-f]{{8}}\.tmp", mine.name)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", live]


def test_a_folder_is_cleared_of_this_hosts_leftovers_and_of_no_live_file_of_another(tmp_path: Path) -> None:
    now, live, old = (tmp_path / f"last.pt.{host}-1.0123abcd.tmp" for host in (_this_host(), "node-7", "node-8"))
    for path in (now, live, old):
        path.write_bytes(b"mine")
    aged(old, 25 * 3600)
    with now.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clear_folder(tmp_path, alone=False)
        assert sorted(tmp_path.iterdir()) == sorted([now, live])
    clear_folder(tmp_path, alone=True)
    assert list(tmp_path.iterdir()) == [live]


def test_a_private_file_is_its_owners_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old, for all to read")
    with written_whole(path, private=True) as out:
        out.write(b"ids")
        modes = {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.glob("*.tmp")}
    assert modes == {0o600}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with within(20), pytest.raises(OSError, match=r"not a regular file: '.*pipe'"):
        file_sha256(tmp_path / "pipe")
