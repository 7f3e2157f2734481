import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from residual.records import (
    AlreadyRunning,
    CannotWrite,
    RunFolder,
    convert,
    environment,
    make_folder,
    read_json,
    remove_leftovers,
    write_durably,
    write_json,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = Inner()
    drops: tuple[int, ...] = ()


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {"name": "a run"})


def failing(monkeypatch, name, number):
    def fail(*arguments, **named):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)


def test_a_value_written_is_the_value_read(tmp_path):
    value = Outer(name="é", inner=Inner(depth=110), drops=(1, 2))
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", Outer) == value


def test_the_same_value_is_written_as_the_same_bytes_whatever_its_order(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    write_json(tmp_path / "b.json", {"a": 2, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    "text, complaint",
    [
        ('{"name": 3}', r"a\.json.*\$\.name"),
        ('{"name": "x", "inner": {"depth": "20"}}', r"\$\.inner\.depth"),
        ('{"name": "x", "inner": {"dept": 20}}', r"nobody reads: \$\.inner\.dept;"),
        ('{"name": "x"', r"a\.json"),
        ("[" * 100_000, r"a\.json"),
        ("\udcff", r"a\.json"),
    ],
)
def test_a_wrong_file_is_refused_naming_file_and_field(tmp_path, text, complaint):
    (tmp_path / "a.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=complaint):
        read_json(tmp_path / "a.json", Outer)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*a\.json: No such file"):
        read_json(tmp_path / "a.json", Outer)


def test_an_unknown_field_inside_a_list_is_found(tmp_path):
    (tmp_path / "a.json").write_text('[{"name": "x"}, {"name": "y", "nmae": 1}]')
    with pytest.raises(ValueError, match=r"\$\[1\]\.nmae"):
        read_json(tmp_path / "a.json", list[Outer])


@pytest.mark.parametrize(
    "value, complaint",
    [
        ({"name": "x", "nmae": 1}, r"nobody reads: \$\.nmae;"),
        ({"name": "x", "inner": {"dept": 20}}, r"nobody reads: \$\.inner\.dept;"),
        ({"name": "x", "inner": {"depth": "20"}}, r"\$\.inner\.depth"),
        ({}, "name"),
    ],
)
def test_a_value_of_another_shape_is_refused_naming_the_field(value, complaint):
    with pytest.raises(ValueError, match=complaint):
        convert(value, Outer)


def test_an_unknown_field_inside_a_tuple_is_found():
    with pytest.raises(ValueError, match=r"\$\[1\]\.nmae"):
        convert([{"name": "x"}, {"name": "y", "nmae": 1}], tuple[Outer, ...])


def test_a_value_is_converted_from_what_json_holds_and_from_what_asdict_makes():
    value = Outer(name="é", inner=Inner(depth=110), drops=(1, 2))
    assert convert({"name": "é", "inner": {"depth": 110}, "drops": [1, 2]}, Outer) == value
    assert convert(dataclasses.asdict(value), Outer) == value


def open_descriptors():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    write_durably(tmp_path / "a", b"old")
    with monkeypatch.context() as patch:
        failing(patch, call, errno.ENOSPC)
        with pytest.raises(CannotWrite, match=r"a: No space left.*bytes free.*--resume") as caught:
            write_durably(tmp_path / "a", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.free > 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize(
    "number, way_out",
    [(errno.EROFS, "--out"), (errno.EFBIG, "ulimit"), (errno.EIO, "check the disk"), (errno.EDQUOT, "space")],
)
def test_each_failure_names_its_way_out(tmp_path, monkeypatch, number, way_out):
    failing(monkeypatch, "write", number)
    with pytest.raises(CannotWrite, match=way_out):
        write_durably(tmp_path / "a", b"new")


def test_writes_that_stop_short_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_durably(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_no_descriptor_is_left_open_by_a_failed_write(tmp_path, monkeypatch):
    before = open_descriptors()
    failing(monkeypatch, "fsync", errno.EIO)
    for _ in range(5):
        with pytest.raises(CannotWrite):
            write_durably(tmp_path / "a", b"new")
    after = open_descriptors()
    assert after == before


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CannotWrite, match="file/folder"):
        make_folder(tmp_path / "file" / "folder")


def test_only_our_own_temporary_files_are_leftovers(tmp_path):
    for name in (".a.json.12.tmp", "notes.tmp", ".hidden", "a.json"):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.json", "notes.tmp"]


def test_a_run_folder_is_created_once_and_opened_after(tmp_path, run):
    assert RunFolder.open(run.path).description == {"name": "a run"}
    with pytest.raises(ValueError, match=r"already holds a run.*--resume"):
        RunFolder.create(run.path, {})
    with pytest.raises(ValueError, match="no run folder"):
        RunFolder.open(tmp_path)


def test_measurements_are_read_in_the_order_they_were_made(run):
    assert run.metrics() == []
    for step in range(3):
        run.append({"step": step, "loss": 0.1 * step})
    assert [m["step"] for m in run.metrics()] == [0, 1, 2]


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b"\0\0\0\0", b"\0\0\0\n\0\n"])
def test_a_torn_last_line_is_dropped(run, torn):
    run.append({"step": 1})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert run.metrics() == [{"step": 1}]


def test_a_line_after_a_torn_one_is_whole(run):
    run.append({"step": 1})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "lo')
    run.append({"step": 3})
    assert run.metrics() == [{"step": 1}, {"step": 3}]


def test_damage_before_good_lines_is_not_hidden(run):
    (run.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2"):
        run.metrics()


def test_measurements_after_the_resumed_step_are_dropped(run):
    for step in range(5):
        run.append({"step": step})
    run.append({"step": 2, "final": True})
    run.keep_until(2)
    run.append({"step": 3, "again": True})
    assert run.metrics() == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_a_measurement_that_json_cannot_hold_is_refused(run):
    with pytest.raises(ValueError):
        run.append({"loss": float("nan")})
    assert run.metrics() == []


def test_a_measurement_that_cannot_be_written_says_so(run, monkeypatch):
    failing(monkeypatch, "write", errno.ENOSPC)
    with pytest.raises(CannotWrite, match=r"metrics\.jsonl: No space"):
        run.append({"step": 1})


def test_a_second_trainer_is_refused_with_the_pid_of_the_first(run):
    code = f"""
from pathlib import Path
from residual.records import RunFolder
with RunFolder(Path({str(run.path)!r})).lock():
    pass
"""
    with run.lock():
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"AlreadyRunning: {run.path} is being trained by process {os.getpid()}" in second.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_lock_is_refused_inside_one_process_too(run):
    with run.lock(), pytest.raises(AlreadyRunning), RunFolder(run.path).lock():
        pass
    with run.lock():
        pass


def test_a_forked_worker_does_not_keep_the_folder_locked(run):
    read, write = os.pipe()
    with run.lock():
        worker = os.fork()
        if worker == 0:
            os.close(write)
            os.read(read, 1)  # outlives the lock
            os._exit(0)
    with run.lock():
        pass
    os.close(write)
    os.close(read)
    os.waitpid(worker, 0)


def test_taking_the_lock_removes_what_a_killed_run_left(run):
    (run.path / ".run.json.7.tmp").write_bytes(b"half")
    with run.lock():
        assert not (run.path / ".run.json.7.tmp").exists()


def test_the_environment_is_json_and_names_what_matters():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert {"python", "torch", "cpu", "cores", "commit", "platform", "gpu"} <= found.keys()


def test_records_need_no_torch():
    code = "import sys, residual.records; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
