rule featurize_shard:
    input:
        rows=get_dataset_file,
        finetune=list_finetune_files(CARD_FILE),
    output:
        temp("results/{experiment}/tokens/shards/{scatteritem}.parquet"),
    log:
        "logs/{experiment}/featurize_shard.{scatteritem}.log",
    benchmark:
        "results/{experiment}/benchmarks/featurize_shard.{scatteritem}.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 8
    resources:
        mem_mb=scale_memory(4000),
        runtime=240,
    params:
        settings=dump_settings("featurize", "finetune"),
        finetune=compute_finetune_digest,
        code=compute_code_digest("stages.featurize"),
        reference=check_reference,
    message:
        "{wildcards.experiment}: featurize, shard {wildcards.scatteritem}"
    shell:
        "molvae featurize {input.rows:q} --out {output:q} --shard {wildcards.scatteritem} --threads {threads}"
        " --settings {params.settings:q} 2>&1 | tee -i {log:q}"


rule featurize:
    input:
        shards=gather.rows("results/{{experiment}}/tokens/shards/{scatteritem}.parquet"),
        finetune=list_finetune_files(CARD_FILE),
    output:
        tokens="results/{experiment}/tokens/tokens.safetensors",
        vocabulary="results/{experiment}/tokens/vocabulary.json",
        molecules="results/{experiment}/tokens/molecules.parquet",
        rejected="results/{experiment}/tokens/rejected.parquet",
        counts="results/{experiment}/tokens/counts.json",
    log:
        "logs/{experiment}/featurize.log",
    benchmark:
        "results/{experiment}/benchmarks/featurize.jsonl"
    conda:
        "../envs/molvae.yaml"
    resources:
        mem_mb=scale_memory(4000),
        runtime=60,
    params:
        settings=dump_settings("featurize", "finetune"),
        finetune=compute_finetune_digest,
        code=compute_code_digest("stages.featurize"),
        out=subpath(output.tokens, parent=True),
    message:
        "{wildcards.experiment}: featurize"
    shell:
        "molvae featurize {input.shards:q} --merge --out {params.out:q} --settings {params.settings:q} 2>&1 | tee -i {log:q}"
