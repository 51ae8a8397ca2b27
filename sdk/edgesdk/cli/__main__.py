"""``python -m edgesdk.cli``."""

from edgesdk.cli import main

main()
