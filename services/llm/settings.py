"""Settings of the llm service, read once from LLM_*."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from unspoken.errors import InvalidConfig
from unspoken.settings import EngineSettings, secret_key, service_url

PromptStyle = Literal["completion", "chat"]


class LlmSettings(EngineSettings):
    """Which language model answers, and how it is asked."""

    model_config = SettingsConfigDict(env_prefix="LLM_")

    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    backend: Literal["transformers", "openai"] = "transformers"
    """transformers: the profile's model in this process. openai: an endpoint elsewhere."""
    templates: tuple[str, ...] = ("parts", "noun_parts")
    """Templates asked when a request names none; as JSON in the environment."""
    templates_file: Path | None = None
    """A YAML file of one's own templates, in the form of services/llm/templates.yaml."""
    prompt_style: PromptStyle = "completion"
    """completion: a text to go on with. chat: questions and answers, for instruct models."""
    max_batch: Annotated[int, Field(ge=1, le=64)] = 8
    max_new_tokens: Annotated[int, Field(ge=1, le=256)] = 48
    cache_entries: Annotated[int, Field(ge=1)] = 4096
    """Answers kept, so that a caption or a noun that comes back costs nothing."""

    openai_base_url: Annotated[str, service_url("LLM_OPENAI_BASE_URL")] = ""
    """Up to and with the version: http://host:8000/v1. HTTP_PROXY and its kind serve only hosts
    outside of the local network."""
    openai_model: str = ""
    openai_api_key: Annotated[SecretStr, secret_key("LLM_OPENAI_API_KEY")] = SecretStr("")
    openai_timeout_s: Annotated[float, Field(gt=0)] = 60.0

    @model_validator(mode="after")
    def _endpoint_is_named(self) -> "LlmSettings":
        if self.backend == "openai" and not (self.openai_base_url and self.openai_model):
            raise InvalidConfig("LLM_BACKEND=openai needs LLM_OPENAI_BASE_URL and LLM_OPENAI_MODEL")
        return self
