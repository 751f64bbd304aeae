"""What runs a frozen network on batches of images: PyTorch itself, or an inference engine, which needs no autograd and puts
several operations into one. An engine is used only where it gives what PyTorch gives, and it is never chosen by timing: the
same run has the same engine each time."""

import contextlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError, TlmtlError, nearest
from tlmtl.features import onnxruntime, openvino
from tlmtl.features.cuts import operations
from tlmtl.features.graph import graph_of
from tlmtl.models.encoder import evaluating

log = logging.getLogger("tlmtl")

PACKAGES = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
}
ENGINES = ("auto", *PACKAGES)
# Floating-point operations from which on `auto` converts a network. Converting takes about a second. What it saves pays for
# that from about 1e11 operations on with depthwise convolutions (EfficientNet), from 1e12 on without (ResNet); with this, the
# middle, less than a second is lost in the worst case (docs/decisions.md; `benchmarks/bench_features.py --only engines`).
LEAST = 3e11
KEPT = 2**28  # bytes of a graph that stays in memory
CLOSE = {False: 1e-5, True: 3e-2}  # the largest relative error of features: in 32 bits, in bfloat16


class Unusable(TlmtlError):
    """An engine that does not take this network, or gives something else than PyTorch."""


@dataclass
class Engine:
    """Pixels (n, C, H, W), normalised, -> what a network makes of them, float32 (n, ...), on the CPU; n is always the same.

    Arguments:
        name: `torch`, `onnxruntime` or `openvino`.
        precision: what it computes in, `fp32` or `bf16`.
    """

    name: str
    precision: str
    call: Callable[[Tensor], Tensor]

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.call(pixels)


def check(name: str, key: str = "features.engine") -> None:
    """Raises ConfigError for an engine that is unknown or not installed, naming the setting `key`."""
    if name not in ENGINES:
        raise ConfigError(
            f"'{key}' should be one of {', '.join(ENGINES)}. Found '{name}'.{nearest(name, list(ENGINES))}"
        )
    if name != "auto" and (missing := _missing(name)):
        raise ConfigError(
            f"'{key}={name}' needs {', '.join(missing)}, not installed here: pip install 'tlmtl[fast]', or use {key}=auto."
        )


class Engines:
    """The engines that may run a network, and those of them that were made.

    Arguments:
        module: from pixels to a tensor; a backbone, or the lower part of one, as it is when an engine is made.
        image: (1, C, H, W), for counting operations.
        name: `auto`, or the one engine that is wanted.
        precision: of the run, as in `hardware.precision`. Anything but 32-true lets an engine compute in bfloat16.
        images: how many there are to run it on.
        torch_call: the same by PyTorch, in the run's own precision and layout.
        key: the setting that `name` comes from, for messages.

    Attributes:
        names: in the order in which they are to be tried. The order depends on the network, the number of images and what is
            installed alone: OpenVINO, which was the fastest or nearly so for every network that was tried; ONNX Runtime,
            in 32 bits and where most of the work is convolutions, since elsewhere it gains nothing; PyTorch. With less than
            LEAST to compute, or on another device than the CPU, PyTorch alone.

    Raises ConfigError for an engine that is unknown, not installed, or not for the device that the network is on.
    """

    def __init__(
        self,
        module: nn.Module,
        image: Tensor,
        name: str,
        precision: str,
        images: int,
        torch_call: Callable[[Tensor], Tensor],
        key: str = "features.engine",
    ) -> None:
        check(name, key)
        self.module, self.name, self.key, self.torch_call = module, name, key, torch_call
        self.half = precision != "32-true"
        device = next(module.parameters(), image).device.type
        if name not in ("auto", "torch") and device != "cpu":
            raise ConfigError(f"'{key}={name}' runs on the CPU, and this run is on {device}. Use {key}=auto.")
        self.names = [name] if name != "auto" else ["torch"] if device != "cpu" else self._order(image, images)
        self.made: dict[str, Engine] = {}
        self.agreed: set[str] = set()  # those that were seen to give what PyTorch gives
        self.graph: bytes | None = None

    def _order(self, image: Tensor, images: int) -> list[str]:
        first = next(self.module.parameters(), image)
        total, convolutions = operations(self.module, image.to(first.device, first.dtype))
        if total * images < LEAST:
            return ["torch"]
        wanted = ["openvino"] + ["onnxruntime"] * (not self.half and convolutions > total / 2)
        found = [name for name in wanted if not _missing(name)]
        if not found:
            log.info(
                "Inference engines are not installed: PyTorch computes features (pip install 'tlmtl[fast]' has them)."
            )
        return [*found, "torch"]

    def make(self, name: str, example: Tensor) -> Engine:
        """The engine of that name, made at the first call; it holds some 100 to 300 MB until `release`.

        Arguments:
            example: a batch (n, C, H, W), normalised, of the size that all batches will have. Whether the engine agrees with
                PyTorch is seen on the first one.

        Raises Unusable when `auto` is to try another one, which the log says, and ConfigError when this one was wanted.
        """
        if name not in self.made:
            try:
                self.made[name] = self._make(name, example)
            except Unusable as reason:
                if self.name != "auto":
                    raise ConfigError(
                        f"'{self.key}={name}' cannot be used here: {reason}. Use {self.key}=auto."
                    ) from reason
                log.info("%s is not used: %s.", name, reason)
                raise
        return self.made[name]

    def release(self) -> None:
        """Give back what the engines hold. Made again, one takes a tenth of a second, as long as its graph is kept."""
        self.made.clear()
        if self.graph and len(self.graph) > KEPT:
            self.graph = None

    def _make(self, name: str, example: Tensor) -> Engine:
        if name == "torch":
            return Engine(name, "bf16" if self.half else "fp32", self.torch_call)
        threads = torch.get_num_threads()
        with _refusing():
            with evaluating(self.module):
                self.graph = self.graph or graph_of(self.module, example)
            if name == "onnxruntime":
                call, precision = onnxruntime.load(self.graph, threads)
            else:
                call, precision = openvino.load(self.graph, threads, self.half)
            if name in self.agreed:
                return Engine(name, precision, call)
            found = call(example.float())
        expected = self.torch_call(example)
        if found.shape != expected.shape:
            raise Unusable(f"it gives {tuple(found.shape)} where PyTorch gives {tuple(expected.shape)}")
        off = float((found - expected).norm() / expected.norm().clamp(min=torch.finfo(torch.float32).tiny))
        if not off <= CLOSE[self.half]:
            raise Unusable(f"it differs from PyTorch by {off:.1e}, and {CLOSE[self.half]:g} is allowed")
        self.agreed.add(name)
        return Engine(name, precision, call)

    def first(self, example: Tensor) -> Engine:
        """The first engine that can be used."""
        for name in self.names[:-1]:
            try:
                return self.make(name, example)
            except Unusable:
                continue
        return self.make(self.names[-1], example)


def engine_for(
    module: nn.Module,
    example: Tensor,
    name: str,
    precision: str,
    images: int,
    torch_call: Callable[[Tensor], Tensor],
) -> Engine:
    """The engine for a network: see `Engines`, and `Engines.make` for `example`."""
    return Engines(module, example[:1], name, precision, images, torch_call).first(example)


def version(name: str) -> str:
    """Of an engine's package: another version may give other bits."""
    return importlib.metadata.version(PACKAGES[name][0])


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What an exporter, a converter or an engine meets in a network, whatever it is, becomes Unusable."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise Unusable(f"it does not take this network ({type(error).__name__}: {first.rstrip('.')})") from error


def _missing(name: str) -> list[str]:
    """The packages of an engine that are not installed."""
    return [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
