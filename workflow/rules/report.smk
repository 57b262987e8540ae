rule report:
    input:
        dataset=lambda wildcards: get_dataset_file(wildcards, ".json"),
        counts="results/{experiment}/tokens/counts.json",
        rejected="results/{experiment}/tokens/rejected.parquet",
        card="results/{experiment}/model/model.json",
        history="results/{experiment}/model/history.csv",
        dimensions="results/{experiment}/model/dimensions.csv",
        prior="results/{experiment}/model/prior.json",
        training="results/{experiment}/model/counts.json",
        latent=multiext("results/{experiment}/latent/", "diagnostics.json", "projections.parquet"),
        samples="results/{experiment}/samples/counts.json",
        metrics="results/{experiment}/validation/metrics.json",
        molecules="results/{experiment}/validation/molecules.parquet",
        reference="results/{experiment}/validation/reference.parquet",
        validation="results/{experiment}/validation/counts.json",
    output:
        report(
            "results/{experiment}/report.html",
            caption="../report/report.rst",
            category="Experiments",
            labels={"experiment": "{experiment}"},
        ),
    log:
        "logs/{experiment}/report.log",
    benchmark:
        "results/{experiment}/benchmarks/report.jsonl"
    conda:
        "../envs/molvae.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=compute_code_digest("stages.report"),
        experiment=subpath(input.card, ancestor=2),
    message:
        "{wildcards.experiment}: report"
    shell:
        "molvae report {params.experiment:q} --dataset {input.dataset:q} --out {output:q} 2>&1 | tee -i {log:q}"
