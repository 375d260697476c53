"""How the copy of a run stands, and what to say when the other folder fails: read by the live view and by `adslm monitor`."""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..copies import FULL
from ..errors import AdslmError, RunError
from ..run import read_json
from .mirrored import STATE

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_WORDS = {
    "waiting": "準備中 waiting",
    "copying": "写し中 copying",
    "full": "空きなし full",
    "gone": "接続なし gone",
    "refused": "書込不可 refused",
    "silent": "応答なし silent",
    "differs": "不一致 differs",
    "failed": "失敗 failed",
}


@dataclass(frozen=True)
class MirrorStatus:
    """How the copying stands."""

    state: str
    """'off', 'waiting' (not yet tried), 'copying', 'good', or the trouble: 'full', 'gone', 'refused', 'silent', 'differs', 'failed'."""
    where: str | None = None
    step: int | None = None
    """Of the newest whole checkpoint over there, as of the last complete copy."""
    time: str | None = None
    """When that was, ISO 8601."""
    pending: int = 0
    """Checkpoints saved since."""
    failures: int = 0
    """Attempts in a row that failed."""
    ja: str | None = None
    """What is wrong, in Japanese; None when nothing is."""
    en: str | None = None

    def line(self) -> str:
        """A few words for a line of status; empty when there is no mirror."""
        if self.state == "off":
            return ""
        last = f"step {self.step} {self.time[11:16]}" if self.time and self.step is not None else (self.time or "")[11:16]
        return " ".join(["控え copy:", *filter(None, [_WORDS.get(self.state, ""), last])])

    def lines(self) -> list[str]:
        """The state in a few bilingual lines."""
        if self.state == "off":
            return ["控えはありません（ADSLM_MIRROR で指定）。/ No copy is kept (set ADSLM_MIRROR)."]
        told = [f"{self.line()}   {self.where or ''}".rstrip()]
        if self.pending:
            told.append(f"まだ写していないチェックポイント / checkpoints not copied yet: {self.pending}")
        return told + [text for text in (self.ja, self.en) if text]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in training/mirror.json."""
        return asdict(self)


def read_mirror_status(training: Path) -> MirrorStatus | None:
    """The state that a run's training folder tells; None where it never had a mirror."""
    try:
        value = read_json(training / STATE)
        return MirrorStatus(**value)
    except (RunError, TypeError, OSError):
        return None


def mirror_line(training: Path) -> str:
    """`MirrorStatus.line` of a run, from its training folder; empty where it has no mirror."""
    status = read_mirror_status(training)
    return status.line() if status else ""


def trouble(error: Exception, where: str | None, run: Path) -> tuple[str, str, str]:
    """Kind, Japanese and English words for what stopped a copy to `where`; the run itself is in `run`, unharmed."""
    place = where or "ADSLM_MIRROR"
    ja = f"学習はそのまま続き、手元の {run} は無事です。"
    en = f"Training goes on and {run} is unharmed."
    if isinstance(error, TimeoutError):
        return (
            "silent",
            f"控えの場所 {place} が応答しません（{error}）。{ja}→ 待つ必要はありません。応答があれば写しを続けます。",
            f"{place} does not answer ({error}). {en} -> No need to wait: copying goes on when it does.",
        )
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        if error.errno in FULL:
            return (
                "full",
                f"控えの場所 {place} の空きが足りません（{text}）。{ja}→ 空きを作ると、自動で続きを写します。",
                f"{place} is full ({text}). {en} -> Make room there: copying goes on by itself.",
            )
        if error.errno in _REFUSED:
            return (
                "refused",
                f"控えの場所 {place} に書き込めません（{text}）。{ja}→ 書き込める場所を ADSLM_MIRROR に指定してください。",
                f"{place} cannot be written to ({text}). {en} -> Set ADSLM_MIRROR to a folder that you may write to.",
            )
        return (
            "gone",
            f"控えの場所 {place} につながりません（{text}）。{ja}→ つながりしだい、自動で続きを写します。Colab では Drive を接続し直してください。",
            f"{place} is not there ({text}). {en} -> Copying goes on by itself when it is; on Colab, mount Drive again.",
        )
    if isinstance(error, AdslmError):
        kind = "differs" if type(error).__name__ == "CopyError" else "gone"
        return kind, f"控えを写せません。{ja}\n{error.ja}", f"The copy failed. {en}\n{error.en}"
    reason = f"{type(error).__name__}: {error}"
    return (
        "failed",
        f"控えを写せません（{reason}）。{ja}→ 自動でまた試します。",
        f"The copy failed ({reason}). {en} -> It is tried again by itself.",
    )


def unfinished(status: MirrorStatus, run: Path) -> tuple[str, str]:
    """What to say when the last copy did not get through in time."""
    step_ja = f"ステップ {status.step} まで" if status.step is not None else "まだありません"
    step_en = f"it reaches step {status.step}" if status.step is not None else "there is none yet"
    where = status.where or "ADSLM_MIRROR"
    return (
        f"控え（{where}）は、まだ最後まで揃っていません（{step_ja}）。手元の {run} は無事です。"
        "→ このセッションを閉じる前に、つながりと空きを確かめて同じセルをもう一度実行すると、続きを写します。",
        f"The copy in {where} is not complete yet ({step_en}). {run} is unharmed. "
        "-> Before you close this session, check connection and space and run the same cell again: it copies what is missing.",
    )
