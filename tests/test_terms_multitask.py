"""Terms with several tasks: deep supervision against its formula; missing labels, several streams, and encoders of the tasks'
own."""

import copy

import pytest
import torch
from multitask import TASKS, context, part, ready, step
from torch.nn import functional as F

from tlmtl.data.streams import Part
from tlmtl.errors import ConfigError
from tlmtl.models.encoder import Encoder, Output
from tlmtl.models.heads import LinearHead
from tlmtl.preprocess import Preprocess
from tlmtl.sharing.cross_stitch import CrossStitch
from tlmtl.sharing.hard import HardSharing
from tlmtl.sharing.mmoe import MMoE
from tlmtl.sharing.mtan import MTAN
from tlmtl.sharing.ple import PLE
from tlmtl.sharing.separate import Separate
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.reconstruction import Reconstruction
from tlmtl.terms.base import Context, Step, layers_of
from tlmtl.terms.deep_supervision import DeepSupervision
from tlmtl.terms.distill_features import DistillFeatures
from tlmtl.terms.l2_sp import L2SP
from tlmtl.terms.supcon import SupCon

# deep supervision


@pytest.mark.parametrize("tasks", [None, ["size", "type"]])
def test_deep_supervision_is_the_tasks_losses_of_a_linear_map_of_a_pooled_layer(tasks):
    found = context()
    term = ready(DeepSupervision(0.3, "block1", tasks), found)
    assert term.needs.layers == ("block1",)
    batch = part()
    value = term(step(found.model, {"target": batch}, [term]))
    layer = found.model.backbone.block1(batch.input)
    assert layer.shape == (8, 4, 8, 8)
    expected = 0.0
    for name in tasks or TASKS:
        head = term.heads[name].linear
        said = layer.mean((2, 3)) @ head.weight.T + head.bias
        target = batch.targets[name]
        expected += {
            "type": lambda s, t: F.cross_entropy(s, t),
            "other": lambda s, t: F.cross_entropy(s, t),
            "size": lambda s, t: ((s[:, 0] - t) ** 2).mean(),
            "marks": lambda s, t: F.binary_cross_entropy_with_logits(s, t),
        }[name](said, target).item()
    assert value.item() == pytest.approx(0.3 * expected, rel=1e-5)


def test_deep_supervision_reaches_the_blocks_below_and_none_above():
    found = context()
    term = ready(DeepSupervision(), found)
    assert term.layer == "block2"  # the middle one of three
    term(step(found.model, {"target": part()}, [term])).backward()
    reached = {name for name, p in found.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name.split(".")[1] for name in reached} == {"block1", "block2"}
    assert all(p.grad.abs().sum() > 0 for p in term.parameters()) and len(list(term.parameters())) == 8


def test_deep_supervision_smooths_and_weighs_classes_as_the_task_does():
    task = Classification("type", ["a", "b", "c"], ["accuracy"], class_weights=[3.0, 1.0, 0.5], label_smoothing=0.2)
    found = context(tasks={"type": task})
    term = ready(DeepSupervision(1.0, "block3"), found)
    batch = part(tasks=["type"])
    now = step(found.model, {"target": batch}, [term])
    said = term.heads["type"](now.outputs["target"].layers["block3"].mean((2, 3)))
    each = F.cross_entropy(
        said, batch.targets["type"], torch.tensor([3.0, 1.0, 0.5]), reduction="none", label_smoothing=0.2
    )
    assert term(now).item() == pytest.approx(each.mean().item(), rel=1e-6)


