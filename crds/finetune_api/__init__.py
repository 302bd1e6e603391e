"""The API of finetune-operator: types, keys and the words that operator and trainer exchange.

Nothing here imports more than pydantic, so that a trainer pod, the operator and a laptop's command line
can all afford it.
"""

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FinetuneJob"
PLURAL = "finetunejobs"
POLICY_KIND = "FinetunePolicy"
POLICY_PLURAL = "finetunepolicies"
