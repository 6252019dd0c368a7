"""NovoGrad in the Hugging Face Trainer. Run: python scripts/examples/hugging_face_trainer.py

`optimizer_cls_and_kwargs` keeps the Trainer's weight-decay groups and works under FSDP, where the optimizer must be
created after the model is sharded. Needs `pip install transformers accelerate`.
"""

import tempfile

import torch
from torch.utils.data import TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from novobench.optim import NovoGrad


class Counting(TensorDataset):
    """Sequences that count up from a random number, modulo 16."""

    def __init__(self) -> None:
        start = torch.randint(16, (512, 1), generator=torch.Generator().manual_seed(0))
        super().__init__((start + torch.arange(16)) % 16)

    def __getitem__(self, index):
        tokens = self.tensors[0][index]
        return {"input_ids": tokens, "labels": tokens}


def main(steps: int = 60) -> list[float]:
    """Train a tiny GPT-2; return the logged losses."""
    torch.manual_seed(0)
    shape = {"vocab_size": 16, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=None))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=0.02,
            lr_scheduler_type="cosine",
            weight_decay=1e-3,
            logging_steps=5,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=Counting(),
            optimizer_cls_and_kwargs=(NovoGrad, {"lr": arguments.learning_rate, "betas": (0.95, 0.25)}),
        )
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
