"""Start-up once per run instead of once per job: a process that has imported the libraries and forks for each job.

A small study consists of a hundred jobs of a second or two, and importing torch, timm and scikit-learn costs each of
them five to ten. The Snakefile starts one server per run; ``python -m mlip run ...`` finds it in ``MLIP_WARM`` and hands
over its arguments, directory, environment and standard streams. A job behaves as it would alone: own process, own log, own
exit status; it ends when its caller is killed. Without a server of its own Python environment (a GPU, not ready yet) the job
runs in the caller itself, slower and with the same numbers. There is none where jobs do not run as children of Snakemake in
its environment: under a scheduler they would leave their allocation, with ``--use-conda`` nobody would use it.

Only libraries are imported beforehand, not this project's modules: a job always runs the code that is on disk.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from mlip.run.locks import alive

VARIABLE = "MLIP_WARM"  # <socket>:<prefix of the Python environment>
# In the order of how many jobs wait for them.
LIBRARIES = (
    "pandas",
    "pyarrow.parquet",
    "torch",
    "safetensors.torch",
    "scipy.optimize",
    "sklearn.metrics",
    "timm",
    "transformers.models.bert",
    "torchmetrics",
    "segmentation_models_pytorch",
    "pycocotools.cocoeval",
    "detectron2.modeling.meta_arch.retinanet",
    "lightning_fabric",
)
# The others, and the commands beside `run`, work in several processes of their own and need few libraries.
STAGES = {
    "splits",
    "tokenizer",
    "knowledge",
    "pretrain",
    "features",
    "evaluate",
    "maps",
    "false-negatives",
    "tables",
}
HEADER = 8  # bytes: length of the JSON that follows
PREFIX = f"mlip-warm-{os.getuid()}-"  # of the folders of the sockets; the process that serves follows


def start(log: Path, local: bool = True, conda: bool = False) -> None:
    """Start a server that lives as long as this process, and let the jobs know of it.

    Not where there is an NVIDIA device: a forked process cannot use CUDA once its parent has touched it, and beside the
    work done on a GPU the imports are small.

    Parameters
    ----------
    log : what the server says.
    local : whether Snakemake itself runs the jobs; else the jobs are told of no server, also of none of another run.
    conda : whether the rules run in environments of their own.
    """
    clean_up()
    if not local or conda:
        os.environ.pop(VARIABLE, None)
        return
    if VARIABLE in os.environ or Path("/dev/nvidiactl").exists() or not hasattr(socket, "send_fds"):
        return
    address = os.path.join(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"), "socket")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        subprocess.Popen(
            [sys.executable, "-m", "mlip.run.warm", address, str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    os.environ[VARIABLE] = f"{address}:{sys.prefix}"


def clean_up() -> None:
    """Remove the folders of servers whose run was killed: a server that was killed too could not."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not alive(int(owner)):
            (folder / "socket").unlink(missing_ok=True)
            with suppress(OSError):  # the server itself may be removing it
                folder.rmdir()


def forward(arguments: list[str]) -> int | None:
    """Have the server run ``mlip <arguments>``; the exit status, or None where this process must do it itself."""
    address, _, prefix = os.environ.get(VARIABLE, "").partition(":")
    if prefix != sys.prefix or arguments[:1] != ["run"] or not STAGES.intersection(arguments[1:2]):
        return None
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(address)
        except OSError:
            return None
        job = json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
        try:
            socket.send_fds(link, [len(job).to_bytes(HEADER, "big")], [0, 1, 2])
            link.sendall(job)
            status = link.recv(1)
        except OSError:
            status = b""
    if not status:
        print("the job ended without an exit status: it was killed, perhaps for want of memory", file=sys.stderr)
        return 1
    return status[0]


def serve(address: str, parent: int) -> None:
    """Import the libraries, then fork for every connection, as long as ``parent`` is this process's parent."""
    from mlip.detectron2_compat import prepare

    prepare()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a pool of threads would not survive the fork
    for name in LIBRARIES:
        if os.getppid() == parent:
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the jobs report to their callers; nobody waits for them here
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen(64)
        door.settimeout(1.0)
        while os.getppid() == parent:
            try:
                link, _ = door.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                door.close()
                _job(link)
            link.close()
    with suppress(FileNotFoundError):  # the next run was quicker
        os.unlink(address)
        os.rmdir(os.path.dirname(address))


def _job(link: socket.socket) -> None:
    """In the forked process: become the caller, run, report the exit status. Never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        link.settimeout(None)
        head, streams, _, _ = socket.recv_fds(link, HEADER, 3)
        size, body = int.from_bytes(head, "big"), b""
        while len(body) < size:
            body += link.recv(size - len(body))
        job = json.loads(body)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["environment"])
        threading.Thread(target=_die_with_caller, args=(link,), daemon=True).start()
        sys.argv[1:] = job["arguments"]
        sys.path[0] = job["folder"]  # as `python -m` has it
        from mlip.run.cli import main

        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for output in (sys.stdout, sys.stderr):
            output.flush()
        link.sendall(bytes([status & 0xFF]))
        os._exit(status)


def _die_with_caller(link: socket.socket) -> None:
    if not link.recv(1):  # the caller never writes again: this is the end of its process
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
