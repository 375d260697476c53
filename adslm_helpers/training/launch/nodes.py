"""`GPU_NODES`: which GPUs of which machines. 'localhost:0,1', 'node1:0,1,node2:0,1', 'node1:0,1@node2:0,1', or 'cpu:2'."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from ...errors import TrainingError
from ...foreign_text import brief

CPU = "cpu"
_BETWEEN_NODES = re.compile(r"[@,](?=[^,@:]+:)")
_HOST = re.compile(
    r"[0-9A-Za-z](?:[0-9A-Za-z._-]{0,251}[0-9A-Za-z])?"
)  # no leading dash: ssh and torchrun would take it for an option
_SLOT = re.compile("[0-9]{1,3}")  # int() would also take full-width digits, signs and spaces
_ONLY_HERE = ("localhost", "127.0.0.1")
_MOST_PROCESSES = 256
_EXAMPLES = "localhost:0,1   node1:0,1@node2:0,1   cpu:2"


@dataclass(frozen=True)
class Node:
    """One machine and its GPUs by number. On host 'cpu', which is this machine, a slot is only a process."""

    host: str
    slots: tuple[int, ...]

    @property
    def cpu(self) -> bool:
        return self.host == CPU

    @property
    def here(self) -> bool:
        """Whether this is the machine that we run on, by its name."""
        own = socket.gethostname()
        return self.cpu or self.host in (*_ONLY_HERE, own, own.partition(".")[0])

    def __str__(self) -> str:
        return f"{CPU}:{len(self.slots)}" if self.cpu else f"{self.host}:{','.join(map(str, self.slots))}"


def parse_nodes(text: str) -> tuple[Node, ...]:
    """The machines that `text` names, in its order; the first one is where rank 0 runs and the run folder is written.

    Raises TrainingError for all that is no such list: no slot, a slot twice, a machine twice, a port, a space, a number below 0.
    """
    text = text.strip() if isinstance(text, str) else text
    if not isinstance(text, str) or not text:
        raise _refused(text, "空です", "it is empty")
    if odd := re.search(r"[^0-9A-Za-z._:,@-]", text):
        raise _refused(text, f"使えない文字 {odd[0]!r} があります", f"{odd[0]!r} has no place in it")
    if re.match(r"cpu:", text):
        return (_processes(text),)
    nodes = tuple(_node(text, part) for part in _BETWEEN_NODES.split(text))
    hosts = [node.host for node in nodes]
    for host in hosts:
        if hosts.count(host) > 1:
            raise _refused(
                text, f"{host} が2回あります。番号は1か所にまとめます", f"{host} stands there twice: give its slots in one list"
            )
        if len(hosts) > 1 and host in (*_ONLY_HERE, CPU):
            raise _refused(
                text,
                f"{host} はほかのマシンから見えません。互いに届く名前を書きます",
                f"{host} means nothing to the other machines: use a name by which they reach it",
            )
    return nodes


def world_size(nodes: tuple[Node, ...]) -> int:
    """Processes of the whole job: one for each GPU."""
    return sum(len(node.slots) for node in nodes)


def _processes(text: str) -> Node:
    count = text.removeprefix("cpu:")
    if not _SLOT.fullmatch(count) or not 1 <= int(count) <= _MOST_PROCESSES:
        raise _refused(
            text,
            f"cpu: の後はプロセスの数（1〜{_MOST_PROCESSES}）です",
            f"after cpu: stands how many processes, 1-{_MOST_PROCESSES}",
        )
    return Node(CPU, tuple(range(int(count))))


def _node(text: str, part: str) -> Node:
    host, colon, numbers = part.partition(":")
    if not _HOST.fullmatch(host) or host.isdigit():
        raise _refused(text, f"{brief(host)} はマシンの名前ではありません", f"{brief(host)} is no name of a machine")
    if not colon or not numbers:
        raise _refused(text, f"{brief(host)} に GPU の番号がありません", f"{brief(host)} has no GPU number")
    if ":" in numbers:
        raise _refused(
            text,
            f"{brief(part)} にポートがあります。ポートは --port で指定します",
            f"{brief(part)} has a port in it: that is what --port is for",
        )
    slots = numbers.split(",")
    for slot in slots:
        if not _SLOT.fullmatch(slot):
            raise _refused(text, f"{brief(slot)} は GPU の番号ではありません", f"{brief(slot)} is no number of a GPU")
    found = tuple(map(int, slots))
    for slot in found:
        if found.count(slot) > 1:
            raise _refused(text, f"{host} の GPU {slot} が2回あります", f"GPU {slot} of {host} stands there twice")
    return Node(host, found)


def _refused(text: object, ja: str, en: str) -> TrainingError:
    return TrainingError(
        f"GPU_NODES / --gpus の {brief(text)} は読めません。{ja}。→ 例: {_EXAMPLES}（使わないなら GPU_NODES を消してください）",
        f"GPU_NODES / --gpus {brief(text)} cannot be read: {en}. -> For example: {_EXAMPLES} (or unset GPU_NODES)",
    )
