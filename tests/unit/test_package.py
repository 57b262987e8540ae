"""The package as a whole: what importing it costs, which room may import which, and what every function documents."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

import molvae
from molvae.cli.main import app

PACKAGE = Path(molvae.__file__).parent
RULES = Path(__file__).parents[2] / "workflow" / "rules"
RULE = re.compile(r"^(?:rule|checkpoint) (\w+):\n((?:[ \t].*\n|\n)+)", re.MULTILINE)
HEAVY = {
    *("torch", "numpy", "rdkit", "selfies", "pandas", "pyarrow", "mlflow", "pydantic", "safetensors", "sklearn"),
    "typer",
}
CORE = (
    *("data.dataset", "data.vocabulary", "runtime.seeds"),
    *("nn.rnn", "nn.encoder_decoder", "nn.priors", "nn.property_head", "nn.vae", "nn.losses"),
    *("inference.conditioning", "inference.decoding", "inference.posterior", "inference.posterior_diagnostics"),
    *("inference.sampling", "training.distributed", "training.evaluation", "training.schedules", "training.trainer"),
)
LOOSE_FILES = {"__init__.py", "__main__.py", "errors.py", "config.py", "api.py", "py.typed"}
ROOMS = {
    *("cli", "commands", "stages", "chemistry", "data", "nn", "inference", "training", "model_io", "runtime"),
    *("latent", "metrics", "report", "tracking"),
}
# Rooms and loose modules, the lowest layer first: each imports from itself and from lower layers only. `config` checks
# the names of pretrained models, and `model_io` reads settings: the two would be a circle if they were taken whole.
LAYERS = (
    ("errors",),
    ("chemistry", "runtime", "model_io.pretrained"),
    ("data",),
    ("config", "nn"),
    ("inference", "model_io"),
    ("metrics", "training"),
    ("latent",),
    ("api", "report"),
    ("commands",),
    ("__init__",),
    ("stages", "tracking"),
    ("cli",),
    ("__main__",),
)
SOLE_IMPORTERS = {"rdkit": "chemistry", "selfies": "chemistry", "mlflow": "tracking"}  # library: the room that wraps it
NN_LIBRARIES = {"__future__", "collections", "math", "typing", "numpy", "torch"}  # nothing that reads or writes files
NN_MODULES = {"molvae.errors", "molvae.runtime.seeds", "molvae.data.vocabulary", "molvae.data.dataset"}
NN_MODULES_FOR_TYPES = {"molvae.config"}
NN_DATASET_NAMES = {"Batch", "TokenSet"}  # molecules as tensors


class Import(NamedTuple):
    """An import statement in a module of the package, at its top or in a function."""

    module: str  # that holds the statement, "molvae.nn.vae"
    line: int
    target: str  # the module imported, "molvae.data.dataset" or "torch.nn"
    name: str  # what is imported from it; "" where it is imported whole
    is_for_types: bool  # under `if TYPE_CHECKING:`, so that it never runs

    @property
    def is_internal(self) -> bool:
        """Whether it is of a module of the same package."""
        return self.target.split(".")[0] == self.module.split(".")[0]

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}: imports {self.target} {self.name}".rstrip()


def find_modules(package: Path) -> dict[str, Path]:
    """The file of each module of a package, by its dotted name."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def read_imports(package: Path) -> list[Import]:
    """Read all imports of the modules of a package, those inside functions and classes, too."""
    modules = find_modules(package)
    imports = []
    for module, path in modules.items():
        for node, is_for_types in iter_import_nodes(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                targets = [(alias.name, "") for alias in node.names]
            else:
                assert node.level == 0, f"{module}, line {node.lineno}: a relative import; write it absolute"
                names = [alias.name for alias in node.names]
                whole = [f"{node.module}.{name}" in modules for name in names]  # `from package import module`
                targets = [
                    (f"{node.module}.{name}", "") if is_module else (str(node.module), name)
                    for name, is_module in zip(names, whole, strict=True)
                ]
            imports += [Import(module, node.lineno, target, name, is_for_types) for target, name in targets]
    return imports


def iter_import_nodes(tree: ast.AST, is_for_types: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """All import statements of a syntax tree, each with whether it stands under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, is_for_types
        elif isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
            yield from iter_import_nodes(ast.Module(node.body, []), True)
            yield from iter_import_nodes(ast.Module(node.orelse, []), is_for_types)
        else:
            yield from iter_import_nodes(node, is_for_types)


def get_room(module: str) -> str:
    """The room of a module of the package, "nn" of "molvae.nn.vae"; a loose module is its own, as is `__init__`."""
    return (module.split(".") + ["__init__"])[1]


def group_by_target_room(imports: Iterable[Import], room: str) -> dict[str, list[str]]:
    """The imports in the modules of a room, by the room that they import from."""
    groups: dict[str, list[str]] = {}
    for entry in imports:
        if get_room(entry.module) == room:
            groups.setdefault(get_room(entry.target), []).append(str(entry))
    return groups


def find_layer(module: str) -> tuple[int, str]:
    """The number of the layer of a module, and the entry of LAYERS that it belongs to, the longest that fits."""
    name = ".".join(module.split(".")[1:]) or "__init__"
    fitting = [
        (len(entry), number, entry)
        for number, entries in enumerate(LAYERS)
        for entry in entries
        if name == entry or name.startswith(f"{entry}.")
    ]
    assert fitting, f"{module}: no layer in LAYERS"
    return max(fitting)[1:]


def find_upward_imports(imports: Iterable[Import]) -> list[str]:
    """Those imports of the package that do not lead from a room to a lower layer."""
    upward = []
    for entry in imports:
        (layer, room), (target_layer, target_room) = find_layer(entry.module), find_layer(entry.target)
        if room != target_room and target_layer >= layer:
            upward.append(str(entry))
    return upward


def find_circle(imports: Iterable[Import]) -> list[str]:
    """The modules of a circle of imports, the first one again at the end; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for entry in imports:
        graph.setdefault(entry.module, set()).add(entry.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as err:
        return list(err.args[1])
    return []


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    """All imports in modules of molvae."""
    return read_imports(PACKAGE)


@pytest.fixture(scope="module")
def internal_imports(imports) -> list[Import]:
    """Those of modules of molvae."""
    return [entry for entry in imports if entry.is_internal]


@pytest.fixture(scope="module")
def run_time_imports(internal_imports) -> list[Import]:
    """Those that run, at the top of a module or in a function, and are not for types only."""
    return [entry for entry in internal_imports if not entry.is_for_types]


# what importing costs


def find_heavy_imports(*modules: str) -> set[str]:
    """Those of the heavy packages that importing these modules brings."""
    names = f"[name for name in {HEAVY} if name in sys.modules]"
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps({names}))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


def test_importing_the_package_imports_no_heavy_library():
    assert find_heavy_imports("molvae", "molvae.runtime.provenance", "molvae.runtime.files") == set()


def test_importing_the_core_of_networks_and_sampling_imports_torch_and_numpy_only():
    assert find_heavy_imports(*(f"molvae.{name}" for name in CORE)) == {"torch", "numpy"}


def test_importing_what_chemistry_workers_need_imports_no_torch():
    libraries = find_heavy_imports("molvae.metrics.molecule_table", "molvae.stages.featurize")
    assert "rdkit" in libraries and not {"torch", "mlflow", "sklearn"} & libraries


def test_importing_the_command_line_imports_typer_and_pydantic_only():
    assert find_heavy_imports("molvae.cli.main") <= {"typer", "pydantic"}


def test_every_public_name_of_the_package_exists_and_an_unknown_one_is_an_error():
    for name in molvae.__all__:
        assert getattr(molvae, name) is not None
    assert molvae.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="module 'molvae' has no attribute 'lode'"):
        molvae.lode  # noqa: B018


# rooms, and who may import whom


def test_nothing_lies_loose_in_the_package_but_the_named_files_and_the_rooms():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == ROOMS
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == LOOSE_FILES
    assert all((PACKAGE / room / "__init__.py").is_file() for room in ROOMS)


def test_inference_never_imports_training(internal_imports):
    groups = group_by_target_room(internal_imports, "inference")
    assert "nn" in groups and "training" not in groups, groups.get("training")


def test_nn_imports_only_tensors_seeds_errors_and_the_constants_of_the_vocabulary(imports):
    forbidden = []
    for entry in (entry for entry in imports if get_room(entry.module) == "nn"):
        if not entry.is_internal:
            is_allowed = entry.target.split(".")[0] in NN_LIBRARIES
        elif entry.target == "molvae.data.vocabulary":
            is_allowed = entry.name.isupper()
        elif entry.target == "molvae.data.dataset":
            is_allowed = entry.name in NN_DATASET_NAMES
        else:
            allowed = NN_MODULES | NN_MODULES_FOR_TYPES if entry.is_for_types else NN_MODULES
            is_allowed = entry.target in allowed or get_room(entry.target) == "nn"
        if not is_allowed:
            forbidden.append(str(entry))
    assert forbidden == []


def test_chemistry_imports_nothing_of_the_package_but_its_errors(internal_imports):
    groups = group_by_target_room(internal_imports, "chemistry")
    assert groups.keys() == {"chemistry", "errors"}, groups


def test_no_stage_imports_another_stage(internal_imports):
    groups = group_by_target_room(internal_imports, "stages")
    assert "metrics" in groups and "stages" not in groups, groups.get("stages")


@pytest.mark.parametrize(("library", "room"), SOLE_IMPORTERS.items())
def test_a_wrapped_library_is_imported_by_its_room_only(imports, library, room):
    importers = {entry.module for entry in imports if entry.target.split(".")[0] == library}
    assert {get_room(module) for module in importers} == {room}, importers


def test_modules_of_the_package_import_each_other_without_a_circle(run_time_imports):
    assert find_circle(run_time_imports) == []


def test_every_room_has_one_layer():
    entries = [entry for layer in LAYERS for entry in layer]
    loose = {Path(name).stem for name in LOOSE_FILES if name.endswith(".py")}
    assert sorted(entries) == sorted({*entries}) and {entry for entry in entries if "." not in entry} == ROOMS | loose


def test_no_room_imports_a_room_of_its_own_layer_or_of_one_above(run_time_imports):
    assert find_upward_imports(run_time_imports) == []


# the checks themselves, on a package that breaks the walls


def write_package(folder: Path, **modules: str) -> Path:
    """Write a package molvae with modules by dotted name, `__` for the dots."""
    for name, text in modules.items():
        path = folder.joinpath("molvae", *name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "molvae"


def test_imports_are_read_at_the_top_in_functions_and_for_types_only(tmp_path):
    text = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from molvae.api import Model\nelse:\n    import molvae.errors\n"
        "class A:\n    def f(self):\n        try:\n            from molvae.nn import vae\n"
        "        except ImportError:\n            import mlflow.pyfunc as x\n"
    )
    package = write_package(tmp_path, data__a=text, api="", errors="", nn__vae="")
    assert [(entry.target, entry.name, entry.is_for_types) for entry in read_imports(package)] == [
        ("typing", "TYPE_CHECKING", False),
        ("molvae.api", "Model", True),
        ("molvae.errors", "", False),
        ("molvae.nn.vae", "", False),
        ("mlflow.pyfunc", "", False),
    ]


def test_a_circle_of_imports_is_found_through_functions_and_not_through_types(tmp_path):
    lazy = "def f():\n    from molvae.data.c import x\n"
    package = write_package(tmp_path, data__a="import molvae.data.b", data__b=lazy, data__c="from molvae.data import a")
    assert set(find_circle(read_imports(package))) == {"molvae.data.a", "molvae.data.b", "molvae.data.c"}
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from molvae.data import a\n"
    package = write_package(tmp_path, data__c=typed)
    assert find_circle(entry for entry in read_imports(package) if not entry.is_for_types) == []


@pytest.mark.parametrize(
    ("module", "target", "is_upward"),
    [
        ("molvae.nn.vae", "molvae.data.dataset", False),
        ("molvae.data.dataset", "molvae.nn.vae", True),
        ("molvae.nn.vae", "molvae.nn.losses", False),
        ("molvae.nn.vae", "molvae.config", True),
        ("molvae.config", "molvae.model_io.pretrained", False),
        ("molvae.config", "molvae.model_io.folder", True),
        ("molvae.model_io.folder", "molvae.config", False),
        ("molvae.api", "molvae", True),
        ("molvae.stages.train", "molvae.tracking", True),
    ],
)
def test_an_import_to_the_same_layer_or_one_above_is_upward(module, target, is_upward):
    assert bool(find_upward_imports([Import(module, 1, target, "", False)])) == is_upward


# the workflow


def test_every_rule_of_the_workflow_is_a_stage_module_and_a_command():
    commands = typer.main.get_command(app).commands
    stages = {path.stem for path in (PACKAGE / "stages").glob("*.py") if path.stem != "__init__"}
    rules = dict(match for path in RULES.glob("*.smk") for match in RULE.findall(path.read_text("utf-8")))
    assert {name.removesuffix("_shard") for name in rules} == stages  # a rule NAME_shard does a part of stage NAME
    assert stages <= set(commands)
    for name, body in rules.items():
        assert re.findall(r'"molvae (\w+) ', body) == [name.removesuffix("_shard")], name
    for name in stages:
        tree = ast.parse((PACKAGE / "stages" / f"{name}.py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


# docstrings


class Function(NamedTuple):
    """A function or method of the package that others may call."""

    name: str  # "molvae.api.Model.sample"
    parameters: list[str]  # without self and cls
    docstring: str  # of a constructor also that of its class


def iter_public_functions(package: Path) -> Iterator[Function]:
    """The public functions and methods, and the constructors of public classes.

    Those of the command line are left out: their docstrings are the help that users read.
    """
    for module, path in find_modules(package).items():
        yield from _iter_functions(ast.parse(path.read_text("utf-8")), module)


def _iter_functions(tree: ast.Module | ast.ClassDef, prefix: str) -> Iterator[Function]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _iter_functions(node, f"{prefix}.{node.name}")
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorators = {ast.unparse(decorator).split("(")[0].split(".")[-1] for decorator in node.decorator_list}
        if "command" in decorators or (node.name.startswith("_") and node.name != "__init__"):
            continue
        arguments = node.args
        listed = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
        names = [argument.arg for argument in listed if argument is not None]
        if isinstance(tree, ast.ClassDef) and "staticmethod" not in decorators:
            names = names[1:]
        docstring = ast.get_docstring(node) or ""
        if node.name == "__init__":
            docstring = docstring or ast.get_docstring(tree) or ""
        yield Function(f"{prefix}.{node.name}", names, docstring)


def read_documented_arguments(docstring: str) -> list[str]:
    """The names in the section `Args:` of a docstring, or, of a constructor, in `Attributes:` of its class."""
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*(?:\n|$)|\n)+)", docstring, re.MULTILINE)
    return re.findall(r"^    (\w+):", section[1], re.MULTILINE) if section else []


def test_every_public_function_with_four_parameters_or_more_documents_them_in_args():
    functions = [function for function in iter_public_functions(PACKAGE) if len(function.parameters) >= 4]
    assert len(functions) > 50, "the functions are not found"
    assert [function.name for function in functions if not read_documented_arguments(function.docstring)] == []


def test_documented_arguments_are_the_parameters_of_the_function_in_their_order():
    for function in iter_public_functions(PACKAGE):
        if "Args:" in function.docstring:
            assert read_documented_arguments(function.docstring) == function.parameters, function.name


# dependencies

REPOSITORY = PACKAGE.parent
TOOLS = {"molvae"}  # of a checkout
NOT_DECLARED = {  # benchmarks import these, and do without or install them
    "cmaes": "installed by search.py when it is first needed",
    "matplotlib": "replaced where it is missing",
}
REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[\w,]+\])?>=([\d.]+)")
# The bound in pyproject.toml is older: the package index has no older wheel that needs no libraries of a GPU.
TESTED_BY_A_NEWER_ONE = {"torch"}


