"""Train the network on made sounds, and write its weights."""

import torch
from data import samples
from net import make
from safetensors.torch import save_file

torch.manual_seed(0)
x, y = samples()[0].tensors
net = make()
optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
EPOCHS, SIZE = 6, 64
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * -(-len(x) // SIZE))
for epoch in range(EPOCHS):
    for rows in torch.randperm(len(x)).split(SIZE):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.3f}")
save_file(net.state_dict(), "net.safetensors")
