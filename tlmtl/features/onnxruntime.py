"""ONNX Runtime (MIT): `pip install onnxruntime onnx onnxscript`."""

from collections.abc import Callable

import torch
from torch import Tensor


def load(graph: bytes, threads: int) -> tuple[Callable[[Tensor], Tensor], str]:
    """What runs a graph of `graph_of`, float32 (n, C, H, W) -> float32 (n, ...), and the precision that it computes in.

    It computes in 32 bits, whatever is asked for: its kernels for the CPU have no convolution in bfloat16.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors, which are raised as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # training goes on beside it
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def call(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["features"], {"pixels": pixels.contiguous().numpy()})[0])

    return call, "fp32"
