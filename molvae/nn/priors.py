"""The prior over the latent space: standard normal, Gaussian mixture, VampPrior, normalising flow.

Shapes: B points, Z latent dimensions, K components. Each prior gives its density at points and draws points; each
can be trained in the ELBO or fitted afterwards to the aggregate posterior, the mixture of all molecules' posteriors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from molvae.data.dataset import TokenSet
from molvae.nn.encoder_decoder import Encoder
from molvae.nn.losses import kl_per_dimension, normal_log_density, reparameterised
from molvae.runtime.seeds import derive

LOG_2PI = math.log(2 * math.pi)
PSEUDO_TOKENS = 16  # length of a pseudo-input; longer molecules are cut to it where pseudo-inputs start as molecules
COUPLINGS, COUPLING_HIDDEN = 8, 128  # of the flow
LARGEST_LOG_SCALE = 2.0  # of one coupling: a factor of 7, so that no single layer can blow up
EM_ITERATIONS, EM_GAIN = 100, 5e-3  # of a mixture's fit: the most, and the gain in nats under which it has converged
EM_BLOCK = 8192  # latents whose distances to all components are held at once


class Prior(nn.Module):
    """What all priors can do."""

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z), (B,) nats, of points (B, Z)."""
        raise NotImplementedError

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` points, (n, Z), all randomness from `generator`, which is of the CPU."""
        raise NotImplementedError

    def kl(self, mu: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
        """KL(q(z|x) ‖ p(z)) of each molecule, (B,) nats, estimated at the one draw z of each."""
        return normal_log_density(z, mu, logvar).sum(-1) - self.log_density(z)

    def initialise(self, latents: Tensor, tokens: TokenSet, seed: int) -> None:
        """Start near the data: `latents`, (N, Z), are draws of the aggregate posterior, `tokens` molecules."""


class StandardNormal(Prior):
    """N(0, 1) in each dimension. Its KL is exact."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def log_density(self, z: Tensor) -> Tensor:
        """See Prior."""
        return -0.5 * (z.square() + LOG_2PI).sum(-1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """See Prior."""
        return torch.randn((n, self.latent_dim), generator=generator)

    def kl(self, mu: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
        """See Prior."""
        return kl_per_dimension(mu, logvar).sum(-1)


class Mixture(Prior):
    """A mixture of K normals with full covariance, each held as mean and Cholesky factor of its precision."""

    def __init__(self, latent_dim: int, components: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(components))  # logits
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.log_diagonal = nn.Parameter(torch.zeros(components, latent_dim))
        self.below = nn.Parameter(torch.zeros(components, latent_dim, latent_dim))  # used under the diagonal

    def _factor(self) -> Tensor:
        return self.below.tril(-1) + torch.diag_embed(self.log_diagonal.exp())

    def _log_joint(self, z: Tensor) -> Tensor:
        """log p(z, component), (B, K)."""
        factor = self._factor()  # precision = factor factorᵀ, so that |factorᵀ (z − mean)|² is the squared distance
        white = torch.einsum("bi,kij->bkj", z, factor) - torch.einsum("ki,kij->kj", self.means, factor)
        each = -0.5 * (white.square() + LOG_2PI).sum(-1) + self.log_diagonal.sum(-1)
        return each + self.weights.log_softmax(0)

    def log_density(self, z: Tensor) -> Tensor:
        """See Prior."""
        return self._log_joint(z).logsumexp(-1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """See Prior."""
        which = torch.multinomial(self.weights.softmax(0).cpu(), n, replacement=True, generator=generator)
        noise = torch.randn((n, self.means.shape[1]), generator=generator)
        factor = self._factor().cpu()
        return self.means.cpu()[which] + torch.linalg.solve_triangular(
            factor.mT[which], noise[..., None], upper=True
        ).squeeze(-1)

    @torch.no_grad()
    def initialise(self, latents: Tensor, tokens: TokenSet, seed: int) -> None:
        """Means at random latents, all with the covariance of the whole, shrunk as K components share the space."""
        components, latent_dim = self.means.shape
        random = torch.Generator().manual_seed(derive(seed, "mixture"))
        self.means.copy_(latents[torch.randint(len(latents), (components,), generator=random)])
        covariance = torch.cov(latents.T.double()).reshape(latent_dim, latent_dim)
        self._shape(covariance.expand(components, -1, -1) * components ** (-2 / (latent_dim + 4)))  # Scott's rule
        self.weights.zero_()

    @torch.no_grad()
    def maximise(self, latents: Tensor) -> list[float]:
        """Expectation maximisation from where the mixture stands, until it gains no more.

        Returns:
            −log p(z) of the latents, (N, Z), before each iteration, nats.
        Source: Dempster et al. 1977, for Gaussian mixtures Bishop 2006, section 9.2.2.
        """
        losses: list[float] = []
        centre = latents.mean(0)  # products of what lies far from 0 would lose the variance in their rounding
        latents = latents - centre
        self.means -= centre
        least = 1e-3 * latents.var(0).mean().double()  # variance of a component that has shrunk onto a few latents
        while len(losses) < EM_ITERATIONS and (len(losses) < 2 or losses[-2] - losses[-1] > EM_GAIN):
            loss, members, sums, products = 0.0, 0, 0, 0
            for some in latents.split(EM_BLOCK):
                log_joint = self._log_joint(some)
                loss -= log_joint.logsumexp(-1).double().sum().item()
                share = log_joint.softmax(-1)  # of each component in each latent
                members = members + share.double().sum(0)
                sums = sums + (share.T @ some).double()
                products = products + torch.stack([(one[:, None] * some).T @ some for one in share.T]).double()
            losses.append(loss / len(latents))
            members = members + 1e-6  # a component without members is left a weight and the ridge, no division by 0
            means = sums / members[:, None]
            covariance = products / members[:, None, None] - means[:, :, None] * means[:, None]
            self._shape(covariance + least * torch.eye(latents.shape[1]).to(covariance))
            self.means.copy_(means)
            self.weights.copy_(members.log())
        self.means += centre
        return losses

    def _shape(self, covariances: Tensor) -> None:
        """Give the components these covariances, (K, Z, Z) doubles."""
        ridge = 1e-6 * covariances.diagonal(dim1=1, dim2=2).mean() * torch.eye(covariances.shape[1]).to(covariances)
        factor = torch.linalg.cholesky(torch.linalg.inv(covariances + ridge))
        self.below.copy_(factor.tril(-1))
        self.log_diagonal.copy_(factor.diagonal(dim1=1, dim2=2).log())


class Vamp(Prior):
    """VampPrior: the mixture of the posteriors of K learned pseudo-inputs, each a string of token embeddings.

    Source: Tomczak & Welling 2018 (arXiv:1705.07120), with learned weights of the components.
    """

    def __init__(self, encoder: Encoder, components: int) -> None:
        super().__init__()
        width = encoder.embedding.embedding_dim
        self._encoder = (encoder,)  # in a tuple, so that its weights stay the VAE's and are not counted here again
        self.weights = nn.Parameter(torch.zeros(components))  # logits
        self.inputs = nn.Parameter(torch.randn(PSEUDO_TOKENS, components, width))
        self.register_buffer("lengths", torch.full((components,), PSEUDO_TOKENS))

    def components(self) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of each component, (K, Z)."""
        mu, logvar = self._encoder[0].read(self.inputs, self.lengths)
        return mu, logvar

    def log_density(self, z: Tensor) -> Tensor:
        """See Prior."""
        mu, logvar = self.components()
        each = normal_log_density(z[:, None], mu, logvar).sum(-1)
        return torch.logsumexp(each + self.weights.log_softmax(0), dim=-1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """See Prior."""
        which = torch.multinomial(self.weights.softmax(0).cpu(), n, replacement=True, generator=generator)
        mu, logvar = (part.cpu() for part in self.components())
        return reparameterised(mu[which], logvar[which], torch.randn((n, mu.shape[1]), generator=generator))

    @torch.no_grad()
    def initialise(self, latents: Tensor, tokens: TokenSet, seed: int) -> None:
        """Pseudo-inputs that are random molecules, or their first tokens."""
        random = torch.Generator().manual_seed(derive(seed, "pseudo-inputs"))
        rows = torch.randint(len(tokens), (len(self.weights),), generator=random)
        batch = tokens.batch(rows.numpy())
        body = batch.inputs[1 : PSEUDO_TOKENS + 1]
        self.inputs[: len(body)] = self._encoder[0].embedding(body.to(self.inputs.device))
        self.lengths.copy_(batch.lengths.clamp(max=PSEUDO_TOKENS))
        self.weights.zero_()


class Flow(Prior):
    """RealNVP: a standard normal bent by affine couplings, each of which moves half the dimensions by the others.

    Source: Dinh et al. 2017 (arXiv:1605.08803).
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.shift = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))
        self.couplings = nn.ModuleList(_Coupling(latent_dim, number % 2) for number in range(COUPLINGS))

    def log_density(self, z: Tensor) -> Tensor:
        """See Prior."""
        z = (z - self.shift) * torch.exp(-self.log_scale)
        volume = -self.log_scale.sum()
        for coupling in self.couplings:
            z, log_scale = coupling.to_noise(z)
            volume = volume - log_scale.sum(-1)
        return -0.5 * (z.square() + LOG_2PI).sum(-1) + volume

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """See Prior."""
        z = torch.randn((n, self.latent_dim), generator=generator).to(self.shift.device)
        for coupling in reversed(self.couplings):
            z = coupling.from_noise(z)
        return (z * self.log_scale.exp() + self.shift).cpu()

    @torch.no_grad()
    def initialise(self, latents: Tensor, tokens: TokenSet, seed: int) -> None:
        """At the mean and the standard deviation of the latents; the couplings start as the identity."""
        self.shift.copy_(latents.mean(0))
        self.log_scale.copy_(latents.std(0).log())


class _Coupling(nn.Module):
    """Moves the even dimensions by the odd ones or the other way round."""

    def __init__(self, latent_dim: int, parity: int) -> None:
        super().__init__()
        self.parity = parity
        moved = len(range(parity, latent_dim, 2))
        self.network = nn.Sequential(
            nn.Linear(latent_dim - moved, COUPLING_HIDDEN), nn.SiLU(),
            nn.Linear(COUPLING_HIDDEN, COUPLING_HIDDEN), nn.SiLU(),
            nn.Linear(COUPLING_HIDDEN, 2 * moved),
        )  # fmt: skip
        nn.init.zeros_(self.network[-1].weight)
        nn.init.zeros_(self.network[-1].bias)

    def _move(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = self.network(z[:, 1 - self.parity :: 2]).chunk(2, -1)
        return shift, LARGEST_LOG_SCALE * torch.tanh(scale / LARGEST_LOG_SCALE)

    def to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z one layer nearer to the normal noise, and the log-scales that were divided away."""
        shift, log_scale = self._move(z)
        moved = (z[:, self.parity :: 2] - shift) * torch.exp(-log_scale)
        return self._with(z, moved), log_scale

    def from_noise(self, z: Tensor) -> Tensor:
        """The inverse."""
        shift, log_scale = self._move(z)
        return self._with(z, z[:, self.parity :: 2] * log_scale.exp() + shift)

    def _with(self, z: Tensor, moved: Tensor) -> Tensor:
        z = z.clone()
        z[:, self.parity :: 2] = moved
        return z


def make_prior(kind: str, components: int, encoder: Encoder) -> Prior:
    """A prior of that kind for the latent space of an encoder, before any training."""
    latent_dim = encoder.latent_dim
    if kind == "mixture":
        return Mixture(latent_dim, components)
    if kind == "vamp":
        return Vamp(encoder, components)
    return Flow(latent_dim) if kind == "flow" else StandardNormal(latent_dim)


def fit(
    prior: Prior,
    mu: Tensor,
    logvar: Tensor,
    tokens: TokenSet,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> list[float]:
    """Fit a prior to the aggregate posterior of some molecules by maximum likelihood.

    A mixture by expectation maximisation on one latent point a molecule; the others by Adam (cosine schedule) on points
    that are drawn anew at each step, so that no posterior is mistaken for a point.

    Args:
        mu, logvar: (N, Z) posteriors of the molecules.
        tokens: molecules that a VampPrior may start from.
        steps, batch_size, learning_rate: of Adam.
    Returns:
        the loss, −log p(z) in nats, of each step.
    """
    random = torch.Generator().manual_seed(derive(seed, "prior batches"))

    def draws(rows: Tensor | slice) -> Tensor:
        noise = torch.randn(mu[rows].shape, generator=random).to(mu.device)
        return reparameterised(mu[rows], logvar[rows], noise)

    latents = draws(slice(None))
    prior.initialise(latents, tokens, seed)
    if isinstance(prior, Mixture):
        return prior.maximise(latents)
    trained = list(prior.parameters())
    if not trained:
        return []
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        loss = -prior.log_density(draws(torch.randint(len(mu), (batch_size,), generator=random))).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 10.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses
