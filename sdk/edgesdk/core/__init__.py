"""What every other folder uses: the types that are handed on, errors, files that are written whole."""
