rule latent:
    input:
        weights="results/{experiment}/model/model.safetensors",
        card="results/{experiment}/model/model.json",
        prior=multiext("results/{experiment}/model/prior", ".safetensors", ".json"),
        molecules="results/{experiment}/tokens/molecules.parquet",
    output:
        multiext("results/{experiment}/latent/", "diagnostics.json", "projections.parquet"),
    log:
        "logs/{experiment}/latent.log",
    benchmark:
        "results/{experiment}/benchmarks/latent.jsonl"
    conda:
        "../envs/molvae.yaml"
    threads: 8
    resources:
        mem_mb=scale_memory(4000),
        runtime=60,
    params:
        settings=dump_settings("latent"),
        code=compute_code_digest("stages.latent"),
        model=subpath(input.weights, parent=True),
        out=subpath(output[0], parent=True),
    message:
        "{wildcards.experiment}: latent"
    shell:
        "molvae latent {params.model:q} {input.molecules:q} --out {params.out:q} --threads {threads}"
        " --settings {params.settings:q} 2>&1 | tee -i {log:q}"
