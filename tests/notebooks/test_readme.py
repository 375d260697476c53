"""The two READMEs: the same commands in both, and nothing named that is not there."""

import argparse
import re
from pathlib import Path

import pytest

from adslm_helpers import cli
from adslm_helpers.recipe import preset_names

ROOT = Path(__file__).parents[2]
READMES = ["README.md", "README.ja.md"]
either = pytest.mark.parametrize("name", READMES)


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(words):
    """(language, lines) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", words, flags=re.MULTILINE | re.DOTALL)


def commands(words):
    return [block for language, block in blocks(words) if language in ("sh", "bash", "shell", "console")]


def code(words):
    """All that stands as code: fenced blocks and `spans`."""
    outside = re.sub(r"^```.*?^```$", "", words, flags=re.MULTILINE | re.DOTALL)
    return [block for _, block in blocks(words)] + re.findall(r"`([^`\n]+)`", outside)


def tree_paths(block):
    """Paths of an indented tree, 'name   purpose' a line; a name that ends in / holds the deeper ones below it."""
    parents = []
    for line in block.splitlines():
        drawn = re.match(r"[\s│├└─|+`-]*", line)[0]
        entry = line[len(drawn) :].split()
        if not entry:
            continue
        while parents and parents[-1][0] >= len(drawn):
            parents.pop()
        path = "/".join([*(folder for _, folder in parents), entry[0].rstrip("/")])
        if entry[0].endswith("/"):
            parents.append((len(drawn), entry[0].rstrip("/")))
        yield path


def trees(words):
    return [block for language, block in blocks(words) if "adslm_helpers/" in block and block not in commands(words)]


def test_a_tree_is_read_as_people_read_it():
    plain = "a/      first\n  b.py  second\n  c/    third\n    d.py\ne/f/    fourth\n  g.py\n"
    assert list(tree_paths(plain)) == ["a", "a/b.py", "a/c", "a/c/d.py", "e/f", "e/f/g.py"]
    assert list(tree_paths("a/\n├── b.py  x\n└── c/\n    └── d.py\n")) == ["a", "a/b.py", "a/c", "a/c/d.py"]


def test_both_languages_hold_the_same_commands():
    english, japanese = (blocks(text(name)) for name in READMES)
    assert commands(text(READMES[0])) and english == japanese
    assert any("make run" in block and "make test" in block for block in commands(text(READMES[0])))


def test_both_languages_have_the_same_sections_and_numbers():
    """A result that was updated in one language only is the commonest lie of translated documents."""
    english, japanese = (re.sub(r"^```.*?^```$", "", text(name), flags=re.MULTILINE | re.DOTALL) for name in READMES)
    assert english.count("\n## ") == japanese.count("\n## ") >= 6
    assert english.count("\n|") == japanese.count("\n|")
    percent = [sorted(re.findall(r"\d+(?:\.\d+)? ?%", words)) for words in (english, japanese)]
    assert percent[0] == percent[1]


@either
def test_everything_in_the_tree_is_there(name):
    (tree,) = trees(text(name))
    paths = list(tree_paths(tree))
    assert len(paths) > 10 and [path for path in paths if not (ROOT / path).exists()] == []


@either
def test_every_room_of_the_package_and_every_top_folder_is_in_the_tree(name):
    paths = {path.split("/")[0] for path in tree_paths(trees(text(name))[0])} | set(tree_paths(trees(text(name))[0]))
    rooms = {f"adslm_helpers/{folder.parent.name}" for folder in (ROOT / "adslm_helpers").glob("*/__init__.py")}
    assert rooms - paths == set()


@either
def test_every_make_target_that_is_named_exists(name):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {target for words in code(text(name)) for target in re.findall(r"\bmake ([a-z][a-z-]*)", words)}
    assert {"run", "test", "lab", "clean"} <= named <= targets


@either
def test_every_variable_given_to_make_is_read_by_it(name):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    given = {
        variable
        for words in code(text(name))
        for line in words.splitlines()
        if "make " in line
        for variable in re.findall(r"\b([A-Z]+)=", line)
    }
    assert given and all(f"$({variable})" in makefile for variable in given)


@either
def test_every_adslm_command_parses(name):
    """The parser itself judges them, so a renamed option is noticed."""
    lines = [line for block in commands(text(name)) for line in block.splitlines() if re.match(r"(?:\S*/)?adslm ", line)]
    assert lines
    for line in lines:
        words = re.findall(r'"[^"]*"|\S+', line.split(" #")[0])[1:]
        assert isinstance(cli.build_parser().parse_args([word.strip('"') for word in words]), argparse.Namespace)


@either
def test_every_link_leads_somewhere(name):
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", text(name)) if "://" not in target]
    assert targets and [target for target in targets if not (ROOT / target).exists()] == []


@either
def test_every_notebook_is_in_the_table(name):
    named = re.findall(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\)", text(name), flags=re.MULTILINE)
    assert named == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@either
def test_every_preset_for_users_is_named(name):
    spans = set(code(text(name)))
    assert set(preset_names()) - {"smoke"} - spans == set()


@either
def test_no_gap_was_left_unfilled(name):
    assert re.findall(r"@@\w*@@|TODO|TBD", text(name)) == []


def test_every_script_that_the_makefile_runs_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\b((?:scripts|tests)/[\w./-]+)", makefile))
    assert named and [path for path in named if not (ROOT / path).exists()] == []
