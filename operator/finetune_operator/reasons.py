"""Every reason that status, conditions and events may give: a closed list, explained in docs/reasons.md.

Words of Kubernetes and Kueue are taken over where they are listed here; any other becomes a general one, and is quoted
in the message.
"""

from __future__ import annotations

from finetune_api.stage import Reason

# A trainer's own causes, as the types that operator and trainer share have them.
TRAINER = frozenset(str(reason) for reason in Reason)
RUNNING_JOBS_LIMIT = "RunningJobsLimit"
OPERATOR = frozenset(
    {
        RUNNING_JOBS_LIMIT,
        *("CreateRefused", "DeadlineExceeded", "JobDeadlineExceeded", "NodeUnreachable", "NoPod"),
        *("PolicyViolation", "QueueTimeout"),
        *("QueueUnknown", "ResultLost", "Reused", "Running", "Starting", "Stopping", "Suspended"),
    }
)
KUBERNETES = frozenset(
    {
        *("ContainerCreating", "CreateContainerConfigError", "CreateContainerError", "ErrImageNeverPull"),
        *("ErrImagePull", "ImageInspectError", "ImagePullBackOff", "InvalidImageName", "RunContainerError"),
        *("SchedulerError", "SchedulingGated", "Unschedulable", "Waiting"),
    }
)
KUEUE = frozenset(
    {
        *("AdmissionCheck", "AdmissionChecks", "ClusterQueueStopped", "Deactivated", "ExceedsMaxQuota"),
        *("InactiveWorkload", "LocalQueueStopped", "MaximumExecutionTimeExceeded", "Misconfigured"),
        *("NoMatchingFlavor", "NodeFailures", "Pending", "PodsReadyTimeout", "Preempted", "Queued"),
        *("TopologyPlacementFailed", "WaitingForPreemptedWorkloads", "WaitingForQuota"),
    }
)
CONDITIONS = frozenset(
    {"Failed", "Invalid", "NotQueued", "NotSuspended", "SpecInvalid", "Succeeded", "PolicyViolation", "Valid"}
)
EVENTS = frozenset(
    {
        *("ArtifactsPublished", "DeadlineExceeded", "NodeUnreachable", "OutOfMemory", "Preempted", "Queued"),
        *(
            "PolicyViolation",
            "QueueTimeout",
            "Resumed",
            "SpecInvalid",
            "StageFailed",
            "StageRetried",
            "StageReused",
            "StageStarted",
        ),
        *("StageSucceeded", "Suspended"),
    }
)
# What `status.stages[].reason` may say, and what the conditions may.
STAGES = TRAINER | OPERATOR | KUBERNETES | KUEUE
ALL = STAGES | CONDITIONS | EVENTS


def closed(word: str, known: frozenset[str], general: str, message: str) -> tuple[str, str]:
    """(reason, message): `word` where it is `known`, else the general one, with the word in the message."""
    if word in known:
        return word, message
    return general, f"{word}: {message}" if message else word
