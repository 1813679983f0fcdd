"""The house as a whole: imports point down, heavy libraries wait until they are needed, files stay short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from nanograd.nn import Module

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"backend", "gpus", "precision", "random"},
    {"tensor", "primitive", "watch", "widening"},
    {"ops"},
    {"kernels"},
    {"nn", "optim"},
    {
        "models",
        "io",
        "data",
        "config",
        "settings",
        "optim_settings",
        "testing",
        "memory",
        "alerts",
        "display",
        "event_file",
        "bad_step",
        "diagnosis",
        "guard",
        "loss_scale",
        "mixing",
        "prepare",
        "evaluation",
        "generate",
        "terminal",
        "profile",
        "profile_report",
        "findings",
        "flops",
        "resume",
        "decoding",
        "device_step",
        "graph",
        "host_step",
        "saving",
        "trainer",
        "train_report",
    },
    {"train", "training_run", "evaluate", "sample", "plot", "doctor", "gpucheck", "warm_up"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NANOGRAD, PRE_PROCESS, DATA = sources("nanograd"), sources("pre_process"), sources("data")
MODULES = {module_name(path): path for path in NANOGRAD + PRE_PROCESS + DATA}
every = pytest.mark.parametrize


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Dotted names of all that a file imports; lazy=False leaves out what is imported inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if lazy else _executed_at_import(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _executed_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _executed_at_import(child)


def part_of_nanograd(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "nanograd" and len(parts) > 1 else None


@every("path", NANOGRAD, ids=module_name)
def test_imports_point_down(path):
    part = part_of_nanograd(module_name(path))
    if part is None:
        return  # nanograd/__init__.py shows visitors around on every floor
    for name in imports(path):
        other = part_of_nanograd(name)
        if other is not None:
            assert FLOOR[other] <= FLOOR[part], f"{part} (floor {FLOOR[part]}) imports {other} (floor {FLOOR[other]})"


@every("path", NANOGRAD, ids=module_name)
def test_a_file_that_names_its_floor_is_right(path):
    part = part_of_nanograd(module_name(path))
    title = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    if title.startswith("Floor "):
        assert title.startswith(f"Floor {FLOOR[part]}. ")


def test_modules_import_each_other_in_no_circle():
    graph = {name: {_module(imported) for imported in imports(path)} - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def _module(name: str) -> str:
    """'nanograd.backend.Array' → 'nanograd.backend'; 'nanograd.ops' stays."""
    return name if name in MODULES or "." not in name else _module(name.rpartition(".")[0])


TEACHING = "pre_process.word2vec.teaching"  # word2vec on nanograd's autograd, for reading; nothing may need it


@every("path", [path for path in PRE_PROCESS if module_name(path) != TEACHING], ids=module_name)
def test_pre_process_stands_alone(path):
    assert not [name for name in imports(path) if name.split(".")[0] in ("nanograd", "data")]


def test_nothing_needs_the_teaching_word2vec():
    paths = [path for name, path in MODULES.items() if name != TEACHING]
    assert not [path for path in paths if TEACHING in {_module(name) for name in imports(path)}]


@every("path", NANOGRAD, ids=module_name)
def test_nanograd_does_not_need_the_clone(path):
    assert not [name for name in imports(path) if name.split(".")[0] in ("data", "benchmarks", "pytest", "hypothesis")]


YARDSTICKS = {
    "torch",
    "jax",
    "tensorflow",
    "transformers",
    "tokenizers",
    "tiktoken",
    "sentencepiece",
    "sklearn",
    "keras",
}
TEST_TOOLS = {"pytest", "hypothesis", "tests"}


@every("path", NANOGRAD + PRE_PROCESS + DATA, ids=module_name)
def test_no_other_framework_does_the_work(path):
    assert not {name.split(".")[0] for name in imports(path)} & (YARDSTICKS | TEST_TOOLS)


@every("path", NANOGRAD + PRE_PROCESS + DATA, ids=module_name)
def test_one_file_knows_cupy(path):
    if module_name(path) != "nanograd.backend":
        assert not {name.split(".")[0] for name in imports(path)} & {"cupy", "cupyx", "cupy_backends"}


HEAVY = (
    "cupy",
    "gensim",
    "hypothesis",
    "matplotlib",
    "numba",
    "PIL",
    "pytest",
    "regex",
    "rich",
    "scipy",
    "torch",
    "tyro",
)


def test_importing_nanograd_is_light():
    """A newcomer's first line must not wait for libraries that only some commands need."""
    code = f"import nanograd, sys; print(*sorted({{n.split('.')[0] for n in sys.modules}} & set({HEAVY!r})))"
    assert _python(code).split() == []


QUIET = """
import sys
def watch(event, args):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "subprocess", "os.system", "os.mkdir", "os.remove")):
        raise SystemExit(f"{event} {args} at import")
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+") and args[0] != "/dev/null":
        raise SystemExit(f"opens {args[0]} for writing at import")
sys.dont_write_bytecode = True
sys.addaudithook(watch)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_importing_touches_neither_network_nor_disk():
    """Kernels are let off: Numba makes the folder for its compiled code when a function is decorated."""
    apart = ("__main__", "nanograd.kernels.cpu", "nanograd.warm_up", "tokenizer.kernels.", "word2vec.kernels.")
    _python(QUIET, *(name for name in MODULES if not any(part in name for part in apart)))


def test_the_watch_on_imports_sees_a_write(tmp_path):
    (tmp_path / "careless.py").write_text("open('left_behind', 'w')")
    with pytest.raises(AssertionError, match="opens left_behind for writing"):
        _python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{QUIET}", "careless", folder=tmp_path)


def _python(code: str, *arguments: str, folder: Path = ROOT) -> str:
    run = subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


# Habits


@every("path", NANOGRAD + PRE_PROCESS + DATA + sources("tests", "benchmarks"), ids=module_name)
def test_files_are_short_and_say_what_they_hold(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, "400 lines at most, 250 as a rule: does this file hold two things?"
    if text and module_name(path).split(".")[0] not in ("tests", "benchmarks"):
        assert ast.get_docstring(ast.parse(text)), "the first line of a module says what it holds"


@every("path", NANOGRAD + PRE_PROCESS + DATA, ids=module_name)
def test_what_is_public_is_documented(path):
    """Without a docstring: names with an underscore, setters, two lines that speak for themselves, and `forward`,
    whose formula stands in the docstring of its class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [name for name, node in _public(tree) if not ast.get_docstring(node) and not _speaks_for_itself(node)] == []


def _public(tree: ast.Module | ast.ClassDef, path: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield path + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node, f"{path}{node.name}.")


def _speaks_for_itself(node: ast.FunctionDef | ast.ClassDef) -> bool:
    if isinstance(node, ast.ClassDef):
        return False
    setter = any(isinstance(mark, ast.Attribute) and mark.attr == "setter" for mark in node.decorator_list)
    n_lines = (node.body[-1].end_lineno or 0) - node.body[0].lineno + 1
    return setter or n_lines <= 2 or node.name == "forward"


def test_forward_is_where_modules_say_their_formula():
    assert Module.__doc__
    assert all(layer.__doc__ for layer in _subclasses(Module))


def _subclasses(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("nanograd."):
            yield child
        yield from _subclasses(child)
