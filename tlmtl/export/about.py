"""What an exported file says of itself: its input, how a picture becomes one, its outputs, and the run it comes from."""

from collections.abc import Sequence
from typing import Any

import tlmtl
from tlmtl.export.served import RAW, SAYS
from tlmtl.predict.model import Trained

OF_RUN = ("run_id", "config_hash", "baseline_id")


def describe(trained: Trained, tasks: Sequence[str], form: str, record: dict[str, Any], batch: int | None) -> dict:
    """The description, for JSON.

    Arguments:
        form: onnx and pt2 take uint8 images and give what is for people; of safetensors a user builds the model, which takes
            normalised images and gives what its heads do.
        record: the run's `run.json`.
        batch: how many images at a time; None for any number.
    """
    height, width = trained.size
    graph = form != "safetensors"
    channels = trained.channels if graph else max(trained.channels, len(trained.preprocess.mean))
    name = "images"
    while graph and name in tasks:
        name += "_"
    return {
        "format": form,
        "tlmtl": tlmtl.__version__,
        "run": {key: record.get(key) for key in OF_RUN},
        "input": {
            "name": name,
            "dtype": "uint8" if graph else "float32",
            "shape": [batch or "batch", channels, height, width],
            "colours": "grey" if trained.channels == 1 else "RGB",
            "values": "0 to 255"
            if graph
            else "(pixel / 255 - mean) / std; grey is repeated where mean has three channels",
        },
        "preprocess": trained.preprocess.as_dict() | {"in_model": graph, "height": height, "width": width},
        "outputs": {task: _output(trained, task, graph, batch) for task in tasks},
    }


def _output(trained: Trained, name: str, graph: bool, batch: int | None) -> dict[str, Any]:
    task = trained.tasks[name]
    told = {key: value for key, value in task.describe().items() if key != "metrics"}
    shape: list[int | str] = [batch or "batch"]
    shape += [] if (task.kind == "regression" and graph) or task.of_input else [task.outputs]
    kinds = {"dtype": "float64" if task.kind == "regression" and graph else "float32"}
    return {**told, "says": SAYS[task.kind][1] if graph else RAW[task.kind], "shape": shape, **kinds}
