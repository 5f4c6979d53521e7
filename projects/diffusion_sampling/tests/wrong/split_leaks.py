# diagnosis: a held-out digit is among those to train on
# module: train


def load_split() -> Split:
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 8 - 1
    rows = torch.arange(len(images))
    train_rows, held_rows = train_test_split(rows, test_size=360, random_state=0, stratify=labels)
    classes = torch.from_numpy(labels).long()
    return Split(
        torch.cat([images[held_rows][:1], images[train_rows][1:]]),
        classes[train_rows],
        images[held_rows],
        classes[held_rows],
    )
