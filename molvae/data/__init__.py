"""From a file of SMILES to batches of tokens."""
