"""A gated model is loaded with the user's token, and the token reaches the hub and nothing else: no log, no output, no file."""

import os
import subprocess
import sys

from ..gated_hub import REFUSED, GatedHub

TOKEN = "hf_PLANTEDplantedPLANTED0123"
SCRIPT = """
import logging, os, sys
logging.basicConfig(level=logging.DEBUG)  # all that any library has to say
from adslm_helpers.environment.hub_token import token_row
from adslm_helpers.environment.report import environment_report
from adslm_helpers.models.loading import load_model
from adslm_helpers.recipe import load_recipe
from adslm_helpers.run import Run

print(*environment_report().lines(), token_row([sys.argv[1]]), sep="\\n")
loaded = load_model(load_recipe("smoke", models=sys.argv[1:], device="cpu"))
print(*loaded.lines(), loaded, loaded.model.config, loaded.tokenizer.init_kwargs, sep="\\n")
run = Run("gated")
run.update(model=loaded.record(), environment=environment_report().to_dict())
loaded.model.save_pretrained(run.path / "merged")
loaded.tokenizer.save_pretrained(run.path / "merged")
"""


def test_token_reaches_the_hub_and_nothing_else(tmp_path, model_folder):
    with GatedHub(TOKEN, {"ads/gated": model_folder}) as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": f"{TOKEN}\n",
            "NO_PROXY": "127.0.0.1",
            "ADSLM_RUNS": str(tmp_path / "runs"),
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, REFUSED, "ads/gated", "embedded-tiny"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert (tmp_path / "runs/gated/merged/model.safetensors").is_file()
    assert f"FALLBACK: using ads/gated instead.\n  - {REFUSED}: 利用許諾が必要です" in told
    assert "environment variable HF_TOKEN" in told
    assert {sent for path, sent in hub.sent if "config.json" in path} == {f"Bearer {TOKEN}"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10 and TOKEN not in told
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
