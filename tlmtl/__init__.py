"""tlmtl: compare ways to transfer and to share.

cfg = tlmtl.compose(["strategy=finetune_all", "dataset.labels_per_class=1"])
result = tlmtl.run(cfg)
result.rows, result.folder, result.model
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "compose", "run"]

if TYPE_CHECKING:
    from tlmtl.api import run
    from tlmtl.composition import compose


def __getattr__(name: str):
    """`compose` and `run` are imported when first asked for: the command line must start without them."""
    if name == "compose":
        from tlmtl.composition import compose

        return compose
    if name == "run":
        from tlmtl.api import run

        return run
    raise AttributeError(f"module 'tlmtl' has no attribute '{name}'")
