"""Bodies in Kubernetes' protobuf form, which kubectl's typed commands (`create`, `auth can-i`) send.

Only requests are read; answers are JSON, which those clients accept too. The numbers and types of the fields are in
`fields.json` (see `generate.py`).
"""

from finetune_local.apiserver.protobuf.decoder import decode_protobuf

__all__ = ["decode_protobuf"]
