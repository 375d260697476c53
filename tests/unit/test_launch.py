"""Several GPUs: what GPU_NODES may say, the launchers' commands, and a start whose end, output and interruption are handed through."""

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import textwrap
import time
from pathlib import Path

import pytest

from adslm_helpers.data_files import data_path
from adslm_helpers.errors import RunError, TrainingError
from adslm_helpers.training.launch import commands, start
from adslm_helpers.training.launch.commands import LAUNCHERS, plan_launch
from adslm_helpers.training.launch.nodes import Node, parse_nodes, world_size
from adslm_helpers.training.launch.start import asked_for, check_started, run_launch
from adslm_helpers.training.launch.zero import deepspeed_file
from adslm_helpers.verbs import launching

TRAIN = ["train", "--run", "ddp", "--preset", "smoke"]


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ADSLM_RUNS", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.mark.parametrize("text", ["node1:0,1,node2:0,1", "node1:0,1@node2:0,1", " node1:0,1@node2:0,1\n"])
def test_both_spellings_name_the_same_machines(text):
    assert parse_nodes(text) == (Node("node1", (0, 1)), Node("node2", (0, 1)))


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("localhost:0,1", [("localhost", (0, 1))]),
        ("localhost:3", [("localhost", (3,))]),
        ("localhost:2,0", [("localhost", (2, 0))]),  # the order is the user's
        ("10.0.0.1:0@gpu-b.example.org:0,7", [("10.0.0.1", (0,)), ("gpu-b.example.org", (0, 7))]),
        ("a:0,b:1,c:2", [("a", (0,)), ("b", (1,)), ("c", (2,))]),
        ("cpu:2", [("cpu", (0, 1))]),
    ],
)
def test_what_gpu_nodes_may_say(text, nodes):
    assert parse_nodes(text) == tuple(Node(*node) for node in nodes)
    assert parse_nodes("@".join(map(str, parse_nodes(text)))) == parse_nodes(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"), ("  ", "empty"), ("localhost", "no GPU number"), ("localhost:", "no GPU number"), ("2", "no name"), ("0,1", "no name"),
        ("localhost:0,", "no number"), ("localhost:,0", "no number"), ("localhost:0,,1", "no number"), ("localhost:0,0", "twice"),
        ("localhost:0,00", "twice"), ("a:0,a:1", "twice"), ("a:0@a:0", "twice"), ("a:-1", "no number"), ("a:0, 1", "no place"),
        ("a:0 b:1", "no place"), ("node1:29500:0,1", "port"), ("a:0@@b:0", "no number"), ("@a:0", "no name"), ("a:0@", "no number"), (":0", "no name"),
        ("a:０", "no place"), ("a：0", "no place"), ("a:1000", "no number"), ("a:0x1", "no number"), ("a:+1", "no place"),
        ("-oProxyCommand:0", "no name"), ("user@node1:0", "no GPU number"), ("a;rm:0", "no place"), ("$(id):0", "no place"), ("a\n:0", "no place"),
        ("localhost:0@b:1", "mean"), ("b:0@127.0.0.1:1", "mean"), ("a:0@cpu:2", "mean"), ("cpu:0", "how many"), ("cpu:two", "how many"),
        ("cpu:1,2", "how many"), ("cpu:999", "how many"), ("[::1]:0", "no place"), ("a:" + "9" * 5000, "no number"), ("x" * 300 + ":0", "no name"),
        (None, "empty"), (2, "empty"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_gpus_is_refused_in_words(text, word):
    with pytest.raises(TrainingError, match=word) as caught:
        parse_nodes(text)
    assert "GPU_NODES" in caught.value.ja and "→" in caught.value.ja and "->" in caught.value.en and len(str(caught.value)) < 900


COMMANDS = [
    ("localhost:1,2", "torchrun", ["CUDA_VISIBLE_DEVICES=1,2 torchrun --standalone --nproc_per_node 2 -m -- adslm_helpers train --run ddp --preset smoke"]),
    ("localhost:1,2", "accelerate", [
        "ADSLM_WORLD_SIZE=2 accelerate launch --multi_gpu --gpu_ids 1,2 --num_processes 2 --num_machines 1 --main_process_port 29500 "
        "--mixed_precision no --dynamo_backend no -m adslm_helpers train --run ddp --preset smoke"]),
    ("localhost:1,2", "deepspeed", [
        "deepspeed --include=localhost:1,2 --master_port 29500 --no_local_rank --module adslm_helpers train --run ddp --preset smoke "
        "--deepspeed zero2"]),
    ("node1:0,1,node2:0", "torchrun", [
        "CUDA_VISIBLE_DEVICES=0,1 torchrun --nnodes 2 --node_rank 0 --nproc_per_node 2 --master_addr node1 --master_port 29500 "
        "-m -- adslm_helpers train --run ddp --preset smoke",
        "CUDA_VISIBLE_DEVICES=0 torchrun --nnodes 2 --node_rank 1 --nproc_per_node 1 --master_addr node1 --master_port 29500 "
        "-m -- adslm_helpers train --run ddp --preset smoke"]),
    ("node1:0,1@node2:2,3", "accelerate", [
        f"ADSLM_WORLD_SIZE=4 accelerate launch --multi_gpu --gpu_ids {gpus} --num_processes 4 --num_machines 2 --machine_rank {rank} "
        "--main_process_ip node1 --main_process_port 29500 --mixed_precision no --dynamo_backend no -m adslm_helpers train --run ddp --preset smoke"
        for rank, gpus in enumerate(("0,1", "2,3"))]),
    ("cpu:2", "torchrun", ["CUDA_VISIBLE_DEVICES='' torchrun --standalone --nproc_per_node 2 -m -- adslm_helpers train --run ddp --preset smoke"]),
    ("cpu:2", "deepspeed", [
        "CUDA_VISIBLE_DEVICES='' DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node 2 -m -- adslm_helpers train --run ddp --preset smoke "
        "--deepspeed zero2"]),
    ("localhost:3", "torchrun", ["CUDA_VISIBLE_DEVICES=3 python -m adslm_helpers train --run ddp --preset smoke"]),
    ("localhost:3", "accelerate", ["CUDA_VISIBLE_DEVICES=3 python -m adslm_helpers train --run ddp --preset smoke"]),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "launcher", "shown"), COMMANDS)
def test_each_launcher_gets_its_command_for_each_machine(nodes, launcher, shown):
    launch = plan_launch(nodes, TRAIN, launcher)
    assert [str(command) for command in launch.commands] == shown
    assert launch.world_size == world_size(parse_nodes(nodes))
    assert json.loads(json.dumps(launch.to_dict()))["world_size"] == launch.world_size
    assert all(any(line.endswith(command) for line in launch.lines) for command in shown)


def test_deepspeed_on_several_machines_has_its_hostfile_beside_the_run(runs):
    launch = plan_launch("node1:0,3,node2:1", ["train", "--run=pg"], "deepspeed", port=30000)
    assert str(launch.commands[0]) == (
        f"deepspeed --hostfile {runs}/pg/deepspeed_hostfile --include=node1:0,3@node2:1 --master_port 30000 --no_local_rank "
        "--module adslm_helpers train --run=pg --deepspeed zero2"
    )
    said = []
    assert run_launch(launch, said.append) == 0 and any("node1" in line and "ssh" in line for line in said)
    assert (
        runs / "pg" / "deepspeed_hostfile"
    ).read_text() == "node1 slots=4\nnode2 slots=2\n"  # counts, from 0 to the highest number


@pytest.mark.parametrize("argument", ["a b", "$HOME", "a'b", "`id`", "広告", "100%n", "a;b"])
def test_what_deepspeeds_remote_shell_would_change_is_refused(argument):
    with pytest.raises(TrainingError, match="torchrun"):
        plan_launch("a:0@b:0", [*TRAIN, "--preference-text", argument], "deepspeed")
    plan_launch("localhost:0,1", [*TRAIN, "--preference-text", argument], "deepspeed")  # here no shell is in between


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_shell_gives_the_arguments_back_as_they_were(launcher):
    arguments = [*TRAIN, "--preference-text", "値段は「$9」から; 'いま'なら `50%` off \\ \n\"今日\"", "--set", "models=a b,c"]
    launch = plan_launch("localhost:0,1", arguments, launcher)
    assert (
        shlex.split(str(launch.commands[0]))[-len(arguments) - (2 if launcher == "deepspeed" else 0) :][: len(arguments)]
        == arguments
    )


def test_a_deepspeed_file_of_the_users_own_stays():
    for given in (["--deepspeed", "mine.json"], ["--deepspeed=mine.json"]):
        assert plan_launch("localhost:0,1", [*TRAIN, *given], "deepspeed").commands[0].argv[-len(given) :] == tuple(given)


@pytest.mark.parametrize(
    ("nodes", "arguments", "options", "word"),
    [
        ("localhost:0,1", ["evaluate", "--run", "x"], {}, "Only train"),
        ("localhost:0,1", [], {}, "Only train"),
        ("localhost:0,1", TRAIN, {"launcher": "torchrn"}, "'torchrun'"),
        ("localhost:0,1", TRAIN, {"port": 80}, "1024"),
        ("localhost:0,1", TRAIN, {"port": "x"}, "Port"),
        ("cpu:2", TRAIN, {"launcher": "accelerate"}, "one process"),  # it would, without a word
        ("a:0,1@b:0", TRAIN, {"launcher": "accelerate"}, "same number"),
    ],
)
def test_what_cannot_be_launched_is_refused_with_the_way_out(nodes, arguments, options, word):
    with pytest.raises(TrainingError, match=word) as caught:
        plan_launch(nodes, arguments, **options)
    assert "→" in caught.value.ja and "->" in caught.value.en


@pytest.mark.parametrize("name", ["../x", "", "a/b"])
def test_a_run_with_an_impossible_name_is_refused_before_anything_starts(name):
    with pytest.raises(RunError):
        plan_launch("cpu:2", ["train", "--run", name])


def test_threads_are_shared_among_processes_unless_the_user_said_how_many():
    """torchrun gives each process one thread, whatever the number of cores."""
    alone = plan_launch("cpu:2", TRAIN, environ={}).commands[0].environment
    assert alone["OMP_NUM_THREADS"] == str(max(1, os.cpu_count() // 2))
    assert "OMP_NUM_THREADS" not in plan_launch("cpu:2", TRAIN, environ={"OMP_NUM_THREADS": "3"}).commands[0].environment


def test_a_process_of_a_launcher_does_not_launch_again():
    assert asked_for({"GPU_NODES": " localhost:0,1 "}) == "localhost:0,1"
    assert asked_for({}) == asked_for({"GPU_NODES": ""}) == asked_for({"GPU_NODES": "localhost:0,1", "RANK": "0"}) == ""


def test_fewer_processes_than_asked_for_is_an_error():
    check_started({})
    check_started({"WORLD_SIZE": "2"})
    check_started({"ADSLM_WORLD_SIZE": "2", "WORLD_SIZE": "2"})
    check_started({"ADSLM_WORLD_SIZE": "1"})
    with pytest.raises(TrainingError, match="2 processes were asked for and 1"):
        check_started({"ADSLM_WORLD_SIZE": "2"})


# --- the start ---------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Has `python -m adslm_helpers` be a script of the test's, which stands in for a launcher with its processes."""

    def made(text):
        script = tmp_path / "stand_in.py"
        script.write_text(textwrap.dedent(text), encoding="utf-8")
        monkeypatch.setattr(start, "own_python", lambda argv: [sys.executable, str(script), *argv[1:]])
        return plan_launch("localhost:5", TRAIN)

    return made


def test_output_exit_status_and_variables_are_handed_through(program, tmp_path, monkeypatch):
    monkeypatch.setenv("GPU_NODES", "localhost:5")
    launch = program("""
        import os, sys
        print("hello", os.environ["CUDA_VISIBLE_DEVICES"], os.environ["ADSLM_WORLD_SIZE"], "GPU_NODES" in os.environ, *sys.argv[3:])
        sys.exit(7)
    """)
    said = []
    with open(tmp_path / "out", "w+") as output:
        assert run_launch(launch, said.append, output) == 7
        output.seek(0)
        assert output.read() == "hello 5 1 False train --run ddp --preset smoke\n"
    assert "(7)" in said[-1] and "→" in said[-1] and "->" in said[-1]


def test_a_killed_launcher_ends_with_the_shells_number_and_leaves_no_process(program, tmp_path):
    launch = program(f"""
        import os, signal, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert run_launch(launch, lambda line: None) == 128 + signal.SIGKILL
    assert gone(int((tmp_path / "pid").read_text()))


def test_one_ctrl_c_reaches_the_launcher_once_and_gives_it_time_to_save(program, tmp_path):
    """From the terminal and from the launcher it would arrive twice, and twice means: stop without saving."""
    seen = tmp_path / "seen"
    launch = program(f"""
        import signal, time
        seen = open({str(seen)!r}, "w")
        def take(*_):
            print("SIGINT", file=seen, flush=True)
        signal.signal(signal.SIGINT, take)
        print("ready", file=seen, flush=True)
        while "SIGINT" not in open({str(seen)!r}).read():
            time.sleep(0.02)
        time.sleep(0.3)
        print("saved", file=seen, flush=True)
    """)
    assert interrupted_when(lambda: seen.exists() and "ready" in seen.read_text(), launch) == 130
    assert seen.read_text().split() == ["ready", "SIGINT", "saved"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_does_not_listen_to_ctrl_c_is_ended(program, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "_PATIENCE_S", 0.2)
    ready = tmp_path / "ready"
    launch = program(f"""
        import signal, time
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        open({str(ready)!r}, "w").close()
        time.sleep(60)
    """)
    assert interrupted_when(ready.exists, launch) == 130


def interrupted_when(ready, launch):
    import threading

    def press():
        while not ready():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    return run_launch(launch, lambda line: None)


def gone(pid):
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").is_file() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
            time.sleep(0.02)
            continue
        return True
    return False


def test_who_ignores_a_signal_goes_on_ignoring_it(program, tmp_path, monkeypatch):
    """nohup, or a job in the background of a script."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        launch = program("import os, signal; os.kill(os.getppid(), signal.SIGHUP)")
        assert run_launch(launch, lambda line: None) == 0 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_missing_launcher_and_a_taken_port_are_said_before_the_start(monkeypatch):
    launch = plan_launch("localhost:0,1", TRAIN, "accelerate")
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="accelerate is not installed"):
        run_launch(launch, lambda line: None)
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda name: object())
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        launch = plan_launch("localhost:0,1", TRAIN, "accelerate", port=other.getsockname()[1])
        with pytest.raises(TrainingError, match=r"in use.*--port"):
            run_launch(launch, lambda line: None)


def test_several_machines_are_told_what_to_run_and_nothing_starts(monkeypatch):
    monkeypatch.setattr(start.subprocess, "Popen", lambda *a, **k: pytest.fail("started"))
    said = []
    for nodes in ("node1:0,1@node2:0,1", "elsewhere:0,1"):
        assert run_launch(plan_launch(nodes, TRAIN), said.append) == 0
    assert [line.partition(" ")[0] for line in said if line.startswith("[")] == ["[node1]", "[node2]", "[elsewhere]"]


def test_our_own_python_runs_the_launcher():
    """The torchrun on the path may belong to another environment."""
    for nodes, launcher, shown in COMMANDS:
        argv = plan_launch(nodes, TRAIN, launcher).commands[0].argv
        assert commands.own_python(argv)[0] == sys.executable and commands.own_python(argv)[1] == "-m", shown


# --- the verbs --------------------------------------------------------------------------------------------------------


def asked(*command, **options):
    defaults = {"gpus": "", "launcher": "torchrun", "port": 29500, "print": False, "json": False}
    return argparse.Namespace(**{**defaults, **options}, command=list(command))


def test_launch_shows_or_runs_and_ends_with_the_trainings_status(monkeypatch):
    monkeypatch.delenv("GPU_NODES", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    value, lines, code = launching.launch(asked("--", *TRAIN, gpus="localhost:0,1", print=True))
    assert code == 0 and lines[-1] == COMMANDS[0][2][0].replace("1,2", "0,1") and value["world_size"] == 2
    monkeypatch.setenv("GPU_NODES", "cpu:2")
    outputs = []
    monkeypatch.setattr(launching, "run_launch", lambda launch, say, output: outputs.append(output) or 7)
    assert launching.launch(asked(*TRAIN))[2] == 7
    assert launching.launch(asked(*TRAIN, json=True))[0]["exit_code"] == 7
    assert outputs == [None, sys.stderr]  # with --json, standard output holds one value
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(TrainingError, match="inside a launcher"):
        launching.launch(asked(*TRAIN))


def test_train_launches_itself_where_gpu_nodes_is_set(monkeypatch):
    monkeypatch.delenv("GPU_NODES", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(
        launching, "run_launch", lambda launch, say: 5 if launch.commands[0].argv[-len(TRAIN) :] == tuple(TRAIN) else 0
    )
    launching.launched(TRAIN)  # nothing asked, nothing done
    monkeypatch.setenv("GPU_NODES", "localhost:0,1")
    with pytest.raises(SystemExit) as ended:
        launching.launched(TRAIN)
    assert ended.value.code == 5
    monkeypatch.setenv(
        "GPU_NODES", "node1:0,1@node2:0,1"
    )  # a script that goes on with `adslm evaluate` must not think that it trained
    with pytest.raises(TrainingError, match="nothing was trained") as told:
        launching.launched(TRAIN)
    assert "[node2]" in told.value.en
    monkeypatch.setenv("RANK", "1")
    launching.launched(TRAIN)


# --- DeepSpeed's file ----------------------------------------------------------------------------------------------


def test_the_zero2_file_leaves_everything_that_the_recipe_says_to_the_recipe():
    settings = json.loads(deepspeed_file("zero2").read_text())
    assert deepspeed_file("zero2") == data_path("zero2.json") and settings["zero_optimization"]["stage"] == 2
    del settings["zero_optimization"]
    values = [value["enabled"] if isinstance(value, dict) else value for value in settings.values()]
    assert len(values) == 6 and set(values) == {"auto"}
    assert "scheduler" not in settings and "optimizer" not in settings  # the trainer's own: else lr has two sources


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"gradient_accumulation_steps": 512}', "gradient_accumulation_steps"),
        ('{"train_batch_size": 4}', "per_device_train_batch_size"),
        ('{"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}}', "learning_rate"),
        ('{"bf16": {"enabled": true}}', "dtype"),
        ('{"scheduler": {"type": "WarmupLR"}}', "lr_scheduler_type"),
    ],
)
def test_a_file_that_would_win_over_the_recipe_is_refused(text, word, tmp_path):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(TrainingError, match=word):
        deepspeed_file(str(tmp_path / "mine.json"))


@pytest.mark.parametrize("text", [None, "", "[1]", "{", "\x00"])
def test_a_file_that_is_none_is_refused_by_name(text, tmp_path):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunError, match=r"mine\.json"):
        deepspeed_file(str(path))
