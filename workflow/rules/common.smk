# Functions and settings that the rules share. This file imports the standard library, snakemake, and modules of the
# package that together load in a fifth of a second, because every job reads it again.

import json
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Root of the checkout. In a `module`, `workflow.basedir` is the folder of the importing workflow.
ROOT = Path(str(workflow.current_basedir)).parents[1]
sys.path.insert(0, str(ROOT))

from molvae.config import parse_config
from molvae.data.splits import check_reference_split
from molvae.errors import ConfigError
from molvae.model_io.card import CARD_FILE, WEIGHTS_FILE
from molvae.model_io.pretrained import PREFIX, resolve_model_folder
from molvae.runtime.credentials import export_addresses, identify_address, is_web_address
from molvae.runtime.files import compute_json_hash, compute_sampled_digest, compute_sha256
from molvae.runtime.provenance import compute_code_digest

try:
    EXPERIMENTS, TRACKING = parse_config(config)
except ConfigError as err:
    raise WorkflowError(f"The config is not valid, nothing was started.\n{err}")


def hide_source(settings):
    """Remove the secrets of the source's address. What the rules write down, Snakemake's metadata too, has none."""
    source = identify_address(settings.data.source)
    return settings.model_copy(update={"data": settings.data.model_copy(update={"source": source})})


# The whole address reaches `fetch` through the environment.
export_addresses(settings.data.source for settings in EXPERIMENTS.values())
EXPERIMENTS = {name: hide_source(settings) for name, settings in EXPERIMENTS.items()}


def make_stem(source):
    """Make the beginning of a file name from a path or an address."""
    return re.sub(r"\W+", "_", Path(source).name.split(".")[0])[:50]


def name_dataset(settings):
    """Name the file of a data set: stem of the source, and a digest of all settings that decide its content."""
    stem = make_stem(settings.source) or "data"
    return f"{stem}-{compute_json_hash(settings.model_dump())[:8]}"


DATASETS = {name_dataset(settings.data): settings.data for settings in EXPERIMENTS.values()}


def get_dataset_file(wildcards, suffix=".parquet"):
    """Get the data set file of an experiment."""
    return f"results/datasets/{name_dataset(EXPERIMENTS[wildcards.experiment].data)}{suffix}"


def name_reference(settings):
    """Name the file of the molecules that samples are compared with; None where they are a split of the data."""
    source = settings.validate_.reference
    if settings.validate_.reference_is_split:
        return None
    return f"reference-{make_stem(source)}-{compute_json_hash(source)[:8]}"


REFERENCES = {
    name_reference(settings): settings.validate_.reference
    for settings in EXPERIMENTS.values()
    if name_reference(settings)
}


def list_reference_files(wildcards):
    """List the reference file of an experiment; empty where the reference is a split of the data."""
    name = name_reference(EXPERIMENTS[wildcards.experiment])
    return [f"results/datasets/{name}.safetensors"] if name else []


def group_experiments():
    """Group experiments that differ only in their seeds: name of the first -> names of all, runs of one generator."""
    groups = {}
    for name, settings in EXPERIMENTS.items():
        content = settings.dump_without_seeds()
        same = [first for first in groups if EXPERIMENTS[first].dump_without_seeds() == content]
        groups.setdefault(same[0] if same else name, []).append(name)
    return groups


GENERATORS = group_experiments()


def find_source(settings):
    """Find a local source, in the working directory or else beside the Snakefile; None for 'moses' and URLs."""
    if settings.source == "moses" or is_web_address(settings.source):
        return None
    beside = ROOT / settings.source
    return str(beside) if beside.exists() and not Path(settings.source).exists() else settings.source


def compute_content_digest(path):
    """Compute the digest of a user's file. Its time does not tell: an older file may have taken its place."""
    return compute_sampled_digest(path) if path and Path(path).is_file() else None


def dump_settings(*sections):
    """Make a params function: these sections of an experiment's settings as JSON, for `molvae STAGE --settings`."""

    def dump(wildcards):
        settings = EXPERIMENTS[wildcards.experiment]
        return json.dumps({name: settings.dump_section(name) for name in sections}, sort_keys=True)

    return dump


