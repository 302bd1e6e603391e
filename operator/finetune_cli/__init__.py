"""`kubectl finetune …`: run, try and check FinetuneJobs from a terminal."""
