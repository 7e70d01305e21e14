import os
import subprocess
import sys

import pytest

from cmkg.errors import InputError
from cmkg.runtime.locks import expect_own_folder, hold_folder, hold_lock


class FakeMsvcrt:
    """Windows's locks in one process: a byte of a file belongs to the descriptor that locked it."""

    LK_NBLCK = 2

    def __init__(self):
        self.owners = {}

    def locking(self, descriptor, _mode, _count):
        place = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        if self.owners.setdefault(place, descriptor) != descriptor:
            raise OSError("locked")


@pytest.fixture(params=["fcntl", "msvcrt"])
def system(request, monkeypatch):
    """The locks of this system, and Windows's by its stand-in."""
    if request.param == "msvcrt":
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", FakeMsvcrt())
    return request.param


def test_a_folder_has_one_owner_who_is_named(system, tmp_path):
    with hold_folder(tmp_path / "run"):
        assert f"process {os.getpid()} on" in (tmp_path / "run/.lock").read_text()
        owner = rf"process {os.getpid()} on .* works on this folder"
        with pytest.raises(InputError, match=owner), hold_folder(tmp_path / "run"):
            pass
    assert not (tmp_path / "run/.lock").exists()
    with hold_folder(tmp_path / "run"):
        pass


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from cmkg.runtime.locks import hold_folder\n"
        "with hold_folder(Path(sys.argv[1])): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True)
    assert (tmp_path / "run/.lock").exists()  # it could not be tidied up
    with hold_folder(tmp_path / "run"):
        pass


def test_a_system_without_locks_works_without(tmp_path, monkeypatch):
    for module in ("fcntl", "msvcrt"):
        monkeypatch.setitem(sys.modules, module, None)
    with hold_folder(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_what_is_no_lock_of_ours_is_left_alone(tmp_path):
    (tmp_path / ".lock").write_text("somebody's notes")
    sentence = "none of cmkg's locks; move it"
    with pytest.raises(InputError, match=sentence), hold_lock(tmp_path / ".lock", tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == "somebody's notes"


@pytest.mark.parametrize(
    ("there", "refused"),
    [((), ""), (("a.txt",), ""), (("a.txt", ".lock", "b.partial"), ""), (("c.txt",), "c.txt")],
)
def test_a_folder_with_other_files_is_refused(there, refused, tmp_path):
    for name in there:
        (tmp_path / name).touch()
    if not refused:
        expect_own_folder(tmp_path, ("a.txt", "b.txt"))
        return
    with pytest.raises(InputError, match=f"holds something else \\({refused}\\)"):
        expect_own_folder(tmp_path, ("a.txt", "b.txt"))
