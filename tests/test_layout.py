"""How the code is laid out: imports run one way, and the loop names no method."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = ROOT / "tlmtl"
# What runs are made of, and what anything may use. Everything else makes runs out of these, or looks at them.
PARTS = ["data", "models", "strategies", "terms", "weighting", "tasks", "optim", "preprocess", "evaluation", "hardware"]
PARTS += ["checkpoint", "config", "errors", "files", "columns", "training", "loop", "artifacts", "identity", "presets"]
PARTS += ["features", "solvers", "store", "schema", "progress", "sharing", "branches", "forward", "fusion", "weigh"]
PARTS += ["stopping", "values", "activations", "initial", "bank", "validation"]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(CODE.rglob("*.py"))}


ABOVE = {name.split(".")[1] for name in MODULES if "." in name} - set(PARTS)


def imports(name: str, lazy: bool = True) -> set[str]:
    """The modules that a module imports: this project's own in full, others by their top name.

    `lazy` ones stand inside functions. What only a type checker sees does not count.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import in line {node.lineno}"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(full if full in MODULES else str(node.module) for full in inner)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    return {one if one in MODULES else one.split(".")[0] for one in found if not one.startswith("__future__")}


def of(part: str) -> list[str]:
    """The modules of a package, or the module of that name."""
    return [name for name in MODULES if name == f"tlmtl.{part}" or name.startswith(f"tlmtl.{part}.")]


def reached(names: list[str]) -> set[str]:
    """Everything that importing these modules imports at once, packages included."""
    seen: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            parents = [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]
            todo += [*imports(name, lazy=False), *parents]
    return seen


def test_the_reader_of_imports_reads():
    assert len(MODULES) > 50 and len(of("compare")) > 10
    assert {"torch", "math", "tlmtl.data.streams", "tlmtl.training"} <= imports("tlmtl.loop")
    assert "tlmtl.api" in imports("tlmtl.commands") and "tlmtl.api" not in imports("tlmtl.commands", lazy=False)
    assert "torch" in reached(["tlmtl.loop"])


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_nothing_from_above(part):
    assert of(part), f"there is no {part}"
    assert {"job", "outcome", "fill", "predict", "check", "compare", "sweep", "search"} <= ABOVE
    for name in of(part):
        upwards = {one for one in imports(name) if one.startswith("tlmtl.") and one.split(".")[1] in ABOVE}
        assert upwards == set(), f"{name} imports from above"


@pytest.mark.parametrize("family", ["data", "models", "sharing", "terms", "weighting", "strategies"])
def test_seams_know_no_members(family):
    """Another part of the program imports a family's interface, never one of its members: a config names those."""
    seams = {
        "data": {
            "dataset",
            "decoded",
            "further",
            "parts",
            "sampling",
            "labels",
            "streams",
            "feed",
            "images",
            "decode",
            "read",
            "tabular",
            "examples",
            "splits",
            "augment",
            "duplicates",
        },
        "models": {"by_task", "digest", "encoder", "heads", "saved", "source", "stages", "statistics"},
        "sharing": {"base"},
        "terms": {"base"},
        "weighting": {"base"},
        "strategies": {"rules"},
    }[family]
    for name in MODULES:
        if name in of(family):
            continue
        taken = {one.split(".")[2] for one in imports(name) if one.startswith(f"tlmtl.{family}.")}
        assert taken <= seams, f"{name} imports a member of {family}"


def test_the_loop_names_no_method():
    own = {one for one in imports("tlmtl.loop") if one.startswith("tlmtl.")}
    assert own and {one for one in own if one.split(".")[1] in ("strategies", "weighting", "terms")} <= {
        "tlmtl.terms.base"
    }
    members = {
        path.stem
        for group in ("strategy", "term", "weighting")
        for path in (ROOT / "conf" / group).glob("*.yaml")
        if path.stem not in ("none", "sum")  # words of Python and torch
    }
    for family in ("terms", "weighting", "strategies"):
        for name in of(family):
            if not name.endswith((".base", family)):
                tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
                members |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - {"Rule"}
    assert {"linear_probe", "l2_sp", "L2SP", "Static", "Sum"} <= members
    text = MODULES["tlmtl.loop"].read_text(encoding="utf-8")
    assert [member for member in sorted(members) if re.search(rf"\b{member}\b", text)] == []


def test_compare_needs_neither_torch_nor_hydra():
    for name in of("compare"):
        assert not imports(name) & {"torch", "torchvision", "hydra", "omegaconf", "timm"}, name
    assert not reached(of("compare")) & {"torch", "torchvision", "hydra", "timm"}


def test_what_looks_at_names_and_tables_needs_no_torch():
    for name in (
        "tlmtl.predict.inputs",
        "tlmtl.predict.output",
        "tlmtl.data.tabular",
        "tlmtl.data.infer",
        "tlmtl.data.decode",
    ):
        assert not reached([name]) & {"torch", "torchvision", "hydra", "timm"}, name


def test_every_package_is_in_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    there = {f"tlmtl.{path.parent.name}" for path in CODE.glob("*/__init__.py")}
    assert sorted(listed) == sorted({"tlmtl", "tlmtl.conf", *there})


def test_no_cycles():
    graph = {name: {one for one in imports(name, lazy=False) if one in MODULES and one != "tlmtl"} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        for one in sorted(graph[name]):
            visit(one, [*trail, name])
        done.add(name)

    for name in graph:
        visit(name, [])
    assert done == set(MODULES)


def test_files_are_short():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 300} == {}
    assert sorted(lengths.values())[len(lengths) // 2] < 120
    assert lengths["tlmtl.loop"] < 150


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import tlmtl.cli", "torch hydra omegaconf pandas rich numpy"),
        ("from tlmtl.cli import main; main(['train', '--help'])", "torch hydra omegaconf pandas numpy"),
        ("import tlmtl.compare.command", "torch hydra omegaconf"),
        ("import tlmtl.commands", "torch"),
    ],
)
def test_the_front_door_is_light(code, heavy):
    listed = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(' '.join(sys.modules))"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout.splitlines()[-1].split()  # fmt: skip
    assert any(name.startswith("tlmtl.") for name in listed)
    assert set(heavy.split()) & set(listed) == set()


# What a default run may import: these, what they bring along, and what Hydra finds among installed plugins.
USED = {"torch", "numpy", "pandas", "pyarrow", "hydra", "omegaconf", "yaml", "rich", "safetensors", "filelock", "tlmtl"}
BROUGHT = {"antlr4", "attr", "cuda", "dateutil", "packaging", "torchgen", "tqdm", "typing_extensions"}
PLUGINS = {"hydra_plugins", "cloudpickle"}


def test_a_default_run_imports_what_it_uses(tmp_path, shared_cache):
    code = (
        "import sys; from tlmtl.cli import main\n"
        "assert main(['train', 'train.epochs=12', 'source.train.epochs=1', 'progress=false']) == 0\n"
        "found = [name for name, module in sys.modules.items() if getattr(module, '__file__', None)]\n"
        "print(' '.join(found))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    found = said.stdout.splitlines()[-1].split()
    tops = {name.split(".")[0] for name in found if not name.startswith("_")} - set(sys.stdlib_module_names)
    assert tops >= USED and tops - USED - BROUGHT - PLUGINS == set()
    # torch's compiler takes two thirds of what torch takes
    assert [name for name in found if name.startswith(("torch._dynamo", "torch._inductor"))] == []


def test_a_report_of_runs_needs_no_torch():
    assert not reached([*of("report"), "tlmtl.data.read", "tlmtl.data.digits", "tlmtl.data.folder"]) & {"torch", "timm"}
