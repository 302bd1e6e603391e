"""One module per pass type; `finetune_trainer.stage` imports the one that a stage asks for, and only that."""
