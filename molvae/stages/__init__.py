"""One module a stage, one function in it that reads files, calls the floors below and writes files."""
