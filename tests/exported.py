"""Runs to export: real models and files, but for the training, which an export does not look at."""

import json

import torch
from torch import nn

import tlmtl
from tlmtl import files
from tlmtl.artifacts import write_model
from tlmtl.assemble import assemble
from tlmtl.models.statistics import Statistics
from tlmtl.results import RunFolder


def run_of(path, *overrides):
    """The folder of a run that was never trained: parameters and statistics of batch norms are drawn, so that no layer is
    without effect."""
    cfg = tlmtl.compose(["strategy=from_scratch", "progress=false", "head.init=default", *overrides])
    parts = assemble(cfg)
    draw(parts.model)
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.write_config(cfg)
    shapes = {name: data.stream("val", parts.encoder.preprocess).shape() for name, data in parts.data.items()}
    write_model(path / "model.safetensors", cfg, parts.encoder, parts.data, None, parts.model, shapes)
    record = {"status": "done", "run_id": "drawn", "config_hash": "0" * 12}
    files.write_text(path / "run.json", json.dumps(record))
    return path


def draw(model):
    made = torch.Generator().manual_seed(0)
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    holders = [one for one in model.modules() if isinstance(one, Statistics)]
    buffers = [*(b for one in norms for b in one.named_buffers()), *(b for one in holders for b in one.named_buffers())]
    for name, buffer in buffers:
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=made) / 10)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=made) + 0.5)
