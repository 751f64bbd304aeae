"""OpenVINO (Apache-2.0): `pip install openvino onnx onnxscript`."""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

TELEMETRY = "openvino_telemetry"  # brought along by OpenVINO, which tells its makers with it that it was imported


def load(graph: bytes, threads: int, half: bool) -> tuple[Callable[[Tensor], Tensor], str]:
    """What runs a graph of `graph_of`, float32 (n, C, H, W) -> float32 (n, ...), and the precision that it computes in.

    Arguments:
        half: whether to compute in bfloat16, where the processor can; else in 32 bits, which OpenVINO does not by itself
            on a processor that has bfloat16.
    """
    core = _core()
    # Elsewhere it imitates 16 bits, and what an image gives then depends on where it stands in a batch.
    half = half and bool({"BF16", "FP16"} & set(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")))
    compiled = core.compile_model(
        core.read_model(graph),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",  # all threads work on one batch
            "ENABLE_CPU_PINNING": False,  # runs beside this one would be pinned to the same cores
        },
    )
    request, lock = compiled.create_infer_request(), threading.Lock()  # a request holds one batch at a time

    def call(pixels: Tensor) -> Tensor:
        with lock:
            request.infer({0: pixels.contiguous().numpy()}, share_inputs=True)
            return torch.from_numpy(request.get_output_tensor(0).data.copy()).float()

    in_half = "float16" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))  # bfloat16, or float16 on ARM
    return call, "bf16" if in_half else "fp32"


@functools.cache
def _core() -> Any:
    """The one that the process keeps until it ends.

    A core's plugin for CPUs gives the thread another stack for signal handlers (`sigaltstack`), and at its end puts back the
    one before. With several cores that one may be of a core that is gone already, and the next signal, Ctrl-C or a
    scheduler's, is a segmentation fault (2026.4.1, Linux).
    """
    with _unreported():
        import openvino

    return openvino.Core()


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
    """OpenVINO finds no telemetry while it is imported, and then reports nothing: it has a stand-in for that case."""
    if TELEMETRY in sys.modules:
        yield
        return
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # what is None there cannot be imported
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]
