"""WebShop as an environment."""

import pytest

pytest.importorskip("rapidfuzz", reason="WebShop needs the extra webshop")
pytest.importorskip("bm25s", reason="WebShop needs the extra webshop")

from agent_gym.envs.conformance import CHECKS, conform
from agent_gym.envs.webshop import WebShopEnv, synthetic_shop
from agent_gym.errors import UnknownIdError
from agent_gym.registry import make

SHOP = synthetic_shop(products=200, goals=1700, seed=1)


@pytest.mark.parametrize("name", list(CHECKS))
@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_webshop_conforms(name: str, mode: str) -> None:
    (check,) = conform(lambda: WebShopEnv(SHOP, observation=mode), only=name)  # type: ignore[arg-type]
    assert check.passed, check.detail


def test_the_expert_buys_for_the_full_reward_nearly_always() -> None:
    env = WebShopEnv(SHOP, split="test")
    solved = 0
    for task in env.tasks("test")[:100]:
        env.reset(options={"task": task.id})
        actions = env.expert()
        assert actions is not None
        for action in actions:
            *_, reward, terminated, truncated, info = env.step(action)
        assert terminated and not truncated and info["invalid_action"] is False
        solved += reward == 1.0 == info["score"]
    assert solved == 100


def test_the_first_page_is_the_originals() -> None:
    observation, info = WebShopEnv(SHOP).reset(seed=0)
    assert observation == f"WebShop [SEP] Instruction: [SEP] {info['goal']} [SEP] Search"


def test_the_rich_mode_marks_buttons_and_choices() -> None:
    env = WebShopEnv(SHOP, observation="text_rich")
    env.reset(seed=0)
    *actions, _ = env.expert() or ()
    for action in actions:
        observation, *_ = env.step(action)
    assert "[button] Buy Now [button_]" in observation and "[clicked button] " in observation


def test_the_reward_and_its_parts_come_with_the_purchase() -> None:
    env = WebShopEnv(SHOP)
    env.reset(seed=0)
    *actions, last = env.expert() or ()
    rewards = [env.step(action)[1] for action in actions]
    _, reward, terminated, _, info = env.step(last)
    assert set(rewards) == {0.0} and reward == 1.0 and terminated
    assert info["reward_parts"].type == 1.0 and info["reward_parts"].price


def test_splits_follow_the_originals_convention() -> None:
    env = WebShopEnv(SHOP)
    assert [len(env.tasks(split)) for split in ("test", "valid", "train")] == [500, 1000, 200]
    assert env.find_task("goal-499").split == "test" and env.find_task("goal-500").split == "valid"
    assert env.find_task("goal-1500").split == "train"
    for wrong in ("goal-1700", "goal-01", "goal-²", "499"):
        with pytest.raises(UnknownIdError, match="go from 'goal-0' to 'goal-1699'"):
            env.find_task(wrong)


def test_the_default_shop_is_made_by_seed_and_registered() -> None:
    assert synthetic_shop(products=30, goals=5, seed=2) == synthetic_shop(products=30, goals=5, seed=2)
    assert synthetic_shop(products=30, goals=5, seed=2) != synthetic_shop(products=30, goals=5, seed=3)
    env = make("webshop", split="test")
    assert len(env.tasks("test")) == 500
    numbers = [product.asin for product in env._store.shop.products]  # type: ignore[attr-defined]
    assert len(set(numbers)) == len(numbers) == 1000
