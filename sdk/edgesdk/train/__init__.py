"""How a compressed network learns back: loops, losses, teachers."""
