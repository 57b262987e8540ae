"""What a process needs: devices, workers, seeds, files, arguments, provenance."""
