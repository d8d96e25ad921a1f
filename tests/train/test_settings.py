"""Arguments that no training can have, and packages that are not there, are told before anything is loaded."""

from pathlib import Path

import pytest
import torch

from tiny_table import table
from trimtab.train import settings
from trimtab.train.settings import TrainingError


def built(loop="supervised", **training):
    return settings.build(settings.check(training, loop), Path("nowhere"), 0, loop)


def refused(loop="supervised", **training) -> str:
    with pytest.raises(TrainingError) as caught:
        built(loop, **training)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("training")
    return message


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "neptune", "comet_ml", "dagshub"])
def test_a_tracker_that_is_not_installed_is_reported(tracker, capfd):
    assert f"training.report_to={tracker}" in refused(report_to=tracker)
    assert f"training.report_to={tracker}" in refused(report_to=[tracker])
    assert "Traceback" not in capfd.readouterr().err


def test_trackers_that_are_there_or_none_are_taken():
    assert built(report_to="none").report_to == []
    built(report_to="all")


@pytest.mark.parametrize(
    ("optimizer", "package"),
    [
        ("adamw_8bit", "bitsandbytes"),
        ("paged_lion_32bit", "bitsandbytes"),
        ("galore_adamw", "galore_torch"),
        ("adamw_torch_4bit", "torchao"),
        ("schedule_free_adamw", "schedulefree"),
        ("lomo", "lomo_optim"),
    ],
)
def test_an_optimizer_whose_package_is_not_installed_is_reported(optimizer, package):
    message = refused(optim=optimizer)
    assert f"training.optim={optimizer}" in message
    assert package in message


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"])
def test_optimizers_of_torch_are_taken(optimizer):
    assert built(optim=optimizer).optim == optimizer


@table(
    ("key", "value"),
    [
        ("gradient_accumulation_steps", 0), ("per_device_train_batch_size", 0), ("num_train_epochs", 0),
        ("max_steps", 0), ("max_steps", -2), ("logging_steps", 0), ("save_steps", 0), ("learning_rate", -1e-3),
        ("learning_rate", float("nan")), ("learning_rate", float("inf")), ("adam_beta1", 1.0), ("adam_epsilon", 0),
        ("max_grad_norm", -1), ("warmup_steps", -1), ("save_total_limit", 0), ("train_sampling_strategy", "shuffled"),
    ],
)  # fmt: skip
def test_an_impossible_value_is_named_with_what_is_possible(key, value):
    assert f"training.{key} is " in refused(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_iterations", 0), ("temperature", 0), ("top_p", 0), ("top_p", 1.5), ("repetition_penalty", 0)],
)
def test_so_is_one_of_rollouts(key, value):
    assert f"training.{key} is " in refused("rollouts", **{key: value})


def test_the_edges_of_what_is_possible_are_taken():
    built(gradient_accumulation_steps=1, max_steps=-1, learning_rate=0, adam_beta1=0, warmup_steps=0, weight_decay=0)
    built("rollouts", top_p=1, top_k=0, min_p=0)


def test_a_schedule_that_lacks_or_does_not_know_an_argument_is_reported():
    assert "lr_scheduler_type=cosine_with_min_lr" in refused(lr_scheduler_type="cosine_with_min_lr")
    assert "lr_scheduler_type=linear" in refused(lr_scheduler_kwargs={"slope": 2})
    built(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.1})


def test_a_router_loss_of_rollouts_is_refused_for_what_it_is():
    with pytest.raises(
        TrainingError, match=r"router_aux_loss_coef=0.01: the router loss is added to training on rows a"
    ):
        settings.check({"router_aux_loss_coef": 0.01}, "rollouts")
    assert settings.check({"router_aux_loss_coef": 0.01})["router_aux_loss_coef"] == 0.01


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_fp16_on_a_cpu_is_refused_as_it_would_train_in_float32(tmp_path):
    with pytest.raises(TrainingError, match="fp16=True needs a GPU"):
        settings.build({"fp16": True}, tmp_path, 0)
    settings.build({"bf16": True, "use_cpu": True}, tmp_path, 0)
