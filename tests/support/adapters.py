"""LoRA adapters for tests: written by hand for any model, and really trained for the one that answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from python_backends.adapters.directory import CONFIG, WEIGHTS

RANK = 8
LAST_LAYERS = 8
CONFIGURATION: dict[str, Any] = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj"],
    "base_model_name_or_path": "tiny",
    "bias": "none",
}


def write_safetensors(file: Path, tensors: dict[str, Any]) -> None:
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_adapter(
    directory: Path,
    seed: int = 0,
    *,
    shapes: dict[str, tuple[int, int]] | None = None,
    scale: float = 0.02,
    orders: dict[str, Any] | None = None,
    **configuration: Any,
) -> Path:
    """`shapes`: outputs and inputs of each module. `orders`: for the scripted engine, see there."""
    shapes = shapes or {"model.layers.0.self_attn.q_proj": (4, 4), "model.layers.0.self_attn.v_proj": (4, 4)}
    random = np.random.default_rng(seed)
    tensors = {}
    for module, (outputs, inputs) in shapes.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = random.normal(0, scale, (RANK, inputs))
        tensors[f"base_model.model.{module}.lora_B.weight"] = random.normal(0, scale, (outputs, RANK))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps({**CONFIGURATION, **configuration}))
    write_safetensors(directory / WEIGHTS, tensors)
    if orders is not None:
        (directory / "scripted.json").write_text(json.dumps(orders))
    return directory


def shapes_of(model_dir: Path, *leaves: str) -> dict[str, tuple[int, int]]:
    """Of the modules of a Llama-like model whose names end so."""
    config = json.loads((model_dir / "config.json").read_text())
    hidden, heads, kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or hidden // heads
    known = {"q_proj": (heads * head, hidden), "k_proj": (kv * head, hidden), "v_proj": (kv * head, hidden)}
    layers = range(config["num_hidden_layers"])
    return {f"model.layers.{layer}.self_attn.{leaf}": known[leaf] for layer in layers for leaf in leaves}


def train_adapter(directory: Path, model_dir: Path, answer: str, *, steps: int = 12) -> Path:
    """An adapter that answers every question with the same words: made by PEFT, on the model's last layers only."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    layers = range(model.config.num_hidden_layers)[-LAST_LAYERS:]
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=RANK,
            lora_alpha=32,
            target_modules=["v_proj", "o_proj", "down_proj"],
            layers_to_transform=list(layers),
            task_type="CAUSAL_LM",
        ),
    )
    questions = ["Hello!", "What is the capital of France?", "Write a poem.", "Who are you?"]
    batch, labels = _examples(tokenizer, questions, answer)
    optimizer = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=5e-3)
    for _ in range(steps):
        loss = adapted(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.save_pretrained(directory)
    return directory


def _examples(tokenizer: Any, questions: list[str], answer: str) -> Any:
    """Only the answers are learned."""
    import torch

    rows, targets = [], []
    for question in questions:
        chat = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        before = tokenizer(prompt, add_special_tokens=False).input_ids
        after = tokenizer(answer + "<|im_end|>", add_special_tokens=False).input_ids
        rows.append(before + after)
        targets.append([-100] * len(before) + after)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in targets])
    return {"input_ids": ids, "attention_mask": mask}, labels
