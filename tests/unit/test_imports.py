"""The architecture: imports go one way, all of them resolve, and importing loads, prints and configures nothing."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "adslm_helpers"
# Left to right; what stands in one group may use what stands before it.
ORDER = [
    {"foreign_text"}, {"errors", "figure_style", "data_files", "tables"}, {"plots", "plots_guided"}, {"preference_text", "recipe_rules", "run_names", "json_files", "run_lock"}, {"recipe", "run"}, {"copies", "guide_variables"}, {"environment", "text"}, {"dataset"}, {"models"}, {"training"}, {"watching"},
    {"evaluation"}, {"export"}, {"widgets"}, {"road"}, {"verbs"}, {"cli"}, {"__main__"},
]  # fmt: skip
RANK = {name: rank for rank, group in enumerate(ORDER) for name in group}
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "pandas",
    "matplotlib",
    "ipywidgets",
    "IPython",
    "nbclient",
    "duckdb",
    "openpyxl",
    "sacrebleu",
}
# Its classes derive from transformers.TrainerCallback; training.train imports it inside the function that trains.
LOADS_TRANSFORMERS = "adslm_helpers.training.callbacks"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path):
    """(line, module, name) of every import of ours in a file, relative ones made absolute."""
    package = dotted(path).split(".") if path.name == "__init__.py" else dotted(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("adslm_helpers")):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, module, alias.name


def source_of(module: str) -> Path | None:
    folder = ROOT / Path(*module.split("."))
    return next((file for file in (folder / "__init__.py", folder.with_suffix(".py")) if file.is_file()), None)


def defined(path: Path) -> set[str]:
    """Names that a module has after it was imported."""
    names = set()
    body = list(ast.parse(path.read_text(encoding="utf-8")).body)
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            body += [*node.body, *node.orelse]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        else:
            names |= {
                target.id for target in ast.walk(node) if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store)
            }
    return names


def test_every_import_of_ours_names_something_that_is_there():
    """Imports inside functions are found out only by the user who reaches them: `adslm export` is such a place."""
    missing = []
    for path in MODULES:
        for line, module, name in imports(path):
            source = source_of(module)
            if source is None or (name not in defined(source) and source_of(f"{module}.{name}") is None):
                missing.append(f"{dotted(path)}:{line}: {module}.{name}")
    assert missing == []


def test_every_room_has_its_place_and_no_module_imports_from_its_right():
    wrong, seen = [], set()
    for path in MODULES:
        here = [*dotted(path).split("."), "__init__"][1]
        for line, module, name in imports(path):
            there = [*module.split("."), name][1]
            if here == there or there == "__version__":
                continue
            seen |= {here, there}
            if RANK[there] >= RANK[here]:
                wrong.append(f"{dotted(path)}:{line} uses {there}")
    assert wrong == [] and len(seen) > 12


@pytest.mark.parametrize("group", ["utils", "helpers", "common", "misc"])
def test_there_is_no_drawer_for_everything(group):
    assert group not in {path.stem for path in MODULES}


def imported_at_once(path: Path) -> set[str]:
    """Packages that importing a file loads by itself: imports outside functions and TYPE_CHECKING."""
    found: set[str] = set()

    def look(body):
        for node in body:
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                look(node.orelse)
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                look(inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt))

    look(ast.parse(path.read_text(encoding="utf-8")).body)
    return found


def test_one_module_only_needs_a_heavy_library_to_be_imported():
    heavy = {dotted(path): imported_at_once(path) & HEAVY for path in MODULES}
    assert {module: found for module, found in heavy.items() if found} == {LOADS_TRANSFORMERS: {"transformers"}}


def run_python(code: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, encoding="utf-8")


def test_importing_every_module_loads_prints_and_configures_nothing():
    """Through other packages too, which the look into the sources above does not see."""
    code = f"""
import importlib, json, logging, os, pkgutil, sys
before = dict(os.environ), len(logging.root.handlers), logging.root.level
import adslm_helpers
names = [module.name for module in pkgutil.walk_packages(adslm_helpers.__path__, "adslm_helpers.")]
for name in names:
    if name != {LOADS_TRANSFORMERS!r}:
        importlib.import_module(name)
after = dict(os.environ), len(logging.root.handlers), logging.root.level
same = before == after
sys.__stdout__.write(json.dumps([len(names), same, sorted({{name.split(".")[0] for name in sys.modules}})]))
"""
    done = run_python(code)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    count, same, loaded = json.loads(done.stdout)  # fails where a module printed something
    assert count > 40 and same and HEAVY & set(loaded) == set()


def test_the_unit_tests_import_no_heavy_library_either():
    """`make test-fast` answers in seconds only as long as no file here pulls in torch."""
    slow = {
        path.name: imported_at_once(path) & {"torch", "transformers", "trl", "peft"}
        for path in Path(__file__).parent.glob("*.py")
    }
    assert {name: found for name, found in slow.items() if found} == {}


def test_test_files_have_names_of_their_own():
    """pytest takes two files of one name in folders without __init__.py for one module, and stops."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_modules_are_taken_in_at_one_sitting():
    long = {dotted(path): size for path in MODULES if (size := len(path.read_text(encoding="utf-8").splitlines())) > 300}
    assert long == {}
