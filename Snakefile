# molvae: SMILES -> SELFIES tokens -> RNN VAE -> samples -> RDKit validation -> report, tracked in MLflow.
#
# results/datasets/{dataset}.parquet                 raw rows, shared by experiments; {dataset} is the source's name and
#                                                    a digest of the data settings; the .json beside it holds the books
# results/datasets/{reference}.safetensors           what samples are held against, shared by experiments
# results/{experiment}/tokens/                       featurize: tokens.safetensors vocabulary.json molecules.parquet
#                                                    rejected.parquet books.json
# results/{experiment}/model/                        train: model.safetensors model.json history.csv dimensions.csv
#                                                    books.json; prior: prior.safetensors prior.json
# results/{experiment}/samples/                      sample: samples.parquet books.json
# results/{experiment}/validation/                   validate: molecules.parquet reference.parquet metrics.json books.json
# results/{experiment}/latent/                       latent: card.json maps.parquet
# results/{experiment}/report.html                   report
# results/comparison/                                compare: comparison.json comparison.html, of two experiments or more
# results/{experiment}/{tracking,checkpoints}/       records for MLflow and resume files: not outputs, so that Snakemake
#                                                    does not delete them before a re-run
# results/{experiment}/benchmarks/{rule}.jsonl       wall time and peak memory of each job
# logs/{experiment}/{rule}.log
#
# A stage that scatters has two rules: {stage}_block does a share, {stage} puts the shares together.

from snakemake.utils import min_version

min_version("9.19")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/featurize.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/prior.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/latent.smk"
include: "workflow/rules/reference.smk"
include: "workflow/rules/validate.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/report.smk"


# seconds of one core, not worth a queue; and a download, where nodes of a cluster may have no way out
localrules:
    all,
    fetch,
    compare,
    report,


rule all:
    default_target: True
    input:
        # a file of every stage: a job that fails takes its old files with it, and Snakemake would not miss them as long
        # as the old report is there
        expand("results/datasets/{dataset}.json", dataset=list(DATASETS)),
        expand(
            "results/{experiment}/{stage}/books.json",
            experiment=list(EXPERIMENTS),
            stage=["tokens", "model", "samples", "validation"],
        ),
        expand("results/{experiment}/model/prior.json", experiment=list(EXPERIMENTS)),
        expand("results/{experiment}/latent/card.json", experiment=list(EXPERIMENTS)),
        expand("results/{experiment}/report.html", experiment=list(EXPERIMENTS)),
        "results/comparison/comparison.html" if len(GENERATORS) > 1 else [],


onstart:
    welcome()


onsuccess:
    print(farewell())
