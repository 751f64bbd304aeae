"""Inference engines give what PyTorch gives, image by image; where they do not, PyTorch itself is at work, and that is said."""

import functools
import importlib.metadata
import logging
import signal
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tlmtl.errors import ConfigError
from tlmtl.features import engines, graph, onnxruntime, openvino
from tlmtl.features.engines import Engines, Unusable, engine_for
from tlmtl.hardware import PRECISIONS
from tlmtl.models.small_cnn import small_cnn
from tlmtl.models.stages import stages
from tlmtl.models.timm import timm_model
from tlmtl.models.torchvision import torchvision_model

BATCH = 8
FAMILIES = {
    "small_cnn": lambda: small_cnn(channels=1),
    "torchvision": lambda: torchvision_model("resnet18", 32),
    "depthwise": lambda: timm_model("tf_efficientnet_lite0", 64),
    "squeeze": lambda: torchvision_model("mobilenet_v3_small", 64),
    "transformer": lambda: timm_model("vit_tiny_patch16_224", 32),
}


def family(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A backbone with random parameters and running statistics, and a batch of noise."""
    torch.manual_seed(0)
    encoder = FAMILIES[name]()
    for module in encoder.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1), module.running_var.uniform_(0.8, 1.2)
    return encoder.module.eval(), torch.randn_like(encoder.blank(BATCH))


@torch.inference_mode()
def plain(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return module(pixels).float()


@torch.inference_mode()
def mixed(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return module(pixels).float()


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape and found.dtype == torch.float32
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "transformer" else []) for name in FAMILIES]
)
def test_engines_give_what_pytorch_gives_and_an_image_does_not_depend_on_its_company(name, capfd):
    module, pixels = family(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    made = graph.graph_of(module, pixels)
    expected = plain(module, pixels)
    calls = {
        "onnxruntime": (*onnxruntime.load(made, 1), 1e-5),
        "openvino": (*openvino.load(made, 1, half=False), 1e-5),
        "openvino in bfloat16": (*openvino.load(made, 1, half=True), 3e-2),
    }
    for engine, (call, precision, close) in calls.items():
        full = call(pixels)
        assert off(full, expected) <= close, engine
        if precision == "bf16":
            assert off(full, expected) > 1e-4, "this is no bfloat16"
        else:
            assert off(full, expected) <= 1e-5, "this is not 32 bits"
        for at in (0, 3, BATCH - 1):  # alone in a batch filled up with itself: the same bits
            assert torch.equal(call(pixels[at : at + 1].expand(BATCH, -1, -1, -1))[0], full[at]), (engine, at)
        assert torch.equal(call(pixels.flip(0)), full.flip(0)), engine
        assert torch.equal(call(pixels.to(memory_format=torch.channels_last)), full), engine
    assert calls["onnxruntime"][1] == calls["openvino"][1] == "fp32"
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not module.training and capfd.readouterr() == ("", "")


@functools.cache
def small() -> tuple[nn.Module, torch.Tensor, bytes]:
    """The small backbone, a batch, and its graph, made once."""
    module, pixels = family("small_cnn")
    return module, pixels, graph.graph_of(module, pixels)


@functools.cache
def both() -> list:
    made = small()[2]
    return [onnxruntime.load(made, 1)[0], openvino.load(made, 1, False)[0]]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
def test_whatever_the_pixels(seed, scale):
    pixels = torch.randn(BATCH, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * scale
    for call in both():
        assert off(call(pixels), plain(small()[0], pixels)) <= 1e-5


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_lower_part_of_a_backbone_and_layouts(name):
    encoder = FAMILIES["torchvision"]()
    row = stages(encoder, "hard")

    class Lower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = encoder.module.eval().to(memory_format=torch.channels_last)

        def forward(self, input):
            return row.before(self.backbone, 5, input)

    lower, pixels = Lower().train(), torch.randn(BATCH, 3, 32, 32)
    lower.backbone.eval()
    engine = engine_for(lower, pixels, name, "32-true", 1, lambda x: plain(lower, x))
    found = engine(pixels)
    assert found.ndim == 4 and off(found, plain(lower, pixels)) <= 1e-5
    assert (engine.name, engine.precision, lower.training) == (name, "fp32", True)


def test_parameters_in_half_the_bits_are_computed_with_as_they_are():
    module, pixels = family("small_cnn")
    module.to(torch.bfloat16)
    call = lambda x: plain(module, x.to(torch.bfloat16))  # noqa: E731
    made = [engine_for(module, pixels, name, "bf16-true", 1, call) for name in ("openvino", "onnxruntime", "torch")]
    for engine in made:
        assert off(engine(pixels), call(pixels)) <= 3e-2
    assert next(module.parameters()).dtype == torch.bfloat16
    assert [one.precision for one in made[1:]] == ["fp32", "bf16"]


# --- which engine ---------------------------------------------------------------------------------------------------------


def chosen(module: nn.Module, pixels: torch.Tensor, images: int, precision: str = "32-true", name: str = "auto"):
    call = plain if precision == "32-true" else mixed
    return engine_for(module, pixels, name, precision, images, lambda x: call(module, x))


cached = functools.cache(family)  # for tests that leave the module as it is


def order(name: str, images: int, precision: str = "32-true") -> list[str]:
    module, pixels = cached(name)
    return Engines(module, pixels[:1], "auto", precision, images, lambda x: plain(module, x)).names


def absent(monkeypatch, *packages: str) -> None:
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def test_auto_is_a_rule():
    assert order("small_cnn", 10**4) == ["torch"]  # converting takes longer than all of it
    assert order("torchvision", 10**5) == ["openvino", "onnxruntime", "torch"]
    assert order("transformer", 10**6) == ["openvino", "torch"]
    for precision in PRECISIONS[1:]:
        assert order("torchvision", 10**5, precision) == ["openvino", "torch"]
    few = [n for n in range(4_000, 9_000, 100) if order("torchvision", n) != ["torch"]]
    assert 7e7 < engines.LEAST / few[0] < 8e7  # ResNet-18 at 32 px takes 74 million operations


@pytest.fixture
def quick(monkeypatch) -> tuple[nn.Module, torch.Tensor]:
    """The small backbone and a batch; its graph is not made again."""
    module, pixels, made = small()
    monkeypatch.setattr(engines, "graph_of", lambda *_: made)
    return module, pixels


def test_auto_takes_the_next_where_one_is_not_installed(quick, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tlmtl")
    module, pixels = quick
    assert chosen(module, pixels, 10**9).name == "openvino" and not caplog.records
    assert chosen(module, pixels, 10**9, "bf16-mixed").name == "openvino"
    absent(monkeypatch, "openvino")
    assert chosen(module, pixels, 10**9).name == "onnxruntime" and not caplog.records
    absent(monkeypatch, "onnxscript")
    assert chosen(module, pixels, 10**9).name == "torch"
    assert [one.getMessage() for one in caplog.records] == [
        "Inference engines are not installed: PyTorch computes features (pip install 'tlmtl[fast]' has them)."
    ]
    caplog.clear()
    assert chosen(module, pixels, 1).name == "torch" and not caplog.records


class Odd(nn.Module):
    """A network that looks at the values of its images: no graph, but PyTorch runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        made = self.layer(input if input.sum() > 0 else -input)
        return made.mean((2, 3))


def test_auto_falls_back_where_a_network_does_not_convert(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tlmtl")
    module, pixels = Odd().eval(), torch.rand(BATCH, 3, 8, 8)
    engine = chosen(module, pixels, 10**12)
    assert engine.name == "torch" and torch.equal(engine(pixels), plain(module, pixels))
    said = [one.getMessage() for one in caplog.records]
    assert len(said) == 2 and said[0].startswith("openvino is not used: it does not take this network (")
    assert "\n" not in "".join(said)
    for name in ("openvino", "onnxruntime"):
        with pytest.raises(
            ConfigError, match=f"'features.engine={name}' cannot be used here: it does not take this network"
        ):
            chosen(module, pixels, 1, name=name)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (lambda x, made: made * (1 + 1e-4), "it differs from PyTorch by 1.0e-04, and 1e-05 is allowed"),
        (lambda x, made: made * torch.nan, "it differs from PyTorch by nan, and 1e-05 is allowed"),
        (lambda x, made: made[:, :3], rf"it gives \({BATCH}, 3\) where PyTorch gives \({BATCH}, 128\)"),
    ],
)
def test_auto_falls_back_where_an_engine_does_not_agree(quick, monkeypatch, caplog, found, reason):
    caplog.set_level(logging.INFO, "tlmtl")
    module, pixels = quick
    monkeypatch.setattr(openvino, "load", lambda *_: (lambda x: found(x, plain(module, x)), "fp32"))
    assert chosen(module, pixels, 10**9).name == "onnxruntime"
    assert len(caplog.records) == 1 and caplog.records[0].getMessage().startswith("openvino is not used: it ")
    with pytest.raises(ConfigError, match=f"'features.engine=openvino' cannot be used here: {reason}"):
        chosen(module, pixels, 1, name="openvino")
    several = Engines(module, pixels[:1], "auto", "32-true", 10**9, lambda x: plain(module, x))
    with pytest.raises(Unusable, match=reason):
        several.make("openvino", pixels)
    first = several.first(pixels)
    assert first is several.make("onnxruntime", pixels)  # made once


