"""What a machine lacks for `make demo` is one sentence, before anything is installed."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("machine", ROOT / "tools/check_machine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_is_missing_here(tool, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert tool.missing() == ""


def test_what_is_missing_is_said(tool, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as other:
        other.setattr(sys, "version_info", (3, 10, 1, "final", 0))
        assert "Python 3.11 or newer is needed" in tool.missing()
    with monkeypatch.context() as other:
        other.setitem(sys.modules, "ensurepip", None)
        assert "apt install python3-venv" in tool.missing()
    with monkeypatch.context() as other:
        other.setattr(os, "access", lambda *_: False)
        assert "cannot be written" in tool.missing()
    with monkeypatch.context() as other:
        other.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1.5e9))
        assert "has 1.5 GB left, 4 are needed" in tool.missing()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_says_what_it_needs(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/check_machine.py", tmp_path / "tools")
    done = subprocess.run(
        ["make", "demo", "PYTHON=no-such-python"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "cmkg: there is no no-such-python here: install Python 3.11" in done.stderr
    (tmp_path / "pip").write_text("#!/bin/sh\necho no route to host >&2\nexit 1\n")
    (tmp_path / "pip").chmod(0o755)
    (tmp_path / "python").write_text(
        "#!/bin/sh\nmkdir -p .venv/bin; cp pip .venv/bin/pip 2>/dev/null; exit 0\n"
    )
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["make", "demo", "PYTHON=./python"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "pip could not install what is needed" in done.stderr
    assert "HTTPS_PROXY" in done.stderr
