"""Is this machine ready for this recipe? The report on machine and packages, and the plan of the run, in one answer."""

from __future__ import annotations

from dataclasses import replace

from ..environment.packages import optional_needs
from ..environment.report import EnvironmentReport, environment_report
from ..errors import AdslmError
from ..recipe import DpoRecipe
from .plan import RunPlan, plan_run


def readiness(recipe: DpoRecipe, as_if: str = "") -> tuple[EnvironmentReport, RunPlan | None]:
    """The report, and the plan of a run by `recipe`; what is in the way of the plan is among the report's problems.

    No plan where torch is absent or no model of the list can be used. `as_if`: as for `environment_report`, whose SetupError for an
    unknown name is all that is raised.
    """
    report = environment_report(recipe, as_if=as_if)
    if report.probe is None:
        return report, None
    try:
        plan = plan_run(recipe, report.probe)
    except AdslmError as error:
        known = report.problems if (error.ja, error.en) in report.problems else [*report.problems, (error.ja, error.en)]
        return replace(report, problems=known), None
    if optional_needs(plan.recipe) != optional_needs(recipe):  # 4-bit, so that it fits
        report = environment_report(plan.recipe, as_if=as_if)
    report = replace(report, plan=plan.device)  # of the model that is planned for, not of the preset
    if plan.model == recipe.models[0]:
        return report, plan
    first = plan.skipped[0]
    told = (
        f"{first.name} は使えません: {first.ja}（代わりに {plan.model}）",
        f"{first.name} cannot be used: {first.en} (instead: {plan.model})",
    )
    return replace(report, problems=[*report.problems, told]), plan
