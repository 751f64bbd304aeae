"""A program of its own: an exported file is loaded by its format's runtime alone, and what it says is written down.

    python again.py FILE IMAGES OUT

IMAGES is an .npz of batches `0`, `1`, ... (uint8); OUT becomes an .npz of `<batch>/<number of the output>`, and its `names`
are the outputs'. Nothing of tlmtl is imported, and torch for a .pt2 file only.
"""

import os
import sys

import numpy as np


def onnx(path: str, batches: list[np.ndarray]) -> tuple[list[str], list[list[np.ndarray]]]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images, names = session.get_inputs()[0].name, [one.name for one in session.get_outputs()]
    return names, [session.run(names, {images: batch}) for batch in batches]


def pt2(path: str, batches: list[np.ndarray]) -> tuple[list[str], list[list[np.ndarray]]]:
    import torch

    if threads := os.environ.get("TLMTL_THREADS"):
        torch.set_num_threads(int(threads))  # as many as the other side: results are then the same to the bit
    model = torch.export.load(path).module()
    with torch.inference_mode():
        said = [model(torch.from_numpy(batch)) for batch in batches]
    return list(said[0]), [[value.numpy() for value in one.values()] for one in said]


def main(path: str, images: str, out: str) -> None:
    with np.load(images) as file:
        batches = [file[str(i)] for i in range(len(file.files))]
    names, said = (onnx if path.endswith(".onnx") else pt2)(path, batches)
    values = {f"{i}/{j}": value for i, one in enumerate(said) for j, value in enumerate(one)}
    np.savez(out, allow_pickle=False, names=np.array(names), **values)


if __name__ == "__main__":
    main(*sys.argv[1:])
