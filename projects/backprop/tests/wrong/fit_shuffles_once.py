# diagnosis: every epoch has the same order: shuffle again
def fit(model, loss, optimizer, x, targets, *, epochs, batch_size=64, rng, progress=False):
    n, history = len(x), []
    order = rng.permutation(n)
    for epoch in range(epochs):
        total = 0.0
        for start in range(0, n, batch_size):
            batch = order[start : start + batch_size]
            output = model.forward(x[batch], training=True, rng=rng)
            total += loss.forward(output, targets[batch]) * len(batch)
            model.backward(loss.backward())
            optimizer.step(model.parameters, model.gradients)
        history.append(total / n)
    return history
