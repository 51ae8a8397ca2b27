"""What edgesdk puts onto a device: the measuring agent and the recipes of the targets."""
