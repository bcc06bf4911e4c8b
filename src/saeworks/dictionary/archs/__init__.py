"""The architectures: a file for each, reached through `ARCHS` alone."""