def check_reference(wildcards, input):
    """Check, as soon as the data are there, that the split to compare samples with will be; always None.

    A params function: what it raises ends the run before training, and None never runs a job again.
    """
    settings = EXPERIMENTS[wildcards.experiment]
    counts = Path(get_dataset_file(wildcards, ".json"))
    if settings.validate_.reference_is_split and counts.exists():
        given, featurize = json.loads(counts.read_text("utf-8"))["splits"], settings.featurize
        try:
            check_reference_split(
                settings.validate_.reference, given, featurize.valid_fraction, featurize.test_fraction
            )
        except ConfigError as err:
            raise WorkflowError(f"{wildcards.experiment}: {err}")


def list_finetune_files(*names):
    """Make an input function: these files of the model folder to fine-tune; empty if there is no such folder."""

    def list_files(wildcards):
        model = EXPERIMENTS[wildcards.experiment].finetune.model
        return [] if model is None or model.startswith(PREFIX) else [str(Path(model, name)) for name in names]

    return list_files


def compute_finetune_digest(wildcards):
    """Compute the digest of the model of the package that an experiment fine-tunes; None if it uses none."""
    model = EXPERIMENTS[wildcards.experiment].finetune.model
    if model is None or not model.startswith(PREFIX):
        return None
    folder = resolve_model_folder(model)
    return compute_json_hash([compute_sha256(folder / name) for name in (CARD_FILE, WEIGHTS_FILE)])


def scale_memory(mb):
    """Make a resource function: `mb` at the first attempt, twice and three times as much at the next ones.

    For jobs whose need grows with the data: one that died may have run out of memory.
    """
    return lambda wildcards, attempt: mb * min(attempt, 3)


def describe_results():
    """Describe where the results are, for the last lines of a run; a run of some stages may have made no report."""
    reports = [path for name in EXPERIMENTS if os.path.exists(path := f"results/{name}/report.html")]
    lines = [f"\nReport: {' '.join(reports)}" if reports else "\nDone; no report yet, which needs all stages."]
    if TRACKING.enabled:
        from molvae.tracking import make_ui_command

        lines.append(f"MLflow: {make_ui_command(TRACKING_URI)}")
    return "\n".join(lines)


def check_results_folder():
    """Check that results can be written, before a job fails for it with a traceback of Snakemake."""
    folder = Path("results").absolute()
    if folder.exists() and not os.access(folder, os.W_OK):
        raise WorkflowError(f"{folder} cannot be written to: it is read-only, or belongs to somebody else.")


def warn_of_network_disk():
    """Log a warning if MLflow's database is on a disk where it may be damaged."""
    if TRACKING.enabled:
        from molvae.tracking import find_network_file_system

        if kind := find_network_file_system(TRACKING_URI):
            logger.warning(
                f"MLflow's SQLite database {TRACKING_URI} is on a network file system ({kind}), where it may break when "
                "jobs write at once. Set tracking.uri to a server, or to a file on a local disk: docs/cluster.md."
            )


# Settings of the machine reach the jobs through the environment, so that a change of them re-runs nothing.
TRACKING_URI = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING.uri or str(Path("results", "mlflow.db").absolute())
os.environ.update(MOLVAE_TRACKING=json.dumps({**TRACKING.model_dump(by_alias=True), "uri": TRACKING_URI}))

# A cluster ends a job at its `runtime`, a workstation does not.
if workflow.remote_exec:
    os.environ.update(MOLVAE_SCHEDULED="1")

# Which `molvae` runs: the one beside the Python that runs Snakemake, whether or not its environment is activated; in a
# conda environment that Snakemake made for the job, the one in there. Which package it imports: the one beside the
# Snakefile, whose digest is in the params, and not a copy that was installed before the checkout changed.
# A scheduler sends SIGTERM to all processes of a job. Shell and `tee` ignore it: if they ended, `molvae`, which handles
# it, could not finish saving. `molvae` begins with the usual action, so that SIGTERM before its handler is set ends it.
shell.prefix(
    'set -euo pipefail; [[ "${{CONDA_PREFIX:-}}" == */.snakemake/conda/* ]] || '
    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
    f"export PYTHONPATH={shlex.quote(str(ROOT))}${{{{PYTHONPATH:+:$PYTHONPATH}}}}; "
    'trap "" TERM; molvae() ( trap - TERM; exec molvae "$@" ); '
)


scattergather:
    rows=2,
    samples=2,


wildcard_constraints:
    experiment="|".join(map(re.escape, EXPERIMENTS)),
    dataset="|".join(map(re.escape, DATASETS)),
    reference="|".join(map(re.escape, REFERENCES)) or "none",
