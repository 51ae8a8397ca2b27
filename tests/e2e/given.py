"""What a user gives the command line in these tests."""

MODELS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 4)
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

class Branching(Small):
    def forward(self, x):
        y = super().forward(x)
        return y * 2 if y.sum() > 0 else y

def number():
    return 3

def failing():
    raise RuntimeError("no weights today")

nothing = 7
"""
