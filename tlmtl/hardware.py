"""Where a run is executed: device, precision, threads, memory format."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.activations import Activations
from tlmtl.errors import ConfigError

AUTO = "auto"
DEVICES = (AUTO, "cpu", "gpu", "mps")
MOST_THREADS = 1024  # many more, and the process is ended by the library that starts them
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
KNOWN = {
    "device": DEVICES,
    "precision": (*PRECISIONS, AUTO),
    "memory_format": (*MEMORY_FORMATS, AUTO),
    "compile": (True, False, AUTO),
    "tune": (AUTO, "off", False),  # YAML reads `off` as false
}
COLUMN = {"precision": "precision", "memory_format": "memory_format", "compile": "compiled"}  # of the plan, by setting


@dataclass
class Machine:
    """The execution plan of a run, in force once made."""

    device: torch.device
    plan: dict[str, Any]  # the columns device, precision, threads, memory_format, compiled, fused_with; never `auto`
    memory_format: torch.memory_format

    def autocast(self) -> AbstractContextManager[Any]:
        """What a forward pass runs within."""
        precision = self.plan["precision"]
        if precision == "bf16-mixed":
            return torch.autocast(self.device.type, torch.bfloat16)
        return _default_dtype(torch.bfloat16) if precision == "bf16-true" else contextlib.nullcontext()

    def place(self, module: nn.Module) -> nn.Module:
        """`module` on the device, in the memory format and precision of the plan."""
        module = module.to(self.device).to(memory_format=self.memory_format)
        if self.plan["precision"] == "bf16-true":
            module.to(torch.bfloat16).register_forward_pre_hook(_in_bfloat16)
        return module


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New tensors of real numbers are of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _in_bfloat16(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs come in 32 bits, whatever the parameters are in."""
    return tuple(
        a.to(torch.bfloat16) if isinstance(a, Tensor | Activations) and a.is_floating_point() else a for a in args
    )


def threads_of(setting: Any, advised: int | None) -> int:
    """How many threads a run computes on: `hardware.threads`, or what its model advises, or all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if setting == AUTO:
        return min(advised or cores, cores)
    if isinstance(setting, bool) or not isinstance(setting, int) or not 0 < setting <= MOST_THREADS:
        raise ConfigError(
            f"'hardware.threads' should be auto or a whole number from 1 to {MOST_THREADS}. Found '{setting}'."
        )
    return setting


def check(settings: Any) -> None:
    """Raises ConfigError for a setting of `cfg.hardware` that is unknown or not to be had on this machine."""
    for key, known in KNOWN.items():
        value = settings[key]
        if not any(value is one or (isinstance(one, str) and value == one) for one in known):
            names = ", ".join(str(one).lower() for one in known if (key, one) != ("tune", False))
            raise ConfigError(f"'hardware.{key}' should be one of {names}. Found '{value}'.")
    if settings.device == "gpu" and not torch.cuda.is_available():
        raise ConfigError(
            "'hardware.device=gpu' needs a CUDA GPU, and torch finds none. Use hardware=auto or hardware=cpu."
        )
    if settings.device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            "'hardware.device=mps' needs an Apple GPU, and torch finds none. Use hardware=auto or hardware=cpu."
        )
    if settings.workers is not None and settings.workers < 1:
        raise ConfigError(
            f"'hardware.workers' should be 1 or more, or null for as many as there are cores. Found {settings.workers}."
        )
    threads_of(settings.threads, None)


def tuned(settings: Any) -> list[str]:
    """The settings that are left to be chosen by timing: those that are `auto`, where results may depend on it."""
    if settings.deterministic or settings.tune != AUTO:
        return []
    return [key for key in COLUMN if settings[key] == AUTO]


def machine(
    settings: Any,
    advised_threads: int | None,
    advised_format: str = "contiguous",
    chosen: Mapping[str, Any] | None = None,
) -> Machine:
    """Put the settings of `cfg.hardware` in force.

    Arguments:
        advised_threads: what the model says it is worth, used by `threads: auto`.
        advised_format: the memory format that the model says it is fastest in on a CPU, used by `memory_format: auto`.
        chosen: by column of the plan, what was chosen for settings that are `auto`, in place of the rules for them.
    """
    check(settings)
    threads = threads_of(settings.threads, advised_threads)
    torch.set_num_threads(threads)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn" if settings.deterministic else "default")
    torch.backends.cudnn.benchmark = not settings.deterministic
    chosen = chosen or {}
    precision = chosen.get("precision", "32-true") if settings.precision == AUTO else settings.precision
    device = _device(settings.device)
    # Kernels of a GPU that take channels last are those for 16 bits.
    usual = advised_format if device == "cpu" or precision != "32-true" else "contiguous"
    layout = chosen.get("memory_format", usual) if settings.memory_format == AUTO else settings.memory_format
    compiled = chosen.get("compiled", False) if settings.compile == AUTO else settings.compile
    if compiled:  # the compiler, which this imports, is told as well
        torch.use_deterministic_algorithms(settings.deterministic, warn_only=True)
    return Machine(
        torch.device("cuda", 0) if device == "cuda" else torch.device(device),
        {
            "device": device,
            "precision": precision,
            "threads": threads,
            "memory_format": layout,
            "compiled": bool(compiled),
            "fused_with": None,
        },
        MEMORY_FORMATS[layout],
    )


def _device(setting: str) -> str:
    """The type of device that `hardware.device` names; `auto` takes a GPU where there is one."""
    if setting == AUTO:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return "cuda" if setting == "gpu" else setting


def takes_16_bits(device: torch.device) -> bool:
    """Whether `device` computes in bfloat16 faster than by going round it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without that library
        return False


def describe() -> dict[str, Any]:
    """What a reader of `run.json` wants to know of the machine."""
    import platform

    return {
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    import platform

    return platform.processor()


class PeakMemory:
    """Peak memory of this process above what it held at the start, in MB; a GPU's own peak where there is one."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak back to what is held now
        self.start = self._now("VmRSS")

    def again(self, device: torch.device) -> None:
        """Forget the peak so far: it was not the run's own."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def megabytes(self, device: torch.device) -> float | None:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        peak = self._now("VmHWM")
        return None if peak is None or self.start is None else max(0.0, peak - self.start)

    @staticmethod
    def _now(field: str) -> float | None:
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith(field):
                    return int(line.split()[1]) / 1024
        return None
