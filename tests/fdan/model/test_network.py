"""The network as a whole: Eq. 9, its special cases, and predictions from speech alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from fdan.errors import ConfigError
from fdan.model.local_mmd import lmmd
from fdan.model.network import Head, Network, Standardise, fdan_loss
from fdan.run_config import KernelConfig, ModelConfig

KERNEL = KernelConfig()


def config(**settings: Any) -> ModelConfig:
    base = {"backbone": "resnet18", "weights": "none", "tuning": "frozen", "width": 24, "heads": 2}
    return ModelConfig.from_mapping(base | settings)


def head(**settings: Any) -> Head:
    torch.manual_seed(0)
    return Head(config(**settings)).eval()


def features(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, 512), generator=torch.Generator().manual_seed(seed))


Y_V, Y_A = torch.tensor([0, 1, 2, 3, 0, 6]), torch.tensor([0, 0, 2, 6])


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_loss_is_equation_9(layers: int) -> None:
    made = head(layers=layers)
    x_v, x_a = features(6, 1), features(4, 2)
    z_v, z_a = made.bottleneck["visual"](x_v), made.bottleneck["acoustic"](x_a)
    discrepancy = torch.zeros(()) if layers else lmmd(z_v, z_a, Y_V, Y_A, 7, KERNEL)
    for layer in made.layers:
        z_v, z_a = layer(z_v, z_a)
        discrepancy = discrepancy + lmmd(z_v, z_a, Y_V, Y_A, 7, KERNEL)
    acoustic = cross_entropy(made.classifier(z_a), Y_A)
    visual = cross_entropy(made.classifier(z_v), Y_V)

    found = fdan_loss(made(x_v, x_a), Y_V, Y_A, 0.3, KERNEL)
    torch.testing.assert_close(found.total, acoustic + visual + 0.3 * discrepancy)
    torch.testing.assert_close(found.acoustic, acoustic)
    torch.testing.assert_close(found.visual, visual)
    torch.testing.assert_close(found.lmmd, discrepancy)


def test_alpha_reaches_the_gradient_and_none_of_it_at_zero() -> None:
    def gradient(alpha: float) -> torch.Tensor:
        made = head()
        out = made(features(6, 1), features(4, 2))
        fdan_loss(out, Y_V, Y_A, alpha, KERNEL).total.backward()
        return made.bottleneck["acoustic"][0].weight.grad

    made = head()
    out = made(features(6, 1), features(4, 2))
    (cross_entropy(out.logits_a, Y_A) + cross_entropy(out.logits_v, Y_V)).backward()
    torch.testing.assert_close(gradient(0.0), made.bottleneck["acoustic"][0].weight.grad)
    assert (gradient(0.5) - gradient(0.0)).abs().max() > 1e-4
    # FDAN_2 still measures what it does not minimise.
    assert fdan_loss(out, Y_V, Y_A, 0.0, KERNEL).lmmd > 0


@pytest.mark.parametrize("context", ["bank", "none"])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_prediction_depends_on_its_sample_alone(context: str, layers: int) -> None:
    made = head(layers=layers, context=context)
    bank = made.build_bank(features(14, 3), features(14, 4)) if context == "bank" else None
    x = features(33, 5)
    together = made.predict(x, bank)
    alone = torch.cat([made.predict(row[None], bank) for row in x])
    order = torch.randperm(33, generator=torch.Generator().manual_seed(1))
    shuffled = made.predict(x[order], bank)
    among_others = made.predict(torch.cat([x[:1], 50 * features(7, 6)]), bank)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shuffled, together[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(among_others[0], together[0], rtol=1e-5, atol=1e-5)


def test_a_bank_is_what_training_speech_attends_to() -> None:
    # Speech that passes with the very faces of the bank hears in each layer what the bank kept.
    made = head(layers=2)
    x_v, x_a = features(6, 1), features(4, 2)
    torch.testing.assert_close(
        made.predict(x_a, made.build_bank(x_v, x_a)), made(x_v, x_a).logits_a, rtol=1e-5, atol=1e-5
    )


def test_the_two_contexts_differ() -> None:
    made = head()
    x = features(4)
    bank = made.build_bank(features(6, 1), features(4, 2))
    assert (made.predict(x, bank) - made.predict(x, None)).abs().max() > 1e-3


def test_one_classifier_and_everything_else_apart() -> None:
    made = head(layers=2)
    x = features(5)
    with torch.no_grad():  # both modalities through the same parameters
        for name, parameter in made.named_parameters():
            if "acoustic" in name:
                parameter.copy_(made.get_parameter(name.replace("acoustic", "visual")))
    out = made(x, x)
    torch.testing.assert_close(out.logits_v, out.logits_a)


def test_standardised_features_have_mean_0_and_deviation_1() -> None:
    x = features(50) * 7 + 3
    x[:, 5] = 2.0
    standardise = Standardise(512)
    standardise.fit(x)
    out = standardise(x)
    assert out.mean(0).abs().max() < 1e-5
    varying = [i for i in range(512) if i != 5]
    torch.testing.assert_close(out.std(0, correction=0)[varying], torch.ones(511))
    assert torch.equal(standardise(torch.full((2, 512), 9.0))[:, 5], torch.zeros(2))


def test_only_frozen_heads_standardise() -> None:
    assert set(head().standardise) == {"visual", "acoustic"}
    assert not head(tuning="full").standardise


def test_a_step_never_waits_for_the_device(run_of: Callable[..., Any]) -> None:
    # Meta tensors have no values: whatever asks for one raises.
    run = run_of(width=24, layers=2)
    with torch.device("meta"):
        network = Network(Head(run.model))
        x_v, x_a = torch.empty(6, 512), torch.empty(4, 512)
        y_v, y_a = torch.empty(6, dtype=torch.int64), torch.empty(4, dtype=torch.int64)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        losses = fdan_loss(network(x_v, x_a), y_v, y_a, 0.1, run.kernel)
        losses.total.backward()
        optimizer.step()
    assert all(loss.device.type == "meta" for loss in losses)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="heads = 5 does not divide width = 24"):
        config(heads=5)


def test_training_needs_few_packages() -> None:
    code = (
        "import sys, fdan.training.train, fdan.training.validate, fdan.inference.model_folder\n"
        "bad = {'ray', 'optuna', 'mlflow', 'librosa', 'cv2', 'av', 'soundfile', 'sklearn',"
        " 'scipy', 'matplotlib', 'pandas', 'rich'}\n"
        "print(sorted(bad & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
