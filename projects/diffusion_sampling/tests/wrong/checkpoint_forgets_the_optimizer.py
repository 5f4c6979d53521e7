# diagnosis: the resumed run ends elsewhere
# module: train


def load(self, path: Path, config: TrainConfig, device: torch.device) -> None:
    state = torch.load(path, map_location=device, weights_only=True)
    if state["config"] != asdict(config):
        raise ValueError(f"{path} belongs to another run: {state['config']}, wanted {asdict(config)}")
    self.model.load_state_dict(state["model"])
    self.average.load_state_dict(state["average"])
    self.generator.set_state(state["generator"].cpu())
    self.step = state["step"]


_Run.load = load
