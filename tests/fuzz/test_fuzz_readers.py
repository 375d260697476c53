"""Readers and validation on damaged files: rows in = kept + dropped, or words; no other error, no file, no code run."""

import codecs
import gzip
import io
import json
import re

from hypothesis import strategies as st

from adslm_helpers.dataset import encoding
from adslm_helpers.dataset.build import build_dataset, load_split
from adslm_helpers.dataset.formats import RawRow, read_pairs, read_rows
from adslm_helpers.dataset.forms.shapes import detect_shape
from adslm_helpers.dataset.forms.shaping import REASONS as SHAPE_REASONS
from adslm_helpers.dataset.forms.shaping import shaped
from adslm_helpers.dataset.report import REASONS
from adslm_helpers.dataset.rows import Place
from adslm_helpers.dataset.validate import SIDES, validate
from adslm_helpers.errors import AdslmError, DataError
from adslm_helpers.recipe import load_recipe
from adslm_helpers.run import Run, read_json

from .cases import PICKLE, TEXTS, VALUES, checked_words, damaged, everything, fuzzed, place

PAIRS = [
    {"prompt": f"靴{n}の見出し", "chosen": f"軽い靴{n}で、遠くまで。", "rejected": f"靴{n}です。", "ctr": n / 7} for n in range(6)
]
DIALOGUE = {
    "prompt": [{"role": "system", "content": "短く"}, {"role": "user", "content": "靴"}],
    "chosen": [{"role": "assistant", "content": "良い"}],
    "rejected": [{"role": "assistant", "content": "悪い"}],
}
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in [*PAIRS, DIALOGUE])
TABLE = "prompt,chosen,rejected\n" + "\n".join(f'{p["prompt"]},"{p["chosen"]}",{p["rejected"]}' for p in PAIRS)
TEXT_SEEDS = [
    LINES.encode(),
    codecs.BOM_UTF8 + LINES.encode(),
    LINES.encode("utf-16"),
    LINES.encode("utf-16-le"),
    LINES.encode("cp932"),
    LINES.encode("utf-32"),
    json.dumps(PAIRS, ensure_ascii=False, indent=1).encode(),
    json.dumps({"data": PAIRS}).encode(),
    json.dumps(PAIRS[0]).encode(),
    TABLE.encode(),
    TABLE.replace("\n", "\r\n").encode("cp932"),
    TABLE.replace(",", "\t").encode("utf-16"),
    b"\xff" * 30,
    b"\0" * 64,
    PICKLE,
]
NAMES = st.sampled_from(("a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a", "a.ndjson", "a.JSON"))


def check(path, read=read_rows):
    """Reads and validates `path`; what comes out is whole, or the error has words."""
    before = everything(path.parent)
    try:
        result = validate(read(path))
    except DataError as error:
        checked_words(error)
        result = None
    assert everything(path.parent) == before
    if result is None:
        return None
    assert result.rows_in == len(result.pairs) + sum(result.dropped.values())
    assert set(result.dropped) <= {*REASONS, *SHAPE_REASONS}
    for problem in result.problems:
        assert 0 < len(problem.line_ja) < 2000 and problem.place.number >= 1
        problem.line_en.encode("utf-8")
    for row in result.pairs:
        assert row["chosen"] != row["rejected"] and all(row[side] for side in SIDES)
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        assert json.loads(line.encode("utf-8")) == row and "\0" not in line
    return result


@fuzzed(600, content=damaged(*TEXT_SEEDS), name=NAMES)
def test_damaged_files(content, name):
    with place() as folder:
        (folder / name).write_bytes(content)
        check(folder / name)


CHANGES = st.dictionaries(st.sampled_from((*SIDES, "id", "x", " Prompt ", "\ud800")), VALUES, max_size=2)
ROWS = st.one_of(VALUES, st.builds(lambda pair, changes: {**pair, **changes}, st.sampled_from([*PAIRS, DIALOGUE]), CHANGES))


@fuzzed(200, rows=st.lists(ROWS, max_size=6), escape=st.booleans())
def test_every_line_of_jsonl_is_kept_or_counted(rows, escape):
    def written(row):
        try:
            return json.dumps(row, ensure_ascii=escape).encode("utf-8", "surrogatepass")
        except ValueError:  # an integer that Python does not write either
            return b'{"prompt": ' + b"9" * 5000 + b"}"

    lines = [written(row) for row in rows]
    with place() as folder:
        (folder / "a.jsonl").write_bytes(b"\n".join(lines))
        result = check(folder / "a.jsonl")
    if result is not None:
        assert result.rows_in == len(lines)


@fuzzed(120, cells=st.lists(st.lists(TEXTS, min_size=1, max_size=5), max_size=6), mark=st.sampled_from(",\t;"))
def test_tables_of_any_text(cells, mark):
    import csv

    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=mark)
    writer.writerow(["prompt", "chosen", "rejected", "x"])
    writer.writerows(cells)
    with place() as folder:
        (folder / "a.csv").write_bytes(out.getvalue().encode("utf-8", "surrogatepass"))
        check(folder / "a.csv")


