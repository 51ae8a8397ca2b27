"""The folder that a deployment ends in."""
