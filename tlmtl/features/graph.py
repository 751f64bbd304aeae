"""A module as a graph that other programs run: what PyTorch's exporters make of it, without their chatter."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

OPSET = 18  # of ONNX, which every runtime of the last years reads
LARGEST = 2**31 - 2**20  # bytes of one ONNX file: a protobuf message ends at 2 GB
TALKATIVE = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx", "torch._export")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters print nothing, warn of nothing and log nothing while this lasts."""
    before = {name: logging.getLogger(name).level for name in TALKATIVE}
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            for name in TALKATIVE:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def as_onnx(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """An `onnx.ModelProto`, parameters included, with these names for what goes in and comes out."""
    converted = torch.onnx.export(
        program,
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert converted is not None
    return converted.model_proto


def graph_of(module: nn.Module, example: Tensor) -> bytes:
    """`module`, in eval mode and in 32 bits whatever its parameters are in, as an ONNX file that takes batches of one size.

    Arguments:
        example: a batch (n, C, H, W) of that size; its values do not matter.

    PyTorch's older exporter, which runs the module once and writes down what it sees, takes a fifth of the newer one's time.
    That one is asked where the older one fails, is gone, or says that what it saw may depend on the image.

    Raises ValueError for a module that one file cannot hold, and whatever PyTorch's exporters raise for one that is no graph.
    """
    if any(tensor.dtype != torch.float32 and tensor.is_floating_point() for tensor in module.state_dict().values()):
        module = copy.deepcopy(module).float()
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    if size > LARGEST:
        raise ValueError(f"one ONNX file holds 2 GB, and its parameters take {size / 1e9:.1f}")
    with quiet(), torch.inference_mode(False), torch.no_grad():
        pixels = torch.zeros(example.shape)
        try:
            return _traced(module, pixels)
        except Exception:  # any of a dozen kinds: the other one may take it
            return as_onnx(torch.export.export(module, (pixels,)), ["pixels"], ["features"]).SerializeToString()


def _traced(module: nn.Module, pixels: Tensor) -> bytes:
    written: Any = io.BytesIO()  # which the older one takes, and the newer one's signature does not
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        torch.onnx.export(
            module,
            (pixels,),
            written,
            input_names=["pixels"],
            output_names=["features"],
            opset_version=OPSET,
            dynamo=False,
        )
    return written.getvalue()
