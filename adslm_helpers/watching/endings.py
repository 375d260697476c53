"""How a training ended, or did not, and what the guards of a run of ours had to say: as findings beside those of the curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..training.history import Alarm
from .causes import Finding
from .run_files import RunState
from .sources import Log

_ORDER = ("note", "warning", "stop")
_MOST_RESUMES = 3


def find_endings(log: Log, state: RunState | None) -> list[Finding]:
    """Killed, failed, interrupted, cut short, resumed, recovered, and every kind of alarm once."""
    found = [resumed(log, state), ended_early(log)] if state is None else [*_of_our_run(log, state), resumed(log, state)]
    return [finding for finding in found if finding]


def from_alarms(alarms: Sequence[Alarm]) -> list[Finding]:
    """Each kind of alarm once: where it came first, as severe as it ever was, and how often."""
    kinds: dict[str, list[Alarm]] = {}
    for alarm in alarms:
        kinds.setdefault(alarm.kind, []).append(alarm)
    found = []
    for kind, same in kinds.items():
        first, worst = same[0], max(same, key=lambda alarm: _ORDER.index(alarm.severity))
        evidence = [", ".join(f"{key} {_short(value)}" for key, value in worst.measured.items())] if worst.measured else []
        evidence += [f"{len(same)} times, last at step {same[-1].step}"] if len(same) > 1 else []
        found.append(Finding(kind, first.step, worst.severity, worst.ja, worst.en, evidence=tuple(evidence)))
    return found


def resumed(log: Log, state: RunState | None) -> Finding | None:
    """The steps went back: the training was stopped and started again."""
    times = len(log.restarts)
    if state is not None and state.recoveries:
        return None  # it says itself from where it went on
    if state is not None and state.resumed_from and not times:
        return Finding(
            "resumed", state.resumed_from, "note",
            f"ステップ {state.resumed_from} のチェックポイントから再開した実行です。結果は止まらなかった場合と同じです。",
            f"Resumed from the checkpoint of step {state.resumed_from}; the result is that of an undisturbed run.",
        )  # fmt: skip
    if not times:
        return None
    often = times >= _MOST_RESUMES
    after = log.restarts[0][1]
    return Finding(
        "resumed", after, "warning" if often else "note",
        f"記録が {times} 回前のステップに戻っています。止まって、やり直した跡です。" + ("毎回同じ所で止まるなら、メモリ不足か時間制限です。行ったり来たりしているなら、二つのプロセスが同じフォルダーに書いています。" if often else ""),
        f"The steps go back {times} times: training was stopped and started again." + (" If always near the same step: memory, or a time limit; if they jump to and fro: two processes wrote into one folder." if often else ""),
        "チェックポイントの間隔（save_steps）を短くし、止まったときの端末の最後の行を見てください。" if often else "",
        "Save more often (save_steps), and look at the last lines that the stopped runs printed." if often else "",
        tuple(f"step {one} -> step {two}" for one, two in log.restarts[:4]),
    )  # fmt: skip


def ended_early(log: Log) -> Finding | None:
    """A log of another tool that stops before its last step."""
    if log.finished or not log.total_steps or log.last_step >= log.total_steps:
        return None
    return Finding(
        "ends_early", log.last_step, "warning",
        f"記録は {log.total_steps} ステップ中 {log.last_step} で終わっています。まだ動いているのでなければ、途中で止まりました（強制終了、メモリ不足、時間切れ）。",
        f"The log ends at step {log.last_step} of {log.total_steps}: unless it still runs, it was stopped (killed, out of memory, out of time).",
        "端末の最後の行を見てください。何も出ずに消えたなら、多くはメモリ不足です。最後のチェックポイントから再開できます。",
        "Look at the last lines on the terminal; one that vanished without a word mostly ran out of memory. It can go on from its last checkpoint.",
    )  # fmt: skip


def _of_our_run(log: Log, state: RunState) -> list[Finding]:
    found = from_alarms(_as_it_turned_out(state))
    found += [recovery for row in state.recoveries if (recovery := _recovery(row))]
    found += [_unhealthy(state)] if state.health and state.health.get("healthy") is False else []
    phase = {"running": _silent, "killed": _killed, "failed": _failed, "interrupted": _interrupted}.get(state.phase)
    return [*found, phase(log, state)] if phase else found


def _as_it_turned_out(state: RunState) -> list[Alarm]:
    """The alarms without those of recoveries, which recoveries.jsonl tells; what the run recovered from did not stop it."""
    places = [place for place, alarm in enumerate(state.alarms) if alarm.kind == "recovery"]
    last = len(state.alarms) if state.recoveries and state.phase == "done" else max(places, default=-1)
    alarms = [
        replace(alarm, severity="warning") if alarm.severity == "stop" and place < last else alarm
        for place, alarm in enumerate(state.alarms)
    ]
    return [alarm for alarm in alarms if alarm.kind != "recovery" or not state.recoveries]


def _recovery(row: dict) -> Finding | None:
    if not (isinstance(row.get("ja"), str) and isinstance(row.get("en"), str)):
        return None
    done = row.get("step")  # before the step that failed
    evidence = (f"{row.get('cause', '?')} -> {row.get('remedy', '?')}",)
    return Finding("recovered", done + 1 if isinstance(done, int) else 0, "warning", row["ja"], row["en"], evidence=evidence)


def _unhealthy(state: RunState) -> Finding:
    step = state.health.get("step")
    reasons = state.health.get("reasons")
    return Finding(
        "texts_unhealthy", step if isinstance(step, int) else 0, "warning",
        "最後に試し書きした文が健全ではありません。損失や正解率が良くても、書く文は壊れています。",
        "The last texts that the run tried are not healthy: whatever loss and accuracy say, what it writes is broken.",
        "learning_rate を下げるか sft_weight を 1 にしてください。adslm check で文を読めます。",
        "Lower learning_rate, or set sft_weight to 1. adslm check shows the texts.",
        (", ".join(map(str, reasons)),) if isinstance(reasons, list) and reasons else (),
    )  # fmt: skip


def _killed(log: Log, state: RunState) -> Finding:
    return Finding(
        "killed", log.last_step, "warning",
        f"{_reached(log, state)[0]}終わりの記録はなく、プロセス（pid {state.holder.pid}）はもうありません。強制終了、メモリ不足、またはランタイムの停止です。",
        f"{_reached(log, state)[1]} and says no more, and its process (pid {state.holder.pid}) is gone: killed, out of memory, or the runtime was taken away.",
        *_go_on(state),
        evidence=(f"manifest: training 'running', no result.json, pid {state.holder.pid} since {state.holder.started or '?'}",),
    )  # fmt: skip


def _silent(log: Log, state: RunState) -> Finding:
    """Marked as running, and nothing says that it is not."""
    if state.holder is not None and state.holder.alive:
        return Finding(
            "running", log.last_step, "note",
            f"この実行はまだ動いています（pid {state.holder.pid}）。{_reached(log, state)[0]}ここまでの診断です。",
            f"This run is still training (pid {state.holder.pid}). {_reached(log, state)[1]}; this is what can be said so far.",
        )  # fmt: skip
    host = f" ({state.holder.host})" if state.holder else ""
    return Finding(
        "running_or_killed", log.last_step, "warning",
        f"{_reached(log, state)[0]}「実行中」の印が残っています。ほかの計算機{host}で動いていないなら、途中で止められました。",
        f"{_reached(log, state)[1]} and the run is still marked as running. Unless it runs on another machine{host}, it was killed.",
        *_go_on(state),
    )  # fmt: skip


def _failed(log: Log, state: RunState) -> Finding:
    step = max([log.last_step, *(alarm.step for alarm in state.alarms if alarm.severity == "stop")])
    return Finding(
        "failed", step, "stop",
        f"{_reached(log, state)[0]}学習はエラーで終わりました。" + ("理由は警報のとおりです。" if state.alarms else "理由は、そのときに表示されたメッセージにあります。"),
        f"{_reached(log, state)[1]}, and the training ended with an error: " + ("the alarms say why." if state.alarms else "the message shown then says why."),
        *_go_on(state),
    )  # fmt: skip


def _interrupted(log: Log, state: RunState) -> Finding:
    return Finding(
        "interrupted", log.last_step, "note",
        f"{_reached(log, state)[0]}人の手で中断されました。", f"{_reached(log, state)[1]}, and was interrupted by hand.", *_go_on(state),
    )  # fmt: skip


def _reached(log: Log, state: RunState) -> tuple[str, str]:
    total = state.total_steps or log.total_steps
    ja, en = (f" {total} ステップ中の", f" of {total}") if total else ("ステップ", "")
    return f"記録は{ja} {log.last_step} までです。", f"The log reaches step {log.last_step}{en}"


def _go_on(state: RunState) -> tuple[str, str]:
    if state.checkpoint is None:
        return (
            "チェックポイントはまだありません。同じコマンドで最初からになります。",
            "There is no checkpoint yet: the same command starts at the beginning.",
        )
    step = state.checkpoint.step
    return (
        f"同じコマンド（セル）をもう一度実行すると、ステップ {step} から続きます。",
        f"Run the same command (cell) again: it goes on from step {step}.",
    )


def _short(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
