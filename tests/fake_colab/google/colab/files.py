"""The two dialogs: what lies in `uploads/` is picked, what is downloaded lands in `downloads/`."""

import os
import shutil
from pathlib import Path

from google.colab._state import note, place


def upload(target_dir=""):
    note("files.upload")
    chosen = {path.name: path.read_bytes() for path in sorted(place("uploads").glob("*"))}
    for name, content in chosen.items():  # Colab leaves a copy in the working directory, under a free name
        copy, number = Path(target_dir) / name, 1
        while copy.exists():
            copy, number = Path(target_dir) / f"{Path(name).stem} ({number}){Path(name).suffix}", number + 1
        copy.write_bytes(content)
        print(f"Saving {name} to {copy}")
    return chosen


def download(filename):
    note("files.download", filename=os.path.basename(filename))
    if not os.path.exists(filename):
        raise FileNotFoundError(f"Cannot find file: {filename}")
    place("downloads").mkdir(exist_ok=True)
    shutil.copy(filename, place("downloads"))
