"""The labels, annotations and names by which the operator finds its own objects again."""

from finetune_api import GROUP

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "finetune-operator"
JOB = f"{GROUP}/job"
STAGE = f"{GROUP}/stage"
GENERATION = f"{GROUP}/generation"
# Which work an attempt belongs to: equal for all attempts of one stage with one key, template and runId.
IDENTITY = f"{GROUP}/identity"
# The how-manieth pod-making try, and the how-manieth that counts against maxAttempts.
TRY = f"{GROUP}/try"
ATTEMPT = f"{GROUP}/attempt"
KEY = f"{GROUP}/key"
QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY_CLASS = "kueue.x-k8s.io/priority-class"
REQUIRED_TOPOLOGY = "kueue.x-k8s.io/podset-required-topology"
PREFERRED_TOPOLOGY = "kueue.x-k8s.io/podset-preferred-topology"
# The pods of one FinetuneJob that find each other by name.
RENDEZVOUS = f"{GROUP}/rendezvous"
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
JOB_NAME = "batch.kubernetes.io/job-name"
# The container of a stage's pod.
CONTAINER = "trainer"
SELECTOR = f"{MANAGED_BY}={OPERATOR}"
