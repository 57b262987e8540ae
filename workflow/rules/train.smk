rule train:
    input:
        tokens="results/{experiment}/tokens/tokens.safetensors",
        vocabulary="results/{experiment}/tokens/vocabulary.json",
        books="results/{experiment}/tokens/books.json",
        start=start_files(WEIGHTS, CARD),
    output:
        weights="results/{experiment}/model/model.safetensors",
        card="results/{experiment}/model/model.json",
        history="results/{experiment}/model/history.csv",
        dimensions="results/{experiment}/model/dimensions.csv",
        books="results/{experiment}/model/books.json",
    log:
        "logs/{experiment}/train.log",
    benchmark:
        "results/{experiment}/benchmarks/train.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 8  # beyond this the RNN of a small model gains nothing
    resources:
        mem_mb=memory(8000),
        runtime=1440,
        gpu=1,
    params:
        settings=settings_of("model", "train", "start"),
        start=start_digest,
        code=code_digest("stages.train"),
        tokens=subpath(input.tokens, parent=True),
        out=subpath(output.weights, parent=True),
        checkpoints=lambda wildcards: f"results/{wildcards.experiment}/checkpoints",  # undeclared: see the Snakefile
    message:
        "{wildcards.experiment}: train"
    shell:
        "molvae train {params.tokens:q} --out {params.out:q} --checkpoints {params.checkpoints:q} --threads {threads}"
        " --gpus {resources.gpu} ${{MOLVAE_SCHEDULED:+--runtime {resources.runtime}}}"
        " --settings {params.settings:q} 2>&1 | tee -i {log:q}"
