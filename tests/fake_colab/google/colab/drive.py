"""Drive as FAKE_COLAB_DRIVE wants it: 'granted' (default), 'refused', 'policy', 'timeout', 'failed', 'unsupported' or 'absent'.

As in Colab the browser is asked before anything is looked at, a mounted Drive is left as it is, and a folder with files is no place for
it. A link stands in for the mount.
"""

import os
from pathlib import Path

from google.colab import _message
from google.colab._state import note, place

_FAILURES = {
    "policy": "The domain policy has disabled Drive File Stream: https://support.google.com/a/answer/7496409",
    "timeout": "mount failed: timeout during initial read of root folder; "
    "for more info: https://research.google.com/colaboratory/faq.html#drive-timeout",
    "failed": "mount failed",
}
_mounted = []


def mount(mountpoint, force_remount=False, timeout_ms=120000, readonly=False):
    does = os.environ.get("FAKE_COLAB_DRIVE", "granted")
    note("drive.mount", mountpoint=mountpoint, force_remount=force_remount)
    if does == "unsupported":
        raise NotImplementedError("google.colab.drive is unsupported in this environment.")
    if " " in mountpoint:
        raise ValueError("Mountpoint must not contain a space.")
    if does == "refused":
        raise _message.MessageError("Error: credential propagation was unsuccessful")
    point = Path(mountpoint).expanduser()
    drive = point / "MyDrive"
    if drive.is_symlink() and force_remount:
        drive.unlink()
    if drive.is_symlink():
        print(f"Drive already mounted at {point}")
        return
    _check(point)
    if does in _FAILURES:
        raise ValueError(_FAILURES[does])
    point.mkdir(exist_ok=True)
    if does == "granted":
        place("my_drive").mkdir(exist_ok=True)
        drive.symlink_to(place("my_drive"), target_is_directory=True)
        _mounted.append(drive)
    print(f"Mounted at {point}")


def flush_and_unmount(timeout_ms=24 * 60 * 60 * 1000):
    note("drive.flush_and_unmount")
    if os.environ.get("FAKE_COLAB_DRIVE") == "unsupported":
        raise NotImplementedError("google.colab.drive is unsupported in this environment.")
    while _mounted:
        _mounted.pop().unlink()


def _check(point):
    if point.is_symlink():
        raise ValueError("Mountpoint must not be a symlink")
    if point.is_dir() and any(point.iterdir()):
        raise ValueError("Mountpoint must not already contain files")
    if point.exists() and not point.is_dir():
        raise ValueError("Mountpoint must either be a directory or not exist")
    if not point.parent.exists():
        raise ValueError("Mountpoint must be in a directory that exists")
