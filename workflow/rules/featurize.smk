rule featurize_block:
    input:
        rows=dataset_of,
        start=start_files(CARD),
    output:
        temp("results/{experiment}/tokens/blocks/{scatteritem}.parquet"),
    log:
        "logs/{experiment}/featurize_block.{scatteritem}.log",
    benchmark:
        "results/{experiment}/benchmarks/featurize_block.{scatteritem}.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 8
    resources:
        mem_mb=memory(4000),
        runtime=240,
    params:
        settings=settings_of("featurize", "start"),
        start=start_digest,
        code=code_digest("stages.featurize"),
    message:
        "{wildcards.experiment}: featurize, share {wildcards.scatteritem}"
    shell:
        "molvae featurize {input.rows:q} --out {output:q} --share {wildcards.scatteritem} --threads {threads}"
        " --settings {params.settings:q} 2>&1 | tee -i {log:q}"


rule featurize:
    input:
        blocks=gather.rows("results/{{experiment}}/tokens/blocks/{scatteritem}.parquet"),
        start=start_files(CARD),
    output:
        tokens="results/{experiment}/tokens/tokens.safetensors",
        vocabulary="results/{experiment}/tokens/vocabulary.json",
        molecules="results/{experiment}/tokens/molecules.parquet",
        rejected="results/{experiment}/tokens/rejected.parquet",
        books="results/{experiment}/tokens/books.json",
    log:
        "logs/{experiment}/featurize.log",
    benchmark:
        "results/{experiment}/benchmarks/featurize.jsonl"
    conda:
        "../envs/molvae.yaml"
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        settings=settings_of("featurize", "start"),
        start=start_digest,
        code=code_digest("stages.featurize"),
        out=subpath(output.tokens, parent=True),
    message:
        "{wildcards.experiment}: featurize"
    shell:
        "molvae featurize {input.blocks:q} --gather --out {params.out:q} --settings {params.settings:q} 2>&1 | tee -i {log:q}"
