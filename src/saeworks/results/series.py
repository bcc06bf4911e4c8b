"""Series of results: what a page reads of a site beyond single numbers.

The study that measures builds a record; its result holds it as plain JSON; the report reads it as
the same record. N experts or blocks, n latents on a map.
"""

from dataclasses import field
from typing import Literal

from pydantic import RootModel
from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.results.metric import Value
from saeworks.results.names import BlockKind
from saeworks.results.records import check_lengths

Matrix = list[list[float | None]]

CONFIDENCE = "confidence"
"""A histogram of the router's confidence; also the metric, its mean."""
QUEEN = "queen"
"""Shares of concepts with different latents, over thresholds of φ; also the metric, at one."""


@dataclass(frozen=True, config=STRICT)
class Histogram:
    """Counts between consecutive edges."""

    edges: list[float]
    counts: list[int]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError("a histogram has one edge more than counts")


@dataclass(frozen=True, config=STRICT)
class Neighbour:
    """Another latent of the same SAE and the cosine of their decoder rows."""

    latent: int
    cosine: float | None


@dataclass(frozen=True, config=STRICT)
class Partner:
    """Another latent of the same SAE that fires on the same tokens."""

    latent: int
    phi: float | None
    """Correlation of whether the two fire: φ = (N n_ij − n_i n_j) / √(n_i n_j (N − n_i)(N − n_j)),
    of N tokens, on n_i of which the first fires, on n_j the other, on n_ij both."""
    share: float | None
    """n_ij/n_i: of the tokens on which the first fires, those on which the other does, too."""


@dataclass(frozen=True, config=STRICT)
class TokenEffect:
    """A token of the vocabulary, as text, and what a unit of a latent's activation adds to its
    logit by the direct path (`Choice.effects`)."""

    token: str
    effect: float | None


@dataclass(frozen=True, config=STRICT)
class TokenContext:
    """A stretch of text with one latent's activation on each token."""

    kind: Literal["top", "quantile"]
    """Among the largest activations, or at a quantile of a sample."""
    tokens: list[str]
    activations: list[float | None]
    peak: int
    """Place of the largest activation."""
    document: int
    """Number in the corpus."""

    def __post_init__(self) -> None:
        tokens, activations = len(self.tokens), len(self.activations)
        if tokens != activations:
            raise ValueError(f"a context of {tokens} tokens and {activations} activations")
        if not 0 <= self.peak < tokens:
            raise ValueError(f"a context of {tokens} tokens with its peak at {self.peak}")


@dataclass(frozen=True, config=STRICT)
class Latent:
    """One latent of the browser."""

    latent: int
    frequency: float | None
    mean_activation: float | None
    """Over the tokens on which it fires."""
    max_activation: float | None
    histogram: Histogram
    """Its activations."""
    neighbours: list[Neighbour]
    contexts: list[TokenContext]
    promoted: list[TokenEffect] = field(default_factory=list)
    """Tokens whose logits it raises most, the first one most; none where there is no direct
    effect."""
    suppressed: list[TokenEffect] = field(default_factory=list)
    """Tokens whose logits it lowers most."""
    partners: list[Partner] = field(default_factory=list)
    """Latents that it fires with, by φ from the largest down, of all of the SAE."""
    expert: int | None = None
    """That computes it, where the SAE has experts."""


CHOICE = "choice"
"""The key of a site's `Choice` beside its latents."""


@dataclass(frozen=True, config=STRICT)
class Choice:
    """How the browser's latents were chosen, and among how many."""

    width: int
    live: int
    how: str
    effects: str | None = None
    """What promoted and suppressed tokens are effects of, or why there are none: a clause."""
    partners: str | None = None
    """Over which tokens the latents that fire together were counted: a clause."""


@dataclass(frozen=True, config=STRICT)
class LatentConcept:
    """A known concept that a latent detects."""

    latent: int
    concept: str
    f1: float | None


@dataclass(frozen=True, config=STRICT)
class LatentVerdict:
    """What a person said of a latent."""

    latent: int
    verdict: str
    note: str = ""
    rater: str = ""


OF_LATENTS = "of_latents"
"""The key of a list, of what a study says of single latents of a site, which the report's browser
of latents shows: `LatentConcept` of concepts, `LatentVerdict` of study."""


KNOWN_CONCEPTS = "known_concepts"
"""The key of a site's list of `KnownConcept`."""


@dataclass(frozen=True, config=STRICT)
class ConceptProbe:
    """A sparse probe of one concept: how many latents, which, how well they do together."""

    k: int
    latents: list[int]
    f1: float | None
    auroc: float | None


@dataclass(frozen=True, config=STRICT)
class Absorber:
    """A latent that carries a concept where the concept's main latents are silent."""

    latent: int
    tokens: int


@dataclass(frozen=True, config=STRICT)
class ConceptCarried:
    """What carries a concept where the dense probe finds it, by ablation of latents."""

    known: int
    """Tokens with the concept on which the dense probe says so."""
    missed: int
    """Of them, those on which none of the concept's main latents fires,"""
    absorbed: int
    """and one other latent carries it alone,"""
    decisive: int
    """and without that one latent the probe no longer says so."""
    absorbers: list[Absorber]
    """Those of most tokens."""
    needed: int | None
    """How many latents must be ablated before the probe finds half as many tokens; None where all
    that were tried are not enough."""
    ablated: list[int]
    """In this order."""


