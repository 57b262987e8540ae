"""The prior over the latent space: standard normal, Gaussian mixture, VampPrior, normalising flow.

Shapes: B points, Z latent dimensions, K components. Each prior gives its density at points and draws points; each
can be trained in the ELBO or fitted afterwards to the aggregate posterior, the mixture of all molecules' posteriors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from molvae.data.dataset import TokenSet
from molvae.nn.encoder_decoder import Encoder
from molvae.nn.losses import compute_kl_per_dimension, compute_normal_log_density, reparameterise
from molvae.runtime.seeds import derive_seed

LOG_2PI = math.log(2 * math.pi)
MAX_GRADIENT_NORM = 10.0  # of a fit
PSEUDO_INPUT_TOKENS = 16  # of a pseudo-input; molecules that pseudo-inputs start as are cut to it
N_COUPLINGS, COUPLING_HIDDEN = 8, 128  # of the flow
MAX_LOG_SCALE = 2.0  # of one coupling: a factor of 7, so that no single layer can blow up
EM_ITERATIONS, EM_GAIN = 100, 5e-3  # of a mixture's fit: the most, and the gain in nats under which it has converged
EM_BATCH = 8192  # latents whose distances to all components are held at once


class Prior(nn.Module):
    """What all priors have: a density, sampling, the KL of posteriors, and a fit to the aggregate posterior."""

    def log_density(self, z: Tensor) -> Tensor:
        """Compute log p(z), (B,) nats, of points (B, Z)."""
        raise NotImplementedError

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw `n` points, (n, Z), all randomness from `generator`, which is of the CPU."""
        raise NotImplementedError

    def compute_kl(self, mu: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
        """Estimate KL(q(z|x) ‖ p(z)) of each molecule, (B,) nats, at the one draw z of each."""
        return compute_normal_log_density(z, mu, logvar).sum(-1) - self.log_density(z)

    def initialise(self, latents: Tensor, tokens: TokenSet, seed: int) -> None:
        """Start near the data: `latents`, (N, Z), are draws of the aggregate posterior, `tokens` molecules."""

    def initialise_from_molecules(self, tokens: TokenSet, seed: int) -> None:
        """Start near the data before the encoder has learned anything; only a VampPrior can."""

    def fit(
        self,
        mu: Tensor,
        logvar: Tensor,
        tokens: TokenSet,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
    ) -> list[float]:
        """Fit to the aggregate posterior of some molecules by maximum likelihood.

        A mixture is fitted by expectation maximisation to one latent point a molecule; the others by Adam (cosine
        schedule) to points that are drawn anew at each step, so that no posterior is mistaken for a point.

        Args:
            mu: (N, Z) posterior means of the molecules.
            logvar: (N, Z) log-variances of the posteriors.
            tokens: molecules that a VampPrior may start from.
            steps: of Adam.
            batch_size: latent points a step.
            learning_rate: peak step size of Adam.
            seed: of the latent points and the start.

        Returns:
            the loss, −log p(z) in nats, of each step.
        """
        random = torch.Generator().manual_seed(derive_seed(seed, "prior batches"))

        def draw(rows: Tensor | slice) -> Tensor:
            noise = torch.randn(mu[rows].shape, generator=random).to(mu.device)
            return reparameterise(mu[rows], logvar[rows], noise)

        latents = draw(slice(None))
        self.initialise(latents, tokens, seed)

        def draw_batch() -> Tensor:
            return draw(torch.randint(len(mu), (batch_size,), generator=random))

        return self._maximise(latents, draw_batch, steps, learning_rate)

    def _maximise(
        self, latents: Tensor, draw_batch: Callable[[], Tensor], steps: int, learning_rate: float
    ) -> list[float]:
        """Maximise the density by Adam on batches of latent points; nothing where there is nothing to fit."""
        parameters = list(self.parameters())
        if not parameters:
            return []
        optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        losses = []
        for _ in range(steps):
            loss = -self.log_density(draw_batch()).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        return losses


class StandardNormal(Prior):
    """N(0, 1) in each dimension. Its KL is exact."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def log_density(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square() + LOG_2PI).sum(-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn((n, self.latent_dim), generator=generator)

    def compute_kl(self, mu: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
        return compute_kl_per_dimension(mu, logvar).sum(-1)


class GaussianMixture(Prior):
    """A mixture of K normals with full covariance, each held as mean and Cholesky factor of its precision."""

    def __init__(self, latent_dim: int, components: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(components))  # logits
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.log_diagonal = nn.Parameter(torch.zeros(components, latent_dim))
        self.below = nn.Parameter(torch.zeros(components, latent_dim, latent_dim))  # used under the diagonal

    def _build_factor(self) -> Tensor:
        return self.below.tril(-1) + torch.diag_embed(self.log_diagonal.exp())

    def _log_joint(self, z: Tensor) -> Tensor:
        """Log p(z, component), (B, K)."""
        factor = (
            self._build_factor()
        )  # precision = factor factorᵀ, so that |factorᵀ (z − mean)|² is the squared distance
        white = torch.einsum("bi,kij->bkj", z, factor) - torch.einsum("ki,kij->kj", self.means, factor)
        log_density = -0.5 * (white.square() + LOG_2PI).sum(-1) + self.log_diagonal.sum(-1)
        return log_density + self.weights.log_softmax(0)

    def log_density(self, z: Tensor) -> Tensor:
        return self._log_joint(z).logsumexp(-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weights.softmax(0).cpu(), n, replacement=True, generator=generator)
        noise = torch.randn((n, self.means.shape[1]), generator=generator)
        factor = self._build_factor().cpu()
        return self.means.cpu()[which] + torch.linalg.solve_triangular(
            factor.mT[which], noise[..., None], upper=True
        ).squeeze(-1)

    @torch.no_grad()
    def initialise(self, latents: Tensor, tokens: TokenSet, seed: int) -> None:
        """Put means at random latents, all with the covariance of the whole, shrunk as K components share the space."""
        components, latent_dim = self.means.shape
        random = torch.Generator().manual_seed(derive_seed(seed, "mixture"))
        self.means.copy_(latents[torch.randint(len(latents), (components,), generator=random)])
        covariance = torch.cov(latents.T.double()).reshape(latent_dim, latent_dim)
        shrinkage = components ** (-2 / (latent_dim + 4))  # Scott's rule
        self._set_covariances(covariance.expand(components, -1, -1) * shrinkage)
        self.weights.zero_()

    def _maximise(
        self, latents: Tensor, draw_batch: Callable[[], Tensor], steps: int, learning_rate: float
    ) -> list[float]:
        return self.fit_em(latents)

    @torch.no_grad()
    def fit_em(self, latents: Tensor) -> list[float]:
        """Fit by expectation maximisation from the current components, until it gains no more.

        Args:
            latents: (N, Z).

        Returns:
            −log p(z) of the latents before each iteration, nats.
        Source: Dempster et al. 1977, for Gaussian mixtures Bishop 2006, section 9.2.2.
        """
        losses: list[float] = []
        centre = latents.mean(0)  # products of what lies far from 0 would lose the variance in their rounding
        latents = latents - centre
        self.means.sub_(centre)
        # variance of a component that has shrunk onto a few latents
        ridge = 1e-3 * latents.var(0).mean().double() * torch.eye(latents.shape[1], dtype=torch.float64)
        while len(losses) < EM_ITERATIONS and (len(losses) < 2 or losses[-2] - losses[-1] > EM_GAIN):
            loss, members, sums, products = self._compute_em_sums(latents)
            losses.append(loss / len(latents))
            members = members + 1e-6  # a component without members is left a weight and the ridge, no division by 0
            means = sums / members[:, None]
            covariance = products / members[:, None, None] - means[:, :, None] * means[:, None]
            self._set_covariances(covariance + ridge.to(covariance))
            self.means.copy_(means)
            self.weights.copy_(members.log())
        self.means.add_(centre)
        return losses

    def _compute_em_sums(self, latents: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
        """Compute the negative log-likelihood, and for each component the sums of membership, latents and products."""
        components, latent_dim = self.means.shape
        loss = 0.0
        members, sums, products = (
            latents.new_zeros(shape, dtype=torch.float64)
            for shape in ((components,), (components, latent_dim), (components, latent_dim, latent_dim))
        )
        for part in latents.split(EM_BATCH):
            log_joint = self._log_joint(part)
            loss -= log_joint.logsumexp(-1).double().sum().item()
            membership = log_joint.softmax(-1)  # of each latent in each component, (N, K)
            members = members + membership.double().sum(0)
            sums = sums + (membership.T @ part).double()
            products = products + torch.stack([(column[:, None] * part).T @ part for column in membership.T]).double()
        return loss, members, sums, products

    def _set_covariances(self, covariances: Tensor) -> None:
        """Set the covariances of the components, (K, Z, Z) doubles."""
        ridge = 1e-6 * covariances.diagonal(dim1=1, dim2=2).mean() * torch.eye(covariances.shape[1]).to(covariances)
        factor = torch.linalg.cholesky(torch.linalg.inv(covariances + ridge))
        self.below.copy_(factor.tril(-1))
        self.log_diagonal.copy_(factor.diagonal(dim1=1, dim2=2).log())


class VampPrior(Prior):
    """VampPrior: the mixture of the posteriors of K learned pseudo-inputs, each a string of token embeddings.

    Source: Tomczak & Welling 2018 (arXiv:1705.07120), with learned weights of the components.
    """

    def __init__(self, encoder: Encoder, components: int) -> None:
        super().__init__()
        width = encoder.embedding.embedding_dim
        self.lengths: Tensor
        self._encoder = (encoder,)  # in a tuple, so that its weights stay the VAE's and are not counted here again
        self.weights = nn.Parameter(torch.zeros(components))  # logits
        self.inputs = nn.Parameter(torch.randn(PSEUDO_INPUT_TOKENS, components, width))
        self.register_buffer("lengths", torch.full((components,), PSEUDO_INPUT_TOKENS))

    def compute_components(self) -> tuple[Tensor, Tensor]:
        """Compute mean and log-variance of each component, (K, Z) each."""
        mu, logvar = self._encoder[0].encode_embeddings(self.inputs, self.lengths)
        return mu, logvar

    def log_density(self, z: Tensor) -> Tensor:
        mu, logvar = self.compute_components()
        log_densities = compute_normal_log_density(z[:, None], mu, logvar).sum(-1)
        return torch.logsumexp(log_densities + self.weights.log_softmax(0), dim=-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weights.softmax(0).cpu(), n, replacement=True, generator=generator)
        mu, logvar = (part.cpu() for part in self.compute_components())
        return reparameterise(mu[which], logvar[which], torch.randn((n, mu.shape[1]), generator=generator))

    def initialise(self, latents: Tensor, tokens: TokenSet, seed: int) -> None:
        """Start from molecules; the latents are not needed."""
        self.initialise_from_molecules(tokens, seed)

    @torch.no_grad()
    def initialise_from_molecules(self, tokens: TokenSet, seed: int) -> None:
        """Take random molecules, or their first tokens, as pseudo-inputs."""
        random = torch.Generator().manual_seed(derive_seed(seed, "pseudo-inputs"))
        rows = torch.randint(len(tokens), (len(self.weights),), generator=random)
        batch = tokens.collate(rows.numpy())
        body = batch.inputs[1 : PSEUDO_INPUT_TOKENS + 1]
        self.inputs[: len(body)] = self._encoder[0].embedding(body.to(self.inputs.device))
        self.lengths.copy_(batch.lengths.clamp(max=PSEUDO_INPUT_TOKENS))
        self.weights.zero_()


class FlowPrior(Prior):
    """RealNVP: a standard normal bent by affine couplings, each of which moves half the dimensions by the others.

    Source: Dinh et al. 2017 (arXiv:1605.08803).
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.shift = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))
        self.couplings: Sequence[_AffineCoupling] = nn.ModuleList(  # type: ignore[assignment]
            _AffineCoupling(latent_dim, number % 2) for number in range(N_COUPLINGS)
        )

    def log_density(self, z: Tensor) -> Tensor:
        z = (z - self.shift) * torch.exp(-self.log_scale)
        volume = -self.log_scale.sum()
        for coupling in self.couplings:
            z, log_scale = coupling.to_noise(z)
            volume = volume - log_scale.sum(-1)
        return -0.5 * (z.square() + LOG_2PI).sum(-1) + volume

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        z = torch.randn((n, self.latent_dim), generator=generator).to(self.shift.device)
        for coupling in reversed(self.couplings):
            z = coupling.from_noise(z)
        return (z * self.log_scale.exp() + self.shift).cpu()

    @torch.no_grad()
    def initialise(self, latents: Tensor, tokens: TokenSet, seed: int) -> None:
        """Start at the mean and the standard deviation of the latents; the couplings start as the identity."""
        self.shift.copy_(latents.mean(0))
        self.log_scale.copy_(latents.std(0).log())


