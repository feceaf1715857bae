"""LoRA adapters for tests: written by hand for any model, and really trained for the one that answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from python_backends.adapters.directory import CONFIG, WEIGHTS

RANK = 8
LAST_LAYERS = 8
# Mean loss of a token of the answer: each has a probability of 98 %.
SURE, MAX_STEPS = 0.02, 40
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


def train_adapters(answers: dict[Path, str], model_dir: Path) -> None:
    """For each directory an adapter that answers every question with the same words: made by PEFT, on the last layers.

    Trained until it is sure of them, so that no rounding makes it say anything else.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    torch.set_num_threads(1)  # several would wait for each other where an engine starts beside them
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    config = LoraConfig(
        r=RANK,
        lora_alpha=32,
        target_modules=["v_proj", "o_proj", "down_proj"],
        layers_to_transform=list(range(model.config.num_hidden_layers)[-LAST_LAYERS:]),
        task_type="CAUSAL_LM",
    )
    for directory, answer in answers.items():
        adapted = get_peft_model(model, config)
        _learn(adapted, *_examples(tokenizer, ["Hello!", "What is the capital of France?"], answer))
        adapted.save_pretrained(directory)
        model = adapted.unload()


def _learn(adapted: Any, batch: dict[str, Any], labels: Any) -> None:
    """What the first layers make of the questions stays the same: computed once."""
    import torch

    llama = adapted.base_model.model.model
    with torch.no_grad():
        states = adapted(**batch, output_hidden_states=True).hidden_states
    inputs = {"inputs_embeds": states[-1 - LAST_LAYERS], "attention_mask": batch["attention_mask"]}
    layers, llama.layers = llama.layers, llama.layers[-LAST_LAYERS:]
    optimizer = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=5e-3)
    for _ in range(MAX_STEPS):
        loss = adapted(**inputs, labels=labels, use_cache=False).loss
        if loss.item() < SURE:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    else:
        raise AssertionError(f"not learned in {MAX_STEPS} steps: the loss is {loss.item():.2f}")
    llama.layers = layers


def _examples(tokenizer: Any, questions: list[str], answer: str) -> tuple[dict[str, Any], Any]:
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