def test_what_engines_hold_is_given_back(monkeypatch):
    module, pixels, made = small()
    converted = []
    monkeypatch.setattr(engines, "graph_of", lambda *_: converted.append(1) or made)
    several = Engines(module, pixels[:1], "openvino", "32-true", 1, lambda x: plain(module, x))
    first = several.make("openvino", pixels)
    several.release()
    assert several.made == {}
    again = several.make("openvino", pixels)
    assert again is not first and torch.equal(again(pixels), first(pixels)) and len(converted) == 1
    monkeypatch.setattr(engines, "KEPT", len(made) - 1)
    several.release(), several.make("openvino", pixels)
    assert len(converted) == 2


def test_a_named_engine_that_cannot_be_had(monkeypatch):
    module, pixels = family("small_cnn")
    with pytest.raises(
        ConfigError, match=r"should be one of auto, torch, .*Found 'openvno'. Did you mean 'openvino'\?"
    ):
        chosen(module, pixels, 1, name="openvno")
    on_gpu = module.to("meta")
    with pytest.raises(ConfigError, match=r"'features.engine=openvino' runs on the CPU, and this run is on meta"):
        chosen(on_gpu, pixels, 1, name="openvino")
    assert Engines(on_gpu, pixels[:1], "auto", "32-true", 10**12, lambda x: x).names == ["torch"]
    absent(monkeypatch, "openvino", "onnx")
    with pytest.raises(
        ConfigError, match=r"'features.engine=openvino' needs openvino, onnx, not installed here: pip install"
    ):
        engines.check("openvino")
    engines.check("auto"), engines.check("torch")


