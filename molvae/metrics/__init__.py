"""Metrics of sets of molecules. Each function states its definition and its source."""
