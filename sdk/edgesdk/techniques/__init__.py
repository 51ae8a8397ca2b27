"""Techniques of compression in plain PyTorch, a file a family: tensors and modules in, tensors and modules out."""