class _AffineCoupling(nn.Module):
    """Moves the even dimensions by the odd ones or the other way round."""

    def __init__(self, latent_dim: int, parity: int) -> None:
        super().__init__()
        self.parity = parity
        moved = len(range(parity, latent_dim, 2))
        first = nn.Linear(latent_dim - moved, COUPLING_HIDDEN)  # the order in which they are made is that of the draws
        middle, last = nn.Linear(COUPLING_HIDDEN, COUPLING_HIDDEN), nn.Linear(COUPLING_HIDDEN, 2 * moved)
        self.network = nn.Sequential(first, nn.SiLU(), middle, nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def _move(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = self.network(z[:, 1 - self.parity :: 2]).chunk(2, -1)
        return shift, MAX_LOG_SCALE * torch.tanh(scale / MAX_LOG_SCALE)

    def to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Move z one layer nearer to the normal noise, and return the log-scales that were divided away."""
        shift, log_scale = self._move(z)
        moved = (z[:, self.parity :: 2] - shift) * torch.exp(-log_scale)
        return self._replace_odd_or_even(z, moved), log_scale

    def from_noise(self, z: Tensor) -> Tensor:
        """Invert `to_noise`."""
        shift, log_scale = self._move(z)
        return self._replace_odd_or_even(z, z[:, self.parity :: 2] * log_scale.exp() + shift)

    def _replace_odd_or_even(self, z: Tensor, moved: Tensor) -> Tensor:
        z = z.clone()
        z[:, self.parity :: 2] = moved
        return z


def build_prior(kind: str, components: int, encoder: Encoder) -> Prior:
    """Build a prior for the latent space of an encoder, before any training.

    Args:
        kind: normal, mixture, vamp or flow.
        components: of a mixture or a VampPrior.
        encoder: that of the VAE.
    """
    latent_dim = encoder.latent_dim
    if kind == "mixture":
        return GaussianMixture(latent_dim, components)
    if kind == "vamp":
        return VampPrior(encoder, components)
    return FlowPrior(latent_dim) if kind == "flow" else StandardNormal(latent_dim)
