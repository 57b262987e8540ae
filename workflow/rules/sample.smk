rule sample_block:
    input:
        weights="results/{experiment}/model/model.safetensors",
        card="results/{experiment}/model/model.json",
        prior=multiext("results/{experiment}/model/prior", ".safetensors", ".json"),
    output:
        temp("results/{experiment}/samples/blocks/{scatteritem}.parquet"),
    log:
        "logs/{experiment}/sample_block.{scatteritem}.log",
    benchmark:
        "results/{experiment}/benchmarks/sample_block.{scatteritem}.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 4
    resources:
        mem_mb=memory(4000),
        runtime=60,
        gpu=1,
    params:
        settings=settings_of("sample"),
        code=code_digest("stages.sample"),
        model=subpath(input.weights, parent=True),
    message:
        "{wildcards.experiment}: sample, share {wildcards.scatteritem}"
    shell:
        "molvae sample --model {params.model:q} --out {output:q} --share {wildcards.scatteritem} --threads {threads}"
        " --gpus {resources.gpu} --settings {params.settings:q} 2>&1 | tee -i {log:q}"


rule sample:
    input:
        blocks=gather.samples("results/{{experiment}}/samples/blocks/{scatteritem}.parquet"),
    output:
        samples="results/{experiment}/samples/samples.parquet",
        books="results/{experiment}/samples/books.json",
    log:
        "logs/{experiment}/sample.log",
    benchmark:
        "results/{experiment}/benchmarks/sample.jsonl"
    conda:
        "../envs/molvae.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        settings=settings_of("sample"),
        code=code_digest("stages.sample"),
        out=subpath(output.samples, parent=True),
    message:
        "{wildcards.experiment}: sample"
    shell:
        "molvae sample {input.blocks:q} --gather --out {params.out:q} --settings {params.settings:q} 2>&1 | tee -i {log:q}"
