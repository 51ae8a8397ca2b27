"""Train the network on made sounds of sound machines, and write its weights."""

import torch
from data import samples
from judge import auc, loss
from net import make
from safetensors.torch import save_file

torch.manual_seed(0)
train, test = samples()
x, targets = train.tensors
net = make()
optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
EPOCHS, SIZE = 25, 128
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=EPOCHS * -(-len(x) // SIZE))
for epoch in range(EPOCHS):
    for rows in torch.randperm(len(x)).split(SIZE):
        optimizer.zero_grad()
        error = loss(net(x[rows]), targets[rows])
        error.backward()
        optimizer.step()
        schedule.step()
    print(f"epoch {epoch + 1} of {EPOCHS}: loss {error.item():.3f}")
net.eval()
with torch.no_grad():
    print(f"area under the ROC curve: {auc(net(test.tensors[0]), test.tensors[1]):.2f} %")
save_file(net.state_dict(), "net.safetensors")
