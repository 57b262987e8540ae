rule validate_block:
    input:
        samples="results/{experiment}/samples/samples.parquet",
    output:
        temp("results/{experiment}/validation/blocks/{scatteritem}.parquet"),
    log:
        "logs/{experiment}/validate_block.{scatteritem}.log",
    benchmark:
        "results/{experiment}/benchmarks/validate_block.{scatteritem}.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 8
    resources:
        mem_mb=memory(4000),
        runtime=120,
    params:
        code=code_digest("stages.validate"),
    message:
        "{wildcards.experiment}: validate, share {wildcards.scatteritem}"
    shell:
        "molvae validate {input.samples:q} --out {output:q} --share {wildcards.scatteritem} --threads {threads}"
        " 2>&1 | tee -i {log:q}"


rule validate:
    input:
        blocks=gather.samples("results/{{experiment}}/validation/blocks/{scatteritem}.parquet"),
        tokens="results/{experiment}/tokens/tokens.safetensors",
        vocabulary="results/{experiment}/tokens/vocabulary.json",
        molecules="results/{experiment}/tokens/molecules.parquet",
        model="results/{experiment}/model/model.safetensors",
        card="results/{experiment}/model/model.json",
        prior=multiext("results/{experiment}/model/prior", ".safetensors", ".json"),
        references=references_of,
    output:
        metrics="results/{experiment}/validation/metrics.json",
        molecules="results/{experiment}/validation/molecules.parquet",
        reference="results/{experiment}/validation/reference.parquet",
        books="results/{experiment}/validation/books.json",
    log:
        "logs/{experiment}/validate.log",
    benchmark:
        "results/{experiment}/benchmarks/validate.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 8
    resources:
        mem_mb=memory(8000),
        runtime=240,
    params:
        settings=settings_of("validate", "sample"),
        code=code_digest("stages.validate"),
        tokens=subpath(input.tokens, parent=True),
        model=subpath(input.model, parent=True),
        out=subpath(output.metrics, parent=True),
        references=lambda wildcards, input: (
            f"--references {shlex.quote(str(input.references))}" if input.references else ""
        ),
    message:
        "{wildcards.experiment}: validate"
    shell:
        "molvae validate {input.blocks:q} --gather --out {params.out:q} --tokens {params.tokens:q} --model {params.model:q}"
        " {params.references} --threads {threads} --settings {params.settings:q} 2>&1 | tee -i {log:q}"
