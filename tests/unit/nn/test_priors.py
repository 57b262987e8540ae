"""Priors: each has a density, draws points from it, and can be fitted."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from molvae.nn.priors import (
    EM_ITERATIONS,
    N_COUPLINGS,
    FlowPrior,
    GaussianMixture,
    Prior,
    StandardNormal,
    build_prior,
)
from molvae.nn.vae import init_vae

KINDS = ["normal", "mixture", "vamp", "flow"]
LEARNED = KINDS[1:]


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_prior(kind: str, sizes, latent_dim: int = 2, seed: int = 0) -> Prior:
    """A prior with random parameters, far from the normal distribution that it may start as."""
    encoder = init_vae(20, sizes.model_copy(update={"latent_dim": latent_dim}), seed).encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = build_prior(kind, 3, encoder)
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter += (0.04 if kind == "flow" else 0.15) * torch.randn_like(parameter)
            if kind == "vamp":
                encoder.to_latent.weight *= 5  # posteriors apart from each other
    return prior.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_prior_density_sums_to_one(kind, sizes):
    prior = make_prior(kind, sizes)
    axis = torch.linspace(-12, 12, 241)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).flatten(0, 1)
    with torch.no_grad():
        total = sum(prior.log_density(part).double().exp().sum().item() for part in grid.split(20_000))
    assert total * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_prior_draws_points_that_follow_its_density(kind, sizes):
    """The fractions of the points in the cells of a grid are the sums of the density over the cells."""
    prior, n = make_prior(kind, sizes), 20_000
    edges = torch.linspace(-6, 6, 9)
    inner = torch.linspace(-6, 6, 161)[:-1] + 6 / 160  # 20 points a cell and axis
    with torch.no_grad():
        draws = prior.sample(n, make_generator())
        grid = torch.stack(torch.meshgrid(inner, inner, indexing="ij"), dim=-1).flatten(0, 1)
        density = torch.cat([prior.log_density(part).double().exp() for part in grid.split(50_000)])
    expected = density.view(8, 20, 8, 20).sum((1, 3)) * (12 / 160) ** 2
    counts = torch.histogramdd(draws, [edges, edges]).hist.double()
    assert draws.shape == (n, 2) and draws.device.type == "cpu"
    deviation = (counts - n * expected).abs() / (n * expected * (1 - expected) + 1).sqrt()
    assert expected.sum() > 0.9 and deviation.max() < 5  # 64 cells: one in 27 000 such tests exceeds 5 standard errors


@pytest.mark.parametrize("kind", KINDS)
def test_prior_draws_are_a_function_of_the_generator_alone(kind, sizes):
    prior = make_prior(kind, sizes, latent_dim=5)
    before = torch.get_rng_state()
    with torch.no_grad():
        points, same_seed, next_seed = (prior.sample(50, make_generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(points, same_seed) and not torch.equal(points, next_seed)
    assert points.shape == (50, 5) and len(points.unique(dim=0)) == 50


def test_standard_normal_prior_computes_its_kl_exactly():
    mu, logvar = torch.randn(2, 7, 5, generator=make_generator())
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0, 1)).sum(1)
    torch.testing.assert_close(StandardNormal(5).compute_kl(mu, logvar, torch.full_like(mu, math.nan)), expected)


def test_learned_prior_estimates_its_kl_without_bias():
    """The one component is the standard normal, so that the exact value is known."""
    prior = GaussianMixture(4, 1)
    with torch.no_grad():
        prior.means.zero_()
    mu, logvar = 0.5 * torch.randn(2, 1, 4, generator=make_generator())
    z = mu + (0.5 * logvar).exp() * torch.randn(100_000, 4, generator=make_generator(1))
    exact = StandardNormal(4).compute_kl(mu, logvar, z).item()
    assert prior.compute_kl(mu, logvar, z).mean().item() == pytest.approx(exact, abs=0.02)


def test_mixture_density_is_that_of_torch(sizes):
    prior = make_prior("mixture", sizes, latent_dim=3)
    z = torch.randn(40, 3, generator=make_generator())
    with torch.no_grad():
        factor = prior._build_factor()
        components = MultivariateNormal(prior.means, precision_matrix=factor @ factor.mT).log_prob(z[:, None])
        expected = torch.logsumexp(components + prior.weights.log_softmax(0), dim=1)
        torch.testing.assert_close(prior.log_density(z), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("latent_dim", [2, 5])
def test_flow_is_invertible_and_its_volume_is_the_determinant_of_its_jacobian(sizes, latent_dim):
    flow = make_prior("flow", sizes, latent_dim).double()
    assert isinstance(flow, FlowPrior) and len(flow.couplings) == N_COUPLINGS
    z = torch.randn(6, latent_dim, generator=make_generator(), dtype=torch.float64)

    def to_noise(points):
        points = (points - flow.shift) * torch.exp(-flow.log_scale)
        for coupling in flow.couplings:
            points, _ = coupling.to_noise(points)
        return points

    with torch.no_grad():
        noise = to_noise(z)
        back = noise
        for coupling in reversed(flow.couplings):
            back = coupling.from_noise(back)
        torch.testing.assert_close(back * flow.log_scale.exp() + flow.shift, z)
        assert (noise - z).abs().max() > 0.1
        density = flow.log_density(z)
    for row, point in enumerate(z):
        jacobian = torch.autograd.functional.jacobian(lambda z: to_noise(z[None])[0], point)
        expected = Normal(0, 1).log_prob(noise[row]).sum() + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(density[row], expected)


def test_vamp_components_are_the_posteriors_of_its_pseudo_inputs(sizes, tokens, vocabulary):
    encoder = init_vae(len(vocabulary), sizes, 0).encoder
    prior = build_prior("vamp", 4, encoder)
    prior.initialise(torch.empty(0), tokens, seed=1)
    with torch.no_grad():
        short = torch.cat(encoder(*tokens.collate(np.flatnonzero(tokens.lengths <= 16)).encoder_inputs), dim=1)
        ids, lengths = tokens.collate(np.arange(len(tokens))).encoder_inputs
        cut = torch.cat(encoder(ids[:16], lengths.clamp(max=16)), dim=1)
        for mu_and_logvar in torch.cat(prior.compute_components(), dim=1):
            assert (torch.cat([short, cut]) - mu_and_logvar).abs().amax(1).min() < 1e-5
    assert {name for name, _ in prior.named_parameters()} == {"weights", "inputs"}


def make_point_posteriors(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log-variance of posteriors that are points."""
    return latents, torch.full_like(latents, -torch.inf)


