# diagnosis: are gradients cleared


def step(self, batches, *, stop=False):
    progress, device = self.progress, self.world.device
    n_tokens = sum(int((targets != IGNORED).sum()) for _, targets in batches)
    n_tokens, n_stop = sum_over_ranks(torch.tensor([n_tokens, int(stop)], device=device)).tolist()
    if n_tokens == 0:
        raise ValueError("no valid target in the whole batch")
    lr = self.config.lr(progress.step)
    for group in self.optimizer.param_groups:
        group["lr"] = lr
    loss = self.forward_backward(batches, n_tokens)
    self.optimizer.zero_grad()
    self.scaler.unscale_(self.optimizer)
    norm = clip_gradients(self.model.parameters(), self.config.clip)
    loss_value, norm_value = loss.item(), norm.item()
    taken = math.isfinite(norm_value)
    if taken:
        self.scaler.step(self.optimizer)
        self.ema.update()
        progress.step += 1
        first = math.isnan(progress.train_loss)
        progress.train_loss = loss_value if first else 0.95 * progress.train_loss + 0.05 * loss_value
    progress.skipped += not taken
    progress.skipped_in_a_row = 0 if taken else progress.skipped_in_a_row + 1
    self.scaler.update()
    self.optimizer.zero_grad(set_to_none=True)
    return StepReport(loss_value, norm_value, lr, n_tokens, taken, bool(n_stop))


Trainer.step = step
