"""Names of algorithms: what goes together, in which order, and which piece takes an option."""

from pathlib import Path

import pytest

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.trainers import presets
from agent_gym.trainers.aepo import EntropyAwareAdvantage
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.arpo import SharedPrefixAttribution
from agent_gym.trainers.empg import EntropyModulation
from agent_gym.trainers.grpo import GroupAdvantage
from agent_gym.trainers.presets import BASES, METHODS, make_algorithm, parse, piece


@pytest.mark.parametrize("name", [*BASES, *METHODS])
def test_every_piece_builds_an_algorithm_with_its_defaults(name: str) -> None:
    algorithm = make_algorithm(name)
    assert isinstance(algorithm, Algorithm) and algorithm.name == name and algorithm.losses and algorithm.advantages
    assert piece(name).summary and piece(name).is_base == (name in BASES)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_top_of_every_base(base: str, method: str) -> None:
    alone, together = make_algorithm(base), make_algorithm(f"{base}+{method}")
    assert together.critic == alone.critic and together.advantages[0] == alone.advantages[0]


def test_the_order_of_names_does_not_matter() -> None:
    def names(name: str) -> list[str]:
        return [each.name for each in parse(name)]

    assert names("epo+empg+gigpo") == names("gigpo+empg+epo") == ["gigpo", "empg", "epo"]
    assert names("aepo+empg") == ["grpo", "empg", "aepo"]
    assert names("reinforce++") == ["reinforce++"]
    assert names("epo+reinforce++") == names("reinforce+++epo") == ["reinforce++", "epo"]


@pytest.mark.parametrize("name", ["empg+arpo", "empg+aepo"])
def test_advantages_are_attributed_then_modulated_then_weighed(name: str) -> None:
    stages = [type(stage) for stage in make_algorithm(name, {"attribution": "hard"}).advantages]
    expected = [GroupAdvantage, SharedPrefixAttribution, EntropyModulation, EntropyAwareAdvantage]
    assert stages == expected[: len(stages)] and len(stages) == 3 + name.endswith("aepo")


def test_what_cannot_be_joined_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"has 2 bases \(grpo, gigpo\): choose one"):
        make_algorithm("grpo+gigpo")
    with pytest.raises(ConfigError, match="names a piece twice"):
        make_algorithm("epo+grpo+epo")
    with pytest.raises(ConfigError, match="AEPO branches by itself: leave 'arpo' out"):
        make_algorithm("arpo+aepo")
    with pytest.raises(UnknownIdError, match=r"'eppo'.*epo"):
        make_algorithm("grpo+eppo")


def test_pieces_that_pull_apart_are_warned_of() -> None:
    [note] = make_algorithm("empg+aepo").notes
    assert "EMPG damps" in note and "aepo.advantage_weight=0" in note
    assert not make_algorithm("empg+aepo", {"aepo.advantage_weight": 0.0}).notes
    assert not make_algorithm("empg+arpo").notes


def test_an_option_goes_to_the_piece_that_takes_it() -> None:
    algorithm = make_algorithm("epo+empg", {"group_size": 4, "zeta": 0.25, "epo.high": 3.0})
    assert algorithm.rollout == make_algorithm("grpo", {"group_size": 4}).rollout
    assert algorithm.advantages == make_algorithm("empg", {"zeta": 0.25}).advantages
    for written in ({"epo.coefficient": 0.5}, {"epo": {"coefficient": 0.5}}):
        assert make_algorithm("epo", written).losses[-1].coefficient == 0.5  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"Unknown option 'zetta'.*did you mean 'zeta'"):
        make_algorithm("empg", {"zetta": 1})
    with pytest.raises(ConfigError, match=r"Unknown option 'grpo.zeta'"):
        make_algorithm("empg", {"grpo.zeta": 1})
    with pytest.raises(ConfigError, match="does not take these options"):
        make_algorithm("grpo", {"group_size": 4, "aggregation": None, "clip_low": "wide"}) and make_algorithm(
            "empg", {"k": "much"}
        )


def test_an_option_of_several_pieces_must_say_which(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from dataclasses import replace\n"
        "def mine(base, *, zeta=1.0):\n    return replace(base, aggregation='turn-mean', loss_scale=zeta)\n"
        "def alone(*, size=2):\n    from agent_gym.trainers.grpo import grpo\n    return grpo(group_size=size)\n"
    )
    name = f"empg+{own}:mine"
    with pytest.raises(ConfigError, match=r"could be empg.zeta or .*own.py:mine.zeta"):
        make_algorithm(name, {"zeta": 2.0})
    algorithm = make_algorithm(name, {f"{own}:mine.zeta": 2.0, "empg.zeta": 0.5})
    assert (algorithm.aggregation, algorithm.loss_scale) == ("turn-mean", 2.0)
    assert make_algorithm(f"{own}:alone+epo", {"size": 3}).rollout.group_size == 3  # type: ignore[attr-defined]
    with pytest.raises(UnknownIdError, match=r"algorithm .*no file"):
        make_algorithm("missing.py:mine")


def test_the_tables_name_what_exists() -> None:
    assert presets.DEFAULT_BASE in BASES and not set(BASES) & set(METHODS)
