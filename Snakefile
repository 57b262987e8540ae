# The workflow is workflow/Snakefile; this file is here so that plain `snakemake --cores 8` finds it.


include: "workflow/Snakefile"


# the default target of an included file does not count
rule default:
    default_target: True
    input:
        rules.all.input,
    localrule: True
