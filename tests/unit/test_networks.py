import torch

from molvae.networks import dropout


def test_dropout_keeps_the_mean_and_drops_the_fraction_it_is_told():
    dropped = dropout(torch.ones(200, 200), 0.25, torch.Generator().manual_seed(0))
    assert abs((dropped == 0).float().mean().item() - 0.25) < 0.01  # 40 000 draws: 4.6 standard errors
    assert abs(dropped.mean().item() - 1) < 0.015


def test_dropout_is_a_function_of_its_generator_alone():
    draws = [dropout(torch.ones(50, 50), 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_no_dropout_changes_nothing_and_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    values = torch.randn(5, 5)
    assert dropout(values, 0.0, generator) is values
    assert torch.equal(generator.get_state(), before)
