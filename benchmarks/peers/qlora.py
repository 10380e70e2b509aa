#!/usr/bin/env python3
"""QLoRA of a GGUF model on the CPU with transformers, peft and bitsandbytes, measured as `qst-mpi train` measures itself.

    qlora.py prepare --model FILE.gguf --out FOLDER
    qlora.py rows    --tokenizer FOLDER --rows ROWS.jsonl --length 512 --count N --out IDS.jsonl
    qlora.py train   --model FOLDER --rows IDS.jsonl [--batch 4] [--steps 12] [--rank 16] [--checkpointing] [--threads N]

`prepare` unpacks the GGUF once to bf16 safetensors, so that no unpacking is in the measurement. `rows` packs prompt and
completion rows (ChatML) end to end into rows of one length as {"input_ids", "labels"}, which both programs read: no
padding on either side, the loss on the same tokens. `train` prints one line of JSON: tokens/s (median of the steps after
the warm-up ones), peak resident memory while training (not while loading), the losses, the versions.

In favour of the peer: bf16 activations and LM head (peft's prepare_model_for_kbit_training would make the head fp32),
no dropout, peak memory counted from after loading.
"""
import argparse
import json
import os
import statistics
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["prepare", "rows", "train"])
    parser.add_argument("--model")
    parser.add_argument("--tokenizer")
    parser.add_argument("--rows")
    parser.add_argument("--out")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4, help="rows a step")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not measured")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def prepare(args):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = os.path.split(os.path.abspath(args.model))
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    for key in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, key):
            delattr(model.config, key)
    model.to(torch.bfloat16).save_pretrained(args.out)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(args.out)


def rows(args):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    ids, labels, written = [], [], 0
    with open(args.rows) as source, open(args.out, "w") as out:
        for line in source:
            row = json.loads(line)
            prompt = tokenizer.encode(f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n")
            answer = tokenizer.encode(f"{row['completion']}<|im_end|>")
            ids += prompt + answer
            labels += [-100] * len(prompt) + answer
            while len(ids) >= args.length and written < args.count:
                row = {"input_ids": ids[: args.length], "labels": labels[: args.length]}
                out.write(json.dumps(row) + "\n")
                ids, labels = ids[args.length :], labels[args.length :]
                written += 1
    if written < args.count:
        raise SystemExit(f"{args.rows} gives {written} rows of {args.length} tokens, not {args.count}")


def memory(field):
    """A line of /proc/self/status in bytes: VmRSS is resident now, VmHWM at most since reset_peak()."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def reset_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def load(args):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        args.model, quantization_config=four_bit, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    model.config.use_cache = False
    if args.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    lora = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def batches(args):
    import torch

    with open(args.rows) as source:
        data = [json.loads(line) for line in source]
    for step in range(args.steps):
        chosen = [data[(step * args.batch + i) % len(data)] for i in range(args.batch)]
        yield torch.tensor([row["input_ids"] for row in chosen]), torch.tensor([row["labels"] for row in chosen])


def train(args):
    import bitsandbytes
    import peft
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = load(args)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.01)
    model.train()
    reset_peak()
    speeds, losses = [], []
    for ids, labels in batches(args):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(round(loss.item(), 4))
        speeds.append(ids.numel() / (time.perf_counter() - start))
    result = {
        "tokens_per_second": round(statistics.median(speeds[args.warmup :]), 1),
        "peak_rss_bytes": memory("VmHWM"),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "checkpointing": args.checkpointing,
        "threads": args.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "bitsandbytes": bitsandbytes.__version__,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    given = arguments()
    {"prepare": prepare, "rows": rows, "train": train}[given.command](given)
