"""LoRA adapters as files: where they may lie, what they must hold. Shared by the gateway and the engine."""
