"""From the configuration of a server to an engine: address, key, name of the model, price."""

import os
from collections.abc import Callable
from pathlib import Path

from agent_gym.config import EvalConfig, ServerSection
from agent_gym.engines.openai import ChatEngine, CompletionsEngine
from agent_gym.engines.prices import Price, find_price
from agent_gym.engines.retrying import Patience
from agent_gym.engines.server import Server
from agent_gym.errors import ConfigError
from agent_gym.rollout.chat import Chat, TemplateChat
from agent_gym.tools.web import Retries

_LONGEST_WAIT = 60.0


def chat_engine(config: EvalConfig) -> ChatEngine:
    """Return the engine of a model that is sent messages.

    Raises:
        ConfigError: Something is missing: the key that was named, the name of the model, a price.
        EngineError: The server does not answer, or refuses the key.
    """
    server = _server(config)
    name = _name(config.server, server)
    return ChatEngine(server, name, top_logprobs=config.server.top_logprobs, price=_price(config, name))


def completions_engine(config: EvalConfig) -> tuple[CompletionsEngine, Callable[[str], Chat]]:
    """Return the engine of a model that is sent token ids, and the chat of a system prompt; raises as `chat_engine`."""
    path = config.server.tokenizer
    if path is None:
        raise ConfigError("Completions need the model's tokenizer: add --tokenizer with a folder or a name on the hub.")
    from agent_gym.engines.loading import load_tokenizer

    tokenizer = load_tokenizer(path)
    server = _server(config)
    name = _name(config.server, server)
    engine = CompletionsEngine(
        server, name, tokenizer, top_logprobs=config.server.top_logprobs, price=_price(config, name)
    )
    return engine, lambda system_prompt: TemplateChat(tokenizer, system_prompt=system_prompt)


def _server(config: EvalConfig) -> Server:
    section = config.server
    address, _, last = config.model.rstrip("/").partition("/v1/")
    if last in ("chat/completions", "completions", "models"):
        raise ConfigError(f"The address of a server goes up to the version: use --model {address}/v1.")
    key = os.environ.get(section.api_key_env)
    if key is None and section.api_key_env != ServerSection().api_key_env:
        raise ConfigError(f"The environment variable {section.api_key_env} is not set: put the server's key into it.")
    server = Server(
        config.model,
        key=key or None,
        key_name=section.api_key_env,
        patience=Patience(
            Retries(tries=section.tries, longest_wait=_LONGEST_WAIT), total=section.patience, request=section.timeout
        ),
        connections=config.rollout.concurrency,
    )
    server.list_models()
    return server


def _name(section: ServerSection, server: Server) -> str:
    """Return what the server calls the model: it need not list every name that it knows."""
    if section.name is not None:
        return section.name
    names = [str(model["id"]) for model in server.models or ()]
    if len(names) == 1:
        return names[0]
    if not names:
        raise ConfigError(
            f"The server {server.url} does not list its models: add --model-name, and see that the address ends with "
            "the version, as in http://localhost:8000/v1."
        )
    listed = ", ".join(names[:10]) + " ..." * (len(names) > 10)
    raise ConfigError(
        f"Which model of the server {server.url} is meant was not said; it has {listed}: add --model-name."
    )


def _price(config: EvalConfig, name: str) -> Price | None:
    section = config.server
    price = Price(*section.price) if section.price is not None else None
    if price is None and section.prices is not None:
        price = find_price(name, Path(section.prices))
        if price is None:
            raise ConfigError(
                f"{section.prices} has no price of {name}: add a line `{name}: [read, generated]`, or leave out "
                "--prices."
            )
    if price is None and config.limits.cost is not None:
        raise ConfigError(f"A limit of cost needs the price of {name}: add --price READ,GENERATED, or --prices FILE.")
    return price
