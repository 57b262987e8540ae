"""Every benchmark program runs with --quick, writes a valid result, and ends with its ratio where it has a peer."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))
PROGRAMS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text())
WITH_MOSES_VAE = {"equal_budget", "evaluate_speed", "sample_speed", "train_speed"}  # the code of the peer is in a wheel
WITH_MOSES_WHEEL = WITH_MOSES_VAE | {"moses_canonical"}
WITH_RATIO = WITH_MOSES_VAE | {"featurize_speed", "fine_tune", "properties", "search"}
WITHOUT_NUMBER = {"equal_budget"}  # with --quick: the peer then has no valid molecule yet
ON_SLURM = {"interruptions", "nodes", "scale"}
ROBUSTNESS = ("crash_matrix", "fuzzing", "model_files", "injection", "determinism")
GPU_COMMANDS = ("throughput", "train", "sample", "agree")
CIRCUMSTANCES = {"machine", "versions", "commit", "date"}
TIMEOUT = 900  # seconds; on two idle cores a program takes less than 60
# prints what each program prints with --help; one process, since an import of torch takes seconds
READ_HELP = """
import contextlib, importlib, io, json, sys
sys.path.insert(0, sys.argv[1])
texts = {}
for name in json.loads(sys.argv[2]):
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        importlib.import_module(name).main()
    texts[name] = output.getvalue()
