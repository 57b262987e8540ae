"""Everything that knows chemistry: the only place that imports rdkit and selfies."""
