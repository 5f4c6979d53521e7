# diagnosis: the file is written in place
# module: checkpoint


def write_checkpoint(path, state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    header = {"format": FORMAT, "n_bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    with open(path, "wb") as file:
        file.write(MAGIC + json.dumps(header).encode() + b"\n" + payload)
        file.flush()
        os.fsync(file.fileno())
