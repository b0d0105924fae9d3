"""A Slurm of one node on this machine, with two GPUs that are empty files. Needs root, `slurm-wlm` and `munge`."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CONFIG = Path("/etc/slurm")  # a job's own srun reads it there
MARK = "# written by fdl's tests\n"


def why_not() -> str | None:
    """What keeps a cluster from being started here; None: nothing."""
    if os.geteuid() != 0:
        return "only root can start a Slurm"
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name)]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
    conf = CONFIG / "slurm.conf"
    if conf.exists() and MARK not in conf.read_text():
        return f"{conf} is that of another cluster"
    return None


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Start it, with its state below `folder`; everything that was started ends with the block."""
    node = platform.node().split(".")[0]
    state, spool = folder / "state", folder / "spool"
    for place in (state, spool):
        place.mkdir(parents=True)
    for number in (0, 1):
        (folder / f"gpu{number}").touch()
    configuration = {
        "slurm.conf": f"""{MARK}ClusterName=fdl
SlurmctldHost={node}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={state}
SlurmdSpoolDir={spool}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SchedulerParameters=sched_interval=5
MinJobAge=3600
GresTypes=gpu
NodeName={node} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 Gres=gpu:2
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP
""",
        "gres.conf": f"{MARK}NodeName={node} Name=gpu File={folder}/gpu[0-1]\n",
    }
    for name, text in configuration.items():
        (CONFIG / name).write_text(text)
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    with ExitStack() as daemons:
        for name in configuration:
            daemons.callback((CONFIG / name).unlink)
        daemons.enter_context(_daemon(folder, ["munged", "--foreground", "--force"], user="munge"))
        _until(lambda: Path("/run/munge/munge.socket.2").exists(), "munged")
        daemons.enter_context(_daemon(folder, ["slurmctld", "-D"]))
        daemons.enter_context(_daemon(folder, ["slurmd", "-D", "-N", node]))
        _until(lambda: "idle" in _output("sinfo", "--noheader", "--format=%T"), "slurmd")
        try:
            yield
        finally:
            subprocess.run(["scancel", "--full", "--user=root"], check=False)
            _until(lambda: not _output("squeue", "--noheader").strip(), "the end of its jobs")


def jobs() -> dict[int, dict[str, str]]:
    """What Slurm knows of every job since it was started, by number."""
    found = {}
    for block in _output("scontrol", "show", "job").split("\n\n"):
        fields = dict(word.split("=", 1) for word in block.split() if "=" in word)
        if "JobId" in fields:
            found[int(fields["JobId"])] = fields
    return found


@contextmanager
def _daemon(folder: Path, command: list[str], user: str | None = None) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("w") as output:
        process = subprocess.Popen(command, user=user, group=user, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _until(true: Callable[[], bool], what: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: nothing after {seconds} seconds"
        time.sleep(0.2)
