# diagnosis: micro-batches are averaged


def forward_backward(self, batches, n_tokens):
    device, dtype = self.world.device, PRECISIONS[self.config.precision]
    total = torch.zeros((), device=device)
    for inputs, targets in batches:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = self.model(inputs)
        loss = nn.functional.cross_entropy(
            logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED
        ) / len(batches)
        self.scaler.scale(loss).backward()
        total = total + loss.detach()
    return total


Trainer.forward_backward = forward_backward
