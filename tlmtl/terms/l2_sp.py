"""`term=[l2_sp]`: a penalty on the distance from the source parameters."""

import torch
from torch import Tensor

from tlmtl.errors import ConfigError
from tlmtl.terms.base import Context, Step, Term


class L2SP(Term):
    """alpha/2 ||w - w_source||^2 over the backbone + beta/2 ||w||^2 over all that is new.

    Li, Grandvalet & Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", eq. 2, where
    the backbone is what has a counterpart in the source; what is new are the heads and what tasks share beside the backbone
    (`shared.*`: gates, experts, attention, cross-stitch units). As in its reference code, norms and biases are penalised
    too. Where tasks have backbones of their own, each is held near the source, so that the penalty is the sum of those of
    separate runs.

    Arguments:
        alpha, beta: 0 or more.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 0.01) -> None:
        super().__init__()
        if alpha < 0 or beta < 0:
            raise ConfigError(f"'alpha' and 'beta' of l2_sp should not be negative. Found {alpha} and {beta}.")
        self.alpha, self.beta = alpha, beta
        self.source: dict[str, Tensor] = {}  # found again from the source on a resume, so never saved

    def setup(self, context: Context) -> None:
        if not context.from_source:
            raise ConfigError(
                "The term l2_sp pulls towards the source parameters, but nothing is initialised from a source."
            )
        self.source = {n: p.detach().clone() for n, p in context.model.named_parameters() if n.startswith("backbone.")}

    def _apply(self, fn, recurse=True):
        self.source = {name: fn(tensor) for name, tensor in self.source.items()}  # goes where the module goes
        return super()._apply(fn, recurse)

    def forward(self, step: Step) -> Tensor:
        total = torch.zeros((), device=next(step.model.parameters()).device)
        for name, parameter in step.model.named_parameters():
            if parameter.requires_grad:
                if name in self.source:
                    total = total + self.alpha / 2 * (parameter - self.source[name]).square().sum()
                else:
                    total = total + self.beta / 2 * parameter.square().sum()
        return total
