"""Every config there is composes and builds; what makes two configs the same; what the column `overrides` says."""

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import tlmtl
from tlmtl import identity
from tlmtl.assemble import assemble
from tlmtl.errors import ConfigError
from tlmtl.presets import GROUP_NAMES, packaged_folder, presets

FILES = sorted(path.relative_to(packaged_folder()) for path in packaged_folder().rglob("*.yaml"))
# What a member leaves open, and what it goes with.
NEEDS = {
    "model/timm": ["model.name=resnet10t"],
    "model/torchvision": ["model.name=squeezenet1_1"],
    "source/efficientnet_lite0": ["model=efficientnet_lite0"],
    "source/file": ["source.path=somewhere", "strategy=from_scratch"],
    "source/imagenet": ["strategy=from_scratch"],  # its weights need a network
    "source/mobilenet_v2": ["model=mobilenet_v2"],
    "source/none": ["strategy=from_scratch"],
    "source/package": ["source.package=x", "source.file=x", "source.sha256=x", "strategy=from_scratch"],
    "source/run": ["source.path=somewhere", "strategy=from_scratch"],
    "dataset/folder": ["dataset.root=images"],
    "dataset/table": ["dataset.path=labels.csv"],
    "strategy/multitask": ["dataset=two_digits"],
    **{
        f"fusion/{how}": ["dataset=two_digits", "tasks=all", "fusion.tasks=[left,right]"]
        for how in ("average", "weighted", "vote")
    },
}
PLUGINS = {  # launchers that an experiment names; without the plugin Hydra does not know them
    "experiment/joblib": "hydra_plugins.hydra_joblib_launcher",
    "experiment/ray": "hydra_plugins.hydra_ray_launcher",
    "experiment/slurm": "hydra_plugins.hydra_submitit_launcher",
    "experiment/submitit_local": "hydra_plugins.hydra_submitit_launcher",
}
NOT_HERE = {"hardware/gpu", "hardware/mps"}
DOWNLOADED = "tlmtl.data.public.public"  # built in test_public.py, from files of its own


def compose(*overrides: str):
    return tlmtl.compose(list(overrides))


def choice(file) -> list[str]:
    group, name = file.parent.as_posix(), file.stem
    if group == ".":
        return []
    word = {"term": f"term=[{name}]", "experiment": f"+experiment={name}"}.get(group, f"{group}={name}")
    return [word, *NEEDS.get(f"{group}/{name}", [])]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.with_suffix("").as_posix())
def test_every_file_composes_and_builds(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if plugin := PLUGINS.get(file.with_suffix("").as_posix()):
        pytest.importorskip(plugin)
    for number in range(12):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), number, np.uint8)).save(path)
    lines = [f"images/{'ab'[number % 2]}/{number}.png,{'ab'[number % 2]}" for number in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,kind", *lines]) + "\n")
    cfg = compose(*choice(file))
    assert len(identity.config_hash(cfg)) == 12
    if cfg.dataset["_target_"] == DOWNLOADED:
        return
    if cfg.dataset["_target_"] == "tlmtl.data.elpv.elpv":
        pytest.importorskip("elpv_dataset")
    if file.with_suffix("").as_posix() in NOT_HERE:
        try:
            assemble(cfg, with_source=False)
        except ConfigError as error:
            assert "torch finds none" in str(error)
        return
    parts = assemble(cfg, with_source=False)
    assert parts.units.total > 0 and parts.groups.trained() > 0


@pytest.mark.parametrize("group", GROUP_NAMES)
def test_every_member_says_what_it_is(group):
    found = presets(group, [packaged_folder()])
    assert found
    for preset in found:
        assert preset.path.read_text().startswith("# "), preset.path
        assert len(preset.about) > 5 and "@package" not in preset.about, preset.path


def test_every_folder_of_configs_is_a_known_group():
    assert {file.parent.as_posix() for file in FILES} == {".", *GROUP_NAMES}


def test_every_weighting_has_a_level():
    for preset in presets("weighting", [packaged_folder()]):
        assert "level" in OmegaConf.load(preset.path), preset.path


# config_hash


def same(first: list[str], second: list[str]) -> bool:
    return identity.config_hash(compose(*first)) == identity.config_hash(compose(*second))


SAME = {
    "what is ignored": ([], ["output.root=x", "progress=false", "hardware.workers=3", "sweep.name=x", "allow=[os]"]),
    "where things are kept": ([], ["output.cache=x", "output.keep_checkpoint=true"]),
    "defaults said aloud": ([], ["strategy=linear_probe", "seed=0", "optimizer.lr=0.01"]),
    "another order": (["seed=1", "model.width=8"], ["model.width=8", "seed=1"]),
    "another spelling": (["train.clip=1", "model.width=8"], ["train.clip=1.0", "++model.width=8"]),
    "no source used": (["strategy=from_scratch"], ["strategy=from_scratch", "source=none"]),
    "settings of a source not used": (["strategy=from_scratch"], ["strategy=from_scratch", "source.seed=3"]),
    "weighting of one task": ([], ["weighting=static"]),
    "level of a scalar weighting": (["tasks=all"], ["tasks=all", "weighting.level=features"]),
    "a task by name": ([], ["tasks=[digit]"]),
    "tasks in another order": (["tasks=[digit,ink]"], ["tasks=[ink,digit]"]),
    "multitask and its parts": (["strategy=multitask"], ["strategy=finetune_all", "tasks=all"]),
    "where a term comes from": (["strategy=l2sp"], ["strategy=finetune_all", "term=[l2_sp]"]),
    "no term": ([], ["term=[none]"]),
}


@pytest.mark.parametrize(("first", "second"), SAME.values(), ids=SAME)
def test_the_same_result_the_same_hash(first, second):
    assert same(first, second)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1", "optimizer.lr=0.02", "strategy=finetune_all", "source.seed=1", "dataset.split_seed=1",
        "dataset.subset_seed=7", "train.epochs=61", "hardware.threads=2", "hardware.precision=bf16-mixed",
        "dataset.augment=flip", "tasks=all", "term=[l2_sp]", "head.init=default", "+optimizer.amsgrad=true",
        "strategy.rules=[{params: '*'}]", "dataset.tasks.digit.metrics=[macro_f1]",
    ],
)  # fmt: skip
def test_another_result_another_hash(override):
    assert not same([], [override])


