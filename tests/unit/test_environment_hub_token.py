"""The token is found where it is, asked for once, and stands in nothing that anybody can read."""

import json
import logging
import warnings

import pytest

from adslm_helpers.environment import hub_token
from adslm_helpers.environment.hub_token import has_hub_token, hf_token, token_row

TOKEN = "hf_abcDEF0123456789"
GEMMA = ("google/gemma-2b-it",)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No Colab and no token unless a test plants one."""
    for name in ("COLAB_RELEASE_TAG", *hub_token.VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-login"))


@pytest.fixture(autouse=True)
def nothing_shows_it(nowhere, caplog, capsys):
    """Guards every test of this module: no record of any library and nothing printed holds the token."""
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        yield
    printed = capsys.readouterr()
    assert TOKEN not in caplog.text + printed.out + printed.err + "".join(str(one.message) for one in warned)
    assert all(record.exc_info is None for record in caplog.records)  # a traceback would carry the text


def keep_secret(colab, **entry):
    (colab.root / "secrets.json").write_text(json.dumps({"HF_TOKEN": entry}), encoding="utf-8")


def asked(colab):
    path = colab.root / "calls.jsonl"
    return path.read_text(encoding="utf-8").count("userdata.get") if path.is_file() else 0


def test_token_of_the_environment_comes_first_and_is_stripped(colab, monkeypatch):
    keep_secret(colab, value="hf_other")
    monkeypatch.setenv("HF_TOKEN", f" {TOKEN}\n")  # pasted with its line end, it would break every request
    assert hf_token() == TOKEN and asked(colab) == 0
    assert "環境変数 HF_TOKEN" in token_row()[1] and "environment variable HF_TOKEN" in token_row()[1]


def test_old_name_of_the_variable_is_known(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "  ")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", TOKEN)
    assert hf_token() == TOKEN and "variable HUGGING_FACE_HUB_TOKEN" in token_row()[1]


def test_login_file_is_left_to_the_hub_client_which_renews_it(colab, monkeypatch, tmp_path):
    keep_secret(colab, value=TOKEN)
    (tmp_path / "login").write_text(TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "login"))
    assert hf_token() is None and has_hub_token() and asked(colab) == 0
    assert "logged in" in token_row(GEMMA)[1] and TOKEN not in token_row(GEMMA)[1]


def test_no_token_is_none_and_no_reason_to_worry_about_public_models():
    assert hf_token() is None and not has_hub_token()
    assert "なし（公開モデルには不要です）" in token_row()[1] and "->" not in token_row()[1]


def test_no_token_for_a_gated_model_is_a_next_step():
    text = token_row(GEMMA)[1]
    assert "google/gemma-2b-it" in text and "→" in text and "environment variable HF_TOKEN" in text


def test_secret_of_colab_is_asked_for_once_in_a_session(colab):
    keep_secret(colab, value=f"{TOKEN}\n")
    assert [hf_token(), hf_token()] == [TOKEN, TOKEN] and has_hub_token() and asked(colab) == 1


def test_report_asks_for_the_secret_only_when_a_gated_model_needs_it(colab):
    """Asking may open a dialog in front of a user who has no use for a token."""
    keep_secret(colab, value=TOKEN)
    assert "not looked at" in token_row()[1] and asked(colab) == 0
    assert "Colab's secret HF_TOKEN (google/gemma-2b-it needs it)" in token_row(GEMMA)[1] and asked(colab) == 1


def test_missing_secret_is_silent_until_a_gated_model_needs_it(colab, caplog):
    assert hf_token() is None and caplog.text == ""
    assert "鍵の印" in token_row(GEMMA)[1] and "key on the left" in token_row(GEMMA)[1]


@pytest.mark.parametrize(
    ("entry", "kind"), [({"access": False}, "NotebookAccessError"), ({"timeout": True}, "TimeoutException")], ids=str
)
def test_refused_secret_is_none_with_one_note(colab, caplog, entry, kind):
    keep_secret(colab, value=TOKEN, **entry)
    assert [hf_token(), hf_token()] == [None, None]
    assert asked(colab) == 1 and len(caplog.records) == 1
    assert kind in caplog.text and "→" in caplog.text and "->" in caplog.text


@pytest.mark.parametrize("kind", ["Error", "AuthorizationError"])
def test_text_of_an_unknown_error_is_not_repeated(colab, caplog, monkeypatch, kind):
    def refuse(key):
        raise getattr(colab.errors, kind)(f"payload {TOKEN}")

    monkeypatch.setattr(colab.userdata, "get", refuse)
    assert hf_token() is None
    assert kind in caplog.text


def test_subprocess_on_colab_does_not_ask_the_browser(colab, monkeypatch):
    keep_secret(colab, value=TOKEN)
    monkeypatch.setattr(hub_token, "in_notebook", lambda: False)
    assert hf_token() is None and asked(colab) == 0


def test_report_survives_a_hub_client_that_is_not_installed(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "なし" in token_row()[1]
