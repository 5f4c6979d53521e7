# diagnosis: no fsync before the rename
# module: checkpoint


def write_checkpoint(path, state):
    path = Path(path)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    header = {"format": FORMAT, "n_bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(MAGIC + json.dumps(header).encode() + b"\n" + payload)
        file.flush()
        os.replace(temporary, path)
        os.fsync(file.fileno())
