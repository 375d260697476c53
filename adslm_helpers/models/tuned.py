"""The tuned model of a run: its base, by the manifest, with the run's adapter on it."""

from __future__ import annotations

from ..errors import RunError
from ..recipe import DpoRecipe, recipe_from_dict
from ..run import Run, read_json
from .loading import LoadedModel, load_named

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def load_tuned(run: Run, recipe: DpoRecipe | None = None) -> LoadedModel:
    """The run's tuned model as a `PeftModel` in eval mode (`disable_adapter()` gives the base), loaded as `recipe` says.

    `recipe`: the one the run was trained with unless another is given (another dtype, another device); its `models` are not read.
    Raises RunError when the training is not done or its adapter is incomplete, ModelError when the base cannot be loaded.
    """
    run.require("training")
    adapter = run.training / "adapter"
    for name in ADAPTER_FILES:
        if not (adapter / name).is_file():
            raise RunError(
                f"{adapter / name} がありません。→ ノートブック 02（学習）をもう一度実行してください。",
                f"{adapter / name} does not exist. -> Run notebook 02 (training) again.",
            )
    return load_named(base_name(run), recipe or trained_recipe(run), adapter=adapter)


def trained_recipe(run: Run) -> DpoRecipe:
    """The recipe that the run's adapter was trained with."""
    return recipe_from_dict(read_json(run.training / "recipe.json"))


def base_name(run: Run) -> str:
    """The base model of the run as the manifest names it: a hub id, a folder or 'embedded-tiny'."""
    model = run.manifest().get("model")
    name = model.get("name") if isinstance(model, dict) else None
    if not name or not isinstance(name, str):
        raise RunError(
            f"{run.path / 'manifest.json'} にベースモデルの名前がありません。→ ノートブック 02（学習）をもう一度実行してください。",
            f"{run.path / 'manifest.json'} does not name the base model. -> Run notebook 02 (training) again.",
        )
    return name
