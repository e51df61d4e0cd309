"""Settings of the llm service, read once from LLM_*."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from unspoken.config.services import LLM
from unspoken.config.settings import EngineSettings, secret_key, service_url
from unspoken.errors import InvalidConfig

PromptStyle = Literal["completion", "chat"]


class LlmSettings(EngineSettings):
    """Settings of the llm service: the language model, its prompts and its limits."""

    model_config = SettingsConfigDict(env_prefix="LLM_")

    port: Annotated[int, Field(ge=0, le=65535)] = LLM.port
    """Port to listen on."""
    backend: Literal["transformers", "openai"] = "transformers"
    """transformers: the profile's model in this process. openai: an OpenAI-compatible endpoint."""
    templates: tuple[str, ...] = ("parts", "noun_parts")
    """Templates for requests that set none; a JSON list in the environment."""
    templates_file: Path | None = None
    """A YAML file of additional templates, in the format of services/llm/templates.yaml."""
    prompt_style: PromptStyle = "completion"
    """completion: one text to continue. chat: turns of a conversation, for instruct models."""
    max_batch: Annotated[int, Field(ge=1, le=64)] = 8
    """Largest number of prompts in one batch, or of parallel requests to an endpoint."""
    max_new_tokens: Annotated[int, Field(ge=1, le=256)] = 48
    """Largest number of tokens in one answer."""
    cache_entries: Annotated[int, Field(ge=1)] = 4096
    """Size of the LRU cache of answers; a repeated caption or noun is answered from it."""

    openai_base_url: Annotated[str, service_url("LLM_OPENAI_BASE_URL")] = ""
    """URL up to and including the version: http://host:8000/v1. HTTP_PROXY and similar variables
    apply only to hosts outside the local network."""
    openai_model: str = ""
    """Name of the model at the endpoint."""
    openai_api_key: Annotated[SecretStr, secret_key("LLM_OPENAI_API_KEY")] = SecretStr("")
    """API key of the endpoint; none is sent if it is empty."""
    openai_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for a reply of the endpoint, in seconds."""

    @model_validator(mode="after")
    def _endpoint_is_named(self) -> "LlmSettings":
        if self.backend == "openai" and not (self.openai_base_url and self.openai_model):
            raise InvalidConfig("LLM_BACKEND=openai needs LLM_OPENAI_BASE_URL and LLM_OPENAI_MODEL")
        return self
