"""The anatomy that all lessons share: a reader who knows one finds everything in the next, and Git holds no outputs."""

import ast
import re
import statistics
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BOOKS = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
JAPANESE = "[ぁ-んァ-ヶ一-龥]"
CLOSING = ["まとめ / Summary", "つまずいたら / If it fails", "次へ / Next"]
every_notebook = pytest.mark.parametrize("name", BOOKS)


def tagged(name, tag):
    return [cell for cell in BOOKS[name].cells if tag in cell.metadata.get("tags", [])]


def code_cells(name):
    return [cell for cell in BOOKS[name].cells if cell.cell_type == "code"]


def markdown(name):
    return "\n".join(cell.source for cell in BOOKS[name].cells if cell.cell_type == "markdown")


def finder(name):
    return next(cell for cell in code_cells(name) if "REPOSITORY = " in cell.source)


def parsed(cell):
    """The cell's Python; lines of IPython (%pip, !git) stand as `pass`."""
    return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE))


def sections(name):
    return re.findall(r"^## (.*)$", markdown(name), flags=re.MULTILINE)


def links(name, cell=None):
    return re.findall(r"\]\(([^)#]+?\.ipynb)\)", cell.source if cell else markdown(name))


def names_of(module):
    """What a module of the package defines or imports at its top; nothing where there is no such module."""
    names = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body if module.is_file() else []:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            names |= {target.id for target in ast.walk(node) if isinstance(target, ast.Name)}
    return names


def test_the_five_lessons_are_there():
    assert [name[:2] for name in BOOKS][:5] == ["00", "01", "02", "03", "04"]


@every_notebook
def test_git_holds_no_outputs_and_no_traces_of_a_session(name):
    nbformat.validate(BOOKS[name])
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(name))
    traces = {"colab", "id", "outputId", "executionInfo", "execution", "widgets"}
    assert not traces & {key for cell in BOOKS[name].cells for key in cell.metadata}
    assert not traces & set(BOOKS[name].metadata) and "version" not in BOOKS[name].metadata.get("language_info", {})


@every_notebook
def test_cells_have_ids_of_their_own(name):
    ids = [cell.id for cell in BOOKS[name].cells]
    assert len(ids) == len(set(ids))


@every_notebook
def test_the_title_cell_says_what_for_how_long_and_where_to(name):
    first = BOOKS[name].cells[0]
    title, *rest = first.source.splitlines()
    body = "\n".join(rest)
    assert first.cell_type == "markdown" and re.fullmatch(rf"# {name[:2]} .*{JAPANESE}.* / .*[A-Za-z].*", title)
    for part in ("**目標**", "*Goal:", "読むもの / reads:", "書くもの / writes:", "時間 / time:"):
        assert part in body
    time = next(line for line in rest if line.startswith("- 時間 / time:"))
    assert re.search(r"\d", time) and re.search(r"20\d\d-\d\d-\d\d", time), f"not measured: {time}"


@every_notebook
def test_previous_and_next_lead_along_the_road_and_back(name):
    names = list(BOOKS)
    place = names.index(name)
    neighbours = [f"{other}.ipynb" for other in names[max(0, place - 1) : place] + names[place + 1 : place + 2]]
    title = BOOKS[name].cells[0]
    assert links(name, title) == neighbours
    assert ("前 / previous:" in title.source) == (place > 0) and ("次 / next:" in title.source) == (place + 1 < len(names))
    if place + 1 < len(names):
        assert f"{names[place + 1]}.ipynb" in markdown(name).split("## 次へ / Next")[1]


@every_notebook
def test_every_link_and_every_named_document_is_there(name):
    assert all((ROOT / "notebooks" / link).is_file() for link in links(name))
    named = set(re.findall(r"`(docs/[\w./-]+|data/[\w./-]+|scripts/[\w./-]+)`", markdown(name)))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_install_cell_is_the_same_everywhere_and_the_only_one_that_tests_skip():
    for name in BOOKS:
        assert tagged(name, "nbval-skip") == [code_cells(name)[0]]
    texts = {tagged(name, "nbval-skip")[0].source for name in BOOKS}
    assert len(texts) == 1
    (text,) = texts
    installs = [line.strip() for line in text.splitlines() if "pip install" in line]
    assert installs and all(line.startswith("%pip install -q ") for line in installs)
    assert not re.search(r"\btorch\b| -e ", " ".join(installs))
    # --no-deps: on a runtime that is too old, pip would replace transformers and datasets before anything can speak.
    # '>=' outside quotes is a redirection into a file for the shell.
    assert all(re.fullmatch(r'%pip install -q --no-deps( "[^"]+")+', line) for line in installs)


