"""What the other files check on two ranks, in one launch: starting ranks takes longer than all of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ranks import RunOnRanks
from tests.unit.core import test_accelerator, test_collectives, test_loader, test_metrics, test_runtime, test_training

BODIES = (
    test_runtime.backend_is_left_alone_until_it_is_asked_for,  # first: joins a group as a user would
    test_runtime.group_of_our_own_is_destroyed_and_made_again,
    test_loader.shuffled_order_is_one_order,
    test_loader.order_is_that_of_one_process,
    test_loader.own_generators_stay_in_step,
    test_loader.ranks_draw_different_numbers_after_an_epoch,
    test_loader.fixed_order_needs_no_other_rank,
    test_loader.every_sample_comes_once_besides_the_padding,
    test_collectives.nested_structures_are_joined_by_rank,
    test_collectives.differing_shapes_are_an_error_on_every_rank,
    test_collectives.padding_reaches_the_longest,
    test_metrics.metrics_see_every_sample_once,
    test_metrics.unrelated_rows_are_left_alone,
    test_metrics.evaluation_inside_a_training_loop_keeps_them_apart,
    test_metrics.loaders_that_are_read_in_turn_are_kept_apart,
    test_metrics.ranks_may_have_different_rows,
    test_metrics.streams_give_every_sample_once,
    test_accelerator.two_ranks_train_as_one_process_on_all_samples,
    test_accelerator.schedule_goes_on_by_ranks_unless_batches_are_split,
    test_accelerator.gradients_are_exchanged_on_the_last_micro_batch_only,
    test_accelerator.models_are_wrapped_where_they_train,
    test_accelerator.main_process_comes_first,
    test_accelerator.verbs_reach_their_modules,
    test_accelerator.another_accelerator_knows_the_padding,
    test_training.sums_give_the_mean_over_all_items_of_all_ranks,
    test_training.all_ranks_leave_out_the_same_step,
    test_training.gradients_travel_compressed,
    test_training.unused_parameters_are_found,
    test_training.gradients_are_exchanged_after_all,
    test_training.a_raw_model_is_refused_a_second_time,
    test_training.compiled_models_exchange_gradients,
    test_training.how_ranks_are_joined_is_settled_once,
)


@pytest.fixture(scope="module")
def passed(run_on_ranks: RunOnRanks) -> list[dict[str, Any]]:
    """Run all bodies; the first failure ends the launch, and its output names the body and the rank."""
    return run_on_ranks(*BODIES)


@pytest.mark.parametrize("body", [body.__name__ for body in BODIES])
def test_on_two_ranks(body: str, passed: list[dict[str, Any]]) -> None:
    assert [body in of_rank for of_rank in passed] == [True, True]


def test_every_body_is_run() -> None:
    marker = "# ---- two ranks: called by test_on_two_ranks.py"
    for module in (test_accelerator, test_collectives, test_loader, test_metrics, test_runtime, test_training):
        with open(module.__file__) as file:
            _, bodies = file.read().split(marker)
        written = {
            line.split("(")[0][4:]
            for line in bodies.splitlines()
            if line.startswith("def ") and line.endswith("() -> None:")
        }
        assert written == {body.__name__ for body in BODIES if body.__module__ == module.__name__}