CLUSTERS = torch.tensor([[4.0, 0, 0], [-3, 3, 0], [0, -3, 3]])


def draw_clusters(n: int, seed: int) -> torch.Tensor:
    """Draw points of three normal distributions of different shape."""
    generator = make_generator(seed)
    shape = torch.tensor([[1.0, 0, 0], [0.9, 0.3, 0], [-0.5, 0.2, 0.8]])
    which = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), n, replacement=True, generator=generator)
    noise = torch.randn(n, 3, generator=generator)
    return CLUSTERS[which] + torch.einsum("nij,nj->ni", torch.stack([shape, shape.T, torch.eye(3) * 0.4])[which], noise)


def test_mixture_is_fitted_as_well_as_that_of_scikit_learn(tokens):
    mixture = pytest.importorskip("sklearn.mixture")
    train, held_out = draw_clusters(6000, 0), draw_clusters(3000, 1)
    reference = mixture.GaussianMixture(3, covariance_type="full", random_state=0).fit(train.numpy())
    prior = GaussianMixture(3, 3)
    losses = prior.fit(*make_point_posteriors(train), tokens, steps=1, batch_size=1, learning_rate=1, seed=1)
    with torch.no_grad():
        density = prior.log_density(held_out).mean().item()
        draws = prior.sample(20_000, make_generator(2))
    assert density > reference.score(held_out.numpy()) - 0.02  # from these seeds neither ends in a local optimum
    assert 5 < len(losses) < EM_ITERATIONS
    assert all(after < before + 1e-3 for before, after in pairwise(losses))
    torch.testing.assert_close(draws.mean(0), held_out.mean(0), rtol=0, atol=0.15)
    torch.testing.assert_close(torch.cov(draws.T), torch.cov(held_out.T), rtol=0.1, atol=0.3)


