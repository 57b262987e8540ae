"""The stages of the workflow, one module a rule: read files, call the rooms below, write files."""
