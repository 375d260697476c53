"""Blind ratings: the key stays hidden, no vote is lost or counted for the wrong side, and the numbers are those of the books."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from adslm_helpers.cli import build_parser
from adslm_helpers.dataset.formats import read_rows
from adslm_helpers.dataset.validate import validate
from adslm_helpers.dataset.votes import share_above_half
from adslm_helpers.errors import DataError, RunError
from adslm_helpers.evaluation import rating_sheet, ratings
from adslm_helpers.evaluation.agreement import krippendorff_alpha, percent_agreement, wilson_interval
from adslm_helpers.evaluation.blind_items import rating_items
from adslm_helpers.evaluation.next_round import ratings_to_pairs, untouched_rows, write_next_round
from adslm_helpers.evaluation.rating_result import majority, rating_summary
from adslm_helpers.evaluation.rating_sheet import export_csv, import_csv, read_choice
from adslm_helpers.evaluation.ratings import Vote, choices_of, load_ratings, save_rating, save_ratings
from adslm_helpers.recipe import load_recipe, parse_overrides
from adslm_helpers.run import Run, read_jsonl, write_jsonl


def compared(n, **changes):
    row = {
        "prompt": f"商品：靴{n}\n見出しを書いて",
        "seed": 42,
        "base": f"靴{n}です",
        "tuned": f"靴{n}、ご注文はこちら",
        "outcome": "win",
    }
    return {**row, **changes}


def rated_run(rows=None, name="spring"):
    """A run with a finished evaluation of these comparisons, 30 different ones where none are given."""
    rows = [compared(n) for n in range(30)] if rows is None else rows
    run = Run(name)
    with run.step("dataset"):
        pairs = [{"prompt": f"商品：傘{n}\n見出しを書いて", "chosen": "良い傘です", "rejected": "傘"} for n in range(3)]
        write_jsonl(run.dataset / "train.jsonl", pairs)
        held_out = [{"prompt": row.get("prompt"), "chosen": "良い靴です", "rejected": "靴"} for row in rows]
        write_jsonl(run.dataset / "eval.jsonl", held_out)
    with run.step("evaluation"):
        write_jsonl(run.evaluation / "comparisons.jsonl", rows)
    return run


def side_of(run, item):
    """Whose text is A, found by reading: what the rater cannot know."""
    rows = read_jsonl(run.evaluation / "comparisons.jsonl")
    return next("tuned" if item.a == row["tuned"] else "base" for row in rows if {item.a, item.b} == {row["tuned"], row["base"]})


def choose(run, item, side):
    return "a" if side_of(run, item) == side else "b"


def vote_all(run, side, rater="ai", n=50):
    items = rating_items(run, n, rater=rater)
    save_ratings(run, {item.item_id: side if side in ("tie", "skip") else choose(run, item, side) for item in items}, rater)
    return items


# The items


def test_each_prompt_comes_once_before_any_comes_twice_and_what_is_left_out_is_counted():
    rows = [compared(n, base=f"{n}の{k}番") for n in range(10) for k in range(3)]
    rows += [compared(1, base="同じ", tuned="同じ "), compared(2, base="2の0番")]
    items = rating_items(rated_run(rows), n=20)
    assert len({item.prompt for item in items.items[:10]}) == len({item.prompt for item in items.items[10:]}) == 10
    assert items.left_out == {"identical": 1, "repeated": 1, "beyond_n": 10}


def test_sides_are_swapped_at_random_and_the_same_way_each_time():
    run = rated_run([compared(n) for n in range(200)])
    sides = {rater: ["ご注文" in item.a for item in rating_items(run, 200, rater=rater)] for rater in ("ai", "ken")}
    assert sides["ai"] == ["ご注文" in item.a for item in rating_items(run, 200, rater="Ai")]
    assert 70 < sides["ai"].count(True) < 130  # 4 standard deviations
    assert 70 < sum(a == b for a, b in zip(*sides.values(), strict=True)) < 130


def test_all_raters_see_the_same_items_in_the_same_order():
    run = rated_run()
    prompts = [[item.prompt for item in rating_items(run, 8, rater=rater)] for rater in ("ai", "ken")]
    assert prompts[0] == prompts[1] != [item.prompt for item in rating_items(run, 8, seed=1)]


def test_an_item_and_a_record_hold_no_word_of_whose_text_is_whose():
    """Neither by name nor by what could be worked out of an id without comparisons.jsonl: ids of two runs of other texts share nothing."""
    run = rated_run()
    item = rating_items(run, rater="ai").items[0]
    assert set(vars(item)) == {"item_id", "prompt", "a", "b"}
    save_rating(run, item.item_id, "a", "ai")
    (record,) = read_jsonl(run.evaluation / "ratings" / "ai.jsonl")
    assert set(record) == {"item", "choice", "rater", "at", "comparisons"}
    others = rating_items(rated_run([compared(n, base="別") for n in range(30)], "autumn"))
    assert not {i.item_id for i in others} & {i.item_id for i in rating_items(run)}


def test_no_id_reads_as_a_number_in_a_spreadsheet():
    assert all(item.item_id[0] == "r" and len(item.item_id) == 12 for item in rating_items(rated_run()))


def test_no_items_at_all_cannot_be_asked_for():
    with pytest.raises(RunError, match="1 or more"):
        rating_items(rated_run(), n=0)


def test_rating_before_the_evaluation_is_done_is_refused():
    with pytest.raises(RunError, match="evaluation"):
        rating_items(Run("nothing"))


@pytest.mark.parametrize(
    "row", [{"prompt": "a", "base": "b"}, {"prompt": "a", "base": 1, "tuned": "c"}, {"base": "a", "tuned": "b"}]
)
def test_a_comparison_without_texts_is_named(row):
    with pytest.raises(RunError, match="row 2"):
        rating_items(rated_run([compared(1), row]))


# Saving


def test_a_choice_counts_for_the_text_that_was_shown_under_it():
    run = rated_run()
    for side in ("tuned", "base"):
        vote_all(run, side, rater=side)
    votes = load_ratings(run).votes
    assert {vote.rater: {v.side for v in votes if v.rater == vote.rater} for vote in votes} == {
        "tuned": {"tuned"},
        "base": {"base"},
    }
    assert {vote.choice for vote in votes} == {"a", "b"}


def test_a_second_choice_replaces_the_first_and_both_stay_in_the_file():
    run = rated_run()
    item = rating_items(run, rater="ai").items[0]
    for choice in ("a", "tie"):
        path = save_rating(run, item.item_id, choice, "ai")
    assert [row["choice"] for row in read_jsonl(path)] == ["a", "tie"] and choices_of(run, "ai") == {item.item_id: "tie"}
    assert rating_summary(run).replaced == 1 and rating_summary(run).votes == {"tie": 1}


def test_a_wrong_item_or_choice_saves_nothing():
    run = rated_run()
    good = rating_items(run, rater="ai").items[0].item_id
    for choices in ({good: "a", "r00": "a"}, {good: "A"}):
        with pytest.raises(RunError):
            save_ratings(run, choices, "ai")
    with pytest.raises(RunError, match="ken"):  # the sides are swapped otherwise for ken
        save_rating(run, good, "a", "ken")
    assert not (run.evaluation / "ratings").exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "田中", "con", ".x", None, "x" * 65])
def test_a_rater_whose_name_no_file_can_have_is_refused(name):
    with pytest.raises(RunError, match="rater"):
        rating_items(rated_run(), rater=name)


def test_two_windows_under_one_name_lose_no_vote(tmp_path):
    run = rated_run()
    items = [item.item_id for item in rating_items(run, rater="ai")]
    code = (
        "import sys\nfrom adslm_helpers.run import Run\nfrom adslm_helpers.evaluation.ratings import save_rating\n"
        "for item in sys.argv[1:]:\n    save_rating(Run('spring'), item, 'a', 'ai')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parts = (items[:15], items[15:])
    windows = [subprocess.Popen([sys.executable, "-c", code, *part], env=environment) for part in parts]
    assert [window.wait() for window in windows] == [0, 0]
    assert len(choices_of(run, "ai")) == 30


def test_a_full_disk_is_said_and_what_was_saved_stays(monkeypatch):
    run = rated_run()
    items = rating_items(run, rater="ai").items
    save_rating(run, items[0].item_id, "a", "ai")

    def full(path, rows):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ratings, "write_jsonl", full)
        with pytest.raises(RunError, match="No space left"):
            save_rating(run, items[1].item_id, "b", "ai")
    assert choices_of(run, "ai") == {items[0].item_id: "a"}


def test_ratings_outlive_an_evaluation_that_writes_the_same_texts_and_are_set_aside_when_they_change():
    run = rated_run()
    vote_all(run, "tuned")
    again = [compared(n, outcome="loss", tuned_judgement={"score": 1}) for n in range(30)]
    assert rating_summary(rated_run(again)).wins == 30
    summary = rating_summary(rated_run([compared(n, tuned="新しい文") for n in range(30)]))
    assert summary.votes == {} and summary.set_aside == {"ai": 30} and "30 votes" in "\n".join(summary.lines())
    assert rating_summary(rated_run(again)).wins == 30  # nothing was thrown away


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"item": "r1", "choice": "c", "comparisons": "x"}', '{"item": 1, "choice": "a", "comparisons": "x"}']
)
def test_a_broken_line_of_a_raters_file_is_named(line):
    run = rated_run()
    path = save_rating(run, rating_items(run, rater="ai").items[0].item_id, "a", "ai")
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"ai\.jsonl line 2"):
        load_ratings(run)


def test_a_file_that_was_renamed_counts_for_nobody():
    """Its sides are swapped for another name."""
    run = rated_run()
    vote_all(run, "tuned")
    folder = run.evaluation / "ratings"
    (folder / "ai.jsonl").rename(folder / "ken.jsonl")
    with pytest.raises(RunError, match="name of the file"):
        rating_summary(run)


# What they say


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, table I: method 3, Wilson's score interval without continuity correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718), (29, 29, 0.8830, 1.0)],
)
def test_wilson_interval_is_that_of_the_literature(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_the_interval_of_nothing_is_everything():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("votes", "p"), [((0, 0), 0.5), ((1, 0), 0.75), ((3, 0), 0.9375), ((2, 1), 0.6875), ((5, 5), 0.5)])
def test_p_win_is_the_beta_posterior(votes, p):
    """Beta(2, 1): 1 - 1/4. Beta(4, 1): 1 - 1/16. Beta(3, 2): 11/16."""
    assert share_above_half(*votes) == p


# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability": sections A, B and C; a dot is a unit that was left out.
BINARY = ("0100000010", "1110010000")
TWO = ("aabbdcccedda", "babbbccceddd")
FOUR = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


@pytest.mark.parametrize(("raters", "alpha"), [(BINARY, 0.095), (TWO, 0.692), (FOUR, 0.743)])
def test_alpha_is_that_of_krippendorffs_own_examples(raters, alpha):
    units = [[value for value in unit if value != "."] for unit in zip(*raters, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(alpha, abs=6e-4)


def test_agreement_on_nothing_shared_is_unknown():
    assert krippendorff_alpha([["a"], ["b"]]) is None is percent_agreement([["a"]])
    assert krippendorff_alpha([["a", "a"]]) is None and percent_agreement([["a", "a"], ["a", "b"]]) == 0.5


def test_more_than_half_of_the_votes_decide_and_skips_are_no_votes():
    def outcome(*sides):
        return majority(Vote(str(n), 0, "a", side) for n, side in enumerate(sides))

    assert outcome("tuned") == outcome("tuned", "skip") == outcome("tuned", "tuned", "tie") == "tuned"
    assert outcome("tuned", "base") == outcome("tuned", "tie") == outcome() == outcome("skip") == "tie"


def test_a_prompt_is_one_witness_however_many_raters_and_texts_it_had():
    run = rated_run([compared(n, base=f"{n}の{k}番") for n in range(12) for k in range(2)])
    vote_all(run, "tuned", "ai")
    vote_all(run, "tuned", "ken")
    summary = rating_summary(run)
    assert (summary.wins, summary.ties, summary.losses) == (12, 0, 0) and summary.votes == {"tuned": 48}
    assert summary.code == "too_few" and summary.shared_items == 24 and summary.percent_agreement == 1.0


@pytest.mark.parametrize(
    ("tuned", "base", "code"), [(30, 0, "better"), (0, 30, "worse"), (16, 14, "within_noise"), (10, 9, "too_few")]
)
def test_the_sentence_says_what_the_interval_allows(tuned, base, code):
    run = rated_run()
    items = list(rating_items(run, rater="ai"))
    sides = ["tuned"] * tuned + ["base"] * base + ["tie"] * (30 - tuned - base)
    save_ratings(run, {i.item_id: s if s == "tie" else choose(run, i, s) for i, s in zip(items, sides, strict=True)}, "ai")
    summary = rating_summary(run)
    assert summary.code == summary.to_dict()["code"] == code
    assert (summary.wins, summary.losses, summary.ties) == (tuned, base, 30 - tuned - base)
    assert json.loads(json.dumps(summary.to_dict()))["by_rater"]["ai"]["tuned"] == tuned


def test_swapping_the_two_models_swaps_wins_and_losses():
    """A label that got the sides wrong somewhere would not."""
    swapped = [{**compared(n), "base": compared(n)["tuned"], "tuned": compared(n)["base"]} for n in range(30)]
    vote_all(first := rated_run(), "tuned")
    second = rated_run(swapped, "autumn")
    longer = {item.item_id: "a" if len(item.a) > len(item.b) else "b" for item in rating_items(second, rater="ai")}
    save_ratings(second, longer, "ai")  # the same texts as those chosen in the first run
    assert (rating_summary(first).wins, rating_summary(second).losses) == (30, 30)


def test_a_rater_who_always_takes_the_left_is_found_out():
    run = rated_run()
    save_ratings(run, {item.item_id: "a" for item in rating_items(run, rater="ai")}, "ai")
    summary = rating_summary(run)
    assert summary.share_a == 1.0 and summary.favours_a_side and any("favour a side" in line for line in summary.lines())
    vote_all(run, "tuned")
    assert not rating_summary(run).favours_a_side


def test_raters_who_contradict_each_other_are_told():
    run = rated_run()
    vote_all(run, "tuned", "ai")
    vote_all(run, "base", "ken")
    summary = rating_summary(run)
    assert summary.alpha < 0 and summary.ties == 30 and any("Tastes differ" in line for line in summary.lines())


def test_nothing_rated_yet_is_no_error():
    summary = rating_summary(rated_run())
    assert summary.code == "none" and summary.lines() == ["チームの評価はまだありません。", "The team has rated nothing yet."]


# The sheet


def filled(path, fill, encoding="utf-8-sig", columns=None, delimiter=","):
    """The sheet as a person hands it back: `fill(number, row)` gives what stands under the choice."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["選択 / choice"] = fill(number, row)
    with open(path, "w", encoding=encoding, errors="replace", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("columns", [None, ["選択 / choice", "B", "item"]])
@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-8-sig", ","), ("cp932", ","), ("utf-16", "\t"), ("utf-8", ";")])
def test_a_sheet_comes_back_in_any_encoding_and_order(tmp_path, encoding, delimiter, columns):
    run = rated_run([compared(n, tuned=f"靴{n} ☕️ もう一杯") for n in range(4)])
    path = export_csv(run, tmp_path / "ai.csv", "ai")
    words = ["Ａ", "b", "引き分け", ""]
    filled(path, lambda number, row: words[number], encoding, columns, delimiter)
    read = import_csv(run, path, "ai")
    assert (read.saved, read.blank, read.problems) == (3, 1, [])
    assert [choices_of(run, "ai").get(item.item_id) for item in rating_items(run, rater="ai")] == ["a", "b", "tie", None]


@pytest.mark.parametrize(
    ("cell", "choice"),
    [("A", "a"), ("ａ", "a"), (" b ", "b"), ("Ｂ", "b"), ("引分", "tie"), ("同じ", "tie"), ("TIE", "tie"), ("スキップ", "skip"),
     ("ｽｷｯﾌﾟ", "skip"), ("", ""), ("\u3000", ""), ("A/B", None), ("C", None), ("Aが良い", None)],
)  # fmt: skip
def test_choices_are_read_leniently_and_never_guessed(cell, choice):
    assert read_choice(cell) == choice


def test_the_sheet_is_for_excel_and_runs_nothing(tmp_path):
    run = rated_run([compared(1, base='=HYPERLINK("http://x")', tuned="+1\n@SUM(A1)\x1b[2J")])
    path = export_csv(run, tmp_path / "s.csv", "ai")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with open(path, encoding="utf-8-sig", newline="") as file:
        header, row = csv.reader(file)
    assert header == list(rating_sheet.COLUMNS) and {cell[:2] for cell in row[2:4]} == {"'=", "'+"} and "\x1b" not in "".join(row)


def test_a_sheet_that_is_there_is_not_overwritten_and_a_new_one_holds_what_was_chosen(tmp_path):
    run = rated_run()
    path = export_csv(run, tmp_path / "s.csv", "ai")
    with pytest.raises(DataError, match="exists"):
        export_csv(run, path, "ai")
    vote_all(run, "tuned")
    again = export_csv(run, tmp_path / "t.csv", "ai")
    assert import_csv(run, again, "ai").unchanged == 30
    assert rating_summary(run).replaced == 0


def test_rows_that_cannot_be_read_are_named_by_line_and_the_counts_add_up(tmp_path):
    run = rated_run([compared(n) for n in range(5)])
    path = export_csv(run, tmp_path / "s.csv", "ai")
    filled(path, lambda number, row: ["A", "よい", "", "B", "tie"][number])
    item = path.read_text(encoding="utf-8-sig").splitlines()[1].split(",")[0]
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{item},,,,B\n{item},,,,Ａ\nx,y,z,,A,too,many\n")
    read = import_csv(run, path, "ai")
    assert [problem.code for problem in read.problems] == ["no_choice", "twice", "too_many_cells"]
    assert read.saved + read.unchanged + read.blank + len(read.problems) == 8 and "s.csv line 4" in "\n".join(read.lines())


def test_a_sheet_of_another_rater_or_evaluation_is_refused_and_nothing_is_saved(tmp_path):
    run = rated_run()
    path = export_csv(run, tmp_path / "s.csv", "ai")
    filled(path, lambda number, row: "A")
    with pytest.raises(DataError, match="Nothing was saved"):
        import_csv(run, path, "ken")
    with pytest.raises(DataError, match="Nothing was saved"):
        import_csv(rated_run([compared(n, base="別") for n in range(30)]), path, "ai")
    assert not (run.evaluation / "ratings").exists()


def test_a_sheet_without_its_columns_is_refused(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("item,A,B\nr1,x,y\n", encoding="utf-8")
    with pytest.raises(DataError, match="choice"):
        import_csv(rated_run(), path, "ai")


# The next round


def test_pairs_are_what_more_than_half_prefer_and_every_other_item_is_counted():
    run = rated_run([compared(n) for n in range(5)] + [compared(5, base=" ")])
    votes = {"ai": ("tuned", "tuned", "tie", "skip", "base", "tuned"), "ken": ("tuned", "base", "tie", "skip", "skip", "tuned")}
    for rater, sides in votes.items():
        by_prompt = {f"商品：靴{n}\n見出しを書いて": side for n, side in enumerate(sides)}
        chosen = {}
        for item in rating_items(run, rater=rater):
            side = by_prompt[item.prompt]
            chosen[item.item_id] = side if side in ("tie", "skip") else choose(run, item, side)
        save_ratings(run, chosen, rater)
    rows, counts = ratings_to_pairs(run)
    assert counts == {"rated": 6, "pairs": 2, "tie": 1, "skip": 1, "disagree": 1, "empty": 1}
    assert [(row["chosen"], row["rejected"], row["p_win"]) for row in rows] == [
        ("靴0、ご注文はこちら", "靴0です", share_above_half(2, 0)), ("靴4です", "靴4、ご注文はこちら", share_above_half(1, 0)),
    ]  # fmt: skip


def test_the_file_of_the_next_round_is_read_without_a_word():
    run = rated_run()
    vote_all(run, "tuned")
    following = write_next_round(run, "summer")
    result = validate(read_rows(following.path))
    assert len(result.pairs) == following.counts["pairs"] == 30 and not result.dropped and not result.notes
    assert Counter(row["rated"] for row in result.pairs) == {True: 30}


def test_the_command_repeats_the_recipe_of_the_run():
    run = rated_run()
    vote_all(run, "tuned")
    recipe = load_recipe("cpu", "org/model", beta=0.3, gradient_checkpointing=True)
    run.update(recipe=recipe.to_dict())
    arguments = build_parser().parse_args(write_next_round(run, "summer").command[1:])
    assert load_recipe(arguments.preset, arguments.model, **parse_overrides(arguments.set)) == recipe


def test_held_out_prompts_that_nobody_rated_stay_held_out():
    run = rated_run()
    vote_all(run, "tuned", n=10)
    following = write_next_round(run, "summer", with_previous=True)
    rows = read_jsonl(following.path)
    unrated = {row["prompt"] for row in read_jsonl(run.dataset / "eval.jsonl")} - {
        item.prompt for item in rating_items(run, 10, rater="ai")
    }
    assert {row["prompt"] for row in untouched_rows(run)} == unrated
    assert following.untouched == len(unrated) == 20 and not unrated & {row["prompt"] for row in rows}
    assert [row.get("rated", False) for row in rows] == [False] * 3 + [True] * 10 and following.previous == 3
    said = "\n".join(following.lines())
    assert "10 briefs are for training from now on" in said and f"adslm dataset {following.path} --run summer" in said


def test_a_prompt_that_was_rated_in_vain_is_seen_all_the_same():
    run = rated_run()
    vote_all(run, "tuned", n=10)
    items = list(rating_items(run, 12, rater="ai"))
    save_ratings(run, {items[10].item_id: "tie", items[11].item_id: "skip"}, "ai")
    following = write_next_round(run, "summer")
    assert (following.rated_prompts, following.untouched) == (10, 18)


def test_a_next_round_without_pairs_or_under_the_same_name_is_refused():
    run = rated_run()
    vote_all(run, "tie")
    with pytest.raises(DataError, match="tie 30"):
        write_next_round(run, "summer")
    with pytest.raises(DataError, match="own name"):
        write_next_round(run, "spring")
    with pytest.raises(RunError):
        write_next_round(run, "../summer")
