rule validate_shard:
    input:
        samples="results/{experiment}/samples/samples.parquet",
    output:
        temp("results/{experiment}/validation/shards/{scatteritem}.parquet"),
    log:
        "logs/{experiment}/validate_shard.{scatteritem}.log",
    benchmark:
        "results/{experiment}/benchmarks/validate_shard.{scatteritem}.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 8
    resources:
        mem_mb=scale_memory(4000),
        runtime=120,
    params:
        code=compute_code_digest("stages.validate"),
    message:
        "{wildcards.experiment}: validate, shard {wildcards.scatteritem}"
    shell:
        "molvae validate {input.samples:q} --out {output:q} --shard {wildcards.scatteritem} --threads {threads}"
        " 2>&1 | tee -i {log:q}"


rule validate:
    input:
        shards=gather.samples("results/{{experiment}}/validation/shards/{scatteritem}.parquet"),
        tokens="results/{experiment}/tokens/tokens.safetensors",
        vocabulary="results/{experiment}/tokens/vocabulary.json",
        molecules="results/{experiment}/tokens/molecules.parquet",
        model="results/{experiment}/model/model.safetensors",
        card="results/{experiment}/model/model.json",
        prior=multiext("results/{experiment}/model/prior", ".safetensors", ".json"),
        references=list_reference_files,
    output:
        metrics="results/{experiment}/validation/metrics.json",
        molecules="results/{experiment}/validation/molecules.parquet",
        reference="results/{experiment}/validation/reference.parquet",
        counts="results/{experiment}/validation/counts.json",
    log:
        "logs/{experiment}/validate.log",
    benchmark:
        "results/{experiment}/benchmarks/validate.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 8
    resources:
        mem_mb=scale_memory(8000),
        runtime=240,
    params:
        settings=dump_settings("validate", "sample"),
        code=compute_code_digest("stages.validate"),
        tokens=subpath(input.tokens, parent=True),
        model=subpath(input.model, parent=True),
        out=subpath(output.metrics, parent=True),
        references=lambda wildcards, input: (
            f"--references {shlex.quote(str(input.references))}" if input.references else ""
        ),
    message:
        "{wildcards.experiment}: validate"
    shell:
        "molvae validate {input.shards:q} --merge --out {params.out:q} --tokens {params.tokens:q} --model {params.model:q}"
        " {params.references} --threads {threads} --settings {params.settings:q} 2>&1 | tee -i {log:q}"
