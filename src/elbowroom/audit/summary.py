"""`summary.json`: the documented, versioned result of an audit.

The pydantic models below are the schema; `docs/summary.schema.json` is generated from them. A
change that a reader could notice needs a new number in `SCHEMA`.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = "elbowroom-summary/1"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CurvePoint(_Part):
    """Robust accuracy at `eps` lies between `certified` and `attacked`."""

    eps: float = Field(description="distance in the audit's norm, in the input's units")
    certified: float = Field(description="share of samples classified rightly with radius >= eps")
    attacked: float = Field(
        description="share of samples classified rightly with no example <= eps"
    )


class AttackSummary(_Part):
    """One attack, over the rightly classified samples."""

    method: str
    success_rate: float
    median: float | None = Field(description="median distance, failures as infinite; null if that")
    mean: float | None = Field(description="mean distance over the successes; null if none")
    best_on: float = Field(
        description="share of samples for which no attack found anything nearer; ties count for all"
    )


class ClassSummary(_Part):
    """One class: sensitivity over its rightly classified samples, invariance over its pairs."""

    label: str
    samples: int
    clean_accuracy: float
    median_attacked: float | None
    median_certified: float | None
    median_invariance: float | None


class Sensitivity(_Part):
    """How far inputs can move before the decision changes; medians over the rightly classified."""

    norm: str
    median_attacked: float | None = Field(description="upper bound; null if most attacks failed")
    median_certified: float | None = Field(description="lower bound; null without a certificate")
    curve: list[CurvePoint]
    attacks: list[AttackSummary]


class InversionSummary(_Part):
    """One inversion, over all pairs."""

    method: str
    nearer_rate: float = Field(description="as of all inversions together")
    tolerance: float = Field(description="largest mean squared difference of logits that counts")
    median_distance: float | None = Field(description="failures as infinite; null if that")
    best_on: float = Field(
        description="share of pairs with its success the nearest of all inversions; ties count"
    )
    max_feature_mse: float | None = Field(description="over the successes; null if none")


class ClassPair(_Part):
    """The pairs of two classes: a cell of the matrix of all classes."""

    logits: str = Field(description="class of the samples whose logits are reached")
    image: str = Field(description="class of the images that are moved")
    pairs: int
    median_distance: float | None = Field(description="L2, failures as infinite; null if that")


class Invariance(_Part):
    """How far inputs can be from each other with the same logits.

    For each sample a random image of another class is moved until it has the sample's logits.
    Small distances say: almost any picture can be given these logits. Every pair counts with the
    nearest success of all inversions.
    """

    method: str = Field(description="the inversion, or several")
    pairs: int
    nearer_rate: float = Field(
        description="share of pairs with a point nearer than the sample whose logits it has"
    )
    tolerance: float = Field(description="largest mean squared difference of logits that counts")
    median_distance: float | None = Field(
        description="L2 from the other image, at most the distance between the two"
    )
    median_distance_linf: float | None
    median_between_images: float = Field(description="L2 between the two images, for comparison")
    max_feature_mse: float | None = Field(description="over the successes; null if none")
    inversions: list[InversionSummary] = []
    by_class: list[ClassPair] = Field(
        default=[], description="for every two classes that have pairs, in the order of the classes"
    )


class OnManifold(_Part):
    """Examples on the data manifold, and whether the regular ones lie off it.

    On the manifold a success is an input as the data have them: a generalisation error.
    """

    decoder: str = Field(description="what the manifold is")
    method: str
    samples: int = Field(description="classified rightly, as they are and as the decoder has them")
    success_rate: float | None = Field(description="of these; null without any")
    lower: float | None = Field(description="95 % interval of the success rate (Wilson)")
    upper: float | None
    norm: str = Field(description="of the latent codes")
    median_latent_distance: float | None = Field(description="of the codes, over the successes")
    median_distance: float | None = Field(description="L2 of the inputs, over the successes")
    regular_examples: int = Field(description="nearest examples of the attacks, projected")
    median_off_manifold: float | None = Field(description="L2 from the manifold to these")
    median_samples_off_manifold: float | None = Field(
        description="L2 from the manifold to their samples: how coarse the decoder is"
    )
    median_ratio: float | None = Field(
        description="of median_off_manifold to how far they moved in L2: 1 where they leave at "
        "right angles; null where the samples themselves are not nearer by far"
    )


class MethodCost(_Part):
    """Per sample: passes through the network, and seconds."""

    kind: Literal["attack", "certificate", "invariance", "on-manifold"]
    forward: float
    backward: float
    jvp: float
    vjp: float
    seconds: float


class TrustCheck(_Part):
    """A check that the measurement itself is sound."""

    check: str
    passed: bool
    detail: str


class ModelSummary(_Part):
    name: str
    dtype: str
    fingerprint: str = Field(description="SHA-256 of the weights and the architecture")
    parameters: int


class DataSummary(_Part):
    name: str
    split: str
    source: str
    classes: list[str]
    shape: list[int]
    fingerprint: str = Field(description="SHA-256 of the samples, labels and indices measured")


class WholeSplit(_Part):
    """Clean accuracy on the whole split that the measured samples were taken from."""

    samples: int
    accuracy: float


class Summary(_Part):
    """Everything the card and the page show, except the pictures."""

    schema_: str = Field(default=SCHEMA, alias="schema")
    elbowroom: str = Field(description="version of the package")
    config: str = Field(description="hash of the configuration the results were computed with")
    seed: int
    model: ModelSummary
    data: DataSummary
    samples: int
    clean_accuracy: float = Field(description="on the samples measured")
    whole_split: WholeSplit | None = None
    sensitivity: Sensitivity
    invariance: Invariance | None
    on_manifold: OnManifold | None = None
    classes: list[ClassSummary]
    cost: dict[str, MethodCost]
    trust: list[TrustCheck]

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )


def json_schema() -> str:
    """The JSON schema of `summary.json`, as `docs/summary.schema.json` has it."""
    return json.dumps(Summary.model_json_schema(by_alias=True), indent=2) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
