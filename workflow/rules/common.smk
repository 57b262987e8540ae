# Functions and settings that the rules share. Standard library, snakemake, and modules of the package that together
# import in a fifth of a second: every job reads this file again.

import json
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# of the checkout; in a `module`, `workflow.basedir` is the folder of the importing workflow
ROOT = Path(str(workflow.current_basedir)).parents[1]
sys.path.insert(0, str(ROOT))

from molvae.model_io.card import CARD, WEIGHTS
from molvae.config import read_config
from molvae.errors import ConfigError
from molvae.runtime.files import fingerprint, sampled_digest, sha256
from molvae.runtime.provenance import code_digest
from molvae.model_io.pretrained import PREFIX, folder_of

try:
    EXPERIMENTS, TRACKING = read_config(config)
except ConfigError as err:
    raise WorkflowError(f"The config is not right, nothing was started.\n{err}")


def dataset_id(settings):
    """Name of a data set's file: what it is, and a digest of all that decides what is in it."""
    stem = re.sub(r"\W+", "_", Path(settings.source).name.split(".")[0]) or "data"
    return f"{stem}-{fingerprint(settings.model_dump())[:8]}"


DATASETS = {dataset_id(settings.data): settings.data for settings in EXPERIMENTS.values()}


def dataset_of(wildcards, suffix=".parquet"):
    """The data set file of an experiment."""
    return f"results/datasets/{dataset_id(EXPERIMENTS[wildcards.experiment].data)}{suffix}"


def reference_id(settings):
    """Name of the file of what samples are held against; None where that is a split of the data."""
    source = settings.validate_.reference
    if settings.validate_.reference_is_split:
        return None
    stem = re.sub(r"\W+", "_", Path(source).name.split(".")[0])
    return f"reference-{stem}-{fingerprint(source)[:8]}"


REFERENCES = {
    reference_id(settings): settings.validate_.reference for settings in EXPERIMENTS.values() if reference_id(settings)
}


def references_of(wildcards):
    """The file of references of an experiment, in a list; none for a split."""
    name = reference_id(EXPERIMENTS[wildcards.experiment])
    return [f"results/datasets/{name}.safetensors"] if name else []


def generators():
    """Name of the first -> experiments that differ only in their seeds: runs of one generator."""
    found = {}
    for name, settings in EXPERIMENTS.items():
        same = [first for first in found if EXPERIMENTS[first].apart_from_seeds() == settings.apart_from_seeds()]
        found.setdefault(same[0] if same else name, []).append(name)
    return found


GENERATORS = generators()


def source_path(settings):
    """A local source, found from the working directory or else beside the Snakefile; None for 'moses' and URLs."""
    if settings.source == "moses" or settings.source.startswith(("http://", "https://")):
        return None
    beside = ROOT / settings.source
    return str(beside) if beside.exists() and not Path(settings.source).exists() else settings.source


def content_of(path):
    """What a file of the user's holds, which its time does not say: an older file may have taken its place."""
    return sampled_digest(path) if path and Path(path).is_file() else None


def settings_of(*sections):
    """A params function: these sections of an experiment's settings as JSON, for `molvae STAGE --settings`."""

    def as_json(wildcards):
        settings = EXPERIMENTS[wildcards.experiment]
        return json.dumps({name: settings.section(name) for name in sections}, sort_keys=True)

    return as_json


def start_files(*names):
    """An input function: these files of the model that an experiment starts from; none without one in a folder."""

    def files(wildcards):
        model = EXPERIMENTS[wildcards.experiment].start.model
        return [] if model is None or model.startswith(PREFIX) else [str(Path(model, name)) for name in names]

    return files


def start_digest(wildcards):
    """Digest of the model of the package that an experiment starts from; None if it starts from none."""
    model = EXPERIMENTS[wildcards.experiment].start.model
    if model is None or not model.startswith(PREFIX):
        return None
    return fingerprint([sha256(folder_of(model) / name) for name in (CARD, WEIGHTS)])


def memory(mb):
    """Memory of a job whose need grows with the data: one that died, perhaps of it, is granted as much again, twice."""
    return lambda wildcards, attempt: mb * min(attempt, 3)


def farewell():
    """Where the results are, for the last line of a run."""
    reports = " ".join(f"results/{name}/report.html" for name in EXPERIMENTS)
    lines = [f"\nReport: {reports}"]
    if TRACKING.enabled:
        from molvae.tracking import ui_command

        lines.append(f"MLflow: {ui_command(TRACKING_URI)}")
    return "\n".join(lines)


def welcome():
    """A warning, if MLflow's database lies where it may be damaged."""
    if TRACKING.enabled:
        from molvae.tracking import network_of

        if kind := network_of(TRACKING_URI):
            logger.warning(
                f"MLflow's SQLite database {TRACKING_URI} is on a network file system ({kind}), where it may break when "
                "jobs write at once. Set tracking.uri to a server, or to a file on a local disk: config/README.md."
            )


# Machine settings reach the jobs through the environment: a change of them re-runs nothing.
TRACKING_URI = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING.uri or str(Path("results", "mlflow.db").absolute())
os.environ.update(MOLVAE_TRACKING=json.dumps({**TRACKING.model_dump(by_alias=True), "uri": TRACKING_URI}))

# A cluster ends a job at its `runtime`, a workstation does not.
if workflow.remote_exec:
    os.environ.update(MOLVAE_SCHEDULED="1")

# `molvae` is the one beside the Python that runs Snakemake, whether or not its environment is activated; in a conda
# environment that Snakemake made for the job it is the one in there. It runs the package beside the Snakefile, whose
# digest the params hold, not a copy that was installed before the checkout changed. A scheduler sends SIGTERM to all
# processes of a job: only `molvae`, which has a handler, may heed it; were shell and `tee` to end, it could not finish
# saving.
shell.prefix(
    'set -euo pipefail; trap "" TERM; [[ "${{CONDA_PREFIX:-}}" == */.snakemake/conda/* ]] || '
    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
    f"export PYTHONPATH={shlex.quote(str(ROOT))}${{{{PYTHONPATH:+:$PYTHONPATH}}}}; "
)


scattergather:
    rows=2,
    samples=2,


wildcard_constraints:
    experiment="|".join(map(re.escape, EXPERIMENTS)),
    dataset="|".join(map(re.escape, DATASETS)),
    reference="|".join(map(re.escape, REFERENCES)) or "none",
