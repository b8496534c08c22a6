"""What a stage does with errors that the user can put right, and with signals."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

from mtseg.core.errors import UserError, quoted
from mtseg.core.files import replace_file
from mtseg.core.signals import interrupts_held, run_stage, without_traceback


def outcome(stage, capsys):
    with pytest.raises(SystemExit) as left:
        run_stage(stage)
    return left.value.code, capsys.readouterr().err


def on_a_full_disk():
    with open("/dev/full", "w") as file:
        file.write("x" * 100_000)


def in_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with replace_file(tmp_path / "file" / "a.json") as path:
        path.touch()


def without_memory():
    bytearray(2**62)


def above_the_size_that_a_file_may_have():
    raise OSError(errno.EFBIG, "File too large", "a.parquet")


def without_its_server():
    raise OSError(errno.ESTALE, "Stale file handle")


def that_is_in_use():
    raise OSError(errno.EBUSY, "Device or resource busy", "models")


def without_memory_for_a_convolution():
    raise RuntimeError("could not create a primitive")


def without_memory_for_a_process():
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def without_memory_for_a_tensor():  # PyTorch has no class for it
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried")


def test_errors_of_the_operating_system_are_one_line(tmp_path, capsys):
    faults = (
        (on_a_full_disk, "space"),
        (without_memory, "memory"),
        (without_memory_for_a_tensor, "memory"),
        (without_memory_for_a_process, "memory"),
        (without_memory_for_a_convolution, "memory"),
        (above_the_size_that_a_file_may_have, "a.parquet: file too large: raise the limit"),
        (without_its_server, "error: stale file handle: check the network"),
        (that_is_in_use, "models: device or resource busy: "),
        (lambda: in_a_folder_that_is_a_file(tmp_path), "file"),
    )
    for stage, word in faults:
        code, _ = outcome(stage, capsys)
        assert word in code and "\n" not in code


def test_a_bug_keeps_its_traceback():
    for error in (
        *(FileNotFoundError(2, "no such file", "a"), ValueError("wrong"), OSError("no number")),
        *(OSError(errno.ENOTEMPTY, "not empty", "a"), OSError(errno.EINVAL, "invalid argument")),
    ):

        def stage(error=error):
            raise error

        with pytest.raises(type(error)):
            run_stage(stage)


SCRIPT = """
import time
from pathlib import Path
from mtseg.core.signals import run_stage
from mtseg.core.files import replace_folder
def stage():
    with replace_folder("out"):
        Path("started").touch()
        time.sleep(60)
run_stage(stage)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_one_line_and_leaves_nothing(tmp_path, number):
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # nohup and background jobs ignore some
    )  # fmt: skip
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert said.startswith("error: interrupted") and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["started"]


def test_a_reader_that_ends_early_is_no_error():
    script = "from mtseg.core.signals import run_stage\nrun_stage(lambda: print('line\\n' * 100_000))"
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer.stdout.readline()
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    writer.wait(20)


def test_a_stage_runs_without_a_stdout():
    script = "from mtseg.core.signals import run_stage\nrun_stage(lambda: print('line'))"
    done = subprocess.run([sys.executable, "-c", script], preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_text_that_the_terminal_cannot_show_is_escaped():
    script = "from mtseg.core.signals import run_stage\nrun_stage(lambda: print('class \u043a'))"
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    assert subprocess.check_output([sys.executable, "-c", script], env=environment) == b"class \\u043a\n"


def test_a_signal_that_arrives_in_a_callback_is_not_lost():
    script = """import os, signal, time
from mtseg.core.signals import run_stage, without_traceback

class Callback:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def stage():
    Callback()
    time.sleep(60)

without_traceback()
run_stage(stage)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 130
    assert done.stderr.startswith("error: interrupted") and done.stderr.count("\n") == 1


SWALLOWS = """import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
except BaseException:
    pass
print("it went on", flush=True)
"""
SAVES = """import time
from mtseg.core.signals import interrupts_raised, run_stage

def stage():
    with interrupts_raised():
        try:
            import extension
            time.sleep(20)
        finally:
            print("saved", flush=True)

run_stage(stage)"""


def run_with_extension(folder, code, script):
    (folder / "extension.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, env=environment)


def test_an_import_that_swallows_exceptions_does_not_swallow_a_signal(tmp_path):
    script = "from mtseg.core.signals import run_stage\nrun_stage(lambda: __import__('extension'))"
    done = run_with_extension(tmp_path, SWALLOWS, script)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_what_is_saved_at_the_end_is_saved_when_a_signal_arrives_in_an_import(tmp_path):
    done = run_with_extension(tmp_path, SWALLOWS, SAVES)
    assert (done.returncode, done.stdout) == (130, "it went on\nsaved\n") and done.stderr.count("\n") == 1


def test_a_training_that_runs_within_an_import_is_interrupted(tmp_path):
    trains = """import os, signal, time
from mtseg.core.signals import interrupts_raised

with interrupts_raised():
    from mtseg.model.ranks import Ranks
    def step():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)
        print("it went on", flush=True)
    Ranks().alone(step)
"""
    script = "from mtseg.core.signals import run_stage\nrun_stage(lambda: __import__('extension'))"
    done = run_with_extension(tmp_path, trains, script)
    assert done.returncode == 130 and done.stdout == "" and done.stderr.count("\n") == 1


def test_other_exceptions_go_to_the_hooks_that_were_there(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: seen.append(kind))
    monkeypatch.setattr(sys, "unraisablehook", lambda given: seen.append(given.exc_type))
    without_traceback()
    without_traceback()  # a second command of the process

    class Callback:
        def __del__(self):
            raise LookupError

    Callback()
    sys.excepthook(ValueError, ValueError(), None)
    assert seen == [LookupError, ValueError]


def test_held_signals_are_raised_at_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_held() as interrupted:
        for _ in range(2):  # as `timeout` does
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted()
        done.append(1)
    assert done


def test_text_of_a_user_stays_on_its_line_and_short():
    error = UserError.many("a\nerror: forged", ["b\x1b[31m", "half \ud800", "x" * 5000])
    lines = str(error).split("\n")
    assert lines[:3] == [r"a\nerror: forged", r"  b\x1b[31m", r"  half \ud800"]
    assert len(lines) == 4 and len(lines[3]) <= 1002
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_quoted_value_has_at_most_200_characters():
    for value in ("x" * 5000, ["x" * 5000] * 99, {"a": ["b"] * 10**5}, 10**5000, [[[[["deep"]]]]] * 50):
        assert len(quoted(value)) <= 200


def test_a_short_value_is_quoted_in_full():
    assert quoted("a\nb") == r"'a\nb'" and quoted(["a", 1, {"b": None}, True]) == "['a', 1, {'b': null}, true]"