def read_requirements(*extras: str) -> list[str]:
    """Read what the package requires, and what extras of it do."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(line for name in extras for line in project["optional-dependencies"][name])]


def read_declared(*extras: str) -> set[str]:
    """Read the names of what is required."""
    return {normalise_name(re.split(r"[<>=\[]", requirement)[0]) for requirement in read_requirements(*extras)}


def normalise_name(name: str) -> str:
    """The name of a distribution as the package index compares it."""
    return name.strip().lower().replace("_", "-")


def find_undeclared(libraries: Iterable[str], declared: set[str]) -> list[str]:
    """Those of the libraries that no declared distribution has."""
    distributions = importlib.metadata.packages_distributions()
    foreign = {*libraries} - {*sys.stdlib_module_names} - TOOLS
    return sorted(name for name in foreign if not declared & {*map(normalise_name, distributions.get(name, []))})


def read_libraries_of_scripts(*folders: str) -> set[str]:
    """The libraries that the programs of folders import, without the modules that lie there."""
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    nodes = [node for path in paths for node, _ in iter_import_nodes(ast.parse(path.read_text("utf-8")))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names} - {path.stem for path in paths}


def test_every_library_that_the_package_imports_is_declared():
    libraries = {entry.target.split(".")[0] for entry in read_imports(PACKAGE) if not entry.is_internal}
    assert len(libraries - {*sys.stdlib_module_names}) > 20, "the imports are not found"
    assert find_undeclared(libraries, read_declared()) == []


def test_every_library_that_the_workflow_imports_is_declared():
    paths = [REPOSITORY / "Snakefile", *(REPOSITORY / "workflow").rglob("*.smk"), REPOSITORY / "workflow/Snakefile"]
    libraries = {name for path in paths for name in re.findall(r"^ *(?:from|import) (\w+)", path.read_text(), re.M)}
    assert "snakemake" in libraries, "the imports are not found"
    assert find_undeclared(libraries, read_declared()) == []


def test_every_library_that_tests_and_programs_import_is_declared_or_named_with_its_reason():
    libraries = read_libraries_of_scripts("tests", "benchmarks", "docs", "data")
    declared = read_declared("test", "slurm", "postgresql")
    assert "pytest" in libraries and {*NOT_DECLARED} <= libraries
    assert find_undeclared(libraries - {*NOT_DECLARED}, declared) == []


def test_every_dependency_has_a_lower_bound_and_the_oldest_set_has_it():
    lines = (REPOSITORY / "constraints-oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for requirement in read_requirements():
        match = REQUIREMENT.match(requirement)
        assert match, f"{requirement}: no lower bound"
        name, bound = match.groups()
        assert name in TESTED_BY_A_NEWER_ONE or f"{oldest[name]}.".startswith(f"{bound}."), requirement
    assert oldest.keys() == {REQUIREMENT.match(requirement)[1] for requirement in read_requirements()}


# Connections, as Python's own calls announce them. The variables by which MLflow knows a test are removed.
WATCHED = """
import os, sys
addresses = []
def watch(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(arguments[1], tuple):
        addresses.append(arguments[1] if event == "socket.connect" else arguments[:2])
sys.addaudithook(watch)
if __name__ == "__main__":
    import molvae
    from pathlib import Path
    from molvae.tracking import sync_records, track_stage
    samples = molvae.load("pretrained:moses").sample(2)
    with track_stage("train", experiment_dir=Path("results/a"), params={"a": 1}) as run:
        run.log_metrics({"b": 1.0}, step=1)
    assert sync_records(Path("results")).failed == 0 and Path("mlflow.db").exists()
    import mlflow
    assert mlflow.telemetry.get_telemetry_client() is None, "MLflow counts what is called"
    print(addresses)
"""


def test_sampling_and_tracking_to_a_file_make_no_connection_and_mlflow_counts_nothing(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WATCHED)
    dropped = {
        "CI",
        "GITHUB_ACTIONS",
        "PYTEST_CURRENT_TEST",
        "MLFLOW_DISABLE_TELEMETRY",
        "DO_NOT_TRACK",
        "MLFLOW_TRACKING_URI",
    }
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment["MOLVAE_TRACKING"] = json.dumps({"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "a"})
    process = subprocess.run([sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "[]"
