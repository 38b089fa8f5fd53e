"""TRL's side of `trl.py`: GRPOTrainer with its environment_factory, a step a line; run by a Python that has it."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import trl

# Behind the packages: in this folder lies a trl.py of our own.
sys.path.append(str(Path(__file__).parent))

import accelerate
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin, TrainerCallback
from trl.chat_template_utils import qwen3_instruct_2507_chat_template
from trl_household import Household
from trl_pace import Clock, Pace


class Paced(TrainerCallback):
    """Holds the trainer up between steps, and tells what a step was."""

    def __init__(self, clock: Clock, made: list[Household]) -> None:
        self.pace = Pace(clock)
        self.made = made
        self.last: dict[str, Any] = {}
        self.generations = 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the other end, which says what tasks it has played."""
        Household.tasks = tuple(self.pace.wait()["tasks"])
        self.generations = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step has ended."""
        self.pace.done(self._record)

    def _record(self) -> dict[str, Any]:
        prompts, completions, mask = (self.last[key] for key in ("prompts", "completions", "mask"))
        played = len(prompts)
        return {
            "episodes": played,
            "trained": played,
            "turns": sum(env._turns for env in self.made[:played]),
            "generations": self.generations,
            "generated": sum(map(sum, mask)),
            "tokens": sum(map(len, prompts)) + sum(map(len, completions)),
            "success": sum(env._success for env in self.made[:played]) / played,
            "prompt": prompts[0],
            "answer": answered(completions[0], mask[0]),
        }


def answered(token_ids: list[int], mask: list[int]) -> list[int]:
    """Return the tokens from the end of the first generation to the beginning of the second."""
    start = mask.index(0) if 0 in mask else len(mask)
    end = mask.index(1, start) if 1 in mask[start:] else len(mask)
    return token_ids[start:end]


def main() -> None:
    """Train, a step for each line that is read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", help="What both sides are told, as JSON.")
    parser.add_argument("folder", help="Where TRL may write.")
    given = parser.parse_args()
    told = argparse.Namespace(**json.loads(given.settings))
    torch.set_num_threads(told.threads)
    tokenizer = AutoTokenizer.from_pretrained(told.model)
    tokenizer.chat_template = qwen3_instruct_2507_chat_template
    model = AutoModelForCausalLM.from_pretrained(told.model, dtype=torch.float32)
    clock, made = Clock(), []

    def factory() -> Household:
        made.append(Household(told.turns))
        return made[-1]

    paced = Paced(clock, made)
    rows = [{"prompt": [{"role": "user", "content": ""}], "slot": slot} for slot in range(told.groups)]
    trainer = trl.GRPOTrainer(
        model=model,
        args=configuration(told, given.folder),
        train_dataset=Dataset.from_list(rows * told.steps),
        processing_class=tokenizer,
        environment_factory=factory,
        callbacks=[paced],
    )
    watch(paced, clock)
    trainer.train()


def configuration(told: argparse.Namespace, folder: str) -> trl.GRPOConfig:
    """Return the run: what `trl_ours.py` does, in TRL's words."""
    parts = told.trl_parts
    return trl.GRPOConfig(
        output_dir=folder,
        # One generation and one optimiser step for all episodes; the gradient is made in so many parts.
        per_device_train_batch_size=told.groups * told.members // parts,
        gradient_accumulation_steps=parts,
        steps_per_generation=parts,
        num_generations=told.members,
        max_completion_length=told.turns * (told.max_tokens + 128),
        max_tool_calling_iterations=told.turns,
        generation_kwargs={"max_new_tokens": told.max_tokens},
        max_steps=told.steps,
        shuffle_dataset=False,
        learning_rate=told.learning_rate,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=0.0,
        loss_type="grpo",
        temperature=1.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=told.seed,
    )


def watch(paced: Paced, clock: Clock) -> None:
    """Measure the parts of a step, and keep what it generated."""
    generate, single = trl.GRPOTrainer._generate, trl.GRPOTrainer._generate_single_turn

    def kept(trainer: Any, prompts: Any) -> Any:
        result = generate(trainer, prompts)
        paced.last = {"prompts": result[0], "completions": result[1], "mask": result[2]}
        return result

    def counted(trainer: Any, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        paced.generations += len(prompt_ids)
        return single(trainer, prompt_ids, *args, **kwargs)

    trl.GRPOTrainer._generate, trl.GRPOTrainer._generate_single_turn = kept, counted
    clock.wrap(trl.GRPOTrainer, "_generate", "sampling")
    clock.wrap(trl.GRPOTrainer, "_generate_and_score_completions", "sampling and scoring")
    clock.wrap(GenerationMixin, "generate", "sampling: model and drawing")
    clock.wrap(trl.GRPOTrainer, "_compute_loss", "update: forward")
    clock.wrap(accelerate.Accelerator, "backward", "update: backward")


if __name__ == "__main__":
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    main()
