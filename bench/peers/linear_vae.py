"""The model of configs/bench/linear_vae.textproto in PyTorch. Started by compare.py; see rounds.py."""
import argparse
import math

import torch
import torch.nn as nn

import rounds


class LinearVae(nn.Module):
    """Minus the evidence lower bound, nats a sample: one draw of the latent, the KL term in closed form, unit variances."""

    def __init__(self, o):
        super().__init__()
        self.encoder = nn.Linear(o.data_dim, o.latent_dim)
        self.log_std = nn.Parameter(torch.zeros(o.latent_dim))
        self.decoder = nn.Linear(o.latent_dim, o.data_dim)
        for layer in (self.encoder, self.decoder):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x):
        mean = self.encoder(x)
        z = mean + self.log_std.exp() * torch.randn_like(mean)
        error = (self.decoder(z) - x).square().sum(-1)
        kl = 0.5 * (mean.square() + (2 * self.log_std).exp() - 1 - 2 * self.log_std).sum(-1)
        return (0.5 * (error + x.shape[-1] * math.log(2 * math.pi)) + kl).mean()


def make_step(o):
    model = LinearVae(o)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    loss_of = rounds.trained(model, o)
    scales = torch.full((o.data_dim,), 0.5)  # square roots of the config's eigenvalues
    scales[:3] = torch.tensor([9.0, 4.0, 2.0]).sqrt()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(scales * torch.randn(o.batch, o.data_dim))  # samples are drawn as they are asked for, as there
        loss.backward()
        optimizer.step()
        return loss.item()

    return model, step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    rounds.add_arguments(parser, dict(data_dim=784, latent_dim=64, batch=1024))
    rounds.serve(make_step, parser.parse_args())
