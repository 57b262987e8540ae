rule reference:
    input:
        lambda wildcards: [] if REFERENCES[wildcards.reference] == "moses" else REFERENCES[wildcards.reference],
    output:
        "results/datasets/{reference}.safetensors",
    log:
        "logs/datasets/{reference}.log",
    benchmark:
        "results/datasets/{reference}.jsonl"
    retries: 2 if "moses" in REFERENCES.values() else 0
    conda:
        "../envs/molvae.yaml"
    threads: 8
    resources:
        mem_mb=scale_memory(4000),
        runtime=120,
    params:
        source=lambda wildcards: REFERENCES[wildcards.reference],
        content=lambda wildcards: compute_content_digest(REFERENCES[wildcards.reference]),
        code=compute_code_digest("stages.reference"),
    message:
        "reference {params.source}"
    shell:
        "molvae reference --out {output:q} --downloads results/datasets/downloads --threads {threads} -- {params.source:q}"
        " 2>&1 | tee -i {log:q}"
