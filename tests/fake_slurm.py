"""A SLURM of one machine for tests: sbatch, srun, sacct, scontrol and scancel, as far as submitit uses them.

`install(folder)` puts them into a folder for PATH. Job arrays start at once, each element a process of its own; what
`scontrol requeue` is told starts again when it has ended, with the same script and the same ids.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scontrol", "scancel")


def install(folder: Path) -> dict[str, str]:
    """What the environment of a command needs to find them. Their state is in the folder, too."""
    folder.mkdir(parents=True)
    for name in COMMANDS:
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}\nmain({name!r})\n")
        path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "FAKE_SLURM": str(folder)}


def start(state: Path, job: str, task: str | None) -> None:
    env = {**os.environ, "SLURM_JOB_ID": job, "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1"}
    if task is not None:
        env |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": task}
    with (state / f"{job}.out").open("a") as out:
        subprocess.Popen(["bash", state / f"{job}.sh"], env=env, start_new_session=True, stdout=out, stderr=out)


def main(command: str) -> None:
    state, words = Path(os.environ["FAKE_SLURM"]), sys.argv[1:]
    if command == "sbatch":
        job = str(100 + len(list(state.glob("*.sh"))))
        shutil.copy(words[0], state / f"{job}.sh")
        lines = (state / f"{job}.sh").read_text().splitlines()
        array = [line.split("=")[1] for line in lines if line.startswith("#SBATCH --array=")]
        last = int(array[0].partition("%")[0].partition("-")[2]) if array else None
        print(f"Submitted batch job {job}", flush=True)
        for task in [None] if last is None else map(str, range(last + 1)):
            start(state, job, task)
    elif command == "srun":
        files = {}
        while words[0].startswith("--"):
            name = words.pop(0)
            if name in ("--output", "--error"):
                job, task = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID", "")
                text = words.pop(0)
                for mark, value in (("%A", job), ("%a", task), ("%j", job), ("%t", "0")):
                    text = text.replace(mark, value)
                files[name] = text
        for number, name in ((1, "--output"), (2, "--error")):
            Path(files[name]).parent.mkdir(parents=True, exist_ok=True)
            os.dup2(os.open(files[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        (state / f"{_id()}.pid").write_text(str(os.getpid()))
        (state / f"{_id()}.pending").unlink(missing_ok=True)
        os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
        os.execvp(words[0], words)
    elif command == "sacct":
        print("JobID|State|NodeList")
        for path in state.glob("*.pid"):
            found = "RUNNING" if Path("/proc", path.read_text()).exists() else "COMPLETED"
            print(f"{path.stem}|{'PENDING' if path.with_suffix('.pending').exists() else found}|here")
    elif command == "scontrol":  # requeue JOB, said by the job itself
        job, _, task = words[1].partition("_")
        with (state / "requeued").open("a") as file:
            file.write(f"{words[1]}\n")
        (state / f"{words[1]}.pending").touch()
        asking = int((state / f"{words[1]}.pid").read_text())
        if os.fork() == 0:
            os.setsid()
            for number in (0, 1, 2):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            while Path("/proc", str(asking)).exists():
                time.sleep(0.1)
            for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
                os.environ.pop(name, None)
            start(state, job, task or None)
    elif command == "scancel":
        for path in state.glob(f"{words[0]}*.pid"):
            os.kill(int(path.read_text()), signal.SIGTERM)


def _id() -> str:
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return os.environ["SLURM_JOB_ID"] + (f"_{task}" if task is not None else "")
