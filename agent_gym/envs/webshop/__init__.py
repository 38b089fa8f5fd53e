"""WebShop: find a product that fits an instruction in a shop of text pages, choose its options, and buy it."""

from agent_gym.envs.webshop.catalogue import Goal, Product, Shop, synthetic_shop
from agent_gym.envs.webshop.env import WebShopEnv
from agent_gym.envs.webshop.loading import load_shop

__all__ = ["Goal", "Product", "Shop", "WebShopEnv", "load_shop", "synthetic_shop"]
