"""Making a root file system: what is installed is compiled, and nothing of it runs on the host."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vm_images import rootfs
from vm_images.rootfs import bootstrap


class Asked(Exception):
    """The installer would be started now."""


def test_no_code_of_a_python_package_runs_while_it_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .pth file may hold code, and every start of Python that knows its folder runs it."""
    said: list[str] = []

    def ask(argv: Sequence[str | Path], **_: Any) -> bytes:
        said.extend(map(str, argv))
        raise Asked

    for name in ("sources", "configuration", "archive"):
        (tmp_path / name).touch()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(rootfs, "run_tool", ask)
    monkeypatch.setattr(rootfs, "find_tool", str)
    monkeypatch.setattr(rootfs, "_mode", lambda: "root")
    apt: Any = SimpleNamespace(
        sources=tmp_path / "sources", configuration=tmp_path / "configuration", codename="any"
    )
    with pytest.raises(Asked):
        bootstrap(apt, ["python3"], tmp_path / "archive", tmp_path / "scratch", python="3.11")
    [hook] = [word.partition("=")[2] for word in said if "compileall" in word]

    venv.create(tmp_path / "guest", symlinks=True)
    [packages] = (tmp_path / "guest/lib").glob("python3*/site-packages")
    (packages / "package.pth").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})\n")
    (packages / "package.py").write_text("x = 1\n")
    for there, here in (
        ('chroot "$1" ', ""),
        ("/usr/bin/python3", str(tmp_path / "guest/bin/python3")),
        ("/usr/lib/python3.11", str(packages)),
        ("/usr/lib/python3", str(packages)),
    ):
        hook = hook.replace(f"{there} ", f"{here} ") if there.startswith("/") else hook.replace(there, here)
    subprocess.run(["/bin/sh", "-ec", hook], check=True)
    assert list((packages / "__pycache__").glob("package.*.pyc"))
    assert not (tmp_path / "ran").exists()
