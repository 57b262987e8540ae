rule sample_shard:
    input:
        weights="results/{experiment}/model/model.safetensors",
        card="results/{experiment}/model/model.json",
        prior=multiext("results/{experiment}/model/prior", ".safetensors", ".json"),
    output:
        temp("results/{experiment}/samples/shards/{scatteritem}.parquet"),
    log:
        "logs/{experiment}/sample_shard.{scatteritem}.log",
    benchmark:
        "results/{experiment}/benchmarks/sample_shard.{scatteritem}.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 4
    resources:
        mem_mb=scale_memory(4000),
        runtime=60,
        gpu=1,
    params:
        settings=dump_settings("sample"),
        code=compute_code_digest("stages.sample"),
        model=subpath(input.weights, parent=True),
    message:
        "{wildcards.experiment}: sample, shard {wildcards.scatteritem}"
    shell:
        "molvae sample --model {params.model:q} --out {output:q} --shard {wildcards.scatteritem} --threads {threads}"
        " --gpus {resources.gpu} --settings {params.settings:q} 2>&1 | tee -i {log:q}"


rule sample:
    input:
        shards=gather.samples("results/{{experiment}}/samples/shards/{scatteritem}.parquet"),
    output:
        samples="results/{experiment}/samples/samples.parquet",
        counts="results/{experiment}/samples/counts.json",
    log:
        "logs/{experiment}/sample.log",
    benchmark:
        "results/{experiment}/benchmarks/sample.jsonl"
    conda:
        "../envs/molvae.yaml"
    resources:
        mem_mb=scale_memory(2000),
        runtime=30,
    params:
        settings=dump_settings("sample"),
        code=compute_code_digest("stages.sample"),
        out=subpath(output.samples, parent=True),
    message:
        "{wildcards.experiment}: sample"
    shell:
        "molvae sample {input.shards:q} --merge --out {params.out:q} --settings {params.settings:q} 2>&1 | tee -i {log:q}"