def test_a_pretrained_source_is_the_same_wherever_it_is_kept():
    cfg = compose()
    here = cfg.copy()
    OmegaConf.update(here, "source.path", "/some/where", force_add=True)
    assert identity.config_hash(cfg) == identity.config_hash(here)


def test_the_source_counts_for_a_term_that_needs_it():
    scratch = ["strategy=from_scratch", "term=[distill_features]"]
    assert not same(scratch, [*scratch, "source.seed=1"])


# group_id and sweep_name


def test_repeats_are_one_group_though_the_subset_follows_the_seed():
    cfgs = [compose(f"seed={seed}") for seed in range(3)]
    assert [cfg.dataset.subset_seed for cfg in cfgs] == [0, 1, 2]
    assert len({identity.group_id(cfg) for cfg in cfgs}) == 1
    assert len({identity.config_hash(cfg) for cfg in cfgs}) == 3


def test_other_experiments_are_other_groups():
    varied = [[], ["optimizer.lr=0.02"], ["dataset.subset_seed=0"], ["strategy=finetune_all"], ["source.seed=1"]]
    assert len({identity.group_id(compose(*overrides)) for overrides in varied}) == len(varied)


def test_a_sweep_that_grew_keeps_its_name():
    swept = ["seed", "strategy"]
    names = {
        identity.sweep_name(compose(f"seed={s}", f"strategy={n}"), swept) for s in (0, 5) for n in ("staged", "distill")
    }
    assert len(names) == 1


def test_another_sweep_has_another_name():
    base = identity.sweep_name(compose(), ["seed"])
    assert identity.sweep_name(compose("seed=1", "progress=false", "output.root=x"), ["seed"]) == base
    assert identity.sweep_name(compose("train.epochs=3"), ["seed"]) != base
    assert identity.sweep_name(compose(), ["seed", "optimizer.lr"]) != base
    assert identity.sweep_name(compose("strategy=staged"), ["seed"]) != base


# composed


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        ([], []),
        (["strategy=finetune_all", "model=resnet18", "source=none"], []),
        (["seed=3", "optimizer.lr=0.5", "train.epochs=3", "output.root=x", "tasks=all", "hardware.threads=2"], []),
        (["dataset.augment=none", "model.width=32"], []),
        (["model.width=8", "dataset.augment=flip"], ["dataset.augment=flip", "model.width=8"]),
        (["dataset.augment=flip", "++model.width=8"], ["dataset.augment=flip", "model.width=8"]),
        (["+optimizer.amsgrad=true"], ["optimizer.amsgrad=true"]),
        (["~model.pool"], ["~model.pool"]),
        (["train.clip=2"], ["train.clip=2.0"]),
        (["+experiment=two_digits"], ["model.pool=2"]),
        (["term=[l2_sp]"], []),
        (["term=[l2_sp]", "term.l2_sp.alpha=3"], ["term.l2_sp.alpha=3"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_overrides_are_what_no_column_shows_in_one_spelling(overrides, shown):
    assert list(compose(*overrides).composed.overrides) == shown


def test_choices_name_the_members():
    choices = compose("strategy=staged", "model=resnet18").composed.choices
    expected = {"strategy": "staged", "model": "resnet18", "source": "pretrain", "dataset": "digits"}
    assert {key: choices[key] for key in expected} == expected


def test_composing_again_and_again_gives_the_same():
    assert OmegaConf.to_yaml(compose("seed=1")) == OmegaConf.to_yaml(compose("seed=1"))


def test_compose_refuses_what_the_command_line_refuses(tmp_path, monkeypatch):
    for wrong, word in (
        ("train.epoch=3", "train.epochs"),
        ("+epoch=9", "epoch"),
        ("seed=x", "seed"),
        ("model=nope", "model"),
    ):
        with pytest.raises(ConfigError, match=word):
            compose(wrong)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "conf" / "experiment" / "x.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\nallow: [os]\nhydra: {overrides: {task: ['allow=[os]']}}\n")
    with pytest.raises(ConfigError, match="'allow'"):
        compose("+experiment=x")
