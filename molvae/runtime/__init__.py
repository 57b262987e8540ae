"""What a process needs: devices, workers, seeds, files, provenance."""
