# The workflow is workflow/Snakefile. This file exists so that plain `snakemake --cores 8` finds it.


include: "workflow/Snakefile"


# Snakemake ignores the default target of an included file.
rule default:
    default_target: True
    input:
        rules.all.input,
    localrule: True