class Foreign(torch.nn.Module):
    """A backbone of other shapes between its blocks: a map with channels last, then tokens, then a vector."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 5, 3, padding=1)
        self.maps, self.tokens, self.vector = torch.nn.LayerNorm(5), torch.nn.Linear(5, 7), torch.nn.Linear(7, 6)

    def forward(self, x):
        tokens = self.tokens(self.maps(self.conv(x).permute(0, 2, 3, 1)).flatten(1, 2))
        return self.vector(tokens.mean(1))


@pytest.mark.parametrize(("layer", "size"), [("conv", 5), ("maps", 5), ("tokens", 7), ("vector", 6)])
def test_deep_supervision_finds_the_channels_of_maps_tokens_and_vectors(layer, size):
    torch.manual_seed(0)
    encoder = Encoder(Foreign(), 6, Preprocess(8, None, (0.5,), (0.5,)), ["conv", "maps", "tokens", "vector"])
    found = Context(HardSharing(encoder, {"size": LinearHead(6, 1)}), encoder, {"size": TASKS["size"]}, {}, False)
    found.model.train()
    term = ready(DeepSupervision(1.0, layer), found)
    assert found.model.training and found.model.backbone.conv.training
    batch = Part(torch.randn(3, 2, 8, 12), {"size": torch.randn(3)}, {"size": torch.ones(3).bool()}, torch.arange(3))
    now = step(found.model, {"target": batch}, [term])
    axes = {"conv": (2, 3), "maps": (1, 2), "tokens": (1,)}.get(layer)
    activation = now.outputs["target"].layers[layer]
    pooled = activation.mean(axes) if axes else activation
    assert pooled.shape == (3, size)
    expected = (term.heads["size"](pooled)[:, 0] - batch.targets["size"]).square().mean()
    assert term(now).item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_deep_supervision_refuses():
    for arguments, message in (
        ({"layer": "blok1"}, r"'layer' of deep_supervision names the unknown layer 'blok1'. Did you mean 'block1'\?"),
        ({"tasks": ["tipe"]}, r"'tasks' of deep_supervision names the unknown task 'tipe'. Did you mean 'type'\?"),
        ({"tasks": []}, "The term deep_supervision needs a task with labels. Found type \\(classification\\), other"),
        ({"weight": -1}, "'weight' of deep_supervision should not be negative. Found -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            DeepSupervision(**arguments).setup(context())
    picture = {"picture": Reconstruction("picture", ["mse"])}
    found = context()
    found.tasks = {**TASKS, **picture}
    with pytest.raises(ConfigError, match=r"should name a task with labels. Found 'picture', a reconstruction"):
        DeepSupervision(tasks=["picture"]).setup(found)
    found.tasks = picture
    with pytest.raises(ConfigError, match=r"needs a task with labels. Found picture \(reconstruction\)"):
        DeepSupervision().setup(found)


# what holds for all of them


def terms():
    return [DeepSupervision(0.3), SupCon(0.2, projection=6), DistillFeatures(0.7, "cosine", True), L2SP(0.4, 0.03)]


def moved(found, seed=3):
    """The model after a while: each parameter somewhere else, the same for parameters of one name."""
    for name, p in found.model.named_parameters():
        generator = torch.Generator().manual_seed(seed + sum(map(ord, name.split(".", 1)[1])))
        with torch.no_grad():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize("term", [DeepSupervision(0.3), SupCon(0.2, projection=6)], ids=lambda t: type(t).__name__)
def test_examples_without_labels_change_nothing(term):
    found = context()
    term = ready(term, found)
    found.model.eval()  # batch norm looks at all examples
    batch = part(10, missing=[0, 4, 7])
    keep = [1, 2, 3, 5, 6, 8, 9]
    short = Part(
        batch.input[keep], {n: t[keep] for n, t in batch.targets.items()}, {n: m[keep] for n, m in batch.mask.items()},
        batch.index[keep],
    )  # fmt: skip
    values, gradients = [], []
    for one in (batch, short):
        term.zero_grad()
        value = term(step(found.model, {"target": one}, [term]))
        value.backward()
        values.append(value.item())
        gradients.append(torch.cat([p.grad.flatten() for p in term.parameters()]))
    assert values[0] == pytest.approx(values[1], rel=1e-5) and values[0] > 0.1
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    nothing = Part(batch.input, {}, {}, batch.index)  # a part whose labels are all missing
    outputs = {"target": found.model(batch.input, list(TASKS), layers_of([term]))}
    assert term(Step(found.model, {"target": nothing}, outputs, {}, 0, 1)).item() == 0


@pytest.mark.parametrize("number", range(4), ids=["deep_supervision", "supcon", "distill_features", "l2_sp"])
@pytest.mark.parametrize("streams", [1, 2])
def test_with_encoders_of_their_own_a_term_is_the_sum_of_separate_runs(number, streams):
    where = {"target": list(TASKS)} if streams == 1 else {"one": ["type", "size"], "two": ["other", "marks"]}
    parts = {s: part(6 + 3 * i, names, seed=i) for i, (s, names) in enumerate(where.items())}

    def value(tasks, parts):
        found = context(Separate, tasks)
        source = copy.deepcopy(found.encoder.module).eval()
        for head in found.model.heads.children():  # heads start from their own names in a run
            with torch.no_grad():
                head.linear.weight.fill_(0.01)
        term = ready(terms()[number], found)
        moved(found)
        total = term(step(found.model, parts, [term], source))
        total.backward()
        named = [*found.model.named_parameters(), *((f"term.{n}", p) for n, p in term.named_parameters())]
        return total.item(), {name: p.grad for name, p in named if p.grad is not None}

    total, gradients = value(TASKS, parts)
    alone, seen = 0.0, set()
    for stream, names in where.items():
        for name in names:
            if number == 1 and TASKS[name].kind != "classification":
                continue  # supcon refuses it alone
            one = parts[stream]
            cut = Part(one.input, {name: one.targets[name]}, {name: one.mask[name]}, one.index)
            single, theirs = value({name: TASKS[name]}, {stream: cut})
            alone, seen = alone + single, seen | theirs.keys()
            for parameter, gradient in theirs.items():
                torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-4, atol=1e-6)
    assert total == pytest.approx(alone, rel=1e-5) and total > 0.01 and seen == gradients.keys()


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_distillation_is_the_mean_over_the_examples_of_all_streams(loss):
    found = context()
    source = copy.deepcopy(found.encoder.module).eval()
    term = ready(DistillFeatures(0.7, loss), found)
    moved(found)
    found.model.eval()
    parts = {"one": part(3, ["type"], 1), "two": part(9, ["other"], 2)}
    both = term(step(found.model, parts, [term], source)).item()
    each = {s: term(step(found.model, {s: one}, [term], source)).item() for s, one in parts.items()}
    assert both == pytest.approx((3 * each["one"] + 9 * each["two"]) / 12, rel=1e-5) and both > 0.001
    whole = Part(torch.cat([p.input for p in parts.values()]), {}, {}, torch.arange(12))
    assert both == pytest.approx(term(step(found.model, {"target": whole}, [term], source)).item(), rel=1e-5)


def test_l2_sp_pulls_what_is_shared_beside_the_backbone_towards_zero():
    found = context()
    found.model.shared = torch.nn.Linear(2, 2)
    term = ready(L2SP(0.4, 0.06), found)
    new = [*found.model.heads.parameters(), *found.model.shared.parameters()]
    expected = 0.03 * sum(p.detach().square().sum().item() for p in new)
    outputs = {"one": Output(torch.zeros(2, 16)), "two": Output(torch.zeros(3, 16))}
    assert term(Step(found.model, {}, outputs, {}, 0, 1)).item() == pytest.approx(expected, rel=1e-6)


def test_what_a_term_makes_for_a_task_does_not_depend_on_the_other_tasks():
    for make in (lambda: DeepSupervision(), lambda: SupCon(projection=3)):
        both, alone = ready(make(), context()), ready(make(), context(tasks={"other": TASKS["other"]}))
        mine = {n: p for n, p in both.named_parameters() if ".other." in n}
        assert mine.keys() == dict(alone.named_parameters()).keys() and mine
        assert all(torch.equal(p, mine[n]) for n, p in alone.named_parameters())
        other = ready(make(), context())
        torch.manual_seed(6)
        other.setup(context())
        assert any(not torch.equal(p, mine[n]) for n, p in other.named_parameters() if n in mine)


def test_a_task_that_has_stopped_early_adds_nothing():
    found = context(Separate)
    for made in (DeepSupervision(1.0), SupCon(1.0)):
        term, batch = ready(made, found), part()
        now = step(found.model, {"target": batch}, [term])
        now.outputs["target"] = found.model(batch.input, ["other", "size"], layers_of([term]))  # type and marks rest
        cut = Part(batch.input, {t: batch.targets[t] for t in ("other", "size")}, batch.mask, batch.index)
        alone = step(found.model, {"target": cut}, [term])
        assert term(now).item() == pytest.approx(term(alone).item(), rel=1e-6) and term(now).item() > 0.1


@pytest.mark.parametrize("sharing", [HardSharing, Separate, CrossStitch, MMoE, MTAN, PLE], ids=lambda s: s.__name__)
def test_every_term_works_with_every_sharing(sharing):
    found = context(sharing)
    source = copy.deepcopy(found.encoder.module).eval()
    made = [ready(term, found) for term in terms()]
    moved(found)
    parts = {"one": part(6, ["type", "size"], 1), "two": part(9, ["other", "marks"], 2)}
    now = step(found.model, parts, made, source)
    values = [term(now) for term in made]
    assert all(value.isfinite() and value > 0 for value in values)
    torch.stack(values).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for term in made for p in term.parameters())
    said = {
        s: output.of(t).layers["block2"].mean((2, 3)) for s, output in now.outputs.items() for t in parts[s].targets
    }
    assert {tuple(pooled.shape) for pooled in said.values()} == {(6, 8), (9, 8)}
