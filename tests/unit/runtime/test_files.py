"""Files that are written whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import time

import pytest

from molvae.errors import DataError
from molvae.runtime.files import (
    atomic_write,
    compute_json_hash,
    compute_sampled_digest,
    compute_sha256,
    read_json,
    write_json,
)


def test_atomic_write_replaces_a_file_only_if_its_block_ends_without_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_atomic_write_gives_a_file_the_permissions_of_the_umask_whoever_writes_it(tmp_path, mask):
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "a") as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("size", [0, 10, 65_536, 9_000_000])
def test_sampled_digest_changes_wherever_two_files_differ(tmp_path, size):
    path, content = tmp_path / "a.csv", bytes(range(250)) * (size // 250) + b"x" * (size % 250)
    path.write_bytes(content)
    before = compute_sampled_digest(path)
    assert compute_sampled_digest(path) == before
    path.write_bytes(content + b"y")
    assert compute_sampled_digest(path) != before
    for place in range(0, size, 1_000_000):  # rows taken out at one end and put in at the other
        path.write_bytes(content[:place] + content[place + 100 :] + content[place : place + 100])
        assert compute_sampled_digest(path) != before or size == 10


def test_atomic_write_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    program = """if True:
        import os, sys
        from molvae.runtime.files import atomic_write
        with atomic_write(sys.argv[1]) as temporary, open(temporary, "w") as file:
            file.write("half")
            file.flush()
            os.kill(os.getpid(), 9)
    """
    assert subprocess.run([sys.executable, "-c", program, str(path)], timeout=60).returncode == -9
    assert path.read_text() == "old"


def run_killed_write(path):
    """Write to `path` in a process that is killed while it does so; returns the temporary file that it leaves."""
    program = """if True:
        import os, sys
        from molvae.runtime.files import atomic_write
        with atomic_write(sys.argv[1]) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    (temporary,) = path.parent.glob(f".{path.name}.*.tmp")
    return temporary


def test_the_next_write_of_a_file_deletes_what_a_killed_one_left_of_it_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    temporary = run_killed_write(path)
    journal = temporary.with_name(f"{temporary.name}-journal")  # of an SQLite database
    journal.touch()
    others = [run_killed_write(tmp_path / name) for name in ("b.txt", "a.txt.gz", "aatxt")]
    parts = temporary.name.split(".")
    alive = temporary.with_name(".".join([*parts[:-2], str(os.getpid()), "tmp"]))
    elsewhere = temporary.with_name(".".join([*parts[:-3], "0" * 8, *parts[-2:]]))
    foreign = [tmp_path / ".a.txt.tmp", tmp_path / ".a.txt.swp"]
    for kept in (alive, elsewhere, *foreign):
        kept.touch()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        alive = alive.replace(alive.with_name(".".join([*parts[:-2], str(process.pid), "tmp"])))
        write_json(path, {})
        assert set(tmp_path.iterdir()) == {path, *others, alive, elsewhere, *foreign}
        process.communicate(b"\n")
    write_json(path, {})
    assert not alive.exists(), "its process has ended"


def test_a_temporary_file_of_another_host_is_deleted_once_nobody_has_written_to_it_for_a_day(tmp_path):
    path, temporary = tmp_path / "a.txt", tmp_path / ".a.txt.00000000.1.tmp"
    temporary.touch()
    for hours, is_kept in ((0, True), (23, True), (25, False)):
        then = time.time() - 3600 * hours
        os.utime(temporary, (then, then))
        write_json(path, {})
        assert temporary.exists() is is_kept


def test_write_json_creates_missing_folders(tmp_path):
    write_json(tmp_path / "a" / "b" / "c.json", {"x": 1})
    assert read_json(tmp_path / "a" / "b" / "c.json") == {"x": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_write_json_refuses_numbers_that_json_lacks(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": value})
    assert not list(tmp_path.iterdir())


def test_read_json_names_a_file_that_is_missing_or_no_json(tmp_path):
    with pytest.raises(DataError, match=r"a\.json: no such file\. Run the stage that writes it first"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"{\xff")
    with pytest.raises(DataError, match=r"a\.json: not a JSON file"):
        read_json(tmp_path / "a.json")


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert compute_sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()


def test_config_hash_depends_on_values_and_not_on_the_order_of_keys():
    assert compute_json_hash({"a": 1, "b": [2]}) == compute_json_hash({"b": [2], "a": 1})
    assert compute_json_hash({"a": 1, "b": [2]}) != compute_json_hash({"a": 1, "b": [3]})
