"""The losses between queries and texts: what each computes, in numbers, and that they cost nothing when off."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.losses.alignment import AlignmentLoss, contrastive, matched_queries
from sam3_hyperet.losses.grounding import MATCHED, TOTAL, GroundingLoss
from sam3_hyperet.losses.options import AlignmentOptions, LossOptions, LossWeights
from sam3_hyperet.losses.text_pruning import pruned
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.options import read_options
from sam3_hyperet.training.stages import set_training_mode

PICTURES = (
    [("small red car", [(10, 10, 50, 40), (60, 60, 100, 120)]), ("sky", []), ("window of a house", [(0, 0, 128, 30)])],
    [("sky", [(0, 0, 128, 60)]), ("small red car", [(70, 70, 120, 100)])],
)
BOTH = {"alignment": 1.0, "entailment": 1.0}


@pytest.fixture(scope="module")
def batch(make_batch):
    return make_batch(*PICTURES)


@pytest.fixture
def adapted(model, randomized):
    """In stage 1 and training mode, away from the identity, with an adjustment of the text as well."""
    randomized(hy.inject(model, hy.HyperETConfig(sites=["fpn", "prompt"])), scale=0.05)
    hy.set_stage(model, 1)
    set_training_mode(model)
    return model


def loss_of(model, **options):
    options = LossOptions(**options)
    return GroundingLoss(model, options)


def lifted(v, c):
    """exp_o of MERU with tangent vectors 2v."""
    angle = 2.0 * c**0.5 * v.norm(dim=-1, keepdim=True)
    return torch.cat([angle.cosh() / c**0.5, angle.sinh() * v / v.norm(dim=-1, keepdim=True) / c**0.5], dim=-1)


def lorentz_inner(x, y):
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


def test_the_terms_are_the_published_formulae_of_queries_and_texts(adapted, batch):
    """In float64, from the outputs of the model, written out anew."""
    c, temperature, k = 0.7, 0.2, 0.3
    loss = AlignmentLoss(AlignmentOptions(**BOTH, temperature=temperature, curvature=c, min_radius=k))
    output = adapted(batch)[-1]
    with torch.no_grad():
        terms = loss(adapted, batch, output)

    places = {}
    for prompt, query in zip(*(index.tolist() for index in output["indices"][:2]), strict=True):
        best = places.get(prompt)
        if best is None or output["pred_logits"][prompt, query] > output["pred_logits"][prompt, best]:
            places[prompt] = query
    assert sorted(places) == [0, 2, 3, 4]
    texts = ["small red car", "window of a house", "sky", "small red car"]
    visual = torch.stack([output["queries"][p, places[p]] for p in sorted(places)]).double().detach() / 8.0  # √64
    with torch.no_grad():
        words = adapted.backbone.forward_text(texts, device="cpu")
    features, padding = words["language_features"].double(), words["language_mask"]
    text = torch.stack([features[~padding[i], i].mean(0) for i in range(4)]) / 8.0
    x, y = lifted(visual, c), lifted(text, c)
    logits = -torch.acosh(-c * lorentz_inner(x[:, None], y[None])) / c**0.5 / temperature
    expected = 0.0
    for scores in (logits, logits.T):
        for i in range(4):
            others = [j for j in range(4) if j == i or texts[j] != texts[i]]
            expected -= float(scores[i, i] - scores[i, others].logsumexp(0)) / 8.0
    assert float(terms["alignment_loss"]) == pytest.approx(expected, rel=1e-4)

    product = c * lorentz_inner(y, x)
    s = y[:, 1:].norm(dim=-1)
    exterior = torch.acos((x[:, 0] + y[:, 0] * product) / (s * (product**2 - 1).sqrt()))
    aperture = torch.asin((2 * k / (c**0.5 * s)).clamp_max(1.0))
    expected = (exterior - aperture).clamp_min(0.0).mean()
    assert expected > 0.05
    assert float(terms["entailment_loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_weights_multiply_the_terms_in_the_total_and_leave_the_rest(adapted, batch):
    plain = GroundingLoss(adapted, LossOptions())(adapted, batch, adapted(batch))
    terms = loss_of(adapted, alignment=3.0, entailment=5.0)(adapted, batch, adapted(batch))
    extra = 3.0 * terms["alignment_loss"] + 5.0 * terms["entailment_loss"]
    assert extra > 1.0
    torch.testing.assert_close(terms[TOTAL], plain[TOTAL] + extra)
    assert torch.equal(terms[MATCHED], plain[MATCHED])
    assert terms.keys() - plain.keys() == {"alignment_loss", "entailment_loss"}
    assert all(torch.equal(terms[name], plain[name]) for name in plain if name != TOTAL)


def test_without_weights_nothing_is_computed(adapted, batch, monkeypatch):
    plain = GroundingLoss(adapted, LossOptions())(adapted, batch, adapted(batch))
    for name in ("matched_queries", "pruned", "mean_text"):
        monkeypatch.setattr(f"sam3_hyperet.losses.alignment.{name}", lambda *_: pytest.fail("computed"))
    before = torch.get_rng_state()
    terms = loss_of(adapted, query="random", prune_probability=1.0)(adapted, batch, adapted(batch))
    assert torch.equal(torch.get_rng_state(), before)
    assert terms.keys() == plain.keys()
    assert all(torch.equal(terms[name], plain[name]) for name in plain)


@pytest.mark.parametrize("weight", ["alignment", "entailment"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_gradients_are_finite_and_reach_the_adapters_alone(adapted, batch, weight, bf16):
    options = AlignmentOptions(**{weight: 1.0}, prune_probability=1.0, query="random")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        (term,) = AlignmentLoss(options)(adapted, batch, adapted(batch)[-1]).values()
    assert term.dtype == torch.float32
    term.backward()
    moved = {name for name, p in adapted.named_parameters() if p.grad is not None and (p.grad != 0.0).any()}
    assert moved == {  # the decoder's queries do not see the first level, which only masks are made from
        "backbone.fpn_adjustment.adjustments.1.matrix.offset",
        "backbone.prompt_adjustment.hyperet.matrix.offset",
    }
    assert all(p.grad.isfinite().all() for p in adapted.parameters() if p.grad is not None)


@pytest.mark.parametrize("pictures", [([("car", [])],), ([("car", [(0, 0, 60, 60)])],)], ids=["no pair", "one pair"])
def test_batches_without_negatives(adapted, make_batch, pictures):
    batch = make_batch(*pictures)
    terms = loss_of(adapted, **BOTH, prune_probability=0.5)(adapted, batch, adapted(batch))
    assert terms["alignment_loss"].detach() == 0.0
    assert terms["entailment_loss"].isfinite()
    terms[TOTAL].backward()
    assert all(p.grad.isfinite().all() for name, p in adapter_parameters(adapted) if "prompt" not in name)


def test_optimizing_the_terms_lowers_them(adapted, batch):
    loss = AlignmentLoss(AlignmentOptions(**BOTH, temperature=0.5))
    optimizer = torch.optim.Adam([p for _, p in adapter_parameters(adapted)], lr=1e-2)
    totals = []
    for _ in range(12):
        total = sum(loss(adapted, batch, adapted(batch)[-1]).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.6 * totals[0]


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e3, 1e20])
def test_embeddings_of_any_length_have_finite_terms(adapted, batch, scale):
    output = adapted(batch)[-1]
    queries = (scale * output["queries"].detach()).requires_grad_()
    terms = AlignmentLoss(AlignmentOptions(**BOTH))(adapted, batch, {**output, "queries": queries})
    (gradient,) = torch.autograd.grad(sum(terms.values()), queries)
    assert all(term.isfinite() for term in terms.values())
    assert gradient.isfinite().all()


def fake_output():
    """Three prompts, six queries; the second prompt has no match."""
    prompts, queries = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([1, 3, 5, 0, 4])
    scores = torch.tensor([[9.0, 1, 9, 3, 9, 2], [9] * 6, [-4, 9, 9, 9, -3, 9]])
    return {"indices": (prompts, queries, None), "pred_logits": scores[..., None]}


def test_the_best_query_is_the_one_of_highest_score_among_the_matched():
    prompts, queries = matched_queries(fake_output(), "best")
    assert prompts.tolist() == [0, 2]
    assert queries.tolist() == [3, 4]


def test_random_queries_are_drawn_evenly_among_the_matched_and_repeat_with_the_generator():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    draws = [matched_queries(fake_output(), "random")[1].tolist() for _ in range(600)]
    first, second = zip(*draws, strict=True)
    assert set(first) == {1, 3, 5}
    assert set(second) == {0, 4}
    assert all(150 < first.count(query) < 250 for query in (1, 3, 5))  # 200 expected, σ 11.5
    assert 250 < second.count(0) < 350
    torch.set_rng_state(state)
    assert [matched_queries(fake_output(), "random")[1].tolist() for _ in range(600)] == draws


def test_contrastive_of_known_numbers():
    assert float(contrastive(torch.zeros(3, 3), ["a", "b", "c"])) == pytest.approx(math.log(3))
    assert float(contrastive(torch.zeros(3, 3), ["a", "b", "a"])) == pytest.approx((2 * math.log(2) + math.log(3)) / 3)
    assert float(contrastive(torch.randn(3, 3), ["a", "a", "a"])) == 0.0
    one_way = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # every query likes text 0; texts cannot tell the queries apart
    rows = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert float(contrastive(one_way, ["a", "b"])) == pytest.approx((rows + math.log(2)) / 2)


@given(st.integers(0, 2**31 - 1), st.lists(st.sampled_from("abcd"), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_contrastive_does_not_see_other_pairs_of_the_same_text(seed, texts):
    n = len(texts)
    similarity = torch.randn(n, n, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    (gradient,) = torch.autograd.grad(contrastive(similarity, texts), similarity)
    assert gradient.isfinite().all()
    for i in range(n):
        for j in range(n):
            assert (gradient[i, j] == 0.0) == (texts[i] == texts[j] and (i != j or len(set(texts)) == 1))


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("car", "car"),
        ("small red car", "car"),
        ("window of a house", "window"),
        ("Big Window Of a small House", "Window"),
        ("person with a red hat on the head", "person"),
        ("inside of a house", "inside of a house"),
    ],
)
def test_pruning_everything_leaves_the_head_noun(text, head):
    assert pruned(text, 1.0) == head
    assert pruned(text, 0.0) == text


WORDS = st.lists(st.sampled_from(["red", "small", "old", "car", "of", "with", "house", "a"]), min_size=1, max_size=7)


@given(WORDS, st.floats(0.0, 1.0), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_pruning_keeps_the_head_and_the_order(words, probability, seed):
    torch.manual_seed(seed)
    text = " ".join(words)
    left, head = pruned(text, probability).split(), pruned(text, 1.0).split()
    rest = iter(words)
    assert all(word in rest for word in left)  # a subsequence
    assert head == words or (len(head) == 1 and head[0] in left)


def test_words_are_dropped_one_by_one_and_what_follows_the_head_as_a_whole():
    torch.manual_seed(0)
    drawn = [pruned("red car on a road", 0.25) for _ in range(1000)]
    assert set(drawn) == {"red car on a road", "car on a road", "red car", "car"}
    assert 510 < drawn.count("red car on a road") < 615  # 562.5 expected, σ 15.7
    assert 145 < drawn.count("car on a road") < 230  # 187.5, σ 12.3
    assert 40 < drawn.count("car") < 85  # 62.5, σ 7.7


def test_pruned_texts_are_read_by_these_losses_alone(adapted, batch, monkeypatch):
    """Alignment takes the pruned text in place of the text; entailment takes both; grounding neither."""
    asked = []
    encode = adapted.backbone.forward_text

    def spy(captions, **options):
        asked.append(list(captions))
        return encode(captions, **options)

    monkeypatch.setattr(adapted.backbone, "forward_text", spy)
    plain = loss_of(adapted)(adapted, batch, adapted(batch))
    whole = loss_of(adapted, **BOTH)(adapted, batch, adapted(batch))
    assert asked == [["small red car", "sky", "window of a house"]] * 2
    terms = loss_of(adapted, **BOTH, prune_probability=1.0)(adapted, batch, adapted(batch))
    assert asked[2:] == [["small red car", "sky", "window of a house"], ["car", "window", "sky"]]
    assert terms["alignment_loss"] != whole["alignment_loss"]
    assert terms["entailment_loss"] > whole["entailment_loss"]  # a pruned text has a cone to hold the text, too
    assert all(torch.equal(terms[name], plain[name]) for name in plain if name != TOTAL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": "worst"}, "loss.query='worst' is unknown; expected one of best, random"),
        ({"alignment": -1.0}, r"loss.alignment=-1.0; expected a weight from 0"),
        ({"entailment": float("nan")}, r"loss.entailment=nan; expected a weight from 0"),
        ({"temperature": 0.0}, r"loss.temperature=0.0; expected a positive number"),
        ({"curvature": -0.1}, r"loss.curvature=-0.1; expected a positive number"),
        ({"min_radius": 0.0}, r"loss.min_radius=0.0; expected a positive number"),
        ({"prune_probability": 1.5}, r"loss.prune_probability=1.5; expected a probability"),
        ({"aligment": 1.0}, r"loss.aligment is not an option; expected one of alignment, entailment, temperature"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        read_options(LossOptions, options, "loss")


def test_the_terms_are_off_by_default():
    assert LossOptions().alignment == LossOptions().entailment == 0.0
    assert {field.name for field in fields(LossOptions)} == vars(LossWeights()).keys() | vars(AlignmentOptions()).keys()
