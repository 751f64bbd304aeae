"""The formats of `tlmtl export`: a model's graph (ONNX, PyTorch's pt2) or its parameters (safetensors), and in the same
file what is needed to use it. The same run gives the same bytes, and no file says where it was made."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from tlmtl import files
from tlmtl.errors import TlmtlError
from tlmtl.export.served import Served
from tlmtl.features.graph import LARGEST, as_onnx, quiet

KEY = "tlmtl"  # where a file's metadata say what is in it
CODE = (
    "stack_trace",
    "nn_module_stack",
    "source_fn_stack",
    "torch_fn",
    "from_node",
)  # what a graph tells of its origin


class ExportError(TlmtlError):
    """A model that cannot be put into the format, or does not say there what it said in its run."""


def program(served: Served, images: Tensor, dynamic: bool) -> ExportedProgram:
    """The graph of a model.

    Arguments:
        images: uint8 (n, C, H, W), two at least where the batch is to be `dynamic`.
        dynamic: any number of images at a time, or always as many as these.
    """
    shapes = {"images": {0: Dim("batch", min=1)}} if dynamic else None
    with _quiet("PyTorch cannot export this model", "pt2"), torch.no_grad():
        found = torch.export.export(served, (images,), dynamic_shapes=shapes)
    for node in found.graph.nodes:
        for key in CODE:
            node.meta.pop(key, None)
    return found


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Parameters and buffers by the run's own names; the description is the metadata entry `tlmtl`."""
    from safetensors.torch import save

    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    path.write_bytes(save(kept, metadata={KEY: json.dumps(about, sort_keys=True)}))  # save_file hides a full disk


def write_pt2(path: Path, made: ExportedProgram, about: Mapping[str, Any]) -> None:
    """A file of `torch.export`; the description is its extra file `model.json`."""
    with _quiet("PyTorch cannot save this model", "pt2"):
        torch.export.save(made, path, extra_files={"model.json": json.dumps(about, sort_keys=True)})


def write_onnx(path: Path, made: ExportedProgram, about: Mapping[str, Any]) -> None:
    """One ONNX file, the parameters in it; the description is its metadata entry `tlmtl`."""
    import onnx

    names = list(about["outputs"])
    with _quiet("This model cannot be written as ONNX", "onnx"):
        model = as_onnx(made, ["images"], [f"output {i}" for i in range(len(names))])
    _rename(
        model.graph, dict(zip([one.name for one in model.graph.output], names, strict=True)), about["input"]["name"]
    )
    _forget(model)
    model.metadata_props.add(key=KEY, value=json.dumps(about, sort_keys=True))
    if model.ByteSize() > LARGEST:
        raise ExportError(
            f"One ONNX file holds 2 GB, and this model needs {model.ByteSize() / 1e9:.1f}: choose --format pt2 or safetensors."
        )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _rename(graph: Any, outputs: Mapping[str, str], images: str) -> None:
    """Give outputs the names of their tasks, the input its own; what inside has one of these names gets another."""
    wanted = {graph.input[0].name: images, **outputs}
    inside = {name for node in graph.node for name in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    taken = inside | set(wanted.values())
    for name in sorted(inside - set(wanted)):
        if name in wanted.values():
            wanted[name] = next(other for i in range(len(taken) + 1) if (other := f"inner_{i}") not in taken)
            taken.add(wanted[name])
    for node in graph.node:
        node.input[:] = [wanted.get(name, name) for name in node.input]
        node.output[:] = [wanted.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = wanted.get(value.name, value.name)
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # the batch: no other size is left open
                size.dim_param = "batch"


def _forget(model: Any) -> None:
    """Take out what tells of the program and the machine that made the graph."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    model.producer_version = torch.__version__.split("+")[0]


@contextlib.contextmanager
def _quiet(what: str, form: str) -> Iterator[None]:
    """No chatter of the exporters; what they fail with becomes an ExportError that begins with `what`."""
    try:
        with quiet():
            yield
    except OSError:
        raise
    except Exception as error:  # whatever a tracer or a converter meets in a model
        if any(word in str(error) for word in files.FULL_DISK):
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        others = "safetensors" if form == "pt2" else "pt2 or safetensors"
        raise ExportError(f"{what} ({type(error).__name__}: {first}). Try --format {others}.") from error
