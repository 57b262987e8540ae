rule fetch:
    input:
        lambda wildcards: find_source(DATASETS[wildcards.dataset]) or [],
    output:
        rows="results/datasets/{dataset}.parquet",
        counts="results/datasets/{dataset}.json",
    log:
        "logs/datasets/{dataset}.log",
    benchmark:
        "results/datasets/{dataset}.jsonl"
    retries: 2 if any(find_source(settings) is None for settings in DATASETS.values()) else 0
    conda:
        "../envs/molvae.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=lambda wildcards: json.dumps({"data": DATASETS[wildcards.dataset].model_dump()}, sort_keys=True),
        # with a storage provider the input is a local copy of the source
        source=lambda wildcards, input: input[0] if input else DATASETS[wildcards.dataset].source,
        content=lambda wildcards: compute_content_digest(find_source(DATASETS[wildcards.dataset])),
        code=compute_code_digest("stages.fetch"),
    message:
        "fetch {params.source}"
    shell:
        "molvae fetch --settings {params.settings:q} --source {params.source:q} --out {output.rows:q} 2>&1 | tee -i {log:q}"
