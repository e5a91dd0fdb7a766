"""A stand-in for the interpreter of jobs: their modules are imported once, in a server that forks every job.

What is started is a small program that has its arguments, environment and open files carried out by the server. It
passes its signals on, ends as the job does, and takes the job with it where it is killed.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from forked_tools import end_with, server, status_of

_PROGRAM = """\
#!{executable} -IS
import json, os, select, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
request = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
connection.sendall(request)
connection.setblocking(False)
signal.set_wakeup_fd(connection.fileno())
for number in ({signals}):
    signal.signal(number, lambda *_: None)
select.select([connection], [], [])
status = int(connection.recv(8) or 1)
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGCONT, signal.SIGUSR1, signal.SIGUSR2)


class ForkedPython:
    """The program at `path`, which takes `-u -m MODULE` or a script, and arguments; and its server."""

    def __init__(self, folder: Path) -> None:
        self.path, address = folder / "python", str(folder / "python.socket")
        signals = "".join(f"{int(number)}, " for number in _PASSED_ON)
        self.path.write_text(_PROGRAM.format(executable=sys.executable, address=address, signals=signals))
        self.path.chmod(0o755)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        self._server = server().Process(target=_serve, args=(listener,))
        self._server.start()
        listener.close()

    def stop(self) -> None:
        """Start no more jobs."""
        self._server.kill()
        self._server.join()


def _serve(listener: socket.socket) -> None:
    """Fork a process for every start of the program, without end."""
    import torch

    import sam3_hyperet.cli.evaluate
    import sam3_hyperet.cli.train
    import sam3_hyperet.launch.slurm  # noqa: F401

    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _attend(connection)
        connection.close()


def _attend(connection: socket.socket) -> None:
    """Run one job, with the signals that come for it; tell its status."""
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    arguments, environment, folder = json.loads(connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    job = os.fork()
    if not job:
        connection.close()
        _become(arguments, environment, folder, files)
    os.setpgid(job, job)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(job)
    while ended not in select.select([connection, ended], [], [])[0]:
        for number in connection.recv(64) or [signal.SIGKILL]:  # nothing: the program is gone
            os.killpg(job, number)
    status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    connection.sendall(str(status).encode())
    os._exit(0)


def _become(arguments: Sequence[str], environment: dict[str, str], folder: str, files: Sequence[int]) -> None:
    """Be the interpreter that was started."""

    def program() -> None:
        os.setpgid(0, 0)
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[attr-defined]
        if arguments[0].endswith(".py"):
            sys.argv = list(arguments)
            runpy.run_path(arguments[0], run_name="__main__")
            return
        unbuffered, by_name, module, *others = arguments
        assert (unbuffered, by_name) == ("-u", "-m")
        sys.argv = [module, *others]
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    end_with(lambda: status_of(program))
