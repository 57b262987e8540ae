"""The networks: torch only, shapes in, shapes out."""
