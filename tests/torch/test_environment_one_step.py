"""The proof after a quick fix, for real: the road's own verbs, in a fresh process, with what is installed here."""

from pathlib import Path

from adslm_helpers.environment.trial import try_one_step


def test_one_step_works_with_what_is_installed_and_leaves_no_run(runs_in_tmp):
    assert try_one_step() > 0 and not Path(runs_in_tmp).exists()
