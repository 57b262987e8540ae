rule fetch:
    input:
        lambda wildcards: source_path(DATASETS[wildcards.dataset]) or [],
    output:
        rows="results/datasets/{dataset}.parquet",
        books="results/datasets/{dataset}.json",
    log:
        "logs/datasets/{dataset}.log",
    benchmark:
        "results/datasets/{dataset}.jsonl"
    retries: 2 if any(source_path(settings) is None for settings in DATASETS.values()) else 0
    conda:
        "../envs/molvae.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=lambda wildcards: json.dumps({"data": DATASETS[wildcards.dataset].model_dump()}, sort_keys=True),
        # the input may be a copy of what a storage provider has
        source=lambda wildcards, input: input[0] if input else DATASETS[wildcards.dataset].source,
        content=lambda wildcards: content_of(source_path(DATASETS[wildcards.dataset])),
        code=code_digest("stages.fetch"),
    message:
        "fetch {params.source}"
    shell:
        "molvae fetch --settings {params.settings:q} --source {params.source:q} --out {output.rows:q} 2>&1 | tee -i {log:q}"
