"""Secrets from `secrets.json`; {"access": false} is one that this notebook may not read, {"timeout": true} no browser at all."""

import json

from google.colab import errors
from google.colab._state import note, place


class NotebookAccessError(Exception):
    def __init__(self, key):
        super().__init__(f"Notebook does not have access to secret {key}")


class SecretNotFoundError(errors.Error):
    def __init__(self, key):
        super().__init__(f"Secret {key} does not exist.")


class TimeoutException(errors.Error):
    def __init__(self, key):
        super().__init__(f"Requesting secret {key} timed out. Secrets can only be fetched when running from the Colab UI.")


def get(key):
    note("userdata.get", key=key)
    secrets = json.loads(place("secrets.json").read_text(encoding="utf-8")) if place("secrets.json").exists() else {}
    if key not in secrets:
        raise SecretNotFoundError(key)
    if secrets[key].get("timeout"):
        raise TimeoutException(key)
    if not secrets[key].get("access", True):
        raise NotebookAccessError(key)
    return secrets[key]["value"]
