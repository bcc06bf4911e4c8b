"""The entry of the command line in a process: signals, pipes, encodings, launchers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from saeworks.cli import parsing
from saeworks.cli.main import main

RUN = "import sys, saeworks.cli.parsing as p, saeworks.cli.main as c; p.parse = lambda _: work; "
RUN += "sys.exit(c.main())"


def process(
    work: str, folder: Path, stdout: int = subprocess.PIPE, **environment: str
) -> "subprocess.Popen[bytes]":
    """A process in which the command is a function `work`."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{work}\n{RUN}"],
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def test_ctrl_c_amid_the_first_imports_is_quiet(tmp_path: Path) -> None:
    """A library that is being imported may turn the exception into anything."""
    (tmp_path / "tyro.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(5)\n"
        "except BaseException:\n    raise ImportError('half imported') from None\n"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "saeworks", "eval", "nowhere"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"saeworks: interrupted\n")


def test_ctrl_c_later_leaves_time_to_clean_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def work() -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            return 0
        finally:
            cleaned.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(parsing, "parse", lambda _: work)
    assert main(["work"]) == 130
    assert capsys.readouterr().err == "saeworks: interrupted\n"
    assert cleaned == [signal.SIG_DFL]  # the second one ends it, whatever it is at
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_ends_no_work(tmp_path: Path, unbuffered: str) -> None:
    work = "from pathlib import Path\ndef work():\n    for _ in range(9999): print('x' * 99)\n"
    work += "    Path('done').touch()\n    return 0"
    with process(work, tmp_path, PYTHONUNBUFFERED=unbuffered) as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.readline().strip() == b"x" * 99
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0
    assert (tmp_path / "done").exists()


def test_the_help_may_be_cut_off() -> None:
    command = [sys.executable, "-m", "saeworks", "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_replaced(tmp_path: Path, encoding: str) -> None:
    work = "def work():\n    print('\\u0394CE \\u2192 \\udcff|')\n"
    work += "    import rich.console, rich.table\n    table = rich.table.Table('\\u0394')\n"
    work += "    table.add_row('\\u00b11')\n    rich.console.Console().print(table)\n    return 0"
    with process(work, tmp_path, PYTHONIOENCODING=encoding) as running:
        out, err = running.communicate()
    assert (running.returncode, err) == (0, b"")
    first = "ΔCE → ?|" if encoding == "utf-8" else "?CE ? ?|"
    assert out.decode(encoding).splitlines()[0] == first


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    work = "def work():\n    print('x')\n    return 0"
    with open("/dev/full", "wb") as full, process(work, tmp_path, full.fileno()) as running:
        _, err = running.communicate()
    assert running.returncode == 2
    assert err.startswith(b"saeworks: could not write to the standard output: No space left")
    assert err.count(b"\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_error_that_cannot_be_said_still_ends_with_its_code(tmp_path: Path) -> None:
    work = "import saeworks.errors as e\ndef work():\n    raise e.UserError('no')"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", f"{work}\n{RUN}"],
            stdout=subprocess.PIPE,
            stderr=full,
            cwd=tmp_path,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.skipif(os.name == "nt", reason="descriptors are closed by a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere_and_no_file_takes_their_place(
    tmp_path: Path, closed: str
) -> None:
    work = (
        "import os, sys\n"
        "def work():\n"
        "    with open('own', 'w') as own:\n"
        "        assert own.fileno() > 2\n"
        "        assert not (sys.stdout.isatty() or sys.stderr.isatty())\n"
        "        os.write(1, b'a library')\n"
        "        os.write(2, b'a library')\n"
        "        print('done')\n"
        "    return 0"
    )
    command = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", f"{work}\n{RUN}"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "own").read_bytes() == b""


def test_a_current_folder_that_is_gone_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parsing, "parse", lambda _: pytest.fail("it went on"))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["report", str(tmp_path)]) == 2
    said = "saeworks: the current folder is gone (No such file or directory); cd to one"
    assert capsys.readouterr().err.startswith(said)


def test_a_library_that_cannot_be_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        try:
            raise ModuleNotFoundError("No module named 'resource'")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("Could not import module 'Llama'.\nSet logging") from error

    monkeypatch.setattr(parsing, "parse", lambda _: work)
    assert main(["work"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("saeworks: No module named 'resource': ") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "start it without torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}, ""),
        ({"RANK": "0"}, "start it without torchrun"),
        ({"WORLD_SIZE": "4"}, "start it without torchrun"),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, "nowhere: no such folder"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "report"])
def test_several_processes_are_refused(
    command: str,
    environment: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert main([command, "nowhere"]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert said in found.err and found.err.count("\n") == (said != "")
