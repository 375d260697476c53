"""Made-up packages: dist-info folders that stand for what is installed, tiny wheels, and a venv that holds nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pip


def install(folder: Path, name: str, version: str, requires: Iterable[str] = ()) -> Path:
    """`name` as if it were installed in `folder`: metadata alone, nothing to import."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(metadata(name, version, requires), encoding="utf-8")
    (info / "RECORD").write_text(
        f"{info.name}/METADATA,,\n{info.name}/RECORD,,\n", encoding="utf-8"
    )  # without it pip cannot upgrade
    return info


def install_all(folder: Path, versions: Mapping[str, str], requires: Mapping[str, Iterable[str]] | None = None) -> None:
    """Many at once, with what each says it needs."""
    for name, version in versions.items():
        install(folder, name, version, (requires or {}).get(name, ()))


def wheel(folder: Path, name: str, version: str, requires: Iterable[str] = ()) -> Path:
    """A wheel that holds one empty module."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": metadata(name, version, requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name_inside, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name_inside, text)
    return path


def venv(folder: Path, with_pip: bool = True) -> tuple[str, Path]:
    """(interpreter, site-packages) of a virtual environment; pip is a link to this Python's, which takes no time to install."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python3*/site-packages"))
    if with_pip:
        (site / "pip").symlink_to(Path(pip.__file__).parent, target_is_directory=True)
        install(site, "pip", pip.__version__)
    return str(folder / "bin" / "python"), site


def metadata(name: str, version: str, requires: Iterable[str]) -> str:
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}\nA description.\nRequires-Dist: not-a-header\n"
