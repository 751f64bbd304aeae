"""Tab completion in real shells: candidates and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import TLMTL

from tlmtl.presets import packaged_folder

STRATEGIES = {f"strategy={path.stem}" for path in (packaged_folder() / "strategy").glob("*.yaml")}

BASH = """
export PATH={folder}:$PATH
eval "$(tlmtl train -sc install=bash)"
COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9; COMP_KEY=9
COMP_WORDS=({line})
case "$COMP_LINE" in *" ") COMP_WORDS+=("");; esac
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
spec=$(complete -p tlmtl) || exit 3
function=$(sed -E 's/.*-F ([^ ]+).*/\\1/' <<< "$spec")
$function tlmtl "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
echo "<reply>"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

ZSH = """
autoload -Uz compinit bashcompinit; compinit -u -d ./dump; bashcompinit
export PATH={folder}:$PATH
eval "$(tlmtl train -sc install=bash)"
emulate -L sh; setopt kshglob noshglob braceexpand ksharrays
COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({line}); COMP_CWORD=2; COMPREPLY=()
hydra_bash_completion
echo "<reply>"
printf '%s\n' "${{COMPREPLY[@]}}"
"""


def reply(script: str, shell: list[str], cwd: Path) -> set[str]:
    """What the shell would offer. Fails when anything else was printed."""
    done = subprocess.run([*shell, "-c", script], cwd=cwd, capture_output=True, text=True, timeout=120)
    before, _, after = done.stdout.partition("<reply>\n")
    assert done.returncode == 0 and not before and not done.stderr, (done.stdout, done.stderr)
    return {word.strip() for word in after.split("\n") if word.strip()}


def bash(line: str, cwd: Path) -> set[str]:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    return reply(BASH.format(folder=TLMTL.parent, line=line), ["bash", "--norc"], cwd)


def test_members_of_a_group(tmp_path):
    assert bash("tlmtl train strategy=", tmp_path) == STRATEGIES
    assert bash("tlmtl train seed=1 strategy=fin", tmp_path) == {"strategy=finetune_all"}


def test_groups_and_keys(tmp_path):
    assert {"strategy=", "strategy."} <= bash("tlmtl train strat", tmp_path)
    assert "train.epochs=" in bash("tlmtl train train.ep", tmp_path)


def test_commands(tmp_path):
    assert bash("tlmtl tr", tmp_path) == {"train"}
    assert {"train", "compare", "list"} <= bash("tlmtl ", tmp_path)


def test_groups_of_list(tmp_path):
    assert bash("tlmtl list str", tmp_path) == {"strategy"}


def test_nothing_for_a_wrong_line(tmp_path):
    assert bash("tlmtl train strategy=linear_prob nothing.like", tmp_path) == set()
    assert bash("tlmtl nope strat", tmp_path) == set()


def test_own_configs_are_offered(tmp_path):
    path = tmp_path / "conf" / "strategy" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("defaults: [finetune_all]\n")
    assert bash("tlmtl train strategy=", tmp_path) == {*STRATEGIES, "strategy=mine"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh(tmp_path):
    assert reply(ZSH.format(folder=TLMTL.parent, line="tlmtl train strategy=fin"), ["zsh", "-f"], tmp_path) == {
        "strategy=finetune_all"
    }
