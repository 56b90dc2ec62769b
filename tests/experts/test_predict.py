"""Predictors and how they are scored."""

from __future__ import annotations

import pytest

from moeflux.experts.predict import Combined, NextRouter, PredictionScore, PreviousToken


def test_nothing_is_predicted_until_a_layer_was_seen() -> None:
    predictor = PreviousToken(n_layers=3)
    predictor.record(0, [4, 2])
    assert predictor.predict(1) == ()


def test_nothing_is_predicted_past_the_last_layer() -> None:
    predictor = PreviousToken(n_layers=3)
    for layer in range(3):
        predictor.record(layer, [layer])
    assert predictor.predict(3) == ()
    assert predictor.predict(-1) == ()


def test_the_previous_token_predicts_its_experts_best_first() -> None:
    predictor = PreviousToken(n_layers=2)
    predictor.record(1, [9, 2, 5])
    assert predictor.predict(1) == (9, 2, 5)


def test_recording_replaces_what_was_recorded_before() -> None:
    predictor = PreviousToken(n_layers=1)
    predictor.record(0, [1, 2])
    predictor.record(0, [2, 3])
    assert predictor.predict(0) == (2, 3)


def test_forgetting_leaves_no_layer_seen() -> None:
    predictor = PreviousToken(n_layers=2)
    predictor.record(0, [1])
    predictor.record(1, [1])
    predictor.forget()
    assert [predictor.predict(layer) for layer in range(2)] == [(), ()]


def test_the_next_router_predicts_what_was_offered() -> None:
    predictor = NextRouter(n_layers=2)
    predictor.offer(1, [7, 3, 7])
    assert predictor.predict(1) == (7, 3)
    assert predictor.predict(0) == ()


def test_an_offer_past_the_last_layer_is_ignored() -> None:
    predictor = NextRouter(n_layers=2)
    predictor.offer(2, [7])
    assert predictor.predict(2) == ()


def test_an_offer_serves_one_token_only() -> None:
    predictor = NextRouter(n_layers=2)
    predictor.offer(1, [7])
    predictor.record(1, [4])
    assert predictor.predict(1) == ()


def test_forgetting_withdraws_offers() -> None:
    predictor = NextRouter(n_layers=2)
    predictor.offer(1, [7])
    predictor.forget()
    assert predictor.predict(1) == ()


def combined() -> tuple[NextRouter, PreviousToken, Combined]:
    router, previous = NextRouter(1), PreviousToken(1)
    return router, previous, Combined((router, previous))


def test_combined_puts_first_what_all_predictors_name() -> None:
    router, _, both = combined()
    both.record(0, [1, 2])
    router.offer(0, [5, 2])
    assert both.predict(0)[0] == 2
    assert set(both.predict(0)) == {1, 2, 5}


def test_combined_trusts_the_predictor_that_was_right() -> None:
    router, _, both = combined()
    for token in range(20):
        router.offer(0, [token + 1])
        both.record(0, [token + 1])
    router.offer(0, [77])
    assert both.predict(0) == (77, 20)


def test_combined_distrusts_the_predictor_that_was_wrong() -> None:
    router, _, both = combined()
    for _ in range(20):
        router.offer(0, [50])
        both.record(0, [1])
    router.offer(0, [50])
    assert both.predict(0) == (1, 50)


def test_combined_forgets_in_all_its_parts() -> None:
    router, _, both = combined()
    both.record(0, [1])
    router.offer(0, [2])
    both.forget()
    assert both.predict(0) == ()


def test_recall_matches_predicted_and_routed_experts_as_sets() -> None:
    score = PredictionScore()
    score.record([1, 2, 3], [3, 9, 1, 8], [])
    assert score.recall == 2 / 4


def test_recall_on_would_be_misses_leaves_out_what_was_in_memory() -> None:
    score = PredictionScore()
    score.record([1, 2, 3], [1, 2, 3, 4], would_miss=[3, 4])
    assert (score.recall, score.miss_recall) == (3 / 4, 1 / 2)


def test_precision_is_kept_by_rank() -> None:
    score = PredictionScore()
    score.record([1, 2], [1, 9], [])
    score.record([1, 2, 3], [1, 3], [])
    assert score.precision_by_rank == (1.0, 0.0, 1.0)


def test_a_layer_without_a_prediction_counts_against_recall() -> None:
    score = PredictionScore()
    score.record([], [1, 2], [1])
    score.record([1, 2], [1, 2], [1])
    assert (score.recall, score.miss_recall) == (1 / 2, 1 / 2)
    assert score.precision_by_rank == (1.0, 1.0)


def test_scores_are_zero_before_anything_was_routed() -> None:
    score = PredictionScore()
    assert (score.recall, score.miss_recall, score.precision_by_rank) == (0.0, 0.0, ())


def test_the_chance_of_a_rank_is_even_without_trials_and_approaches_its_precision() -> None:
    score = PredictionScore()
    assert score.chance(0) == 0.5
    for _ in range(998):
        score.record([1], [1], [])
    assert score.chance(0) == pytest.approx(0.999)
