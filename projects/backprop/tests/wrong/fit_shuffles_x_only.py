# diagnosis: x is shuffled but the targets are not
def fit(model, loss, optimizer, x, targets, *, epochs, batch_size=64, rng, progress=False):
    n, history = len(x), []
    for epoch in range(epochs):
        order = rng.permutation(n)
        total = 0.0
        for start in range(0, n, batch_size):
            batch = order[start : start + batch_size]
            output = model.forward(x[batch], training=True, rng=rng)
            total += loss.forward(output, targets[start : start + batch_size]) * len(batch)
            model.backward(loss.backward())
            optimizer.step(model.parameters, model.gradients)
        history.append(total / n)
    return history