@dataclass(frozen=True, config=STRICT)
class ConceptExpert:
    """An expert that codes a concept, the latent that does it, its F1 on the expert's tokens."""

    expert: int
    latent: int
    f1: float


@dataclass(frozen=True, config=STRICT)
class KnownConcept:
    """One concept at one site; all scores are on documents on which nothing was chosen."""

    concept: str
    value: str
    positives: int
    """Tokens with it, of those it is scored on."""
    tokens: int
    chance: float | None
    """F1 of saying that it stands on every token."""
    latent: int
    """The best single latent, which detects the concept where its activation is above"""
    threshold: float
    f1: float | None
    low: float | None
    high: float | None
    auroc: float | None
    precision: float | None
    """Average precision."""
    probes: list[ConceptProbe]
    main: list[int]
    """The latents that code it together; more than one where it is split."""
    dense: float | None
    """F1 of the dense probe on the activation."""
    neurons: float | None
    """F1 of the best MLP neuron, PCA direction, latent with random directions."""
    directions: float | None
    random: float | None
    carried: ConceptCarried
    experts: list[ConceptExpert]
    """Those that code it; none for an SAE without experts."""
    asked: int
    """Experts that could."""


@dataclass(frozen=True, config=STRICT)
class Load:
    """Shares of the visits, mean confidence and live latents of each expert."""

    share: list[float]
    confidence: list[float | None]
    live: list[int]

    def __post_init__(self) -> None:
        check_lengths(self.share, self.confidence, self.live)


@dataclass(frozen=True, config=STRICT)
class OverlapMatrix:
    """The share of the chosen expert's active directions that another expert has, too."""

    matrix: Matrix | None
    """[N, N]; None where N is large."""


@dataclass(frozen=True, config=STRICT)
class Domains:
    """How the visits of each domain are shared among the experts."""

    labels: list[str]
    share: Matrix
    """A row per label, a column per expert."""
    documents: list[int]

    def __post_init__(self) -> None:
        check_lengths(self.labels, self.share, self.documents)


@dataclass(frozen=True, config=STRICT)
class Similarity:
    """Between blocks: the experts, or equal runs of latents."""

    kind: BlockKind
    blocks: int
    live: list[int]
    """Live latents of each block."""
    matrix: Matrix | None
    """[N, N] mean cosines; None where N is large."""
    control: Matrix | None
    """The same with latents shuffled over the blocks."""

    def __post_init__(self) -> None:
        for matrix in (self.matrix, self.control):
            if matrix is not None:
                check_lengths(range(self.blocks), matrix, *matrix)


@dataclass(frozen=True, config=STRICT)
class Duplicates:
    """Shares of live latents with a neighbour beyond each threshold, and of random rows."""

    thresholds: list[float]
    shares: list[float | None]
    random: list[float | None]

    def __post_init__(self) -> None:
        check_lengths(self.thresholds, self.shares, self.random)


@dataclass(frozen=True, config=STRICT)
class Nearest:
    """Live latents by the cosine with their nearest neighbour, and random rows by theirs."""

    edges: list[float]
    counts: list[int]
    random: list[int]
    random_rows: int

    def __post_init__(self) -> None:
        check_lengths(self.edges[1:], self.counts, self.random)


@dataclass(frozen=True, config=STRICT)
class Tsne:
    """Places of live latents on two maps."""

    perplexity: float
    latents: list[int]
    expert: list[int]
    """Or block."""
    decoder: list[list[float]]
    """[n, 2], by decoder rows."""
    encoder: list[list[float]]

    def __post_init__(self) -> None:
        check_lengths(self.latents, self.expert, self.decoder, self.encoder)
        check_lengths((0, 0), *self.decoder, *self.encoder)


@dataclass(frozen=True, config=STRICT)
class Queen:
    """Concepts with different latents in different experts, over thresholds of φ."""

    thresholds: list[float]
    queen: list[float | None]
    coded: list[float | None]

    def __post_init__(self) -> None:
        check_lengths(self.thresholds, self.queen, self.coded)


@dataclass(frozen=True, config=STRICT)
class Coded:
    """A concept's latent in one expert."""

    expert: int
    latent: int
    phi: float


@dataclass(frozen=True, config=STRICT)
class CodedConcept:
    """A known concept, where it is coded."""

    concept: str
    value: str
    places: int
    """Experts in which it could be."""
    coded: list[Coded]
    cosine: float | None
    """Mean over pairs of the latents' decoder rows."""


class CodedConcepts(RootModel[list[CodedConcept]]):
    """All that could be coded in two places or more."""


EXPLAINED = "explained"
"""The key of a site's list of `Explained` latents."""
DRAWN = "drawn"
"""The key of a site's `Drawn` beside it."""


