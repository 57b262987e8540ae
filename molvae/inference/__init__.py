"""Run a trained network: encode, decode, sample, and measure its posterior."""
