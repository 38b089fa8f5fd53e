"""What a step made of each token, brought back from the rows of the batch to the episodes, for whoever looks at them.

    base_advantage  what the estimator said, before EMPG, AEPO and other stages changed it (where there are such stages)
    advantage       what was trained with
    weight          the algorithm's factor on the token's losses (where it has some)
    importance      the factor on the token's losses that corrects for what sampled it (where one differs from 1)
    version         of the weights that sampled the token (where those of the step differ)
    log_ratio       log-probability when the token was trained on minus the old one: the logarithm of the ratio that the
                    loss saw. In the first mini-batch the weights are still those before the step, and where the old
                    one is the engine's, it shows by how much training and sampling differ. 0 on rows that no loss
                    asked for
    reward          the turn's reward after shaping, on the turn's last token
    kl              log-probability when sampled minus that under the reference policy (where there is one)
    value           what the critic expected (where there is one)

Rows of earlier steps that are replayed are not recorded: an episode shows what its own step made of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.batch import Batch, row_places
from agent_gym.trajectory import Trajectory

Signals = dict[str, dict[str, list[float]]]
"""By the episode's id and the signal's name a number for each token, (T,); 0 on tokens that were not trained on."""


@dataclass(frozen=True, slots=True)
class StepSignals:
    """The tensors of one step that are worth keeping, each (B, T)."""

    algorithm: Algorithm
    """What it lacks leaves no signal."""
    batch: Batch
    base_advantages: Tensor
    log_ratios: Tensor

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the signals by name."""
        algorithm, batch = self.algorithm, self.batch
        named = {"advantage": batch.advantages, "log_ratio": self.log_ratios, "reward": batch.token_rewards}
        if len(algorithm.advantages) > 1:
            named["base_advantage"] = self.base_advantages
        if algorithm.weights:
            named["weight"] = batch.weights
        if ((batch.importance != 1) & batch.mask.bool()).any():
            named["importance"] = batch.importance
        if len(batch.versions[batch.mask.bool()].unique()) > 1:
            named["version"] = batch.versions
        if algorithm.needs_reference:
            named["kl"] = batch.old_logprobs - batch.ref_logprobs
        if algorithm.critic is not None:
            named["value"] = batch.values
        return {name: (values * batch.mask).cpu() for name, values in named.items()}

    def by_episode(self, trajectories: Sequence[Trajectory]) -> Signals:
        """Return the signals of the episodes that were trained on.

        Args:
            trajectories: Those that the batch was made of, in the same order.
        """
        named = self.tensors()
        trained = self.batch.mask.any(1).tolist()
        signals: Signals = {}
        for row, place in enumerate(row_places(trajectories)):
            if not trained[row]:
                continue
            count = len(place.trajectory.token_ids)
            for name, values in named.items():
                target = signals.setdefault(place.trajectory.id, {}).setdefault(name, [0.0] * count)
                target[place.start : place.end] = values[row, : place.end - place.start].tolist()
        return signals
