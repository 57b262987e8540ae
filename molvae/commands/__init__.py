"""Commands that are no rule of the workflow."""
