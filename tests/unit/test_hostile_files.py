"""Files that are not what they seem: each ends in words with the place, none hangs, runs code or fills the memory."""

import gzip
import json
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest

from adslm_helpers.dataset import encoding, formats, sources, textfiles
from adslm_helpers.dataset.build import build_dataset, load_split
from adslm_helpers.dataset.formats import read_rows
from adslm_helpers.dataset.validate import validate
from adslm_helpers.errors import DataError, ModelError, RecipeError, RunError
from adslm_helpers.export.public import is_local, public_name
from adslm_helpers.models.local import local_config, odd_values
from adslm_helpers.recipe import load_recipe, recipe_from_dict
from adslm_helpers.run import Run, read_json, read_jsonl, write_json, write_text

ROOT = Path(__file__).parents[2]
PAIR = {"prompt": "靴の見出し", "chosen": "軽い靴で、遠くまで。", "rejected": "靴です。"}
LINE = json.dumps(PAIR, ensure_ascii=False)


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def refusal(source, kind=DataError):
    with pytest.raises(kind) as caught:
        list(read_rows(source))
    assert "→" in caught.value.ja and "->" in caught.value.en
    return caught.value


def codes(path):
    return [row.problem.code if row.problem else None for row in read_rows(path)]


# --- what is no regular file -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    """Opening one waits for a writer, for ever."""
    os.mkfifo(tmp_path / "a.jsonl")
    assert "a pipe or a device" in refusal(tmp_path / "a.jsonl").en
    os.mkfifo(tmp_path / "b.json")
    with pytest.raises(RunError, match="cannot be read"):
        read_json(tmp_path / "b.json")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no devices here")
@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin"])
def test_a_device_that_never_ends_is_refused(name):
    refusal(name)


def test_links_in_a_circle_are_told(tmp_path):
    (tmp_path / "a.jsonl").symlink_to("b.jsonl")
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    assert "cannot be read" in refusal(tmp_path / "a.jsonl").en


