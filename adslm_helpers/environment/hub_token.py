"""The user's Hugging Face token: where it is, and the token itself for the one place that sends it; never shown, logged or stored."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ..foreign_text import TOKEN_VARIABLES, remember_secret
from .colab import colab_module, in_notebook, on_colab, refusals

VARIABLES = TOKEN_VARIABLES
"""Read in this order."""
_SECRET = "HF_TOKEN"
_log = logging.getLogger(__name__)


def hf_token() -> str | None:
    """What to hand on as `token=` when a hub model is loaded: from the environment, or Colab's secret HF_TOKEN.

    None where there is none, and where the hub client has a login file of its own, which it reads (and renews) itself.
    Neither the token nor a part of it is ever logged or put into an error. Why a secret could not be read is logged.
    """
    # A token that was pasted with its line end would break every request.
    token = next(filter(None, (os.environ.get(name, "").strip() for name in VARIABLES)), None)
    if token or (login := _login_file()) is not None:
        if not token:
            _remember(login)
        return token
    return _colab_secret() if in_notebook() else None  # it asks the browser, through the kernel


def has_hub_token() -> bool:
    """Whether a gated model can be asked for with a token of the user's: from the environment, a login, or Colab's secret."""
    return _login_file() is not None or hf_token() is not None


def token_row(gated: Sequence[str] = ()) -> tuple[str, str]:
    """(label, text) for a report: where the token comes from, and whether the models asked for (`gated` of them) need it.

    Colab's secrets are asked for only when something is gated: the question may open a dialog.
    """
    return "HF トークン / HF token", " / ".join(_token_text(gated))


def _token_text(gated: Sequence[str]) -> tuple[str, str]:
    need_ja = f"{', '.join(gated)} に必要です" if gated else "公開モデルには不要です"
    need_en = f"{', '.join(gated)} needs it" if gated else "public models need none"
    if name := next((name for name in VARIABLES if os.environ.get(name, "").strip()), None):
        return f"環境変数 {name}（{need_ja}）", f"environment variable {name} ({need_en})"
    if path := _login_file():
        return f"ログイン済み {path}（{need_ja}）", f"logged in, {path} ({need_en})"
    if on_colab() and not gated:
        return f"Colab のシークレットは見ていません（{need_ja}）", f"Colab's secrets not looked at ({need_en})"
    if on_colab() and has_hub_token():
        return f"Colab のシークレット {_SECRET}（{need_ja}）", f"Colab's secret {_SECRET} ({need_en})"
    if not gated:
        return f"なし（{need_ja}）", f"none ({need_en})"
    where_ja = "左の鍵の印（シークレット）" if on_colab() else "環境変数"
    where_en = "a secret (the key on the left)" if on_colab() else "an environment variable"
    return (
        f"なし（{need_ja}）→ モデルのページで利用条件に同意し、読み取り用トークンを{where_ja} {_SECRET} に登録してください",
        f"none ({need_en}) -> accept the licence on the model's page and keep a read token as {where_en} {_SECRET}",
    )


def _login_file() -> Path | None:
    """The file that `hf auth login` (or notebook_login) wrote, where there is one."""
    try:
        from huggingface_hub import constants
    except ImportError:  # the report that says so must not fail over it
        return None
    path = Path(constants.HF_TOKEN_PATH)
    return path if os.path.isfile(path) else None


@functools.cache
def _remember(login: Path) -> None:
    """What the hub client will send is struck out of all that we show, whatever it looks like."""
    try:
        remember_secret(login.read_text(encoding="utf-8", errors="replace")[:1000])
    except OSError:
        return


@functools.cache  # once per process, refusals too: each question may open a dialog, or wait 10 s where no browser listens
def _colab_secret() -> str | None:
    userdata = colab_module("userdata")
    if userdata is None:
        return None
    try:
        token = (userdata.get(_SECRET) or "").strip() or None
        remember_secret(token or "")
        return token
    except getattr(userdata, "SecretNotFoundError", ()):
        return None  # nothing to warn about: most models are public
    except refusals(userdata) as error:
        # The class name alone: the text of an error might hold what the front end sent.
        _log.warning(
            "Colab のシークレット HF_TOKEN を読めません（%s）。公開モデルには不要です。"
            "→ 必要なら左の鍵の印でこのノートブックからのアクセスを許可し、セッションを再起動してください。\n"
            "Colab's secret HF_TOKEN cannot be read (%s). Public models do not need it. "
            "-> If you do: give this notebook access under the key symbol on the left, then restart the session.",
            *[type(error).__name__] * 2,
        )
        return None
