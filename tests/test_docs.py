"""The documents say what is true: files they name exist, links lead somewhere, their Python runs, their flags exist."""

import re
import subprocess
import sys
import tomllib
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("text-data-info/*.md")])
FOLDERS = ("nanograd", "pre_process", "data", "tests", "benchmarks", "text-data-info", "pictures")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


@each_document
def test_every_file_named_exists(document):
    pattern = rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`"
    named = re.findall(pattern, document.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@each_document
def test_every_link_to_a_file_leads_somewhere(document):
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def commands(document):
    """What follows `python -m` in code, up to a comment; a module in capitals stands for any."""
    found = re.findall(r"python -m ((?:nanograd|pre_process|benchmarks|data)[\w.]*[^`#\n&)]*)", document)
    return sorted({command for command in found if command.split()[0].islower()})


@each_document
def test_every_command_names_a_module_and_flags_that_exist(document):
    for command in commands(document.read_text(encoding="utf-8")):
        module, *words = command.split()
        source = ROOT / module.rstrip(".").replace(".", "/")
        candidates = [source.with_suffix(".py"), source / "__main__.py"]
        assert any(path.exists() for path in candidates), command
        flags = [word for word in words if word.startswith("--")]
        if flags:
            subcommands = takewhile(str.isalpha, words)
            call = [sys.executable, "-m", module, *subcommands, "--help"]
            shown = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, check=True).stdout
            assert [flag for flag in flags if flag not in shown] == [], command


def test_settings_under_other_names_exist_under_ours():
    """The last column of the table for those who come from another trainer."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [table] = re.findall(r"<details><summary>Settings under other names.*?</details>", readme, flags=re.DOTALL)
    ours = [line.split("|")[-2] for line in table.splitlines() if line.startswith("| ")][1:]
    flags = {flag for cell in ours for flag in re.findall(r"--[\w-]+", cell)}
    call = [sys.executable, "-m", "nanograd.train", "--help"]
    shown = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert len(flags) > 20
    assert [flag for flag in sorted(flags) if not re.search(rf"{flag}(?![\w-])", shown)] == []


def test_the_readme_s_python_runs():
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})


def test_the_readme_installs_what_the_package_offers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(re.findall(r"\[([a-z0-9,]+)\]'", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {name for extra in extras for name in extra.split(",")} <= project["optional-dependencies"].keys()
