rule compare:
    input:
        metrics=expand("results/{experiment}/validation/metrics.json", experiment=list(EXPERIMENTS)),
        diagnostics=expand("results/{experiment}/latent/diagnostics.json", experiment=list(EXPERIMENTS)),
    output:
        "results/comparison/comparison.json",
        page=report(
            "results/comparison/comparison.html",
            caption="../report/comparison.rst",
            category="Comparison",
        ),
    log:
        "logs/comparison/compare.log",
    benchmark:
        "results/comparison/compare.jsonl"
    conda:
        "../envs/molvae.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        generators=[
            f"{name}={','.join(f'results/{run}/validation/metrics.json' for run in runs)}"
            for name, runs in GENERATORS.items()
        ],
        code=compute_code_digest("stages.compare"),
        out=subpath(output.page, parent=True),
    message:
        "compare experiments"
    shell:
        "molvae compare {params.generators:q} --out {params.out:q} 2>&1 | tee -i {log:q}"