def test_what_colab_installs_is_what_the_requirements_for_colab_say():
    listed = {
        line.split("#")[0].strip()
        for line in (ROOT / "requirements-colab.txt").read_text(encoding="utf-8").splitlines()
        if line.split("#")[0].strip()
    }
    name = next(iter(BOOKS))
    assert set(re.findall(r'"([a-z][^"]*[<>=][^"]*)"', tagged(name, "nbval-skip")[0].source)) == listed


def test_the_finder_cell_is_the_same_everywhere_and_ends_with_the_report():
    texts = {finder(name).source for name in BOOKS}
    assert len(texts) == 1 and all(code_cells(name)[1] == finder(name) for name in BOOKS)
    assert texts.pop().rstrip().endswith("environment_report()")


@every_notebook
def test_there_is_one_parameter_cell_and_nothing_is_tuned_further_down(name):
    assert tagged(name, "parameters") == [code_cells(name)[2]]
    below = "\n".join(cell.source for cell in code_cells(name)[3:])
    assert "parameter(" not in below and "ADSLM_" not in below


@every_notebook
def test_cells_are_short(name):
    lengths = [len(cell.source.strip().splitlines()) for cell in code_cells(name)]
    assert statistics.median(lengths) <= 10 and max(lengths) <= 30 and len(lengths) <= 25
    functions = sum(
        isinstance(node, ast.FunctionDef | ast.ClassDef) for cell in code_cells(name) for node in ast.walk(parsed(cell))
    )
    assert functions <= 2


@every_notebook
def test_the_lesson_checks_itself_and_says_what_went_wrong(name):
    asserts = [node for cell in code_cells(name) for node in ast.walk(parsed(cell)) if isinstance(node, ast.Assert)]
    assert asserts and all(node.msg is not None for node in asserts)


@every_notebook
def test_three_to_six_sections_and_the_three_that_close(name):
    found = sections(name)
    assert found[-3:] == CLOSING and 3 <= len(found) - 3 <= 6
    assert [section.split(".")[0] for section in found[:-3]] == [str(n + 1) for n in range(len(found) - 3)]


@every_notebook
def test_every_section_has_an_english_line_under_its_japanese_heading(name):
    lines = markdown(name).splitlines()
    for number, line in enumerate(lines):
        if re.match(r"## \d", line):
            assert re.search(JAPANESE, line) and re.fullmatch(r"\*[A-Z][ -~]+\*", lines[number + 1]), line


@every_notebook
def test_what_to_do_when_it_fails_is_a_table_of_symptom_and_cure(name):
    part = markdown(name).split("## つまずいたら / If it fails")[1].split("## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 2 and all(
        len(row.strip("|").split("|")) == 2 and re.search(JAPANESE, row) and "/ " in row for row in rows
    )


@every_notebook
def test_no_path_of_one_machine_and_no_unfilled_gap(name):
    """Paths of Colab are the same for everybody and stand in the finder cell alone."""
    for cell in BOOKS[name].cells:
        absolute = re.findall(
            r"""(?:(?<=["'`(\s=])|^)(?:~?/[A-Za-z][\w.-]*/[\w./-]*|[A-Z]:\\\w+)""", cell.source, flags=re.MULTILINE
        )
        allowed = cell == finder(name)
        assert [path for path in absolute if not (allowed and path.startswith("/content/"))] == []
        assert "@@" not in cell.source and "TODO" not in cell.source


@every_notebook
def test_what_a_lesson_imports_from_the_package_is_there(name):
    """A renamed function is noticed here and not after the minutes that the cells before it take."""
    missing = []
    for cell in code_cells(name):
        for node in ast.walk(parsed(cell)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adslm_helpers"):
                names = names_of(ROOT / Path(*node.module.split(".")).with_suffix(".py"))
                missing += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in names]
    assert missing == []
