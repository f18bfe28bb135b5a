"""The model of configs/bench in PyTorch. Started by compare.py; see rounds.py."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

import rounds


class Mlp(nn.Module):
    def __init__(self, width, hidden, swiglu):
        super().__init__()
        self.swiglu = swiglu
        self.up = nn.Linear(width, 2 * hidden if swiglu else hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        h = self.up(x)
        if self.swiglu:
            gate, up = h.chunk(2, dim=-1)
            return self.down(F.silu(gate) * up)
        return self.down(F.gelu(h, approximate="tanh"))


class Mixture(nn.Module):
    """Every token to its top_k experts, none dropped; a balance loss and a router z-loss as in the config's defaults."""

    def __init__(self, o):
        super().__init__()
        self.top_k, self.count = o.top_k, o.experts
        self.router = nn.Linear(o.width, o.experts, bias=False)
        self.experts = nn.ModuleList(Mlp(o.width, o.hidden, o.swiglu) for _ in range(o.experts))

    def forward(self, x):
        logits = self.router(x)
        probabilities = logits.softmax(-1)
        weights, ids = probabilities.topk(self.top_k, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(ids == e)
            y.index_add_(0, token, weights[token, slot].unsqueeze(1) * expert(x[token]))
        load = F.one_hot(ids, self.count).float().sum((0, 1)) / ids.numel()
        balance = self.count * (load * probabilities.mean(0)).sum()
        return y, 0.01 * balance + 0.001 * logits.logsumexp(-1).square().mean()


class Block(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.heads = o.heads
        self.attention_norm = nn.LayerNorm(o.width, bias=False)
        self.qkv = nn.Linear(o.width, 3 * o.width, bias=False)
        self.out = nn.Linear(o.width, o.width, bias=False)
        self.mlp_norm = nn.LayerNorm(o.width, bias=False)
        self.mlp = Mixture(o) if o.experts > 0 else Mlp(o.width, o.hidden, o.swiglu)

    def forward(self, x):
        b, t, w = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(b, t, w))
        normed = self.mlp_norm(x)
        if isinstance(self.mlp, Mixture):
            y, aux = self.mlp(normed.view(b * t, w))
            return x + y.view(b, t, w), aux
        return x + self.mlp(normed), x.new_zeros(())


class Lm(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.embedding = nn.Embedding(o.vocabulary, o.width)
        self.positions = nn.Embedding(o.context, o.width)
        self.blocks = nn.ModuleList(Block(o) for _ in range(o.layers))
        self.norm = nn.LayerNorm(o.width, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        extra = 0.0
        for block in self.blocks:
            x, aux = block(x)
            extra = extra + aux
        logits = self.norm(x) @ self.embedding.weight.t()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()) + extra


def make_step(o):
    model = Lm(o)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    loss_of = rounds.trained(model, o)
    tokens = torch.randint(0, 257, (o.batch, o.context + 1))

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return model, step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    rounds.add_arguments(parser, dict(width=256, layers=4, heads=8, context=128, vocabulary=512, batch=16, experts=8, top_k=2, hidden=512))
    parser.add_argument("--swiglu", action="store_true")
    rounds.serve(make_step, parser.parse_args())