@fuzzed(60, content=damaged(*TEXT_SEEDS), name=NAMES, limit=st.integers(1, 200))
def test_lines_longer_than_the_limit(content, name, limit):
    """With a limit of a few characters: every path through it, without files of many MB."""
    kept, encoding.LONGEST_LINE = encoding.LONGEST_LINE, limit
    try:
        with place() as folder:
            (folder / name).write_bytes(content)
            result = check(folder / name)
    finally:
        encoding.LONGEST_LINE = kept
    if result is not None and name.endswith("jsonl") and content.isascii() and b"\0" not in content:
        lines = [line for line in content.split(b"\n") if line.strip() or len(line) >= limit]
        assert result.rows_in == len(lines)


def parquet_seed():
    import pyarrow
    from pyarrow import parquet

    seeds = []
    for compression in ("NONE", "GZIP"):
        out = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(PAIRS), out, compression=compression)
        seeds.append(out.getvalue())
    return seeds


@fuzzed(150, content=damaged(*parquet_seed(), PICKLE, LINES.encode()))
def test_damaged_parquet(content):
    with place() as folder:
        (folder / "a.parquet").write_bytes(content)
        check(folder / "a.parquet")


def book_seed():
    import openpyxl

    book, out = openpyxl.Workbook(), io.BytesIO()
    for row in (["依頼", "良い", "悪い", "日"], *([*list(pair.values())[:3], pair["ctr"]] for pair in PAIRS)):
        book.active.append(row)
    book.active.merge_cells("A2:A3")
    book.save(out)
    return out.getvalue()


@fuzzed(100, content=damaged(book_seed(), PICKLE, LINES.encode()), name=st.sampled_from(("a.xlsx", "a.xlsm", "a.xls", "a.csv")))
def test_damaged_workbooks(content, name):
    with place() as folder:
        (folder / name).write_bytes(content)
        check(folder / name, lambda path: read_pairs(path)[1])


@fuzzed(100, content=damaged(gzip.compress(LINES.encode()), gzip.compress(TABLE.encode("cp932")), PICKLE), name=NAMES)
def test_damaged_gz(content, name):
    with place() as folder:
        (folder / f"{name}.gz").write_bytes(content)
        check(folder / f"{name}.gz", lambda path: read_pairs(path)[1])


COLUMNS = st.sampled_from(
    [
        "prompt",
        "query",
        "instruction",
        "input",
        "system",
        "history",
        "chosen",
        "rejected",
        "response",
        "rejected_response",
        "response_a",
        "response_b",
        "answers",
        "scores",
        "ranks",
        "label",
        "winner",
        "winner_a",
        "winner_tie",
        "score_a",
        "score_b",
        "completions",
        "output",
        "conversations",
        "messages",
        "依頼",
        "良い",
        "悪い",
        "案1",
        "案2",
        "点1",
        "順位2",
    ]
)
CELLS = st.one_of(
    VALUES,
    st.sampled_from(
        ("a", "b", 0, 1, "1", "tie", [1, 2], ["x", "y"], '["x", "y"]', "\n\nHuman: q\n\nAssistant: a", [{"text": "x", "score": 1}, {"text": "y"}],
         [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], {"role": "user", "content": [{"type": "text"}]}, [["q", "a"]])
    ),
)  # fmt: skip


@fuzzed(500, rows=st.lists(st.dictionaries(COLUMNS, CELLS, max_size=8), min_size=1, max_size=4), every=st.booleans())
def test_rows_of_any_form_are_kept_or_counted(rows, every):
    raws = [RawRow(value, Place("a", number)) for number, value in enumerate(rows, 1)]
    try:
        shape = detect_shape(raws)
    except DataError as error:
        return checked_words(error)
    result = validate(shaped(iter(raws), shape, every))
    assert result.rows_in == len(rows) and set(result.dropped) <= {*REASONS, *SHAPE_REASONS}
    assert result.pairs_in == len(result.pairs) + sum(result.dropped.values())
    for text in (*shape.lines(), *(problem.line_ja + problem.line_en for problem in result.problems)):
        assert len(text) < 4000
        text.encode("utf-8")


@fuzzed(60, content=damaged(LINES.encode(), TABLE.encode(), json.dumps(PAIRS).encode()), name=NAMES, strict=st.booleans())
def test_a_dataset_is_built_whole_or_refused(content, name, strict):
    recipe = load_recipe("smoke")
    with place() as folder:
        (folder / name).write_bytes(content)
        run = Run("fuzz")
        try:
            report = build_dataset(run, folder / name, recipe, drop_invalid=not strict)
        except AdslmError as error:
            checked_words(error)
            assert run.status("dataset") in ("absent", "failed")
            report = None
        assert {path.partition("/")[0] for path in everything(folder)} <= {name, "runs"}
        if report is None:
            return
        assert report.rows_in == report.kept + sum(report.dropped.values())
        assert [len(load_split(run, side)) for side in ("train", "eval")] == [report.split["train"], report.split["eval"]]
        assert read_json(run.dataset / "report.json")["kept"] == report.kept
        page = report._repr_html_()
        assert not re.search(r"<(?!/?(?:div|p|br|small|table|tr|td|b|details|summary|ul|li)\b)", page)


@fuzzed(150, name=TEXTS, before=st.sampled_from(("", "hf:", "sample:", "~", "/", "./", "file://")))
def test_names_of_sources(name, before):
    if before + name in ("sample", "/dev/zero"):
        return
    with place() as folder:
        try:
            rows = read_rows(before + name) if before != "sample:" else []
            for _ in rows:
                break
        except DataError as error:
            checked_words(error)
        assert everything(folder) == set()
