rule prior:
    input:
        weights="results/{experiment}/model/model.safetensors",
        card="results/{experiment}/model/model.json",
        tokens="results/{experiment}/tokens/tokens.safetensors",
        vocabulary="results/{experiment}/tokens/vocabulary.json",
    output:
        weights="results/{experiment}/model/prior.safetensors",
        card="results/{experiment}/model/prior.json",
    log:
        "logs/{experiment}/prior.log",
    benchmark:
        "results/{experiment}/benchmarks/prior.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 8
    resources:
        mem_mb=scale_memory(4000),
        runtime=60,
    params:
        settings=dump_settings("prior"),
        code=compute_code_digest("stages.prior"),
        model=subpath(input.weights, parent=True),
        tokens=subpath(input.tokens, parent=True),
    message:
        "{wildcards.experiment}: prior"
    shell:
        "molvae prior {params.model:q} --tokens {params.tokens:q} --threads {threads}"
        " --settings {params.settings:q} 2>&1 | tee -i {log:q}"
