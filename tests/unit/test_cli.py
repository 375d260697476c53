"""The command line: help that answers at once, one JSON value on stdout, exit codes that scripts can trust."""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from adslm_helpers import __version__, cli
from adslm_helpers.errors import DataError, RecipeError
from adslm_helpers.road import ROAD, NotebookError
from adslm_helpers.run import Run

ROOT = Path(__file__).parents[2]
VERBS = [
    "setup",
    "dataset",
    "train",
    "preference-prompt",
    "launch",
    "monitor",
    "analyze",
    "check",
    "evaluate",
    "rate",
    "export",
    "chat",
    "run",
]
ROW = '{"prompt": "依頼%d", "chosen": "良い文%d", "rejected": "悪い文%d"}\n'


def verbs() -> dict[str, argparse.ArgumentParser]:
    actions = cli.build_parser()._actions
    return next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))


def options() -> set[str]:
    parsers = [cli.build_parser(), *verbs().values()]
    return {option for parser in parsers for action in parser._actions for option in action.option_strings}


def test_the_verbs_are_those_of_the_notebooks_and_those_that_look():
    assert list(verbs()) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_is_bilingual_and_explains_every_option(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "--json" in shown and re.search("[ぁ-んァ-ヶ一-龥]", shown) and re.search("[a-z]{4}", shown)
    assert [action.dest for action in verbs()[verb]._actions if not action.help] == []


def test_the_help_of_the_whole_names_every_verb_and_where_the_results_are(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "runs/NAME/" in shown
    assert all(f"adslm {verb}" in shown for verb in VERBS)


@pytest.mark.parametrize(
    "arguments", [[], ["tune"], ["evaluate", "--preset", "tiny"], ["train", "--preset", "tinny"], ["export", "--kind", "tar"]]
)
def test_a_command_that_is_none_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2 and "usage: adslm" in capsys.readouterr().err


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"adslm {__version__}\n"


@pytest.fixture
def verb(monkeypatch):
    """Puts a function in the place of `adslm setup`."""

    def put(function):
        monkeypatch.setattr(cli.verbs, "setup", function)

    return put


def chatty(arguments):
    print("a library says hello")
    return {"名前": "値"}, ["一行目", "line 2"]


def test_with_json_standard_output_is_one_value_and_nothing_else(verb, capsys):
    verb(chatty)
    assert cli.main(["setup", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"名前": "値"} and "名前" in shown.out and shown.err == "a library says hello\n"


def test_without_json_people_read_lines(verb, capsys):
    verb(chatty)
    assert cli.main(["setup"]) == 0
    assert capsys.readouterr().out == "a library says hello\n一行目\nline 2\n"


@pytest.mark.parametrize(("kind", "code"), [(DataError, 2), (RecipeError, 2), (NotebookError, 1)])
def test_a_mistake_is_said_on_stderr_in_both_languages_without_a_traceback(verb, capsys, kind, code):
    def fail(arguments):
        raise kind("空です。→ 直す", "Empty. -> Mend it.")

    verb(fail)
    assert cli.main(["setup"]) == code
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == "空です。→ 直す\nEmpty. -> Mend it.\n"
    assert cli.main(["setup", "--json"]) == code
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"error": {"kind": kind.__name__, "ja": "空です。→ 直す", "en": "Empty. -> Mend it."}}
    assert "Mend it." in shown.err


def test_a_bug_of_ours_is_not_dressed_up_as_a_users_mistake(verb):
    verb(lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["setup"])


def test_an_interrupted_command_ends_with_130_and_says_that_it_can_go_on(verb, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    verb(interrupted)
    assert cli.main(["setup"]) == 130
    assert "再開" in capsys.readouterr().err


def run_python(*arguments: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)  # buffered as it is for users: then a closed pipe shows itself at the very end
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, encoding="utf-8", **options
    )


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize("lines", [1, 20_000])
def test_a_reader_who_goes_away_is_no_error(lines, tmp_path):
    """`adslm ... | head -1`, whether the output fits into the pipe or not."""
    script = tmp_path / "verb.py"
    script.write_text(
        "import time\nfrom adslm_helpers import cli\n"
        f"cli.verbs.setup = lambda arguments: (time.sleep(0.2), ['x' * 50] * {lines})\nraise SystemExit(cli.main(['setup']))\n"
    )
    done = run_python(
        "-c", f"import os, sys; sys.exit(os.system('bash -c \"set -o pipefail; {sys.executable} {script} | true\"') >> 8)"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_loads_no_heavy_library():
    """0.7 s is the promise; torch alone takes several."""
    code = (
        "import sys\nfrom adslm_helpers.cli import main\ntry: main(['--help'])\nexcept SystemExit: print('LOADED', *sys.modules)"
    )
    loaded = {name.split(".")[0] for name in run_python("-c", code).stdout.split("LOADED")[1].split()}
    assert "adslm_helpers" in loaded
    assert not loaded & {
        "torch",
        "transformers",
        "trl",
        "peft",
        "datasets",
        "pandas",
        "matplotlib",
        "numpy",
        "ipywidgets",
        "IPython",
    }


def test_the_module_and_the_console_script_are_the_same_program():
    done = run_python("-m", "adslm_helpers", "--version")
    assert (done.returncode, done.stdout) == (0, f"adslm {__version__}\n")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'adslm = "adslm_helpers.cli:main"' in project and f'version = "{__version__}"' in project


def test_the_dataset_verb_reads_a_file_into_the_run(tmp_path, capsys):
    source = tmp_path / "pairs.jsonl"
    source.write_text(
        "".join(ROW % (n, n, n) for n in range(12)) + '{"prompt": "p", "chosen": "", "rejected": "r"}\n', encoding="utf-8"
    )
    assert cli.main(["dataset", str(source), "--run", "spring", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows_in"], report["kept"]) == (13, 12) and (Run("spring").dataset / "eval.jsonl").is_file()
    assert cli.main(["dataset", str(source), "--run", "strict", "--strict"]) == 2
    assert "13行目" in capsys.readouterr().err and Run("strict").status("dataset") == "failed"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "--run", "nowhere"], "notebook 02"),
        (["dataset", "no_such_file.jsonl"], "no_such_file.jsonl"),
        (["dataset", "--run", "../up"], "cannot name a run"),
        (["dataset", "--set", "betta=1"], "'beta'"),
        (["dataset", "--set", "beta=much"], "beta"),
        (["dataset", "--set", "preset=smoke"], "--preset"),
        (["train", "--set", "beta"], "field=value"),
    ],
)
def test_mistakes_of_real_verbs_end_with_2_and_a_way_out(arguments, said, capsys):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown and "→" in shown and "->" in shown


def recipe(*arguments, run=None):
    return cli.verbs.recipe_of(cli.build_parser().parse_args(["train", *arguments]), run)


def test_the_recipe_is_the_runs_own_unless_a_preset_is_named():
    run = Run("spring")
    assert recipe(run=run).preset == "tiny"
    run.update(recipe=recipe("--preset", "smoke", "--set", "beta=0.4").to_dict())
    assert (recipe(run=run).preset, recipe(run=run).beta) == ("smoke", 0.4)
    assert (recipe("--set", "beta=0.2", run=run).beta, recipe("--set", "beta=0.2", run=run).max_steps) == (0.2, 6)
    assert (recipe("--preset", "tiny", run=run).preset, recipe("--preset", "tiny", run=run).beta) == ("tiny", 0.1)
    assert recipe("--model", "org/mine", run=run).models[0] == "org/mine"


class Model:
    def __init__(self):
        self.adapter = True

    @contextmanager
    def disable_adapter(self):
        self.adapter = False
        yield
        self.adapter = True


@pytest.fixture
def talking(monkeypatch):
    """A model that answers at once, in the place of the run's tuned one."""
    loaded = SimpleNamespace(model=Model(), tokenizer=None, name="m", lines=lambda: ["model m"])
    asked = []

    def generate(model, tokenizer, prompts, **options):
        asked.append((model.adapter, prompts, options))
        return [SimpleNamespace(text=f"{'tuned' if model.adapter else 'base'} {n}") for n, _ in enumerate(prompts)]

    monkeypatch.setattr("adslm_helpers.models.tuned.load_tuned", lambda run: loaded)
    monkeypatch.setattr("adslm_helpers.models.generation.generate_texts", generate)
    return asked


def test_chat_answers_a_prompt_before_and_after(talking, capsys):
    assert cli.main(["chat", "--prompt", "靴の見出し", "--before", "--seed", "3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["before"][0] == "base 0" and answer["texts"][0] == "tuned 0" and answer["prompt"] == "靴の見出し"
    assert talking[0][1:] == talking[1][1:] and talking[0][2]["seed"] == 3  # the same prompts, seed and temperature on both sides


@pytest.mark.parametrize("prompt", ["", "  "])
def test_chat_refuses_an_empty_brief(talking, prompt, capsys):
    assert cli.main(["chat", "--prompt", prompt]) == 2
    assert "--prompt" in capsys.readouterr().err and talking == []


def test_the_dialogue_ends_at_an_empty_line_or_the_end_of_input(talking, monkeypatch, capsys):
    typed = iter(["靴", "傘"])

    def read(sign=""):
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert cli.main(["chat"]) == 0
    assert [prompts[0] for _, prompts, _ in talking] == ["靴", "傘"] and "tuned 0" in capsys.readouterr().out


def test_run_hands_the_kernels_paths_that_are_right_from_their_folder(tmp_path, monkeypatch):
    """The kernels work in notebooks/, so DATA=../pairs.jsonl of the caller would be another file there."""
    (tmp_path / "here").mkdir()
    (tmp_path / "pairs.jsonl").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    handed = []
    monkeypatch.setattr("adslm_helpers.road.run_notebooks", lambda run, parameters: handed.append(parameters) or [])
    evaluation = SimpleNamespace(
        table=lambda: [("勝率", "80%")],
        comparisons=[],
        metrics={"n": 1},
        report=Path("r.html"),
        verdict=SimpleNamespace(ja="良い", en="better"),
    )
    monkeypatch.setattr("adslm_helpers.evaluation.evaluate.load_evaluation", lambda run: evaluation)
    assert cli.main(["run", "--data", "../pairs.jsonl", "--run", "spring"]) == 0
    assert cli.main(["run", "--data", "hf:owner/name", "--model", "org/model"]) == 0
    assert handed[0] == {
        "RUN": "spring",
        "PRESET": "",
        "MODEL": "",
        "DATA": str((tmp_path / "pairs.jsonl").resolve()),
        "READ_AS": "pairs",
    }
    assert handed[1] == {"RUN": "quickstart", "PRESET": "", "MODEL": "org/model", "DATA": "hf:owner/name", "READ_AS": "pairs"}


def test_every_parameter_of_run_is_read_by_a_notebook():
    """A parameter that no notebook reads would be taken and ignored."""
    cells = "".join((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8") for name in ROAD)
    for name in ("RUN", "PRESET", "MODEL", "DATA", "READ_AS"):
        assert f'parameter(\\"{name}\\"' in cells


def test_every_option_that_a_message_advises_exists():
    named = set()
    for path in (ROOT / "adslm_helpers").rglob("*.py"):
        for raised in (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise)):
            for text in (
                node.value for node in ast.walk(raised) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ):
                named |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert {"--preset", "--prompt"} <= named and named <= options() | {"--target"}


def test_setup_as_if_answers_for_the_other_machine_in_json(capsys):
    assert cli.main(["setup", "--json", "--as-if", "colab-2026.08-gpu", "--preset", "colab_t4"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["as_if"] == "colab-2026.08-gpu" and value["probe"]["torch"] == "2.11.0+cu128" and value["plan"]["fp16"] is True
    assert [line.split("<")[0].split(">")[0] for line in value["install"]["missing"]] == [
        "rapidfuzz",
        "sacrebleu",
        "trl",
        "bitsandbytes",
    ]
    assert "repair" not in value and value["ok"] is False


def test_setup_as_if_says_in_words_what_to_do_there(capsys):
    assert cli.main(["setup", "--as-if", "colab-2025.07-gpu"]) == 0  # a report with problems is a report
    shown = capsys.readouterr().out
    assert "ランタイムのバージョン" in shown and "runtime version" in shown and "--fix" not in shown


def test_setup_as_if_an_unknown_name_is_valid_json_too(capsys):
    assert cli.main(["setup", "--json", "--as-if", "colab-1999"]) == 2
    assert "colab-2026.08-gpu" in json.loads(capsys.readouterr().out)["error"]["en"]


def test_setup_fix_runs_the_plan_and_reports_after_it(monkeypatch, capsys):
    from adslm_helpers.environment import repair, report
    from adslm_helpers.models import readiness

    order = []
    plan = repair.InstallPlan(("trl>=0.29",), ("torch==2.13.0",), ("pip", "install", "trl>=0.29"))
    done = repair.Repair(plan, {"trl": "1.16.0"}, 8.0, None)
    monkeypatch.setattr(repair, "plan_install", lambda needed: order.append(needed) or plan)
    monkeypatch.setattr(repair, "quick_fix", lambda given: order.append(given) or done)
    monkeypatch.setattr(readiness, "readiness", lambda *arguments: order.append("report") or (report_of(report), None))
    assert cli.main(["setup", "--fix", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repair"]["added"] == {"trl": "1.16.0"}
    assert order == ["report", (), plan, "report"]


def report_of(report):
    return report.EnvironmentReport("3.12", "Linux", None, "CPU", 2, 8.0, 9.0, None, None, {}, None, None, [])


def test_setup_mends_this_machine_alone(capsys):
    with pytest.raises(SystemExit):
        cli.main(["setup", "--fix", "--as-if", "apple-m2-8gb"])
    assert "not allowed with" in capsys.readouterr().err
