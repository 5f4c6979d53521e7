"""Learning curves of several seeds: the median of their episode returns, and the range from the worst to the best.

    python curves.py CartPole-v1 --seeds 3 --updates 73 --out curves.svg
    python curves.py Pendulum-v1 --updates 73

One seed is an anecdote: runs that differ in nothing but the seed may differ more than two algorithms do. A curve has the mean
return of the episodes that ended in a rollout, by the policy that explores; the greedy policy is evaluated afterwards. Any
environment goes whose observations are a vector and whose actions are 0 … n - 1 or a vector.

Source: Henderson et al. 2017, "Deep Reinforcement Learning that Matters", arXiv 1709.06560.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import ClipAction
from torch import Generator

from gaussian import PENDULUM, GaussianActorCritic
from ppo import ActorCritic, evaluate, train
from rollout import Settings

__all__ = ["make_environment", "make_environments", "learning_curve", "on_grid", "summary", "draw"]

Environment = gymnasium.Env[Any, Any]
Records = Sequence[Mapping[str, float]]
Numbers = npt.NDArray[np.float64]


def make_environment(environment_id: str) -> Environment:
    """Return one environment, for evaluate; where its actions are vectors, they are clipped to its bounds."""
    environment: Environment = gymnasium.make(environment_id)
    return ClipAction(environment) if isinstance(environment.action_space, Box) else environment


def make_environments(environment_id: str, *, num_envs: int = 8) -> SyncVectorEnv:
    """Return `num_envs` such environments, which reset in the step that ends an episode: see ``ppo.collect``."""
    makers = [partial(make_environment, environment_id)] * num_envs
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def learning_curve(
    environment_id: str, seed: int, n_updates: int, settings: Settings | None = None, *, num_envs: int = 8, improve: Any = None,
) -> tuple[ActorCritic, list[dict[str, float]]]:  # fmt: skip
    """Train a new network; return it and the records of ``ppo.train``. `seed` sets its weights and all that is drawn.

    Without `settings`, those of PENDULUM where actions are vectors, else the defaults. `improve` is handed on to train.
    ValueError, which names the spaces, where the observations are no vector, or the actions neither a vector nor 0 … n - 1.
    """
    environments = make_environments(environment_id, num_envs=num_envs)
    network = _make_network(environments, Generator().manual_seed(seed))
    if settings is None:
        settings = PENDULUM if isinstance(network, GaussianActorCritic) else Settings()
    records = train(network, environments, n_updates, settings, seed=seed, improve=improve)
    environments.close()
    return network, records


def on_grid(records: Records, grid: npt.ArrayLike) -> Numbers:
    """Return the "return" known at each step of `grid`, (len(grid),): the last one at or before it, NaN before the first.

    A rollout in which no episode ended has no "return"; there the last one goes on.
    """
    known = [(-np.inf, np.nan), *((r["step"], r["return"]) for r in records if "return" in r)]
    steps, returns = np.array(known).T
    return returns[np.searchsorted(steps, grid, side="right") - 1]


def summary(curves: Sequence[Records], grid: npt.ArrayLike) -> tuple[Numbers, Numbers, Numbers]:
    """Return worst, median and best of the curves at each step of `grid`; NaN until each of them has begun."""
    table = np.stack([on_grid(records, grid) for records in curves])
    return table.min(axis=0), np.median(table, axis=0), table.max(axis=0)


def draw(curves: Mapping[str, Sequence[Records]], path: Path) -> None:
    """Draw the curves under each name, of several seeds, as a median in a shaded range; write the figure to `path`.

    The legend says "NAME, 3 seeds" of each (or "1 seed"), and the steps begin at 0. The ending of `path` is the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    for name, seeds in curves.items():
        grid = sorted({record["step"] for records in seeds for record in records})
        worst, median, best = summary(seeds, grid)
        (line,) = axes.plot(grid, median, label=f"{name}, {len(seeds)} seed{'s' * (len(seeds) > 1)}")
        axes.fill_between(grid, worst, best, color=line.get_color(), alpha=0.2)
    axes.set_xlim(left=0)
    axes.set(xlabel="steps of all environments", ylabel="return of an episode")
    axes.legend()
    figure.savefig(path)


def _make_network(environments: SyncVectorEnv, generator: Generator) -> ActorCritic:
    seen, actions = environments.single_observation_space, environments.single_action_space
    if isinstance(seen, Box) and len(seen.shape) == 1:
        if isinstance(actions, Discrete) and actions.start == 0:
            return ActorCritic(seen.shape[0], int(actions.n), generator=generator)
        if isinstance(actions, Box) and len(actions.shape) == 1:
            return GaussianActorCritic(seen.shape[0], actions.shape[0], generator=generator)
    raise ValueError(f"no network for observations {seen} and actions {actions}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train seeds 0, 1, …, print "seed 0: …" with the greedy mean return of each, draw.

    The first command of the module's docstring has the defaults: without arguments it does the same.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("environment", nargs="?", default="CartPole-v1", help="a name known to Gymnasium")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, …")
    parser.add_argument("--updates", type=int, default=73, help="of a rollout of 8 environments each")
    parser.add_argument("--out", type=Path, default=Path("curves.svg"))
    options = parser.parse_args(arguments)
    curves = []
    for seed in range(options.seeds):
        network, records = learning_curve(options.environment, seed, options.updates)
        returns = evaluate(network, make_environment(options.environment), seed=1000)
        spread = f"worst {returns.min():.1f}, best {returns.max():.1f}"
        print(f"seed {seed}: greedy return {returns.mean():.1f} over {len(returns)} episodes ({spread})")
        curves.append(records)
    draw({options.environment: curves}, options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