@pytest.mark.parametrize("kind", LEARNED)
def test_prior_fit_lowers_the_loss_is_reproducible_and_changes_neither_the_encoder_nor_the_global_generator(
    kind, vocabulary, sizes, tokens
):
    posteriors = make_point_posteriors(torch.cat([draw_clusters(2000, 0), draw_clusters(2000, 1)[:, :2]], dim=1))
    encoder = init_vae(len(vocabulary), sizes, 0).encoder
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    fits = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            prior = build_prior(kind, 4, encoder)
        state = torch.get_rng_state()
        losses = prior.fit(*posteriors, tokens, steps=40, batch_size=64, learning_rate=0.03, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        fits.append((losses, prior.state_dict()))
    first, last = losses[: len(losses) // 8 + 1], losses[len(losses) * 3 // 4 :]
    assert np.mean(last) < np.mean(first) - 0.2
    (losses, weights), (losses_again, weights_again) = fits
    assert losses == losses_again
    assert all(torch.equal(weight, weights_again[name]) for name, weight in weights.items())
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_prior_is_fitted_to_the_whole_density_of_each_posterior_not_to_one_point_of_it(kind, sizes, tokens):
    """Twenty wide posteriors give a prior that is as wide as they are."""
    mu = draw_clusters(20, 0)
    logvar = torch.full_like(mu, math.log(4.0))
    encoder = init_vae(20, sizes.model_copy(update={"latent_dim": 3}), 0).encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = build_prior(kind, 2, encoder)
    means = mu.repeat(200, 1)
    prior.fit(means, logvar.repeat(200, 1), tokens, steps=300, batch_size=128, learning_rate=0.01, seed=0)
    unseen = means + 2 * torch.randn(means.shape, generator=make_generator(7))
    with torch.no_grad():
        draws = prior.sample(20_000, make_generator(2))
        true_density = Normal(mu[:, None], 2.0).log_prob(unseen).sum(-1).logsumexp(0) - math.log(20)
        assert prior.log_density(unseen).mean() > true_density.mean() - 0.1
    torch.testing.assert_close(torch.cov(draws.T), torch.cov(unseen.T), rtol=0.15, atol=0.6)


def test_mixture_is_fitted_to_latents_far_from_zero_as_well_as_to_those_near_it(tokens):
    near, shift = draw_clusters(2000, 0), torch.tensor([3000.0, -2000, 1000])
    final_losses = []
    for latents in (near, near + shift):
        posteriors = make_point_posteriors(latents)
        losses = GaussianMixture(3, 3).fit(*posteriors, tokens, steps=1, batch_size=1, learning_rate=1, seed=1)
        final_losses.append(losses[-1])
    assert final_losses[1] == pytest.approx(final_losses[0], abs=0.02)


def test_mixture_with_more_components_than_distinct_latents_stays_finite(tokens):
    prior, posteriors = GaussianMixture(3, 6), make_point_posteriors(draw_clusters(4, 0).repeat(50, 1))
    losses = prior.fit(*posteriors, tokens, steps=1, batch_size=1, learning_rate=1, seed=0)
    with torch.no_grad():
        assert np.isfinite(losses).all() and prior.sample(100, make_generator()).isfinite().all()


def test_standard_normal_prior_has_nothing_to_fit(tokens):
    posteriors = make_point_posteriors(torch.randn(10, 3))
    losses = StandardNormal(3).fit(*posteriors, tokens, steps=5, batch_size=2, learning_rate=0.1, seed=0)
    assert losses == []


@pytest.mark.parametrize("kind", ["mixture", "vamp"])
def test_prior_can_be_fitted_to_a_latent_space_of_one_dimension(kind, vocabulary, sizes, tokens):
    encoder = init_vae(len(vocabulary), sizes.model_copy(update={"latent_dim": 1}), 0).encoder
    prior, posteriors = build_prior(kind, 2, encoder), make_point_posteriors(torch.randn(500, 1))
    losses = prior.fit(*posteriors, tokens, steps=3, batch_size=64, learning_rate=0.01, seed=0)
    assert np.isfinite(losses).all() and prior.sample(4, make_generator()).shape == (4, 1)


def test_flow_starts_at_the_spread_of_the_latents_and_mixture_near_them(tokens):
    latents = 3 + torch.randn(5000, 4, generator=make_generator()) * torch.tensor([0.1, 1, 5, 2])
    flow, mixture = FlowPrior(4), GaussianMixture(4, 16)
    expected = Normal(latents.mean(0), latents.std(0)).log_prob(latents).sum(1).mean()
    for prior in (flow, mixture):
        prior.initialise(latents, tokens, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(flow.log_density(latents).mean(), expected, rtol=1e-4, atol=1e-3)
        assert mixture.log_density(latents).mean() > expected - 1.5
