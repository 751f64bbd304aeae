"""A head that says what the training examples nearest to an image's features are labelled as."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlmtl.tasks.base import Task


class NeighbourHead(nn.Module):
    """Features (n, D) -> output (n, K) by weighted k nearest neighbours (Wu et al. 2018; as in DINO, Caron et al. 2021).

    Neighbours are found by the cosine of their features; each has the weight exp(cosine / temperature). With a, the neighbours'
    labels averaged by weight, the output is
      classification: log p, p_c = (k w_c a_c + s / K) / (k sum_j w_j a_j + s), w being the class weights of the loss;
      multilabel: log p / (1 - p), p_l = (k a_l + s / 2) / (k + s), a_l over the neighbours of which the label is known;
      regression: a.
    DINO adds the weights up, and its likeliest class is the same. A probability needs more: `s`, the smoothing, counts as so
    many neighbours more that vote for everything alike, without which the loss of an unseen class would be infinite.

    Arguments:
        examples: N, how many are stored.
        features: D.
        k: 1 to N.
        temperature: above 0.
        smoothing: s, above 0.

    Buffers: `examples` float32 (N, D), of length 1; `labels` int64 (N,) for a classification, else float32 (N, K), NaN for a
    label not known; `class_weights` float32 (K,).
    """

    kind: ClassVar[str] = "neighbours"
    examples: Tensor
    labels: Tensor
    class_weights: Tensor

    def __init__(self, task: Task, examples: int, features: int, k: int, temperature: float, smoothing: float) -> None:
        super().__init__()
        self.says, self.outputs = task.kind, task.outputs
        self.k, self.temperature, self.smoothing = k, temperature, smoothing
        classes = task.kind == "classification"
        labels = torch.zeros(examples, dtype=torch.int64) if classes else torch.zeros(examples, task.outputs)
        self.register_buffer("examples", torch.zeros(examples, features))
        self.register_buffer("labels", labels)
        self.register_buffer("class_weights", torch.ones(task.outputs if classes else 0))

    def forward(self, features: Tensor) -> Tensor:
        return self.said(*self.nearest(features, self.k))

    def nearest(self, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest examples of each of (n, D), the nearest first: their cosines and numbers, (n, k) each."""
        # in single precision, whatever the rest of the model is in: nearest is a matter of the last digits
        cosines = F.normalize(features.float(), dim=1) @ self.examples.float().T
        found = cosines.topk(k, dim=1)
        return found.values, found.indices

    def said(self, cosines: Tensor, numbers: Tensor) -> Tensor:
        """The output (n, K) from neighbours (n, k)."""
        k = cosines.shape[1]
        weights = (cosines / self.temperature).softmax(1)
        labels = self.labels[numbers]
        if self.says == "classification":
            shares = weights.new_zeros(weights.shape[0], self.outputs)
            votes = k * shares.scatter_add(1, labels, weights) * self.class_weights
            total = votes.sum(1, keepdim=True) + self.smoothing
            return ((votes + self.smoothing / self.outputs) / total).log()
        known = ~labels.isnan()
        weights = weights[:, :, None] * known
        mean = (weights * torch.where(known, labels, 0.0)).sum(1) / weights.sum(1).clamp(min=1e-12)
        if self.says == "regression":
            return mean
        voters = known.sum(1)
        odds = (voters * mean + self.smoothing / 2) / (voters * (1 - mean) + self.smoothing / 2)
        return odds.log()

    def describe(self) -> dict[str, Any]:
        """What is needed to make it again, beside the task and the buffers."""
        return {
            "kind": self.kind,
            "k": self.k,
            "temperature": self.temperature,
            "smoothing": self.smoothing,
        }
