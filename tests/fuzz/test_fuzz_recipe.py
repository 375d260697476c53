"""Recipes, run names and the files of a run, filled with anything: a value that is whole, or words."""

import json

from hypothesis import strategies as st

from adslm_helpers.errors import AdslmError, RecipeError, RunError
from adslm_helpers.models.tuned import base_name, trained_recipe
from adslm_helpers.recipe import DpoRecipe, load_recipe, parse_overrides, preset_names, recipe_from_dict
from adslm_helpers.run import STEPS, Run, parameter, read_json, read_jsonl, write_json

from .cases import TEXTS, VALUES, checked_words, damaged, fuzzed, place

FIELDS = list(DpoRecipe().to_dict())
NUMBERS = st.one_of(
    st.integers(-5, 600), st.floats(), st.integers(0, 600).map(str), st.sampled_from(("5e-6", "1_000", "٣", "0x10", " 4 "))
)
SETTINGS = st.dictionaries(
    st.one_of(st.sampled_from(FIELDS), TEXTS), st.one_of(NUMBERS, VALUES, TEXTS, st.lists(TEXTS, max_size=3)), max_size=4
)


def check_recipe(recipe):
    """A recipe that was accepted can be written, read again, and is the same."""
    text = json.dumps(recipe.to_dict(), ensure_ascii=False, allow_nan=False)
    assert recipe_from_dict(json.loads(text)) == recipe
    text.encode("utf-8")


@fuzzed(220, values=st.one_of(SETTINGS, VALUES), preset=st.one_of(st.sampled_from(preset_names()), TEXTS))
def test_recipes_of_any_values(values, preset):
    try:
        check_recipe(recipe_from_dict(values))
    except RecipeError as error:
        checked_words(error)
    if isinstance(values, dict) and not {"preset", "model"} & values.keys():
        try:
            check_recipe(load_recipe(preset, **values))
        except RecipeError as error:
            checked_words(error)


@fuzzed(110, pairs=st.lists(st.one_of(
    TEXTS, st.builds(lambda key, value: f"{key}={value}", st.one_of(st.sampled_from(FIELDS), TEXTS), st.one_of(TEXTS, NUMBERS))),
    max_size=4))  # fmt: skip
def test_overrides_of_a_command_line(pairs):
    try:
        check_recipe(load_recipe("tiny", **parse_overrides(pairs)))
    except RecipeError as error:
        checked_words(error)


PARTS = st.lists(
    st.sampled_from(("a", "..", ".", "/", "\\", "con", "ａ", "‥", "-", "\0", " ", "~", "$HOME", "x.y")), max_size=4
).map("".join)


@fuzzed(200, name=st.one_of(TEXTS, PARTS, VALUES))
def test_no_name_of_a_run_leads_out_of_the_runs(name):
    with place() as folder:
        try:
            run = Run(name)
        except RunError as error:
            checked_words(error)
            return
        write_json(run.path / "x.json", 1)
        assert (folder / "runs" / name / "x.json").is_file() and run.path.resolve().parent == (folder / "runs").resolve()


def content_of(value):
    return json.dumps(value, ensure_ascii=False).encode()


MANIFEST = {
    "name": "a", "created": "2026-01-01", "model": {"name": "embedded-tiny"}, "recipe": DpoRecipe().to_dict(),
    "steps": {step: {"status": "done", "started": "x", "rows_in": 3} for step in STEPS},
}  # fmt: skip


@fuzzed(130, manifest=damaged(content_of(MANIFEST)), recipe=damaged(content_of(DpoRecipe().to_dict())))
def test_damaged_files_of_a_run(manifest, recipe):
    with place() as folder:
        run = Run("a")
        (run.training).mkdir(parents=True)
        (run.path / "manifest.json").write_bytes(manifest)
        (run.training / "recipe.json").write_bytes(recipe)
        (folder / "runs" / "parameters.json").write_bytes(manifest)
        uses = (
            run.manifest, lambda: run.require("training"), lambda: run.status("dataset"), lambda: base_name(run), lambda: trained_recipe(run),
            lambda: parameter("RUN", "x"), lambda: run.update(x=1), lambda: read_jsonl(run.path / "manifest.json"), lambda: step(run),
            lambda: run.fork("b"),
        )  # fmt: skip
        for use in uses:
            try:
                use()
            except AdslmError as error:
                checked_words(error)


def step(run):
    with run.step("export") as notes:
        notes["x"] = 1
    assert run.status("export") == "done" and read_json(run.path / "manifest.json")["steps"]["export"]["x"] == 1


@fuzzed(60, values=VALUES)
def test_any_value_in_a_manifest(values):
    """The shape right, anything inside: what is read later must not trip over it."""
    with place():
        run = Run("a")
        run.path.mkdir(parents=True)
        for manifest in (
            {**MANIFEST, "steps": values},
            {**MANIFEST, "model": values},
            {**MANIFEST, "steps": {"training": values}},
        ):
            try:
                (run.path / "manifest.json").write_bytes(json.dumps(manifest).encode())
            except ValueError:  # Python writes no integer of so many digits
                continue
            for use in (run.manifest, lambda: run.require("training"), lambda: base_name(run), lambda: run.update(x=1)):
                try:
                    use()
                except AdslmError as error:
                    checked_words(error)
