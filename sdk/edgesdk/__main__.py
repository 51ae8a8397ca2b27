"""``python -m edgesdk``: the command line, of the very interpreter that is asked."""

from edgesdk.cli import main

if __name__ == "__main__":
    main(prog_name="edgesdk")