@dataclass(frozen=True, config=STRICT)
class Score:
    """A metric of the result, of one latent; with its 95% interval over documents."""

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, config=STRICT)
class Explanation:
    """A text that says when a latent fires, and how well it tells that on text that it was not made
    from."""

    by: Literal["program", "model"]
    """A small program, or a language model."""
    text: str
    scores: list[Score]


@dataclass(frozen=True, config=STRICT)
class Explained:
    """One latent with its explanations."""

    latent: int
    fired: int
    """Tokens that it fires on."""
    explanations: list[Explanation]


@dataclass(frozen=True, config=STRICT)
class Drawn:
    """Which latents were explained, and among how many."""

    width: int
    dead: int
    """They never fire."""
    rare: int
    """They fire on fewer than `least` tokens of a half of the documents: too few to explain."""
    least: int
    explained: int
    how: str


GRAPH = "graph"
"""The key of a `CircuitGraph`."""


@dataclass(frozen=True, config=STRICT)
class GraphNode:
    """A latent at one position of a case's prompts; numbers are means over the prompts."""

    site: str
    position: int
    latent: int
    effect: float
    """On m, as it goes from its clean to its patched activation."""
    direct: float
    """What of the effect reaches m through no other node."""
    clean: float
    """Its activation on the clean prompts."""
    patch: float
    label: str
    """What the latent is called; empty where it has no name."""
    promoted: list[str]
    """The tokens whose logits its decoder row raises most."""


@dataclass(frozen=True, config=STRICT)
class GraphEdge:
    """What of a node's effect goes through another node, by paths that meet no third one."""

    source: int
    """Place in the list of nodes."""
    target: int
    weight: float


@dataclass(frozen=True, config=STRICT)
class CircuitGraph:
    """The latents of a circuit at the positions of one case's prompts, and how they act on one
    another."""

    task: str
    case: str
    prompts: int
    sites: list[str]
    """As the model computes them."""
    tokens: list[str]
    """Of the first prompt."""
    varies: list[bool]
    """Whether a position's token differs between the prompts."""
    clean_answer: str
    """The right one after the first prompt."""
    patch_answer: str
    clean: float
    """m of the clean prompts."""
    patch: float
    """m of the patched prompts."""
    nodes: list[GraphNode]
    edges: list[GraphEdge]
    """The largest by |weight|, at most as many as `all_edges`."""
    all_edges: int
    """How many there are with a weight that is not 0."""

    def __post_init__(self) -> None:
        check_lengths(self.tokens, self.varies)
        for node in self.nodes:
            if not 0 <= node.position < len(self.tokens) or node.site not in self.sites:
                raise ValueError(f"a node at {node.site}, position {node.position}")
        for edge in self.edges:
            if not (0 <= edge.source < len(self.nodes) and 0 <= edge.target < len(self.nodes)):
                raise ValueError(f"an edge from node {edge.source} to {edge.target}")


STEERED = "steered"
"""The key of a site's list of `SteeredConcept`."""
SteeredBy = Literal["latents", "mean difference", "random latents", "random directions"]
"""What is pushed: the concept's latents, or what they are compared with."""


@dataclass(frozen=True, config=STRICT)
class SteeringPoint:
    """What one push does."""

    strength: float
    """The norm of the push in units of the site's RMS norm; negative ones push down."""
    cost: Value
    """ΔCE of held-out text, in nats per token."""
    rate: Value
    """Of the generated tokens on which the concept could stand, the share on which it does."""
    nats: float | None
    """Cross-entropy of the generated tokens under the untouched model, per token."""
    task: Value | None
    """Change of the task's logit difference."""


@dataclass(frozen=True, config=STRICT)
class SteeringCurve:
    """A push at every strength, the weakest (the most negative) first; 0 is the untouched model."""

    by: SteeredBy
    points: list[SteeringPoint]


@dataclass(frozen=True, config=STRICT)
class AtCost:
    """Pushes both ways at the same cost, interpolated between strengths."""

    by: SteeredBy
    up: Value
    """The rate, pushed up."""
    down: Value
    span: Value
    """up − down."""
    reached: list[float | None]
    """The cost up and down: the one asked for, or that of the strongest push where it is less."""


@dataclass(frozen=True, config=STRICT)
class SteeredText:
    """What the model wrote after a prompt."""

    prompt: str
    by: SteeredBy | None
    """None of the untouched model."""
    strength: float
    text: str


@dataclass(frozen=True, config=STRICT)
class SteeredConcept:
    """A concept that was pushed up and down."""

    concept: str
    judge: str
    """Who decides where it stands."""
    latents: list[int]
    correlations: list[float | None]
    """Of their activation with the concept, on tokens of their own."""
    prompts: int
    norm: float
    """Of a push of strength 1, in the units of x."""
    cost: float
    """ΔCE at which pushes are compared."""
    advantage: Value
    """Span of the latents less that of the mean difference."""
    at_cost: list[AtCost]
    curves: list[SteeringCurve]
    ablated: SteeringPoint
    """With the latents' activations set to 0."""
    texts: list[SteeredText]


class SteeredConcepts(RootModel[list[SteeredConcept]]):
    """Those of a site."""
