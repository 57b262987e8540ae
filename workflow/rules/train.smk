rule train:
    input:
        tokens="results/{experiment}/tokens/tokens.safetensors",
        vocabulary="results/{experiment}/tokens/vocabulary.json",
        counts="results/{experiment}/tokens/counts.json",
        finetune=list_finetune_files(WEIGHTS_FILE, CARD_FILE),
    output:
        weights="results/{experiment}/model/model.safetensors",
        card="results/{experiment}/model/model.json",
        history="results/{experiment}/model/history.csv",
        dimensions="results/{experiment}/model/dimensions.csv",
        counts="results/{experiment}/model/counts.json",
    log:
        "logs/{experiment}/train.log",
    benchmark:
        "results/{experiment}/benchmarks/train.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 8  # more do not speed up the RNN of a small model
    resources:
        mem_mb=scale_memory(8000),
        runtime=1440,
        gpu=1,
    params:
        settings=dump_settings("model", "train", "finetune"),
        finetune=compute_finetune_digest,
        code=compute_code_digest("stages.train"),
        tokens=subpath(input.tokens, parent=True),
        out=subpath(output.weights, parent=True),
        checkpoints=lambda wildcards: f"results/{wildcards.experiment}/checkpoints",  # not an output: see workflow/Snakefile
    message:
        "{wildcards.experiment}: train"
    shell:
        "molvae train {params.tokens:q} --out {params.out:q} --checkpoints {params.checkpoints:q} --threads {threads}"
        " --gpus {resources.gpu} ${{MOLVAE_SCHEDULED:+--runtime {resources.runtime}}}"
        " --settings {params.settings:q} 2>&1 | tee -i {log:q}"
