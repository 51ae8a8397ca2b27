"""Reaching a device: this machine, or one over ssh. What runs there is the agent of ``edgesdk_targets``."""