print(json.dumps(texts))
"""


def mark(program: str) -> Any:
    """Mark a program as slow, and one that starts a SLURM as that, too."""
    marks = [pytest.mark.slow, *([pytest.mark.slurm] if program in ON_SLURM else [])]
    return pytest.param(program, marks=marks)


@pytest.fixture(scope="session")
def moses_wheel() -> Path:
    """The wheel with the MOSES VAE and its metrics, where the benchmarks look for it."""
    from molvae.data.moses import download_moses_wheel
    from molvae.errors import DataError

    try:
        return download_moses_wheel(ROOT / "results/datasets/downloads")
    except DataError as err:
        pytest.skip(f"the MOSES VAE comes in a wheel, which cannot be downloaded here: {err}")


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A folder for reference sets, in place of the user's own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def slurm() -> None:
    """Skips a test where SLURM is not installed; fails it where the environment says that it must be."""
    sys.path.insert(0, str(ROOT / "tests/workflow"))
    from slurm import list_missing_programs

    if missing := list_missing_programs():
        message = f"SLURM is not installed ({', '.join(missing)} not found); `make slurm` installs it"
        pytest.fail(message) if "MOLVAE_TEST_SLURM" in os.environ else pytest.skip(message)


@pytest.fixture(scope="session")
def packed_tokens(tmp_path_factory) -> Path:
    """A few shipped molecules as the file that the GPU suite reads."""
    from molvae.config import DataSettings, FeaturizeSettings
    from molvae.stages.featurize import featurize_rows
    from molvae.stages.fetch import fetch

    folder = tmp_path_factory.mktemp("tokens")
    fetch(DataSettings(source=str(ROOT / ".test/data/molecules.csv")), folder / "rows.parquet")
    featurize_rows(folder / "rows.parquet", FeaturizeSettings(merges=50, valid_fraction=0.1), folder / "tokens")
    run(BENCHMARKS / "gpu/pack.py", folder / "tokens", folder / "packed.npz", folder=folder)
    return folder / "packed.npz"


def run(program: Path, *arguments: str | Path, folder: Path, **environment: str) -> list[str]:
    """Run a program in a folder; returns the lines that it prints, and fails the test if it ends with an error."""
    process = subprocess.run(
        [sys.executable, str(program), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_WAIT_POLICY": "passive", **environment},  # threads that spin stall on shared cores
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert process.returncode == 0, f"{program.name} ended with {process.returncode}\n{process.stdout}{process.stderr}"
    return process.stdout.splitlines()


def read_ratio(lines: list[str]) -> float:
    """Read the ratio in the last line that a program prints."""
    name, ratio = lines[-1].split(" ")
    assert name == "ratio"
    return float(ratio)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that must be valid for every reader: without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path.name} holds {constant}, which is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_sets_of_programs_name_existing_programs():
    assert len(PROGRAMS) >= 14
    assert set(PROGRAMS) >= WITH_RATIO | ON_SLURM


def test_every_program_offers_quick_and_json():
    command = [sys.executable, "-c", READ_HELP, str(BENCHMARKS), json.dumps(PROGRAMS)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert process.returncode == 0, process.stderr
    texts = json.loads(process.stdout)
    assert [name for name in PROGRAMS if "--quick" not in texts[name] or "--json" not in texts[name]] == []


def test_every_program_and_every_committed_result_is_in_the_readme():
    readme = (BENCHMARKS / "README.md").read_text()
    assert [name for name in PROGRAMS if f"python benchmarks/{name}.py" not in readme] == []
    assert [path.name for path in RESULTS if f"`{path.name}`" not in readme] == []


@pytest.mark.parametrize("name", ROBUSTNESS)
def test_table_of_robustness_has_each_committed_row(name):
    table = (BENCHMARKS / "robustness.md").read_text()
    for row in read_json(BENCHMARKS / f"results/{name}.json")["rows"]:
        outcomes = ", ".join(f"{key} {count}" for key, count in row["outcomes"].items())
        assert f"| {row['fault']} | {row['tried']} | {outcomes} | {row['lost']} | {row['wrong']} |" in table
        assert (row["lost"], row["wrong"]) == (0, 0)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_state_the_circumstances_of_their_measurement(path):
    result = read_json(path)
    if path.stem == "latent_diagnostics":  # of `molvae latent`, which writes the versions alone
        assert all(space["versions"] for space in result.values())
    elif path.stem.startswith("gpu_"):
        parts = [result] if "measured" in result else result.get("runs", result).values()
        assert all({"device", "torch", "commit", "date"} <= set(part["measured"]) for part in parts)
    else:
        assert set(result) >= CIRCUMSTANCES


@pytest.mark.parametrize("program", [mark(program) for program in PROGRAMS])
def test_quick_benchmark_ends_with_a_result(program, tmp_path, cache, request):
    if program in WITH_MOSES_WHEEL:
        wheel = request.getfixturevalue("moses_wheel")
        (cache / "downloads").mkdir(exist_ok=True)
        shutil.copy(wheel, cache / "downloads")
    if program in ON_SLURM:
        request.getfixturevalue("slurm")
    file = tmp_path / "result/quick.json"
    lines = run(BENCHMARKS / f"{program}.py", "--quick", "--json", file, folder=tmp_path, MOLVAE_CACHE=str(cache))
    result = read_json(file)
    assert set(result) > CIRCUMSTANCES
    assert result["versions"]["molvae"] and result["machine"]["cores"] and len(result["date"]) == 10
    if program in WITH_RATIO:
        ratio = read_ratio(lines)
        assert ratio > 0 or (math.isnan(ratio) and program in WITHOUT_NUMBER)
    else:
        assert not lines[-1].startswith("ratio")


@pytest.mark.slow
@pytest.mark.parametrize("command", GPU_COMMANDS)
def test_quick_command_of_the_gpu_suite_ends_with_a_result(command, packed_tokens, tmp_path):
    options = ["--tokens", packed_tokens, "--out", "out", "--device", "cpu", "--quick", "--json", "quick.json"]
    lines = run(BENCHMARKS / "gpu/suite.py", command, *options, folder=tmp_path)
    result = read_json(tmp_path / "quick.json")
    assert result["measured"]["device"] == "CPU" and result["measured"]["torch"]
    assert result == read_json(tmp_path / f"out/{command}.json")
    assert not lines[-1].startswith("ratio"), "without a peer there is none"


@pytest.mark.slow
def test_throughput_of_the_gpu_suite_ends_with_its_ratio_to_the_moses_vae(packed_tokens, moses_wheel, tmp_path):
    with zipfile.ZipFile(moses_wheel) as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.endswith(".py")])
    smiles = [line.split(",")[0] for line in (ROOT / ".test/data/molecules.csv").read_text("latin1").splitlines()[1:90]]
    (tmp_path / "peer.smi").write_text("\n".join(smiles))
    options = ["--tokens", packed_tokens, "--out", "out", "--device", "cpu", "--quick"]
    lines = run(
        BENCHMARKS / "gpu/suite.py", "throughput", *options, "--peer", ".", "--smiles", "peer.smi", folder=tmp_path
    )
    assert read_ratio(lines) > 0
    assert read_json(tmp_path / "out/throughput.json")["peer"]
