"""Fields that the requests of several APIs share, each with its bounds."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from moeflux.engine.request import SamplingOptions

MAX_TOKENS = 2**31 - 1
MAX_TOP_LOGPROBS = 20
SMALLEST_TOP_P = 1e-6
"""Stands for 0, which some clients send to get the most probable token."""

Text = Annotated[str, Field(max_length=2**26)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]
TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Pattern = Annotated[str, Field(min_length=1, max_length=4096)]
"""A regular expression; long ones take long to compile."""
Temperature = Annotated[float, Field(ge=0, le=100)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]


class ApiFields(BaseModel):
    """A part of a request. Fields that it does not know are left aside, as clients expect."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


def example(**fields: Any) -> ConfigDict:
    """Shows a request in the OpenAPI document, which adds the model's name."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class SamplingFields(ApiFields):
    """How tokens are drawn: OpenAI's names, and those that open servers added."""

    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    """0 and -1 keep all tokens."""
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    logit_bias: (
        Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=4096)]
        | None
    ) = None

    def sampling(self, defaults: SamplingOptions) -> SamplingOptions:
        """What the request says, and of the rest the defaults."""
        names = SamplingFields.model_fields.keys()
        given: dict[str, Any] = {
            name: value for name in names if (value := getattr(self, name)) is not None
        }
        if "top_p" in given:
            given["top_p"] = max(given["top_p"], SMALLEST_TOP_P)
        if "top_k" in given:
            given["top_k"] = max(given["top_k"], 0)
        if "seed" in given:
            given["seed"] %= 2**64
        return cast(SamplingOptions, {**defaults, **given})


class StopFields(ApiFields):
    """Texts that end an answer."""

    stop: StopText | Annotated[list[StopText], Field(max_length=64)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """All of them."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TemplateFields(ApiFields):
    """Variables of the checkpoint's chat template."""

    chat_template_kwargs: Annotated[dict[Name, Any], Field(max_length=64)] | None = None
