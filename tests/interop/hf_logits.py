"""Makes small models with transformers and compares logits with hf_logits_program, both ways. Usage: hf_logits.py PROGRAM WORK_DIR."""
import os
import subprocess
import sys

import numpy
import torch
import transformers

TOLERANCE = 1e-4

SHARED = dict(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64)


def models():
    yield "gpt2", transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    yield "mixtral", transformers.MixtralConfig(
        **SHARED, num_key_value_heads=2, intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    yield "olmoe", transformers.OlmoeConfig(
        **SHARED, num_key_value_heads=4, intermediate_size=24, num_experts=8, num_experts_per_tok=3, norm_topk_prob=False)
    yield "qwen2_moe", transformers.Qwen2MoeConfig(
        **SHARED, num_key_value_heads=4, intermediate_size=48, moe_intermediate_size=24, shared_expert_intermediate_size=40, num_experts=4,
        num_experts_per_tok=2, norm_topk_prob=True, decoder_sparse_step=2)
    yield "qwen3_moe", transformers.Qwen3MoeConfig(
        **SHARED, num_key_value_heads=2, head_dim=16, intermediate_size=48, moe_intermediate_size=24, num_experts=8, num_experts_per_tok=2,
        norm_topk_prob=True)


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].to(torch.float32).numpy()


def main(program, work):
    tokens = [(7 * i * i + 3 * i + 1) % 97 for i in range(40)]
    token_file = os.path.join(work, "tokens")
    with open(token_file, "w") as file:
        file.write(" ".join(map(str, tokens)))
    worst_of_all = 0.0
    for name, config in models():
        torch.manual_seed(1)
        config.initializer_range = 0.2
        model = transformers.AutoModelForCausalLM.from_config(config).to(torch.float32).eval()
        for parameter in model.parameters():  # no value at a special place, biases and gains included
            parameter.data += 0.1 * torch.randn_like(parameter)
        theirs, ours = os.path.join(work, name), os.path.join(work, name + "-ours")
        model.save_pretrained(theirs)
        output = os.path.join(work, name + ".logits")
        subprocess.run([program, theirs, token_file, output, ours], check=True)
        want = logits_of(model, tokens)
        got = numpy.fromfile(output, dtype=numpy.float32).reshape(want.shape)
        again, report = transformers.AutoModelForCausalLM.from_pretrained(ours, output_loading_info=True)
        back = logits_of(again.eval(), tokens)
        unaccounted = {key: list(value) for key, value in report.items() if value}
        unaccounted.get("missing_keys", []) and config.tie_word_embeddings and unaccounted["missing_keys"].remove("lm_head.weight")
        errors = [float(numpy.abs(a - want).max() / max(1.0, float(numpy.abs(want).max()))) for a in (got, back)]
        print(f"{name}: logits up to {numpy.abs(want).max():.3g}, difference of ours {errors[0]:.2e}, of theirs from our file {errors[1]:.2e}")
        if any(value for value in unaccounted.values()):
            sys.exit(f"{name}: transformers did not account for all of our file: {unaccounted}")
        worst_of_all = max(worst_of_all, *errors)
    if not worst_of_all <= TOLERANCE:
        sys.exit(f"logits differ by {worst_of_all:.2e}, allowed are {TOLERANCE}")


main(*sys.argv[1:])
