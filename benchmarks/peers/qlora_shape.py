#!/usr/bin/env python3
"""QLoRA steps at a LLaMA model's shape with random weights, beside gpu_check.sh's training at the same shape.

    qlora_shape.py --out FILE.json [--shape llama-2-7b] [--samples 4] [--length 2048] [--steps 8] [--device cuda]

NF4 with double quantization (bitsandbytes), rank 16 on all linear layers (peft), bf16, PyTorch's own attention. Tried
without gradient checkpointing first and with it when memory does not suffice; the JSON says which. Tokens/s is the median
of the steps after the first three, memory what PyTorch had allocated at most.
"""
import argparse
import json
import statistics
import time

import bitsandbytes
import peft
import torch
import transformers

SHAPES = {
    "llama-2-7b": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32),
    "llama-2-13b": dict(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40),
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=128),
}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-2-7b")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def quantize(model, device):
    """Every linear layer of the decoder as NF4 on the device; the rest in bf16."""
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name in PROJECTIONS:
                if not hasattr(block, name):
                    continue
                plain = getattr(block, name)
                packed = bitsandbytes.nn.Linear4bit(
                    plain.in_features, plain.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
                )
                packed.weight = bitsandbytes.nn.Params4bit(plain.weight.data, requires_grad=False, quant_type="nf4")
                setattr(block, name, packed.to(device))
    return model.to(device)


def build(args, checkpointing):
    torch.manual_seed(1)
    config = transformers.LlamaConfig(max_position_embeddings=4096, use_cache=False, **SHAPES[args.shape])
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(args.device):
        model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(default)
    model = quantize(model, args.device)
    model.requires_grad_(False)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=PROJECTIONS))
    model.train()
    return model


def measure(args, checkpointing):
    gpu = args.device == "cuda"
    model = build(args, checkpointing)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    speeds = []
    for _ in range(args.steps):
        ids = torch.randint(3, model.config.vocab_size, (args.samples, args.length), device=args.device)
        start = time.perf_counter()
        with torch.autocast(args.device, dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        speeds.append(ids.numel() / (time.perf_counter() - start))
    return {
        "peer": "QLoRA",
        "shape": args.shape,
        "tokens_per_second": round(statistics.median(speeds[3:]), 1),
        "gpu_megabytes": round(torch.cuda.max_memory_allocated() / 1e6) if gpu else 0,
        "checkpointing": checkpointing,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "bitsandbytes": bitsandbytes.__version__,
    }


def main():
    args = arguments()
    try:
        result = measure(args, checkpointing=False)
    except torch.OutOfMemoryError:
        result = None
    if result is None:
        torch.cuda.empty_cache()
        result = measure(args, checkpointing=True)
    with open(args.out, "w") as out:
        json.dump(result, out)
        out.write("\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
