"""`adslm train` and `adslm preference-prompt`."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from typing import Any

from ..recipe import DpoRecipe, load_recipe
from ..run import Run
from ..training.launch.start import check_started
from ..training.launch.zero import use_deepspeed
from .launching import launched
from .recipes import changes_recipe, recipe_of, say


def train(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm train`."""
    launched(arguments.argv)
    check_started(os.environ)
    if arguments.deepspeed:
        use_deepspeed(arguments.deepspeed)
    from ..environment.device import configure_mps_environment

    configure_mps_environment()
    from ..training.mirror_state import mirror_line
    from ..training.ranks import this_rank
    from ..training.restore import restore_run
    from ..training.resume import started_recipe
    from ..training.train import expected_steps
    from ..training.train import train as train_run
    from ..widgets.live import live_view

    run = Run(arguments.resume or arguments.run)
    if not this_rank().first:  # it goes by what the first process decides, and says nothing
        train_run(run, load_recipe("smoke"))
        return {}, []
    restore_run(run, say=print)  # before the recipe is asked for: on a new machine it is not here yet
    recipe = started_recipe(run) if arguments.resume and not changes_recipe(arguments) else recipe_of(arguments, run)
    if not arguments.resume:
        _sample_for_a_new_run(run, recipe)
    view = live_view(expected_steps(run, recipe), notes=[lambda: mirror_line(run.training)])
    result = train_run(run, recipe, [view], fresh=arguments.fresh, resume=bool(arguments.resume), say=print)
    return asdict(result), result.lines()


def preference_prompt(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm preference-prompt`: the vectors that a teacher of preference-guided DPO reads in place of words."""
    from ..environment.device import configure_mps_environment

    configure_mps_environment()
    from ..training.guided.prompt_tuning import train_prompt_embeddings

    run = Run(arguments.run)
    asked = {"virtual_tokens": arguments.virtual_tokens, "kind": arguments.kind}
    asked |= {"learning_rate": arguments.learning_rate, "epochs": arguments.epochs, "text": arguments.start}
    recipe = recipe_of(arguments, run)
    _sample_for_a_new_run(run, recipe)
    result = train_prompt_embeddings(run, recipe, **asked, say=say)
    return asdict(result), result.lines()


def _sample_for_a_new_run(run: Run, recipe: DpoRecipe) -> None:
    """Gives a run that does not exist yet the sample as its dataset, and says so: a first try needs no data of one's own."""
    if os.path.lexists(run.path):
        return
    from ..dataset.build import build_dataset

    say(
        f"【注意】{run.path} はまだないので、見本のデータ（架空の商品）で作ります。自分のデータなら、先に adslm dataset FILE --run {run.name}"
    )
    say(
        f"NOTE: there is no {run.path} yet, so it gets the sample data (made-up products). For your own: adslm dataset FILE --run {run.name} first."
    )
    build_dataset(run, "sample", recipe)