def test_a_broken_installation_is_told(quick, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tlmtl")
    module, pixels = quick

    def broken(*_):
        raise ImportError("libopenvino.so.2640: cannot open shared object file\n\n")

    monkeypatch.setattr(openvino, "load", broken)
    assert chosen(module, pixels, 10**9).name == "onnxruntime"
    assert "(ImportError: libopenvino.so.2640: cannot open shared object file)." in caplog.text


def test_ctrl_c_ends_a_conversion(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, "graph_of", interrupted)
    module, pixels = family("small_cnn")
    with pytest.raises(KeyboardInterrupt):
        chosen(module, pixels, 10**9)
    assert not module.training


def test_networks_that_one_file_cannot_hold(monkeypatch):
    monkeypatch.setattr(graph, "LARGEST", 1000)
    module, pixels = family("small_cnn")
    with pytest.raises(ConfigError, match="one ONNX file holds 2 GB, and its parameters take"):
        chosen(module, pixels, 1, name="onnxruntime")


def test_nothing_is_reported_to_anyone(tmp_path):
    """OpenVINO's package of telemetry, which reports when it is imported, is not."""
    spy = tmp_path / "openvino_telemetry"
    spy.mkdir()
    (spy / "__init__.py").write_text("raise SystemExit('telemetry was imported')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch\nfrom tlmtl.features import graph, openvino\n"
        "module = torch.nn.Conv2d(1, 2, 3)\nx = torch.zeros(2, 1, 8, 8)\n"
        "call, _ = openvino.load(graph.graph_of(module, x), 1, False)\n"
        "print(call(x).shape, 'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("torch.Size([2, 2, 6, 6]) False\n", "")


def test_a_signal_after_engines_are_gone_is_heard():
    """Of OpenVINO's cores, each puts back the signal stack of the one before, which may be freed by then."""
    code = (
        "import gc, signal, torch\nfrom tlmtl import stopping\nfrom tlmtl.features import graph, openvino\n"
        "module = torch.nn.Conv2d(1, 2, 3)\nx = torch.zeros(2, 1, 8, 8)\n"
        "several = [openvino.load(graph.graph_of(module, x), 1, False) for _ in range(2)]\n"
        "while several:\n    del several[0]\n    gc.collect()\n"
        "with stopping.watching() as stop, stop.patiently():\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print(stop.asked)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{int(signal.SIGTERM)}\n"), done.stderr


def test_an_engine_has_the_version_of_its_package():
    assert [engines.version(name) for name in ("torch", "onnxruntime", "openvino")] == [
        importlib.metadata.version(name) for name in ("torch", "onnxruntime", "openvino")
    ]