@pytest.mark.parametrize("name", ["a\0b.jsonl", "x" * 5000, "~\0", "~\ud800", "~nobody-of-this-name/a.jsonl", "\ud800.jsonl", ""])
def test_names_that_no_file_has(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    str(refusal(name)).encode("utf-8")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    write(tmp_path, "a.jsonl", LINE).chmod(0)
    assert "cannot be read" in refusal(tmp_path / "a.jsonl").en


def test_a_file_that_another_program_writes_to_meanwhile_is_not_taken(tmp_path, monkeypatch):
    """Its hash in the manifest would not be that of the rows."""
    path = write(tmp_path, "a.jsonl", "\n".join(json.dumps({**PAIR, "prompt": f"靴{n}"}) for n in range(8)))
    states = iter([(100, 1), (101, 2)])
    monkeypatch.setattr(sources, "_state", lambda path: next(states))
    run = Run("spring")
    with pytest.raises(DataError, match="changed while it was read"):
        build_dataset(run, path, load_recipe("smoke"))
    assert run.status("dataset") == "failed" and not (run.dataset / "train.jsonl").exists()


# --- containers under a false name -----------------------------------------------------------------------------------------


class Touch:
    def __reduce__(self):
        return (open, ("unpickled", "w"))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (gzip.compress(LINE.encode()), "gzip"),
        (gzip.compress(b"\0" * 10_000_000), "gzip"),
        (gzip.compress(LINE.encode())[:12], "gzip"),
        (b"PK\x03\x04" + b"\0" * 40, "zip"),
        (pickle.dumps(Touch()), "pickle"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"%PDF-1.7", "PDF"),
    ],
    ids=["gz", "bomb", "cut-gz", "zip", "pickle", "parquet", "pdf"],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_a_container_is_named_and_not_opened(tmp_path, monkeypatch, content, word, name):
    monkeypatch.chdir(tmp_path)
    assert f"holds {word}" in refusal(write(tmp_path, name, content)).en
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("content", [pickle.dumps(Touch()), gzip.compress(b"x"), b"", b"PAR1PAR1", LINE.encode()])
def test_parquet_that_is_none(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("pyarrow")
    refusal(write(tmp_path, "a.parquet", content))
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_parquet_that_unpacks_to_more_than_fits_is_refused_by_what_it_says_of_itself(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{**PAIR, "x": "0" * 100_000 + str(n)} for n in range(20)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", compression="gzip", use_dictionary=False)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    monkeypatch.setattr(formats, "LARGEST_FILE", 1_000_000)
    assert "too large when unpacked" in refusal(tmp_path / "a.parquet").en


def test_a_pyarrow_that_runs_code_of_a_file_is_not_used(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    monkeypatch.setattr(pyarrow, "__version__", "13.0.0")
    assert "CVE-2023-47248" in refusal(write(tmp_path, "a.parquet", b"PAR1")).en


def test_a_hub_dataset_never_runs_its_script(monkeypatch):
    """datasets before 2.20 does unless it is told not to."""
    asked = []

    def load_dataset(name, split, token, trust_remote_code=True):
        asked.append(trust_remote_code)
        return [PAIR]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    list(read_rows("hf:team/ads"))
    assert asked == [False]


# --- lines, documents, encodings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_line_that_is_too_long_costs_itself_and_has_its_number(tmp_path, monkeypatch, name):
    monkeypatch.setattr(encoding, "LONGEST_LINE", 200)
    lines = ["prompt,chosen,rejected", "p1,c1,r1", "x" * 1000, 'p2,"c\nd",r2'] if name == "a.csv" else [LINE, "x" * 1000, LINE]
    rows = list(read_rows(write(tmp_path, name, "\n".join(lines))))
    assert [row.problem and row.problem.code for row in rows] == [None, "too_long", None]
    assert rows[1].place.number == lines.index("x" * 1000) + 1


def test_a_long_line_inside_a_quoted_cell_does_not_leave_a_shortened_text(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "LONGEST_LINE", 100)
    text = 'prompt,chosen,rejected\np1,"one\n' + "x" * 500 + '\ntwo",r1\np2,c2,r2\n'
    rows = list(read_rows(write(tmp_path, "a.csv", text)))
    assert [row.problem and row.problem.code for row in rows] == ["too_long", None]
    assert rows[1].value["prompt"] == "p2"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak as Linux counts it")
def test_a_line_of_100_mb_is_never_in_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"prompt": "')
        for _ in range(100):
            file.write("x" * (1 << 20))
        file.write("\n" + LINE + "\n")
    code = (
        "import resource, sys; from adslm_helpers.dataset.formats import read_rows\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "codes = [row.problem and row.problem.code for row in read_rows(sys.argv[1])]\n"
        "print(codes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True)
    codes, _, mib = done.stdout.strip().rpartition(" ")
    assert codes == "['too_long', None]", done.stderr
    assert int(mib) < 60


def test_a_file_of_holes_is_refused_by_its_size(tmp_path):
    path = write(tmp_path, "a.jsonl", LINE)
    os.truncate(path, encoding.LARGEST_FILE + 1)
    assert "too large" in refusal(path).en


def test_a_document_that_has_to_be_read_whole_may_be_smaller_than_one_of_lines(tmp_path, monkeypatch):
    for module in (encoding, textfiles):
        monkeypatch.setattr(module, "LARGEST_DOCUMENT", 1000)
    text = "\n".join([LINE] * 20)
    assert len(list(read_rows(write(tmp_path, "a.json", text)))) == 20
    assert "Use JSONL" in refusal(write(tmp_path, "b.json", f"[{text}]")).en


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_key_twice_is_told_and_the_other_rows_stay(tmp_path, name):
    twice = '{"prompt": "p", "chosen": "a", "chosen": "b", "rejected": "c"}'
    nested = '{"prompt": [{"role": "user", "content": "x", "content": "y"}], "chosen": "a", "rejected": "c"}'
    lines = [twice, nested, LINE]
    rows = list(read_rows(write(tmp_path, name, "\n".join(lines) if name == "a.jsonl" else f"[{', '.join(lines)}]")))
    assert [row.problem and row.problem.code for row in rows] == ["duplicate_key", "duplicate_key", None]
    assert "'chosen'" in rows[0].problem.en and rows[2].value == PAIR
    assert validate(rows).dropped == {"duplicate_key": 2}


def test_a_key_twice_where_rows_have_no_lines_refuses_the_file(tmp_path):
    assert "twice" in refusal(write(tmp_path, "a.json", f'{{"data": [{LINE}, {{"chosen": 1, "chosen": 2}}]}}')).en


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_wide_encodings_are_seen_without_a_mark(tmp_path, coding, name):
    text = LINE if name == "a.jsonl" else "prompt,chosen,rejected\n" + ",".join(PAIR.values())
    assert [row.value for row in read_rows(write(tmp_path, name, text.encode(coding)))] == [PAIR]


def test_half_an_emoji_costs_its_row_only(tmp_path):
    path = write(
        tmp_path, "a.jsonl", LINE + "\n" + json.dumps({**PAIR, "chosen": "靴\ud83d"}) + "\n" + json.dumps({**PAIR, "x": "\ud83d"})
    )
    result = validate(read_rows(path))
    assert (len(result.pairs), dict(result.dropped)) == (1, {"lone_surrogate": 1, "duplicate": 1})


@pytest.mark.parametrize("deep", ["[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "[" * 100_000, '{"a":' * 100_000])
@pytest.mark.parametrize("side", ["chosen", "x"])
def test_deep_nesting_is_a_dropped_or_trimmed_row(tmp_path, deep, side):
    row = LINE[:-1] + f', "{side}": {deep}}}' if side == "x" else f'{{"prompt": "p", "rejected": "r", "chosen": {deep}}}'
    result = validate(read_rows(write(tmp_path, "a.jsonl", row)))
    assert result.rows_in == 1 and sum(result.dropped.values()) + sum(result.notes.values()) == 1


# --- files of our own, changed by others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": NaN}', "\xff", "", '{"a": 1', "9" * 5000, '{"a": Infinity}'])
def test_a_broken_file_of_ours_names_itself(tmp_path, content):
    path = write(tmp_path, "a.json", content.encode("latin-1"))
    for read in (read_json, read_jsonl):
        if read is read_jsonl and not content:
            continue
        with pytest.raises(RunError, match=r"a\.json"):
            read(path)
    with pytest.raises(RunError, match="cannot be read"):
        read_json(tmp_path)


def test_rows_that_are_no_objects_name_their_line(tmp_path):
    with pytest.raises(RunError, match="line 2 is broken"):
        read_jsonl(write(tmp_path, "a.jsonl", '{"a": 1}\n[1]\n'))


@pytest.mark.parametrize("manifest", ["[]", "1", '{"steps": []}', '{"steps": {"dataset": 3}}', '{"name": "x"}'])
def test_a_manifest_of_another_shape_is_told(tmp_path, manifest):
    run = Run("a", tmp_path)
    write_text(run.path / "manifest.json", manifest)
    for use in (run.manifest, lambda: run.status("dataset"), lambda: run.require("dataset"), lambda: run.update(x=1)):
        with pytest.raises(RunError, match="not the manifest of a run"):
            use()
    assert (run.path / "manifest.json").read_text() == manifest


def test_what_the_form_remembers_may_be_broken(runs_in_tmp, monkeypatch):
    from adslm_helpers.run import parameter

    monkeypatch.delenv("ADSLM_HEADLESS", raising=False)
    write_text(runs_in_tmp / "parameters.json", '{"RUN": 3}')
    with pytest.raises(RunError, match="Remove it"):
        parameter("RUN", "x")


def test_half_an_emoji_comes_back_from_a_file_of_ours(tmp_path):
    assert read_json(write_json(tmp_path / "a.json", {"a": "靴\ud83d"})) == {"a": "靴\ud83d"}


@pytest.mark.parametrize("line", ["{}", '{"prompt": 1, "chosen": "a", "rejected": "b"}', '{"prompt": [{}], "chosen": "a", "rejected": "b"}',
                                  '{"prompt": "p", "chosen": null, "rejected": "b"}'])  # fmt: skip
def test_a_split_that_was_edited_names_the_row(line):
    run = Run("a")
    with run.step("dataset"):
        write_text(run.dataset / "train.jsonl", f"{LINE}\n{line}\n")
        write_text(run.dataset / "eval.jsonl", "")
    with pytest.raises(DataError, match=r"train\.jsonl row 2"):
        load_split(run, "train")
    with pytest.raises(DataError, match=r"eval\.jsonl"):
        load_split(run, "eval")


def test_a_text_that_no_model_reads_is_dropped(tmp_path):
    result = validate(read_rows(write(tmp_path, "a.jsonl", json.dumps({**PAIR, "chosen": "x" * 200_001}))))
    assert result.dropped == {"too_long": 1} and "200,001" in result.problems[0].en


# --- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "a/b",
        "a\\b",
        "/etc",
        "C:",
        "a\0",
        "a\n",
        "ａ",
        "a‥",
        "a.",
        "con",
        "NUL.txt",
        "lpt1",
        "a" * 65,
        "~",
        "-a",
        "$HOME",
        None,
        3,
    ],
)
def test_names_that_would_leave_the_folder_or_break_on_another_system(name):
    with pytest.raises(RunError, match="cannot name a run"):
        Run(name)


@pytest.mark.parametrize("name", ["a", "2026-11", "spring_2.v1", "console", "com10", "A" * 64])
def test_names_that_are_fine(name, runs_in_tmp):
    assert Run(name).path == runs_in_tmp / name


def test_a_link_with_a_runs_name_does_not_take_the_run_elsewhere(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "runs" / "real").mkdir()
    for name, target in {"out": tmp_path / "victim", "circle": "circle", "gone": tmp_path / "nowhere"}.items():
        (tmp_path / "runs" / name).symlink_to(target)
        with pytest.raises(RunError, match="link to another place"):
            Run(name)
    (tmp_path / "runs" / "alias").symlink_to("real")
    Run("alias")  # stays inside
    (tmp_path / "elsewhere").symlink_to(tmp_path / "runs")
    Run("real", tmp_path / "elsewhere")  # the whole folder of runs may lie elsewhere


@pytest.mark.parametrize("target", ["/tmp/x", "../x", "adslm/../../x"])
def test_an_export_to_the_drive_stays_on_it(tmp_path, monkeypatch, target):
    from adslm_helpers.errors import ExportError
    from adslm_helpers.export.export import export_run

    (tmp_path / "drive").mkdir()
    monkeypatch.setenv("ADSLM_DRIVE", str(tmp_path / "drive"))
    with pytest.raises(ExportError, match="leads out of the Drive"):
        export_run(Run("a"), target, kind="drive")


# --- recipes and configs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [[], None, 3, "beta=1", {3: 1}, {"beta": [[[]]]}, {"seed": 10**5000}, {"models": {}}, {"models": "a\0b"}]
)
def test_a_recipe_of_another_shape(values):
    with pytest.raises(RecipeError):
        recipe_from_dict(values)


def test_an_address_is_no_model_and_its_password_is_not_repeated():
    with pytest.raises(RecipeError, match="no name of a model") as caught:
        load_recipe("smoke", model="https://me:hf_abcdefghijklmnopqrst@hub/x")
    assert "hf_abc" not in str(caught.value) and "me:" not in str(caught.value)


@pytest.mark.parametrize("preset", ["../smoke", "/etc/passwd", "smoke.yaml", "smoke\0", "", None])
def test_presets_are_taken_by_name_only(preset):
    with pytest.raises(RecipeError, match="no preset"):
        load_recipe(preset)


@pytest.mark.parametrize("change", [{"num_attention_heads": 0}, {"hidden_size": "8"}, {"num_hidden_layers": 10**9}, {"vocab_size": None},
                                    {"head_dim": -1}, {"architectures": "x"}, {"model_type": 3}, {"vocab_size": True}])  # fmt: skip
def test_a_config_that_no_model_has_is_not_planned_with(tmp_path, change):
    config = {"model_type": "qwen2", "vocab_size": 100, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    write_json(tmp_path / "config.json", config)
    assert local_config(str(tmp_path)).hidden_size == 8 and not odd_values(config)
    write_json(tmp_path / "config.json", config | change)
    assert local_config(str(tmp_path)) is None and odd_values(config | change)


@pytest.mark.parametrize("content", ["[" * 100_000, "", "\ud800", "[]", "null", " " * (9 << 20)])
def test_a_config_that_is_none(tmp_path, content):
    write(tmp_path, "config.json", content)
    assert local_config(str(tmp_path)) is None


@pytest.mark.parametrize(
    "change",
    [{"peft_type": "IA3"}, {"megatron_config": {"x": 1}}, {"auto_mapping": {"parent_library": "evil"}}, {"target_modules": "(a+)+$"},
     {"rank_pattern": {"(a+)+$": 1}}, {"target_modules": None}],
)  # fmt: skip
def test_an_adapter_whose_config_names_code_or_patterns_is_refused_before_peft_sees_it(tmp_path, change):
    from adslm_helpers.models.adapters import with_adapter

    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "target_modules": ["q_proj"], **change})
    with pytest.raises(ModelError, match="cannot be used"):
        with_adapter(None, tmp_path)


@pytest.mark.parametrize("name", ["1" * 5000, "a\0b", "~nobody-of-this-name/x", "\ud800", "x/" * 3000, ""])
def test_a_model_that_no_folder_is_named_like(name):
    """The system's own error for such a name ends in a traceback where it is not expected."""
    if name:  # the empty one is the folder where we stand
        assert local_config(name) is None
    assert is_local(name) == (name in ("", "~nobody-of-this-name/x")) and len(public_name(name)) <= len(name)


# --- the sources themselves ----------------------------------------------------------------------------------------------


def test_nothing_here_runs_what_a_file_holds():
    """No unpickling, no YAML that makes objects, no code of a model, no eval; archives are written and never unpacked."""
    words = ("pickle.load", "yaml.load(", "unsafe_load", "full_load", "extractall", "unpack_archive", "allow_pickle=True",
             'trust_remote_code": True', "trust_remote_code=True", " eval(", " exec(", "shell=True", "os.system")  # fmt: skip
    found = [
        f"{path.name}: {word}"
        for path in sorted((ROOT / "adslm_helpers").rglob("*.py"))
        for word in words
        if word in path.read_text(encoding="utf-8")
    ]
    found += [
        f"{path.name}: {line.strip()}"
        for path in sorted((ROOT / "adslm_helpers").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if "torch.load" in line and "weights_only=True" not in line
    ]
    assert found == []
